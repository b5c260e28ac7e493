//! `y = (x − mean) / √(variance + eps) · weight + bias` over the last axis (PyTorch's `layer_norm`; biased variance).
//!
//! Two passes, and a third over the residuals: the mean of `x − mean` is taken off as well, so that a row far from zero
//! keeps its digits in f32. The backward op computes all three gradients from `x`, recomputing mean and standard deviation.

use crate::{
    cpu::vector::{par_rows, rows_per_task, rows_with_sums, sum1, sum2},
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        kernel::{FLOATS, Kernel, blocks, blocks_for_each, column_blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, DeviceView, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// Normalises the last axis; `weight` and `bias` are as long.
    pub fn layer_norm(&self, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        apply1(LayerNorm { eps }, &[self, weight, bias])
    }
}

struct LayerNorm {
    eps: f64,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (shape, dtype) = (x[0].shape, x[0].dtype);
        let vectors = x[1..].iter().all(|v| v.dtype == dtype && v.shape[..] == [shape.last()]);
        if !dtype.is_float() || shape.rank() == 0 || shape.last() == 0 || !vectors {
            let message = format!("{shape}:{dtype} with weight {} and bias {}", x[1].shape, x[2].shape);
            return Err(Error::shape("layer_norm", message));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(0).last();
        float_dispatch!(args, T => {
            let (x, weight, bias) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            par_rows(args.y::<T>(0), cols, |task, y| vectorised!({
                for (row, y) in y.chunks_exact_mut(cols).enumerate() {
                    let x = &x[(task * rows_per_task(cols) + row) * cols..][..cols];
                    let norm = Norm::of(x, T::c(self.eps));
                    let inputs = x.iter().zip(weight.iter().zip(bias));
                    for (y, (&x, (&w, &b))) in y.iter_mut().zip(inputs) {
                        *y = norm.apply(x) * w + b;
                    }
                }
            }));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, [weight, bias], y) = (args.x[0], [1, 2].map(|i| args.x[i].ptr), args.y[0].ptr);
        let params = LayerNormParams { x: x.ptr, weight, bias, y, ..params(&x, self.eps) };
        args.launch(&FORWARD, x.dtype(), blocks(x.shape().rows(), WARPS), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [dx, dweight, dbias] = apply_n(LayerNormGrad { eps: self.eps }, &[v.upstream()?, v.x(0), v.x(1)])?;
        Ok(vec![Some(dx), Some(dweight), Some(dbias)])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b011, y: 0 }
    }
}

/// How one row is normalised.
pub(crate) struct Norm<T> {
    mean: T,
    /// What rounding left of the mean.
    rest: T,
    scale: T,
}

impl<T: Real> Norm<T> {
    #[inline(always)]
    pub(crate) fn of(x: &[T], eps: T) -> Norm<T> {
        let count = T::c(x.len() as f64);
        let mean = sum1(x, |x| x) / count;
        let rest = sum1(x, |x| x - mean) / count;
        let square = |x: T| {
            let centred = (x - mean) - rest;
            centred * centred
        };
        let variance = sum1(x, square) / count;
        Norm { mean, rest, scale: (variance + eps).sqrt().recip() }
    }

    /// Mean and reciprocal deviation.
    pub(crate) fn moments(&self) -> (T, T) {
        (self.mean + self.rest, self.scale)
    }

    #[inline(always)]
    fn apply(&self, x: T) -> T {
        ((x - self.mean) - self.rest) * self.scale
    }
}

/// Inputs dy, x, weight; outputs dx, dweight, dbias.
struct LayerNormGrad {
    eps: f64,
}

impl Op for LayerNormGrad {
    fn name(&self) -> &'static str {
        "layer_norm_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2], x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => gradients::<T>(args, T::c(self.eps)));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [dy, x, weight] = [0, 1, 2].map(|i| args.x[i]);
        let [dx, dweight, dbias] = [0, 1, 2].map(|i| args.y[i].ptr);
        let (rows, cols) = (x.shape().rows(), x.shape().last());
        let params = params(&x, self.eps);
        let parts = args.scratch((params.runs as usize * 2 * cols * 4).max(4))?;
        let params = LayerNormParams {
            x: x.ptr,
            weight: weight.ptr,
            dy: dy.ptr,
            dx,
            parts: parts.ptr(),
            dweight,
            dbias,
            ..params
        };
        let dtype = x.dtype();
        // Alive until the kernels that use it are queued.
        let stats;
        if cols <= HELD {
            args.launch(&BACKWARD, dtype, params.runs, 0, &params)?;
        } else {
            stats = args.scratch((rows * 2 * 4).max(4))?;
            let params = LayerNormParams { rows_stats: stats.ptr(), ..params };
            args.launch(&BACKWARD_X, dtype, blocks(rows, WARPS), 0, &params)?;
            args.launch(&PARTS, dtype, blocks_for_each(params.runs as usize, params.tiles), 0, &params)?;
        }
        args.launch(&SUM, dtype, blocks(cols, 32), 0, &params)
    }
}

kernel_params! {
    struct LayerNormParams {
        x: DevicePtr,
        weight: DevicePtr,
        bias: DevicePtr,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        rows_stats: DevicePtr,
        parts: DevicePtr,
        dweight: DevicePtr,
        dbias: DevicePtr,
        rows: u64,
        cols: u64,
        eps: f32,
        aligned: u32,
        run: u32,
        runs: u32,
        tiles: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Rows of a block.
const WARPS: usize = THREADS as usize / 32;
/// The longest rows whose gradients one kernel computes from registers.
const HELD: usize = 512;

/// Rows whose part of the weight's gradient one block sums: enough blocks for two on each SM of a large GPU, and
/// no more, as each writes a part. A function of the rows alone, so that every device adds in one order.
fn rows_a_run(rows: usize) -> usize {
    rows.div_ceil(264).max(1).next_multiple_of(WARPS)
}

const fn kernel(name: &'static str) -> Kernel<LayerNormParams> {
    // SAFETY: only this file fills `LayerNormParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::LAYER_NORM, name, THREADS, FLOATS) }
}

const FORWARD: Kernel<LayerNormParams> = kernel("fwd");
const BACKWARD: Kernel<LayerNormParams> = kernel("bwd");
const BACKWARD_X: Kernel<LayerNormParams> = kernel("bwd_x");
const PARTS: Kernel<LayerNormParams> = kernel("bwd_parts");
const SUM: Kernel<LayerNormParams> = kernel("bwd_sum");

/// Sizes; no pointers.
fn params(x: &DeviceView, eps: f64) -> LayerNormParams {
    let (rows, cols, bytes) = (x.shape().rows(), x.shape().last(), x.dtype().bytes());
    let (aligned, run) = ((cols * bytes).is_multiple_of(16), rows_a_run(rows));
    let null = DevicePtr::NULL;
    LayerNormParams {
        x: null,
        weight: null,
        bias: null,
        y: null,
        dy: null,
        dx: null,
        rows_stats: null,
        parts: null,
        dweight: null,
        dbias: null,
        rows: rows as u64,
        cols: cols as u64,
        eps: eps as f32,
        aligned: aligned.into(),
        run: u32::try_from(run).unwrap_or(u32::MAX),
        runs: blocks(rows, run),
        tiles: column_blocks(cols, aligned, bytes),
        unused: 0,
    }
}

fn gradients<T: Real>(args: &mut HostArgs, eps: T) {
    let cols = args.x_shape(1).last();
    let (dy, x, weight) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
    let [dx, dweight, dbias] = args.ys::<T, 3>();
    let count = T::c(cols as f64);
    let sums = rows_with_sums::<T, 2>(dx, cols, |first, dx, sums| {
        vectorised!({
            let (dweight, dbias) = sums.split_at_mut(cols);
            let mut normed = vec![T::zero(); cols];
            let mut scaled = vec![T::zero(); cols];
            for (row, dx) in dx.chunks_exact_mut(cols).enumerate() {
                let at = (first + row) * cols;
                let (dy, x) = (&dy[at..at + cols], &x[at..at + cols]);
                let norm = Norm::of(x, eps);
                for (n, &x) in normed.iter_mut().zip(x) {
                    *n = norm.apply(x);
                }
                for (s, (&dy, &w)) in scaled.iter_mut().zip(dy.iter().zip(weight)) {
                    *s = dy * w;
                }
                let mean = sum1(&scaled, |s| s) / count;
                let along = sum2(&scaled, &normed, |s, n| s * n) / count;
                let inputs = scaled.iter().zip(&normed);
                for (dx, (&s, &n)) in dx.iter_mut().zip(inputs) {
                    *dx = norm.scale * ((s - mean) - n * along);
                }
                for (dw, (&dy, &n)) in dweight.iter_mut().zip(dy.iter().zip(&normed)) {
                    *dw += dy * n;
                }
                for (db, &dy) in dbias.iter_mut().zip(dy) {
                    *db += dy;
                }
            }
        })
    });
    for (out, sum) in [dweight, dbias].into_iter().zip(sums) {
        out.iter_mut().zip(sum).for_each(|(out, sum)| *out = <T as Element>::from_f64(sum));
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    order: Order::Once,
    kernels: &[FORWARD.info(), BACKWARD.info(), BACKWARD_X.info(), PARTS.info(), SUM.info()],
    cases: || {
        let case = |name, rows: usize, cols: usize, draw| {
            Case::new(name, [drawn([rows, cols], draw), normal([cols]), normal([cols])], |x| {
                Ok(vec![x[0].layer_norm(&x[1], &x[2], 1e-6)?])
            })
        };
        vec![
            case("narrow", 7, 9, Draw::Normal),
            case("embedding", 5, 384, Draw::Normal),
            case("far_from_zero", 3, 65, Draw::Uniform(28.0, 32.0)),
            case("many_rows", 2200, 17, Draw::Normal),
            case("single", 1, 1, Draw::Normal),
            case("full_registers", 9, 512, Draw::Normal),
            case("longer_than_registers", 9, 600, Draw::Normal),
            case("longer_ragged", 3, 1033, Draw::Normal),
            Case::new("tokens", [normal([2, 3, 20]), normal([20]), normal([20])], |x| {
                Ok(vec![x[0].layer_norm(&x[1], &x[2], 1e-5)?])
            }),
        ]
    },
    workloads: || {
        let one = |cols: usize| {
            let inputs = [normal([16384, cols]), normal([cols]), normal([cols])];
            let run = |x: &[Tensor]| x[0].layer_norm(&x[1], &x[2], 1e-6);
            Workload::gpu(format!("layer_norm_{cols}"), inputs, 8.0 * (16384 * cols) as f64, run)
        };
        vec![one(384), one(2048)]
    },
    reference: Some(|a| {
        Ok(only("y", a.tensor("x")?.layer_norm(a.tensor("weight")?, a.tensor("bias")?, a.float("eps")?)?))
    }),
};
