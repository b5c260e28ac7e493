//! `y = (x − mean) / √(variance + eps) · weight + bias` over the last axis (PyTorch's `layer_norm`; biased variance).
//!
//! Two passes, and a third over the residuals: the mean of `x − mean` is taken off as well, so that a row far from zero
//! keeps its digits in f32. The backward op computes all three gradients from `x`, recomputing mean and deviation.

use crate::{
    device::{
        host::{Element, Real},
        vector::{par_rows, rows_a_task, rows_with_sums, sum1, sum2, vectorised},
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, normal},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
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
            par_rows(args.y::<T>(0), cols, |task, y| vectorised(#[inline(always)] || {
                for (row, y) in y.chunks_exact_mut(cols).enumerate() {
                    let x = &x[(task * rows_a_task(cols) + row) * cols..][..cols];
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

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [dx, dweight, dbias] = apply_n(LayerNormGrad { eps: self.eps }, &[v.upstream()?, v.x(0), v.x(1)])?;
        Ok(vec![Some(dx), Some(dweight), Some(dbias)])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b011, y: 0 }
    }
}

/// How one row is normalised.
struct Norm<T> {
    mean: T,
    /// What rounding left of the mean.
    rest: T,
    scale: T,
}

impl<T: Real> Norm<T> {
    #[inline(always)]
    fn of(x: &[T], eps: T) -> Norm<T> {
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
}

fn gradients<T: Real>(args: &mut HostArgs, eps: T) {
    let cols = args.x_shape(1).last();
    let (dy, x, weight) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
    let [dx, dweight, dbias] = args.ys::<T, 3>();
    let count = T::c(cols as f64);
    let sums = rows_with_sums::<T, 2>(dx, cols, |first, dx, sums| {
        vectorised(
            #[inline(always)]
            || {
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
            },
        )
    });
    for (out, sum) in [dweight, dbias].into_iter().zip(sums) {
        out.iter_mut().zip(sum).for_each(|(out, sum)| *out = <T as Element>::from_f64(sum));
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    order: Order::Once,
    kernels: &[],
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
            case("many_rows", 300, 17, Draw::Normal),
            Case::new("tokens", [normal([2, 3, 20]), normal([20]), normal([20])], |x| {
                Ok(vec![x[0].layer_norm(&x[1], &x[2], 1e-5)?])
            }),
        ]
    },
};
