//! The mean over all pixels of an image. Made of a mean and a change of shape, so every order exists.

use crate::{
    error::{Error, Result},
    op::{
        Case, OpSpec, Order, normal,
        registry::{Workload, only},
    },
    tensor::Tensor,
};

impl Tensor {
    /// `[n, h, w, c] -> [n, c]`.
    pub fn global_avg_pool(&self) -> Result<Tensor> {
        match self.shape().nhwc() {
            Some([n, _, _, c]) => self.mean(&[1, 2])?.reshape([n, c]),
            None => Err(Error::shape("global_avg_pool", format!("four axes wanted, got {}", self.shape()))),
        }
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "global_avg_pool",
    order: Order::Any,
    kernels: &[],
    cases: || {
        let case = |name, x: [usize; 4]| Case::new(name, [normal(x)], |x| Ok(vec![x[0].square()?.global_avg_pool()?]));
        vec![case("ragged", [2, 5, 7, 3]), case("one_pixel", [3, 1, 1, 9]), case("many_channels", [1, 3, 2, 65])]
    },
    workloads: || {
        vec![Workload::cpu("global_avg_pool_8px_c2048", [normal([100, 8, 8, 2048])], |x| x[0].global_avg_pool())]
    },
    reference: Some(|a| Ok(only("y", a.tensor("x")?.global_avg_pool()?))),
};
