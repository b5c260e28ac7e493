//! Repeats extents of one until the tensor has the wanted shape: the adjoint of a sum.

use rayon::prelude::*;

use super::binary::{broadcast_strides, row_offset};
use crate::{
    device::host::Real,
    error::{Error, Result},
    float_dispatch,
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `x` repeated along every axis where it has extent one and `shape` more.
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let to = shape.into();
        if to == self.shape() {
            return Ok(self.clone());
        }
        apply1(Broadcast { to }, &[self])
    }
}

struct Broadcast {
    to: Shape,
}

impl Op for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0].shape.broadcast(&self.to) != Some(self.to) || !x[0].dtype.is_float() {
            return Err(Error::shape("broadcast", format!("{} does not broadcast to {}", x[0].shape, self.to)));
        }
        Ok(vec![Spec { shape: self.to, dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let from = args.x_shape(0);
        float_dispatch!(args, T => repeat::<T>(args.x(0), args.y(0), &from, &self.to));
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(v.upstream()?.sum_to(v.x_spec(0).shape)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn repeat<T: Real>(x: &[T], y: &mut [T], from: &Shape, to: &Shape) {
    if y.is_empty() {
        return;
    }
    let (inner, strides) = (to.last(), broadcast_strides(from, to));
    let rows_a_task = ((16 << 10) / inner).max(1);
    y.par_chunks_mut(rows_a_task * inner).enumerate().for_each(|(task, y)| {
        for (row, y) in y.chunks_mut(inner).enumerate() {
            let at = row_offset(task * rows_a_task + row, to, &strides);
            if strides[to.rank().saturating_sub(1)] == 0 {
                y.fill(x[at]);
            } else {
                y.copy_from_slice(&x[at..at + inner]);
            }
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "broadcast",
    order: Order::Any,
    kernels: &[],
    cases: || {
        vec![
            Case::new("rows", [normal([1, 7])], |x| Ok(vec![x[0].square()?.broadcast_to([5, 7])?])),
            Case::new("columns", [normal([4, 1])], |x| Ok(vec![x[0].square()?.broadcast_to([2, 4, 9])?])),
            Case::new("spatial", [normal([2, 1, 1, 3])], |x| Ok(vec![x[0].square()?.broadcast_to([2, 4, 5, 3])?])),
        ]
    },
};
