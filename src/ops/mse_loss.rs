//! The mean squared difference of two tensors.

use super::l1_loss::same_shape;
use crate::{
    error::Result,
    op::{Case, OpSpec, Order, normal},
    tensor::Tensor,
};

impl Tensor {
    /// `mean (x − target)²`, shape `[1]`.
    pub fn mse_loss(&self, target: &Tensor) -> Result<Tensor> {
        same_shape("mse_loss", self, target)?;
        self.sub(target)?.square()?.mean_all()
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "mse_loss",
    order: Order::Any,
    kernels: &[],
    cases: || vec![Case::new("mean", [normal([5, 17]), normal([5, 17])], |x| Ok(vec![x[0].mse_loss(&x[1])?]))],
};
