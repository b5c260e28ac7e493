//! The global feature updater of the paper's attention fusion block (equations 6 to 8): the cube of local features guides
//! the update of its coarse patch's global vector.
//!
//! `Z = softmax(f W_zᵀ)` over the g·g positions (eq. 6), `P = R W_p` (eq. 7), `f' = Sum(Z ∘ P) W_f` (eq. 8). `Z` has one
//! number a position, so the sum goes first, `Sum(Z ∘ (R W_p)) = Sum(Z ∘ R) W_p`: the same numbers for g·g times fewer
//! multiplications, as one product of a row by a matrix for every patch.

use super::local_feature_updater::cube;
use crate::{
    error::Result,
    op::{Case, OpSpec, Order, normal},
    tensor::Tensor,
};

impl Tensor {
    /// The updated global vectors `[n, d]`; `self` is `R` `[n, g, g, d]`, `f` `[n, d]`, `w_z` `[g·g, d]`, `w_p` and `w_f`
    /// `[d, d]`, applied on the right.
    pub fn global_feature_updater(&self, f: &Tensor, w_z: &Tensor, w_p: &Tensor, w_f: &Tensor) -> Result<Tensor> {
        let [n, g, h, d] = cube(self)?;
        let z = f.linear(w_z, None)?.softmax()?.reshape([n, 1, g * h])?;
        let gathered = z.matmul(&self.reshape([n, g * h, d])?, false, false)?.reshape([n, d])?;
        gathered.matmul(w_p, false, false)?.matmul(w_f, false, false)
    }

    /// The weight map `Z` of equation 6, `[n, g, g, 1]`: how much each position counts.
    pub fn global_weight_map(&self, f: &Tensor, w_z: &Tensor) -> Result<Tensor> {
        let [n, g, h, _] = cube(self)?;
        f.linear(w_z, None)?.softmax()?.reshape([n, g, h, 1])
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "global_feature_updater",
    order: Order::Any,
    kernels: &[],
    cases: || {
        let case = |name, n: usize, g: usize, d: usize| {
            let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), normal([d, d]), normal([d, d])];
            Case::new(name, inputs, |x| Ok(vec![x[0].global_feature_updater(&x[1], &x[2], &x[3], &x[4])?]))
        };
        vec![case("grid", 2, 4, 5), case("one_position", 3, 1, 9)]
    },
};
