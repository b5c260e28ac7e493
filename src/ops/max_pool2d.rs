//! The largest value in a sliding window. Where it occurs more than once, the first in reading order counts; a NaN is
//! larger than any number, so it is not lost. Padding never wins.
//!
//! One op in two directions, linear in the values moved and blind to changes of the winners, so every order exists:
//! `Pick(x, v)` takes the elements of `v` where `x` has its maxima (pooling is `Pick(x, x)`), `Spread(x, v)` puts them back.

use super::avg_pool2d::Pool2d;
use crate::{
    device::{
        host::Real,
        stencil::{Reads, par_lines},
        vector::vectorised,
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal},
    ops::matmul::same_float,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
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
    Pick,
    /// `(x, v like y) -> like x`
    Spread,
}

struct MaxPool {
    pool: Pool2d,
    direction: Direction,
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Pool => "max_pool2d",
            Direction::Pick => "max_pool2d_pick",
            Direction::Spread => "max_pool2d_spread",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let ([n, h, w, c], [oh, ow]) = self.pool.extents(self.name(), x[0].shape)?;
        let (large, small) = ([n, h, w, c], [n, oh, ow, c]);
        let (values, out) = match self.direction {
            Direction::Pool => return Ok(vec![Spec::new(small, dtype)]),
            Direction::Pick => (large, small),
            Direction::Spread => (small, large),
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
                Direction::Pick => windows.pick(x, args.x(1), args.y(0)),
                Direction::Spread => windows.spread(x, args.x(1), args.y(0)),
            }
        });
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (upstream, x) = (v.upstream()?, v.x(0));
        let to = |direction| apply1(MaxPool { direction, ..*self }, &[x, upstream]);
        Ok(match self.direction {
            Direction::Pool => vec![Some(to(Direction::Spread)?)],
            Direction::Pick => vec![None, v.when(1, || to(Direction::Spread))?],
            Direction::Spread => vec![None, v.when(1, || to(Direction::Pick))?],
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
            vectorised(
                #[inline(always)]
                || {
                    y.fill(T::neg_infinity());
                    for (j, y) in y.chunks_exact_mut(c).enumerate() {
                        for &(sy, _) in rows {
                            for &(sx, _) in self.cols.at(j) {
                                let x = &x[(sy * w + sx) * c..][..c];
                                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if beats(x, *y) { x } else { *y });
                            }
                        }
                    }
                },
            );
        });
    }

    /// Which tap wins at every position and channel.
    fn winners<T: Real>(&self, x: &[T], out: usize) -> Vec<u32> {
        let [_, w, c] = self.x;
        let mut winners = vec![0; out];
        par_lines(&mut winners, self.line(), |i, winners| {
            let (x, rows) = (self.image(x, i), self.rows.at(i % self.rows.positions()));
            let mut best = vec![T::neg_infinity(); c];
            for (j, winners) in winners.chunks_exact_mut(c).enumerate() {
                let mut fresh = true;
                for &(sy, ty) in rows {
                    for &(sx, tx) in self.cols.at(j) {
                        let (x, tap) = (&x[(sy * w + sx) * c..][..c], (ty * self.kernel + tx) as u32);
                        for ((winner, best), &x) in winners.iter_mut().zip(&mut best).zip(x) {
                            if fresh || beats(x, *best) {
                                (*winner, *best) = (tap, x);
                            }
                        }
                        fresh = false;
                    }
                }
            }
        });
        winners
    }

    fn pick<T: Real>(&self, x: &[T], values: &[T], y: &mut [T]) {
        let ([_, w, c], winners) = (self.x, self.winners(x, y.len()));
        par_lines(y, self.line(), |i, y| {
            let (values, rows) = (self.image(values, i), self.rows.at(i % self.rows.positions()));
            let winners = &winners[i * y.len()..][..y.len()];
            y.fill(T::zero());
            for (j, (y, winners)) in y.chunks_exact_mut(c).zip(winners.chunks_exact(c)).enumerate() {
                for &(sy, ty) in rows {
                    for &(sx, tx) in self.cols.at(j) {
                        let (values, tap) = (&values[(sy * w + sx) * c..][..c], (ty * self.kernel + tx) as u32);
                        for ((y, &winner), &value) in y.iter_mut().zip(winners).zip(values) {
                            *y = if winner == tap { value } else { *y };
                        }
                    }
                }
            }
        });
    }

    fn spread<T: Real>(&self, x: &[T], values: &[T], y: &mut [T]) {
        let ([h, w, c], winners) = (self.x, self.winners(x, values.len()));
        let (rows, cols) = (self.rows.transposed(h), self.cols.transposed(w));
        let small = self.rows.positions() * self.line();
        par_lines(y, w * c, |i, y| {
            let (values, winners) = (&values[i / h * small..][..small], &winners[i / h * small..][..small]);
            y.fill(T::zero());
            for (j, y) in y.chunks_exact_mut(c).enumerate() {
                for &(oy, ty) in rows.at(i % h) {
                    for &(ox, tx) in cols.at(j) {
                        let (from, tap) = ((oy * self.cols.positions() + ox) * c, (ty * self.kernel + tx) as u32);
                        let (values, winners) = (&values[from..from + c], &winners[from..from + c]);
                        for ((y, &winner), &value) in y.iter_mut().zip(winners).zip(values) {
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

pub const SPEC: OpSpec = OpSpec {
    name: "max_pool2d",
    order: Order::Any,
    kernels: &[],
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
            case("resnet", [1, 6, 7, 5], 3, 2, 1),
            case("halves", [2, 5, 4, 33], 2, 2, 0),
            case("one_pixel", [1, 1, 1, 2], 3, 2, 1),
        ]
    },
};
