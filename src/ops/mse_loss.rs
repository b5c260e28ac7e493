//! The mean squared difference of two tensors.

use super::l1_loss::{Distance, MeanLoss, SQUARED_KERNELS};
use crate::{
    error::Result,
    op::{
        Case, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload, only},
    },
    tensor::Tensor,
};

impl Tensor {
    /// `mean (x − target)²`, shape `[1]`.
    pub fn mse_loss(&self, target: &Tensor) -> Result<Tensor> {
        apply1(MeanLoss { of: Distance::Squared }, &[self, target])
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "mse_loss",
    order: Order::Any,
    kernels: SQUARED_KERNELS,
    cases: || {
        let case = |name, x: [usize; 2]| Case::new(name, [normal(x), normal(x)], |x| Ok(vec![x[0].mse_loss(&x[1])?]));
        vec![case("mean", [5, 17]), case("one", [1, 1]), case("past_a_block", [3, 1367])]
    },
    workloads: || {
        let flops = 3.0 * IMAGE.iter().product::<usize>() as f64;
        vec![Workload::gpu("mse_loss", [normal(IMAGE), normal(IMAGE)], flops, |x| x[0].mse_loss(&x[1]))]
    },
    reference: Some(|a| Ok(only("loss", a.tensor("x")?.mse_loss(a.tensor("target")?)?))),
};
