//! Softmax over the rows of each segment, column by column: the weights with which attention pools a slide's patches.
//!
//! From each column's maximum down, so that nothing overflows. Every order exists.

use rayon::prelude::*;

use super::{
    segment::{THREADS, count, runs, tile},
    segment_weighted_sum::{segment_sum, spread_rows},
};
use crate::{
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks_for_each},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    math::exp,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Input, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[rows, c] -> [rows, c]`, softmax over the rows of each segment, per column. `offsets`, i32 `[segments + 1]`: first
    /// rows, beginning with 0, and the number of rows at last.
    pub fn segment_softmax(&self, offsets: &Tensor) -> Result<Tensor> {
        apply1(SegmentSoftmax, &[self, offsets])
    }
}

/// Inputs x, offsets.
struct SegmentSoftmax;

impl Op for SegmentSoftmax {
    fn name(&self) -> &'static str {
        "segment_softmax"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        count(self.name(), x[0], x[1])?;
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(0).last();
        let runs = runs(self.name(), args.x::<i32>(1), args.x_shape(0).rows())?;
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            each_segment(args.y::<T>(0), c, &runs, |begin, y| {
                y.copy_from_slice(&x[begin * c..][..y.len()]);
                softmax_of_columns(y, c);
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, [args.x[0].ptr, DevicePtr::NULL, args.x[1].ptr], &FORWARD)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(SegmentSoftmaxGrad, &[v.upstream()?, v.y(0), v.x(1)])?), None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 1 }
    }
}

/// `f(first row, rows of y)` for every segment, on all threads.
fn each_segment<T: Real>(y: &mut [T], c: usize, runs: &[[usize; 2]], f: impl Fn(usize, &mut [T]) + Sync) {
    let (mut rest, mut parts) = (y, Vec::with_capacity(runs.len()));
    for &[begin, length] in runs {
        let (part, behind) = rest.split_at_mut(length * c);
        parts.push((begin, part));
        rest = behind;
    }
    parts.into_par_iter().filter(|(_, part)| !part.is_empty()).for_each(|(begin, part)| f(begin, part));
}

fn softmax_of_columns<T: Real>(y: &mut [T], c: usize) {
    let mut top = vec![T::neg_infinity(); c];
    for row in y.chunks_exact(c) {
        // NaN wins.
        top.iter_mut().zip(row).for_each(|(top, &x)| *top = if x > *top || x.is_nan() { x } else { *top });
    }
    let mut sum = vec![T::zero(); c];
    for row in y.chunks_exact_mut(c) {
        for ((x, sum), &top) in row.iter_mut().zip(&mut sum).zip(&top) {
            *x = exp(*x - top);
            *sum += *x;
        }
    }
    for row in y.chunks_exact_mut(c) {
        row.iter_mut().zip(&sum).for_each(|(x, &sum)| *x /= sum);
    }
}

/// `dx = y ∘ (dy − Σ dy ∘ y)`, the sum over the row's segment; inputs dy, y, offsets.
struct SegmentSoftmaxGrad;

impl Op for SegmentSoftmaxGrad {
    fn name(&self) -> &'static str {
        "segment_softmax_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0] != x[1] {
            return Err(Error::shape(self.name(), format!("{} beside {}", x[0].shape, x[1].shape)));
        }
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(1).last();
        let runs = runs(self.name(), args.x::<i32>(2), args.x_shape(1).rows())?;
        float_dispatch!(args, T => {
            let (dy, y) = (args.x::<T>(0), args.x::<T>(1));
            each_segment(args.y::<T>(0), c, &runs, |begin, dx| {
                let (dy, y) = (&dy[begin * c..][..dx.len()], &y[begin * c..][..dx.len()]);
                let mut dot = vec![T::c(0.0); c];
                for (dy, y) in dy.chunks_exact(c).zip(y.chunks_exact(c)) {
                    dot.iter_mut().zip(dy.iter().zip(y)).for_each(|(dot, (&dy, &y))| *dot += dy * y);
                }
                for ((dx, dy), y) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(y.chunks_exact(c)) {
                    for ((dx, &dot), (&dy, &y)) in dx.iter_mut().zip(&dot).zip(dy.iter().zip(y)) {
                        *dx = y * (dy - dot);
                    }
                }
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, [args.x[0].ptr, args.x[1].ptr, args.x[2].ptr], &BACKWARD)
    }

    /// Symmetric and linear in dy; quadratic in y.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, dy, y, offsets) = (v.upstream()?, v.x(0), v.x(1), v.x(2));
        let ddy = v.when(0, || apply1(SegmentSoftmaxGrad, &[g, y, offsets]))?;
        let sums = |a: &Tensor, b: &Tensor| spread_rows(&segment_sum(&a.mul(b)?, offsets)?, offsets, y.shape().rows());
        let dydy = v.when(1, || {
            let through_dy = g.mul(&dy.sub(&sums(dy, y)?)?)?;
            through_dy.sub(&dy.mul(&sums(g, y)?)?)
        })?;
        Ok(vec![ddy, dydy, None])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

kernel_params! {
    struct SegmentSoftmaxParams {
        x: DevicePtr,
        y: DevicePtr,
        out: DevicePtr,
        offsets: DevicePtr,
        rows: u64,
        c: u64,
        lanes: u32,
        tiles: u32,
    }
}

// SAFETY: only this file fills `SegmentSoftmaxParams`, from the tensors of the launch and from their sizes.
const FORWARD: Kernel<SegmentSoftmaxParams> = unsafe { Kernel::new(&modules::SEGMENT_SOFTMAX, "fwd", THREADS, FLOATS) };
// SAFETY: as above.
const BACKWARD: Kernel<SegmentSoftmaxParams> =
    unsafe { Kernel::new(&modules::SEGMENT_SOFTMAX, "bwd_x", THREADS, FLOATS) };

fn launch(args: &DeviceArgs, [x, y, offsets]: [DevicePtr; 3], kernel: &Kernel<SegmentSoftmaxParams>) -> Result<()> {
    let out = args.y[0];
    let (rows, c) = (out.shape().rows(), out.shape().last());
    let segments = args.x[args.x.len() - 1].elems() - 1;
    let [lanes, tiles] = tile(c);
    let params = SegmentSoftmaxParams { x, y, out: out.ptr, offsets, rows: rows as u64, c: c as u64, lanes, tiles };
    args.launch(kernel, out.dtype(), blocks_for_each(segments, tiles), 0, &params)
}

pub const SPEC: OpSpec = OpSpec {
    name: "segment_softmax",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, x: Input, offsets: &'static [i32]| {
            Case::new(name, [x], move |x| {
                let offsets = Tensor::from_vec(offsets.to_vec(), [offsets.len()], x[0].device())?;
                Ok(vec![x[0].segment_softmax(&offsets)?])
            })
        };
        vec![
            case("attention", normal([300, 1]), &[0, 270, 271, 300]),
            case("columns", drawn([24, 5], Draw::Uniform(76.0, 84.0)), &[0, 3, 3, 4, 24]),
            case("wide", normal([21, 40]), &[0, 9, 21]),
        ]
    },
    workloads: || {
        let inputs = [normal([65536, 8]), drawn([65], Draw::Offsets(65536))];
        vec![Workload::gpu("segment_softmax", inputs, 8.0 * 65536.0 * 8.0, |x| x[0].segment_softmax(&x[1]))]
    },
    reference: Some(|a| Ok(only("y", a.tensor("x")?.segment_softmax(&a.indices("offsets")?)?))),
};
