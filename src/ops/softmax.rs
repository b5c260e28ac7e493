//! `y = eˣ / Σ eˣ` over the last axis, from the row's maximum down so that nothing overflows.

use crate::{
    cpu::vector::{par_rows, rows_per_task, sum1, sum2},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    math::exp,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
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
        if !x[0].dtype.is_float() || x[0].shape.rank() == 0 {
            return Err(Error::shape("softmax", format!("float rows wanted, got {}:{}", x[0].shape, x[0].dtype)));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(0).last();
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            par_rows(args.y::<T>(0), cols, |task, y| {
                y.copy_from_slice(&x[task * rows_per_task(cols) * cols..][..y.len()]);
                vectorised!({
                    for row in y.chunks_exact_mut(cols) {
                        softmax_in_place(row);
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, args.x[0].ptr, DevicePtr::NULL, &FORWARD)
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
        let cols = args.x_shape(1).last();
        float_dispatch!(args, T => {
            let (dy, y) = (args.x::<T>(0), args.x::<T>(1));
            par_rows(args.y::<T>(0), cols, |task, dx| vectorised!({
                for (row, dx) in dx.chunks_exact_mut(cols).enumerate() {
                    let at = (task * rows_per_task(cols) + row) * cols;
                    let (dy, y) = (&dy[at..at + cols], &y[at..at + cols]);
                    let dot = sum2(dy, y, |dy, y| dy * y);
                    for (dx, (&dy, &y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
                        *dx = y * (dy - dot);
                    }
                }
            }));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, args.x[0].ptr, args.x[1].ptr, &BACKWARD)
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

kernel_params! {
    struct SoftmaxParams {
        x: DevicePtr,
        y: DevicePtr,
        out: DevicePtr,
        rows: u64,
        cols: u64,
        aligned: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Rows up to this length get a warp, longer ones a block.
const NARROW: usize = 2048;

const fn kernel(name: &'static str) -> Kernel<SoftmaxParams> {
    // SAFETY: only this file fills `SoftmaxParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::SOFTMAX, name, THREADS, FLOATS) }
}

/// For narrow and for wide rows.
const FORWARD: [Kernel<SoftmaxParams>; 2] = [kernel("fwd"), kernel("fwd_block_per_row")];
const BACKWARD: [Kernel<SoftmaxParams>; 2] = [kernel("bwd_x"), kernel("bwd_x_block_per_row")];

fn launch(args: &DeviceArgs, x: DevicePtr, y: DevicePtr, kernels: &[Kernel<SoftmaxParams>; 2]) -> Result<()> {
    let out = args.y[0];
    let (rows, cols) = (out.shape().rows(), out.shape().last());
    if out.elems() == 0 {
        return Ok(());
    }
    let aligned = (cols * out.dtype().bytes()).is_multiple_of(16).into();
    let params = SoftmaxParams { x, y, out: out.ptr, rows: rows as u64, cols: cols as u64, aligned, unused: 0 };
    match cols <= NARROW {
        true => args.launch(&kernels[0], out.dtype(), blocks(rows, THREADS as usize / 32), 0, &params),
        false => args.launch(&kernels[1], out.dtype(), blocks(rows, 1), 0, &params),
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "softmax",
    order: Order::Any,
    kernels: &[FORWARD[0].info(), FORWARD[1].info(), BACKWARD[0].info(), BACKWARD[1].info()],
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
