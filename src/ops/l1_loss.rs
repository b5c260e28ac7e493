//! The mean absolute difference of two tensors.

use crate::{
    error::{Error, Result},
    op::{Case, OpSpec, Order, normal},
    tensor::Tensor,
};

impl Tensor {
    /// `mean |x − target|`, shape `[1]`; at equality the gradient is 0.
    pub fn l1_loss(&self, target: &Tensor) -> Result<Tensor> {
        same_shape("l1_loss", self, target)?;
        self.sub(target)?.abs()?.mean_all()
    }
}

/// A loss never broadcasts: a mean over a stretched target is a mistake.
pub(super) fn same_shape(op: &'static str, x: &Tensor, target: &Tensor) -> Result<()> {
    if x.shape() == target.shape() {
        return Ok(());
    }
    Err(Error::shape(op, format!("{} against a target {}", x.shape(), target.shape())))
}

pub const SPEC: OpSpec = OpSpec {
    name: "l1_loss",
    order: Order::Any,
    kernels: &[],
    cases: || vec![Case::new("mean", [normal([5, 17]), normal([5, 17])], |x| Ok(vec![x[0].l1_loss(&x[1])?]))],
};
