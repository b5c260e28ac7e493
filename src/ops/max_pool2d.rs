//! The largest value in a sliding window. Where it occurs more than once, the first in reading order counts; a NaN is
//! larger than any number, so it is not lost. Padding never wins.
//!
//! One op in two directions, linear in the values moved and constant in the argmax, so every order exists:
//! `Gather(x, v)` takes the elements of `v` where `x` has its maxima (pooling is `Gather(x, x)`), `Scatter(x, v)` puts them back.

use super::avg_pool2d::{Pool2d, vector_threads};
use crate::{
    cpu::stencil::{Reads, par_lines},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload, only},
        same_float,
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', c]`.
    pub fn max_pool2d(&self, pool: Pool2d) -> Result<Tensor> {
        apply1(MaxPool { pool, direction: Direction::Pool }, &[self])
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// `(x) -> y`
    Pool,
    /// `(x, v like x) -> like y`
    Gather,
    /// `(x, v like y) -> like x`
    Scatter,
}

struct MaxPool {
    pool: Pool2d,
    direction: Direction,
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Pool => "max_pool2d",
            Direction::Gather => "max_pool2d_gather",
            Direction::Scatter => "max_pool2d_scatter",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let ([n, h, w, c], [oh, ow]) = self.pool.extents(self.name(), x[0].shape)?;
        let (large, small) = ([n, h, w, c], [n, oh, ow, c]);
        let (values, out) = match self.direction {
            Direction::Pool => return Ok(vec![Spec::new(small, dtype)]),
            Direction::Gather => (large, small),
            Direction::Scatter => (small, large),
        };
        if *x[1].shape != values {
            return Err(Error::shape(self.name(), format!("values {} beside {}", x[1].shape, x[0].shape)));
        }
        Ok(vec![Spec::new(out, dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let ([_, h, w, c], [oh, ow]) = self.pool.extents(self.name(), args.x_shape(0))?;
        let (rows, cols) = (self.pool.reads(oh, h), self.pool.reads(ow, w));
        let windows = Windows { rows: &rows, cols: &cols, kernel: self.pool.kernel, x: [h, w, c] };
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            match self.direction {
                Direction::Pool => windows.pool(x, args.y(0)),
                Direction::Gather => windows.gather(x, args.x(1), args.y(0)),
                Direction::Scatter => windows.scatter(x, args.x(1), args.y(0)),
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let ([n, h, w, c], [oh, ow]) = self.pool.extents(self.name(), x.shape())?;
        let Pool2d { kernel, stride, padding } = self.pool;
        if kernel > 255 {
            return Err(Error::shape(self.name(), format!("a window of {kernel}; a GPU's kernel takes up to 255")));
        }
        let bytes = x.dtype().bytes();
        let threads_of = |elems| vector_threads(self.name(), elems, c, bytes);
        let (threads, aligned) = threads_of(y.elems())?;
        let params = MaxPoolParams {
            x: x.ptr,
            v: args.x.get(1).map_or(DevicePtr::NULL, |v| v.ptr),
            y: y.ptr,
            argmax: DevicePtr::NULL,
            threads,
            h: h as u32,
            w: w as u32,
            c: c as u32,
            oh: oh as u32,
            ow: ow as u32,
            kernel: kernel as u32,
            stride: stride as u32,
            padding: padding as u32,
            aligned,
        };
        let dtype = x.dtype();
        let launch = |kernel: &Kernel<MaxPoolParams>, params: &MaxPoolParams| {
            args.launch(kernel, dtype, params.threads.div_ceil(THREADS), 0, params)
        };
        match self.direction {
            Direction::Pool => launch(&FORWARD, &params),
            Direction::Gather => launch(&GATHER, &params),
            Direction::Scatter => {
                let pooled = n * oh * ow * c;
                let argmax = args.scratch((pooled * 2).max(2))?;
                let params = MaxPoolParams { argmax: argmax.ptr(), ..params };
                launch(&ARGMAX, &MaxPoolParams { threads: threads_of(pooled)?.0, ..params })?;
                launch(&SCATTER, &params)
            }
        }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (upstream, x) = (v.upstream()?, v.x(0));
        let to = |direction| apply1(MaxPool { direction, ..*self }, &[x, upstream]);
        Ok(match self.direction {
            Direction::Pool => vec![Some(to(Direction::Scatter)?)],
            Direction::Gather => vec![None, v.when(1, || to(Direction::Scatter))?],
            Direction::Scatter => vec![None, v.when(1, || to(Direction::Gather))?],
        })
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b01, y: 0 }
    }
}

struct Windows<'a> {
    rows: &'a Reads,
    cols: &'a Reads,
    kernel: usize,
    /// Extents of the image.
    x: [usize; 3],
}

impl Windows<'_> {
    fn image<'b, T>(&self, x: &'b [T], line: usize) -> &'b [T] {
        let elems: usize = self.x.iter().product();
        &x[line / self.rows.positions() * elems..][..elems]
    }

    fn line(&self) -> usize {
        self.cols.positions() * self.x[2]
    }

    fn pool<T: Real>(&self, x: &[T], y: &mut [T]) {
        let [_, w, c] = self.x;
        par_lines(y, self.line(), |i, y| {
            let (x, rows) = (self.image(x, i), self.rows.at(i % self.rows.positions()));
            vectorised!({
                y.fill(T::neg_infinity());
                for (j, y) in y.chunks_exact_mut(c).enumerate() {
                    for &(sy, _) in rows {
                        for &(sx, _) in self.cols.at(j) {
                            let x = &x[(sy * w + sx) * c..][..c];
                            y.iter_mut().zip(x).for_each(|(y, &x)| *y = if beats(x, *y) { x } else { *y });
                        }
                    }
                }
            });
        });
    }

    /// Which tap wins at every position and channel.
    fn argmax<T: Real>(&self, x: &[T], out: usize) -> Vec<u32> {
        let [_, w, c] = self.x;
        let mut argmax = vec![0; out];
        par_lines(&mut argmax, self.line(), |i, argmax| {
            let (x, rows) = (self.image(x, i), self.rows.at(i % self.rows.positions()));
            let mut best = vec![T::neg_infinity(); c];
            for (j, argmax) in argmax.chunks_exact_mut(c).enumerate() {
                let mut fresh = true;
                for &(sy, ty) in rows {
                    for &(sx, tx) in self.cols.at(j) {
                        let (x, tap) = (&x[(sy * w + sx) * c..][..c], (ty * self.kernel + tx) as u32);
                        for ((winner, best), &x) in argmax.iter_mut().zip(&mut best).zip(x) {
                            if fresh || beats(x, *best) {
                                (*winner, *best) = (tap, x);
                            }
                        }
                        fresh = false;
                    }
                }
            }
        });
        argmax
    }

    fn gather<T: Real>(&self, x: &[T], values: &[T], y: &mut [T]) {
        let ([_, w, c], argmax) = (self.x, self.argmax(x, y.len()));
        par_lines(y, self.line(), |i, y| {
            let (values, rows) = (self.image(values, i), self.rows.at(i % self.rows.positions()));
            let argmax = &argmax[i * y.len()..][..y.len()];
            y.fill(T::zero());
            for (j, (y, argmax)) in y.chunks_exact_mut(c).zip(argmax.chunks_exact(c)).enumerate() {
                for &(sy, ty) in rows {
                    for &(sx, tx) in self.cols.at(j) {
                        let (values, tap) = (&values[(sy * w + sx) * c..][..c], (ty * self.kernel + tx) as u32);
                        for ((y, &winner), &value) in y.iter_mut().zip(argmax).zip(values) {
                            *y = if winner == tap { value } else { *y };
                        }
                    }
                }
            }
        });
    }

    fn scatter<T: Real>(&self, x: &[T], values: &[T], y: &mut [T]) {
        let ([h, w, c], argmax) = (self.x, self.argmax(x, values.len()));
        let (rows, cols) = (self.rows.transposed(h), self.cols.transposed(w));
        let small = self.rows.positions() * self.line();
        par_lines(y, w * c, |i, y| {
            let (values, argmax) = (&values[i / h * small..][..small], &argmax[i / h * small..][..small]);
            y.fill(T::zero());
            for (j, y) in y.chunks_exact_mut(c).enumerate() {
                for &(oy, ty) in rows.at(i % h) {
                    for &(ox, tx) in cols.at(j) {
                        let (from, tap) = ((oy * self.cols.positions() + ox) * c, (ty * self.kernel + tx) as u32);
                        let (values, argmax) = (&values[from..from + c], &argmax[from..from + c]);
                        for ((y, &winner), &value) in y.iter_mut().zip(argmax).zip(values) {
                            *y += if winner == tap { value } else { T::zero() };
                        }
                    }
                }
            }
        });
    }
}

#[inline(always)]
fn beats<T: Real>(x: T, best: T) -> bool {
    x > best || (x.is_nan() && !best.is_nan())
}

kernel_params! {
    struct MaxPoolParams {
        x: DevicePtr,
        v: DevicePtr,
        y: DevicePtr,
        argmax: DevicePtr,
        threads: u32,
        h: u32,
        w: u32,
        c: u32,
        oh: u32,
        ow: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
        aligned: u32,
    }
}

const THREADS: u32 = 256;

const fn kernel(name: &'static str) -> Kernel<MaxPoolParams> {
    // SAFETY: only this file fills `MaxPoolParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::MAX_POOL2D, name, THREADS, FLOATS) }
}

const FORWARD: Kernel<MaxPoolParams> = kernel("fwd");
const GATHER: Kernel<MaxPoolParams> = kernel("gather");
const ARGMAX: Kernel<MaxPoolParams> = kernel("argmax");
const SCATTER: Kernel<MaxPoolParams> = kernel("scatter");

pub const SPEC: OpSpec = OpSpec {
    name: "max_pool2d",
    order: Order::Any,
    kernels: &[FORWARD.info(), GATHER.info(), ARGMAX.info(), SCATTER.info()],
    cases: || {
        let case = |name, x: [usize; 4], kernel, stride, padding| {
            let pool = Pool2d { kernel, stride, padding };
            // The product makes the gradient depend on the input, so that second derivatives are not all zero.
            Case::new(name, [drawn(x, Draw::Distinct), normal(x)], move |x| {
                Ok(vec![x[0].max_pool2d(pool)?.square()?, x[0].mul(&x[1].square()?.shift(1.0)?)?.max_pool2d(pool)?])
            })
            .wrt([0])
        };
        vec![
            case("alexnet", [2, 7, 9, 3], 3, 2, 0),
            case("aligned", [1, 7, 6, 8], 3, 2, 1),
            case("resnet", [1, 6, 7, 5], 3, 2, 1),
            case("halves", [2, 5, 4, 33], 2, 2, 0),
            case("one_pixel", [1, 1, 1, 2], 3, 2, 1),
        ]
    },
    workloads: || {
        let (resnet, alexnet) =
            (Pool2d { kernel: 3, stride: 2, padding: 1 }, Pool2d { kernel: 3, stride: 2, padding: 0 });
        vec![
            Workload::gpu("max_pool2d", [normal(IMAGE)], 0.0, move |x| x[0].max_pool2d(resnet)),
            Workload::cpu("max_pool2d_63px_c64", [normal([4, 63, 63, 64])], move |x| x[0].max_pool2d(alexnet)),
        ]
    },
    reference: Some(|a| {
        let pool = Pool2d { kernel: a.int("kernel")?, stride: a.int("stride")?, padding: a.int("padding")? };
        Ok(only("y", a.tensor("x")?.max_pool2d(pool)?))
    }),
};
