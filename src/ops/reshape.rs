//! The same elements under another shape. Costs nothing: the result shares the memory.

use crate::{
    error::{Error, Result},
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `x` seen as `shape`, which has as many elements.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        apply1(Reshape { to: shape.into() }, &[self])
    }

    /// `[rows, last]`: every axis but the last folded into one.
    pub fn as_rows(&self) -> Result<Tensor> {
        self.reshape([self.shape().rows(), self.shape().last()])
    }
}

struct Reshape {
    to: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0].shape.elems() != self.to.elems() {
            return Err(Error::shape("reshape", format!("{} does not fit {}", x[0].shape, self.to)));
        }
        Ok(vec![Spec { shape: self.to, dtype: x[0].dtype }])
    }

    fn is_view(&self) -> bool {
        true
    }

    fn cpu(&self, _: &mut HostArgs) -> Result<()> {
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(v.upstream()?.reshape(v.x_spec(0).shape)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "reshape",
    order: Order::Any,
    kernels: &[],
    cases: || vec![Case::new("fold", [normal([2, 3, 5])], |x| Ok(vec![x[0].square()?.reshape([6, 5])?]))],
    ..OpSpec::BARE
};
