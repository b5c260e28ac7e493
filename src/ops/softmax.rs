//! `y = eˣ / Σ eˣ` over the last axis, from the row's maximum down so that nothing overflows.

pub(super) mod rows;

use rows::{RowKernels, float_rows, map_gradients, map_rows};

use crate::{
    cpu::vector::{sum1, sum2},
    device::{driver::DevicePtr, host::Real, kernel::concat, modules},
    error::Result,
    float_dispatch, inlined,
    math::exp,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Softmax over the last axis.
    pub fn softmax(&self) -> Result<Tensor> {
        apply1(Softmax, &[self])
    }
}

struct Softmax;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        float_rows(self.name(), x[0])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            map_rows::<T>(args, inlined!(|row| {
                softmax_in_place(row);
            }))
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        FORWARD.launch(args, args.x[0].ptr, DevicePtr::NULL)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(SoftmaxGrad, &[v.upstream()?, v.y(0)])?)])
    }

    fn keep(&self) -> Keep {
        Keep::OUTPUTS
    }
}

/// One row; returns `log Σ eˣ`. Call it inside [`vectorised!`](crate::vectorised).
#[inline(always)]
pub(crate) fn softmax_in_place<T: Real>(row: &mut [T]) -> T {
    let mut tops = [T::neg_infinity(); 16];
    let chunks = row.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (top, &x) in tops.iter_mut().zip(chunk) {
            *top = if x > *top { x } else { *top };
        }
    }
    for (top, &x) in tops.iter_mut().zip(tail) {
        *top = if x > *top { x } else { *top };
    }
    let top = tops.into_iter().fold(T::neg_infinity(), |a, b| if b > a { b } else { a });
    for x in row.iter_mut() {
        *x = exp(*x - top);
    }
    let sum = sum1(row, |x| x);
    let scale = sum.recip();
    for x in row.iter_mut() {
        *x *= scale;
    }
    top + sum.ln()
}

/// `dx = y ∘ (dy − Σ dy ∘ y)`; inputs dy, y.
struct SoftmaxGrad;

impl Op for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            map_gradients::<T>(args, inlined!(|dx, dy, y| {
                let dot = sum2(dy, y, |dy, y| dy * y);
                for (dx, (&dy, &y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
                    *dx = y * (dy - dot);
                }
            }))
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        BACKWARD.launch(args, args.x[0].ptr, args.x[1].ptr)
    }

    /// Symmetric and linear in dy; quadratic in y.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, dy, y) = (v.upstream()?, v.x(0), v.x(1));
        let last = [y.shape().rank() - 1];
        let ddy = v.when(0, || apply1(SoftmaxGrad, &[g, y]))?;
        let dydy = v.when(1, || {
            let through_dy = g.mul(&dy.sub(&dy.mul(y)?.sum(&last)?)?)?;
            through_dy.sub(&dy.mul(&g.mul(y)?.sum(&last)?)?)
        })?;
        Ok(vec![ddy, dydy])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

const FORWARD: RowKernels = RowKernels::new(&modules::SOFTMAX, "fwd", "fwd_block_per_row");
const BACKWARD: RowKernels = RowKernels::new(&modules::SOFTMAX, "bwd_x", "bwd_x_block_per_row");

pub const SPEC: OpSpec = OpSpec {
    name: "softmax",
    order: Order::Any,
    kernels: &concat::<4>(&[&FORWARD.infos(), &BACKWARD.infos()]),
    cases: || {
        vec![
            Case::new("rows", [normal([5, 33])], |x| Ok(vec![x[0].softmax()?])),
            Case::new("wide", [drawn([2, 1025], Draw::Uniform(76.0, 84.0))], |x| Ok(vec![x[0].softmax()?])),
            Case::new("block_a_row", [normal([2, 2056])], |x| Ok(vec![x[0].softmax()?])),
            Case::new("block_an_odd_row", [normal([1, 2057])], |x| Ok(vec![x[0].softmax()?])),
            Case::new("batch", [normal([2, 3, 1, 17])], |x| Ok(vec![x[0].softmax()?])),
        ]
    },
    workloads: || {
        let one = |cols: usize| {
            let run = |x: &[Tensor]| x[0].softmax();
            Workload::gpu(format!("softmax_{cols}"), [normal([16384, cols])], 8.0 * (16384 * cols) as f64, run)
        };
        vec![one(384), one(2048)]
    },
    reference: Some(|a| Ok(only("y", a.tensor("x")?.softmax()?))),
};
