//! Normalisation of every channel (the last axis) over all other axes, as PyTorch's `batch_norm`.
//!
//! Training takes mean and biased variance from the batch and also returns what the running statistics need: the mean and
//! the unbiased variance, outside the gradient. Each block of rows is read twice while it is in cache, centred on its own
//! mean, and the blocks are merged in f64 (Chan, Golub, LeVeque 1979), so one read of memory gives two-pass accuracy.

use crate::{
    cpu::vector::{column_partials, column_sums, par_rows, rows_per_task},
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        kernel::{FLOATS, Kernel, UNTYPED, blocks, column_blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, DeviceView, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, normal,
        registry::Workload,
    },
    ops::avg_pool2d::vector_threads,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `[y, mean, variance]` with the batch's own statistics; `variance` is the unbiased one that running statistics take.
    /// Mean and variance are not differentiated. At least two values a channel.
    pub fn batch_norm2d_train(&self, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<[Tensor; 3]> {
        apply_n(Train { eps }, &[self, weight, bias])
    }

    /// `y` with given statistics, which have no gradient.
    pub fn batch_norm2d_eval(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        running_mean: &Tensor,
        running_var: &Tensor,
        eps: f64,
    ) -> Result<Tensor> {
        apply1(Eval { eps }, &[self, weight, bias, running_mean, running_var])
    }
}

/// What a running statistic becomes when `momentum` of it is replaced by what a batch shows: at the type it is kept in, which
/// may be a narrower one than the batch's.
pub fn moved(running: &Tensor, batch: &Tensor, momentum: f64) -> Result<Tensor> {
    let kept = running.cast(batch.dtype())?.scale(1.0 - momentum)?;
    kept.add(&batch.scale(momentum)?)?.cast(running.dtype())
}

/// Statistics of 16-bit tensors are kept in f32.
fn statistics(x: Spec) -> Spec {
    Spec::new([x.shape.last()], if x.dtype == DType::F64 { DType::F64 } else { DType::F32 })
}

/// Weight and bias, and so given statistics, are of `x`'s type; beside 16-bit images they may also be f32.
fn checked(x: &[Spec]) -> Result<()> {
    let (Spec { shape, dtype }, channels) = (x[0], x[0].shape.last());
    if !dtype.is_float() || shape.rank() == 0 {
        return Err(Error::shape("batch_norm2d", format!("{shape}:{dtype}")));
    }
    let narrow = matches!(dtype, DType::Bf16 | DType::F16);
    for pair in x[1..].chunks(2) {
        for v in pair {
            let fits = v.dtype == dtype || (narrow && v.dtype == DType::F32);
            if v.shape[..] != [channels] || !fits || v.dtype != pair[0].dtype {
                let message = format!("{}:{} for {channels} channels of {dtype}", v.shape, v.dtype);
                return Err(Error::shape("batch_norm2d", message));
            }
        }
    }
    Ok(())
}

struct Train {
    eps: f64,
}

impl Op for Train {
    fn name(&self) -> &'static str {
        "batch_norm2d"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        checked(x)?;
        if x[0].shape.rows() < 2 {
            let message = format!("{} has less than two values a channel", x[0].shape);
            return Err(Error::shape("batch_norm2d", message));
        }
        Ok(vec![x[0], statistics(x[0]), statistics(x[0])])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, weight, bias) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let [y, mean, variance] = args.ys::<T, 3>();
            let moments = moments(x, weight.len());
            let rows = (x.len() / weight.len().max(1)) as f64;
            let scale: Vec<T> = moments.squares.iter().map(|m2| T::c(1.0 / (m2 / rows + self.eps).sqrt())).collect();
            mean.iter_mut().zip(&moments.mean).for_each(|(to, &from)| *to = T::c(from));
            variance.iter_mut().zip(&moments.squares).for_each(|(to, m2)| *to = T::c(m2 / (rows - 1.0)));
            normalise(x, y, mean, &scale, weight, bias);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [x, weight, bias] = [0, 1, 2].map(|i| args.x[i]);
        let [y, mean, variance] = [0, 1, 2].map(|i| args.y[i]);
        let params = params(&x, &weight, &[mean, variance], self.eps, true)?;
        let parts = args.scratch((params.runs as usize * 2 * params.c as usize * 4).max(4))?;
        let params = BatchNormParams {
            x: x.ptr,
            bias: bias.ptr,
            y: y.ptr,
            parts: parts.ptr(),
            mean_out: mean.ptr,
            variance_out: variance.ptr,
            ..params
        };
        args.launch(&PARTS, x.dtype(), params.runs.saturating_mul(params.tiles), 0, &params)?;
        args.launch(&STATS, DType::F32, params.c.div_ceil(THREADS), 0, &params)?;
        args.launch(&NORMALISE, x.dtype(), params.vectors.div_ceil(THREADS), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if v.dy(1).is_some() || v.dy(2).is_some() {
            return Err(Error::OrderExceeded { op: "batch_norm2d" });
        }
        let grad = Grad { eps: self.eps, training: true };
        let [dx, dweight, dbias] = apply_n(grad, &[v.upstream()?, v.x(0), v.x(1), v.y(1), v.y(2)])?;
        Ok(vec![Some(dx), Some(dweight), Some(dbias)])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b011, y: 0b110 }
    }
}

struct Eval {
    eps: f64,
}

impl Op for Eval {
    fn name(&self) -> &'static str {
        "batch_norm2d_eval"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        checked(x)?;
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, weight, bias) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let (mean, variance) = (args.x::<T>(3), args.x::<T>(4));
            let scale: Vec<T> = variance.iter().map(|&v| (v + T::c(self.eps)).sqrt().recip()).collect();
            normalise(x, args.y(0), mean, &scale, weight, bias);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [x, weight, bias, mean, variance] = [0, 1, 2, 3, 4].map(|i| args.x[i]);
        let params = params(&x, &weight, &[mean, variance], self.eps, false)?;
        let params = BatchNormParams { x: x.ptr, bias: bias.ptr, y: args.y[0].ptr, ..params };
        args.launch(&NORMALISE, x.dtype(), params.vectors.div_ceil(THREADS), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if v.need(3) || v.need(4) {
            return Err(Error::OrderExceeded { op: "batch_norm2d_eval" });
        }
        let grad = Grad { eps: self.eps, training: false };
        let [dx, dweight, dbias] = apply_n(grad, &[v.upstream()?, v.x(0), v.x(1), v.x(3), v.x(4)])?;
        Ok(vec![Some(dx), Some(dweight), Some(dbias), None, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b11011, y: 0 }
    }
}

struct Moments {
    mean: Vec<f64>,
    /// Sums of squared deviations from the mean.
    squares: Vec<f64>,
}

/// A row of at least this many elements is worth vector instructions; narrower channels are taken several rows at a time.
const WIDE: usize = 64;

/// As many whole rows as make up [`WIDE`] elements.
fn wide(channels: usize) -> usize {
    WIDE.div_ceil(channels.max(1)) * channels.max(1)
}

/// Adds a wide vector's repeats of the channels together.
fn fold<T: Real>(wide: &[T], out: &mut [T]) {
    wide.chunks(out.len().max(1)).for_each(|part| out.iter_mut().zip(part).for_each(|(out, &v)| *out += v));
}

fn moments<T: Real>(x: &[T], channels: usize) -> Moments {
    let wide = wide(channels);
    // Of each block: a mean, then the sum and the squared sum of what differs from it.
    let partials = column_partials(x, channels, 3, |x, _, out| {
        vectorised!({
            let (mean, rest) = out.split_at_mut(channels);
            let (sum, squares) = rest.split_at_mut(channels);
            let mut first = vec![T::zero(); wide];
            for x in x.chunks(wide) {
                for (s, &x) in first.iter_mut().zip(x) {
                    *s += x;
                }
            }
            fold(&first, mean);
            let count = T::c((x.len() / channels) as f64);
            mean.iter_mut().for_each(|m| *m /= count);
            let centre = mean.repeat(wide / channels);
            first.fill(T::zero());
            let mut second = vec![T::zero(); wide];
            for x in x.chunks(wide) {
                let sums = first.iter_mut().zip(&mut second);
                for ((first, second), (&x, &centre)) in sums.zip(x.iter().zip(&centre)) {
                    let d = x - centre;
                    *first += d;
                    *second += d * d;
                }
            }
            fold(&first, sum);
            fold(&second, squares);
        });
    });
    let mut all = Moments { mean: vec![0.0; channels], squares: vec![0.0; channels] };
    let mut rows = 0.0;
    for (block_rows, partial) in &partials {
        let count = *block_rows as f64;
        for c in 0..channels {
            let [mean, sum, squares] = [0, 1, 2].map(|i| partial[i * channels + c].to_f64());
            let (mean, squares) = (mean + sum / count, squares - sum * sum / count);
            let apart = mean - all.mean[c];
            all.mean[c] += apart * count / (rows + count);
            all.squares[c] += squares + apart * apart * rows * count / (rows + count);
        }
        rows += count;
    }
    all
}

fn normalise<T: Real>(x: &[T], y: &mut [T], mean: &[T], scale: &[T], weight: &[T], bias: &[T]) {
    let (channels, wide) = (mean.len(), wide(mean.len()));
    let repeats = wide / channels.max(1);
    let scale: Vec<T> = scale.iter().zip(weight).map(|(&s, &w)| s * w).collect();
    let (mean, scale, bias) = (mean.repeat(repeats), scale.repeat(repeats), bias.repeat(repeats));
    par_rows(y, wide, |task, y| {
        let x = &x[task * rows_per_task(wide) * wide..][..y.len()];
        vectorised!({
            for (y, x) in y.chunks_mut(wide).zip(x.chunks(wide)) {
                let channel = mean.iter().zip(scale.iter().zip(&bias));
                for (y, (&x, (&m, (&s, &b)))) in y.iter_mut().zip(x.iter().zip(channel)) {
                    *y = (x - m) * s + b;
                }
            }
        });
    });
}

/// Inputs dy, x, weight, mean, variance (unbiased in training); outputs dx, dweight, dbias.
struct Grad {
    eps: f64,
    training: bool,
}

impl Op for Grad {
    fn name(&self) -> &'static str {
        "batch_norm2d_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2], x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => self.compute::<T>(args));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [dy, x, weight, mean, variance] = [0, 1, 2, 3, 4].map(|i| args.x[i]);
        let [dx, dweight, dbias] = [0, 1, 2].map(|i| args.y[i].ptr);
        let params = params(&x, &weight, &[mean, variance], self.eps, self.training)?;
        let c = params.c as usize;
        let parts = args.scratch((params.runs as usize * 2 * c * 4).max(4))?;
        let coefficients = args.scratch((3 * c * 4).max(4))?;
        let params = BatchNormParams {
            x: x.ptr,
            dy: dy.ptr,
            dx,
            dweight,
            dbias,
            parts: parts.ptr(),
            coefficients: coefficients.ptr(),
            ..params
        };
        let dtype = x.dtype();
        args.launch(&BACKWARD_PARTS, dtype, params.runs.saturating_mul(params.tiles), 0, &params)?;
        args.launch(&BACKWARD_STATS, dtype, params.c.div_ceil(THREADS), 0, &params)?;
        args.launch(&BACKWARD, dtype, params.vectors.div_ceil(THREADS), 0, &params)
    }
}

kernel_params! {
    struct BatchNormParams {
        x: DevicePtr,
        weight: DevicePtr,
        bias: DevicePtr,
        mean: DevicePtr,
        variance: DevicePtr,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        dweight: DevicePtr,
        dbias: DevicePtr,
        mean_out: DevicePtr,
        variance_out: DevicePtr,
        parts: DevicePtr,
        coefficients: DevicePtr,
        rows: u64,
        c: u32,
        run: u32,
        runs: u32,
        tiles: u32,
        vectors: u32,
        eps: f32,
        biased: f32,
        training: u32,
        aligned: u32,
        f32_stats: u32,
        f32_affine: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Rows whose sums one block forms.
const RUN: usize = 512;

const fn kernel(name: &'static str) -> Kernel<BatchNormParams> {
    // SAFETY: as above, `BatchNormParams`.
    unsafe { Kernel::new(&modules::BATCH_NORM2D, name, THREADS, FLOATS) }
}

const PARTS: Kernel<BatchNormParams> = kernel("parts");
// SAFETY: only this file fills `BatchNormParams`, from the tensors and scratch memory of the launch and from their sizes.
const STATS: Kernel<BatchNormParams> = unsafe { Kernel::new(&modules::BATCH_NORM2D, "stats", THREADS, UNTYPED) };
const NORMALISE: Kernel<BatchNormParams> = kernel("normalise");
const BACKWARD_PARTS: Kernel<BatchNormParams> = kernel("bwd_parts");
const BACKWARD_STATS: Kernel<BatchNormParams> = kernel("bwd_stats");
const BACKWARD: Kernel<BatchNormParams> = kernel("bwd_x");

/// Sizes, and where weight, mean and variance are.
fn params(
    x: &DeviceView,
    weight: &DeviceView,
    stats: &[DeviceView; 2],
    eps: f64,
    training: bool,
) -> Result<BatchNormParams> {
    let (rows, c, bytes) = (x.shape().rows(), x.shape().last(), x.dtype().bytes());
    let (vectors, aligned) = vector_threads("batch_norm2d", x.elems(), c, bytes)?;
    let is_f32 = |v: &DeviceView| u32::from(v.dtype() == DType::F32);
    let null = DevicePtr::NULL;
    Ok(BatchNormParams {
        x: null,
        weight: weight.ptr,
        bias: null,
        mean: stats[0].ptr,
        variance: stats[1].ptr,
        y: null,
        dy: null,
        dx: null,
        dweight: null,
        dbias: null,
        mean_out: null,
        variance_out: null,
        parts: null,
        coefficients: null,
        rows: rows as u64,
        c: c as u32,
        run: RUN as u32,
        runs: blocks(rows, RUN),
        tiles: column_blocks(c, aligned == 1, bytes),
        vectors,
        eps: eps as f32,
        biased: if training { (rows as f64 - 1.0) as f32 / rows as f32 } else { 1.0 },
        training: training.into(),
        aligned,
        f32_stats: is_f32(&stats[0]),
        f32_affine: is_f32(weight),
        unused: 0,
    })
}

impl Grad {
    fn compute<T: Real>(&self, args: &mut HostArgs) {
        let (dy, x, weight) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
        let (mean, variance) = (args.x::<T>(3), args.x::<T>(4));
        let [dx, dweight, dbias] = args.ys::<T, 3>();
        let (channels, wide) = (weight.len(), wide(weight.len()));
        let repeats = wide / channels.max(1);
        let rows = (x.len() / channels.max(1)) as f64;
        let biased = if self.training { (rows - 1.0) / rows } else { 1.0 };
        let scale: Vec<f64> = variance.iter().map(|&v| 1.0 / (Element::to_f64(v) * biased + self.eps).sqrt()).collect();
        let wide_mean = mean.repeat(repeats);
        let [sum, along] = column_sums::<T, 2>(x, channels, |x, first, out| {
            vectorised!({
                let dy = &dy[first * channels..][..x.len()];
                let (mut sum, mut along) = (vec![T::zero(); wide], vec![T::zero(); wide]);
                for (x, dy) in x.chunks(wide).zip(dy.chunks(wide)) {
                    let sums = sum.iter_mut().zip(&mut along);
                    for ((sum, along), ((&x, &dy), &mean)) in sums.zip(x.iter().zip(dy).zip(&wide_mean)) {
                        *sum += dy;
                        *along += dy * (x - mean);
                    }
                }
                fold(&sum, &mut out[..channels]);
                fold(&along, &mut out[channels..]);
            });
        });
        for c in 0..channels {
            dbias[c] = <T as Element>::from_f64(sum[c]);
            dweight[c] = <T as Element>::from_f64(along[c] * scale[c]);
        }
        // dx = gain · (dy − offset − (x − mean) · slope)
        let of_channel =
            |f: &dyn Fn(usize) -> f64| (0..channels).map(|c| T::c(f(c))).collect::<Vec<T>>().repeat(repeats);
        let gain = of_channel(&|c| weight[c].to_f64() * scale[c]);
        let batch = if self.training { 1.0 / rows } else { 0.0 };
        let offset = of_channel(&|c| sum[c] * batch);
        let slope = of_channel(&|c| along[c] * scale[c] * scale[c] * batch);
        par_rows(dx, wide, |task, dx| {
            let at = task * rows_per_task(wide) * wide;
            let (x, dy) = (&x[at..][..dx.len()], &dy[at..][..dx.len()]);
            vectorised!({
                for (dx, (x, dy)) in dx.chunks_mut(wide).zip(x.chunks(wide).zip(dy.chunks(wide))) {
                    let channel = gain.iter().zip(&offset).zip(slope.iter().zip(&wide_mean));
                    let inputs = x.iter().zip(dy).zip(channel);
                    for (dx, ((&x, &dy), ((&gain, &offset), (&slope, &mean)))) in dx.iter_mut().zip(inputs) {
                        *dx = gain * ((dy - offset) - (x - mean) * slope);
                    }
                }
            });
        });
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "batch_norm2d",
    order: Order::Once,
    kernels: &[
        PARTS.info(),
        STATS.info(),
        NORMALISE.info(),
        BACKWARD_PARTS.info(),
        BACKWARD_STATS.info(),
        BACKWARD.info(),
    ],
    cases: || {
        let train = |name, shape: [usize; 4], draw| {
            let c = shape[3];
            Case::new(name, [drawn(shape, draw), normal([c]), normal([c])], |x| {
                let [y, ..] = x[0].batch_norm2d_train(&x[1], &x[2], 1e-5)?;
                Ok(vec![y])
            })
        };
        let statistics = Case::new("statistics", [drawn([2, 9, 16, 3], Draw::Uniform(4.0, 6.0)), normal([3])], |x| {
            let [_, mean, variance] = x[0].batch_norm2d_train(&x[1], &x[1], 1e-5)?;
            Ok(vec![mean, variance])
        });
        let positive = drawn([5], Draw::Uniform(0.5, 2.0));
        let eval = [normal([2, 3, 4, 5]), normal([5]), normal([5]), normal([5]), positive];
        vec![
            train("train", [2, 5, 4, 7], Draw::Normal),
            train("far_from_zero", [1, 3, 3, 70], Draw::Uniform(28.0, 32.0)),
            train("aligned", [2, 3, 4, 40], Draw::Normal),
            train("past_a_run", [1, 27, 19, 3], Draw::Normal),
            train("many_rows", [3, 16, 11, 2], Draw::Normal),
            statistics.wrt([]),
            Case::new("wide_parameters", [normal([2, 3, 5, 8]), normal([8]), normal([8])], |x| {
                let [y, ..] = x[0].batch_norm2d_train(&x[1].widened()?, &x[2].widened()?, 1e-5)?;
                Ok(vec![y])
            }),
            // Running statistics of 16-bit models are kept in f32 or in 16 bits.
            Case::new("running", [normal([2, 3, 5, 9]), normal([9]), normal([9])], |x| {
                let [_, mean, variance] = x[0].batch_norm2d_train(&x[1], &x[2], 1e-5)?;
                let kept = [moved(&x[1], &mean, 0.1)?, moved(&x[1].square()?, &variance, 0.1)?];
                let wide = x[0].batch_norm2d_eval(&x[1], &x[2], &mean, &variance, 1e-5)?;
                Ok(vec![wide, x[0].batch_norm2d_eval(&x[1].widened()?, &x[2].widened()?, &kept[0], &kept[1], 1e-5)?])
            })
            .wrt([]),
            Case::new("eval", eval, |x| Ok(vec![x[0].batch_norm2d_eval(&x[1], &x[2], &x[3], &x[4], 1e-5)?]))
                .wrt([0, 1, 2]),
        ]
    },
    workloads: || {
        let x = [64, 32, 32, 256];
        let flops = 8.0 * x.iter().product::<usize>() as f64;
        let run = |x: &[Tensor]| Ok(x[0].batch_norm2d_train(&x[1], &x[2], 1e-5)?[0].clone());
        vec![Workload::gpu("batch_norm2d", [normal(x), normal([x[3]]), normal([x[3]])], flops, run)]
    },
    reference: Some(|a| {
        let (momentum, eps) = (a.float("momentum")?, a.float("eps")?);
        let (x, weight, bias) = (a.tensor("x")?, a.tensor("weight")?, a.tensor("bias")?);
        let (mean, variance) = (a.tensor("running_mean")?, a.tensor("running_var")?);
        let [y, mean, variance] = if a.flag("training")? {
            let [y, batch_mean, batch_variance] = x.batch_norm2d_train(weight, bias, eps)?;
            [y, moved(mean, &batch_mean, momentum)?, moved(variance, &batch_variance, momentum)?]
        } else {
            [x.batch_norm2d_eval(weight, bias, mean, variance, eps)?, mean.clone(), variance.clone()]
        };
        Ok([("y", y), ("running_mean", mean), ("running_var", variance)].map(|(n, t)| (n.to_string(), t)).into())
    }),
};
