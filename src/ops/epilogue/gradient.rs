//! Gradients of epilogues: the derivative of the activation from its output or from its input, and, in the same pass, the sums
//! over pixels that a bias wants.

use crate::{
    activation::{Activation, ActivationParams},
    cpu::vector::{map2, rows_with_sums},
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        index::count31,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::heuristics::COLUMN_SUM_BLOCKS,
    inlined, kernel_params,
    math::{hardswish, normal_cdf, sigmoid},
    op::{DeviceArgs, HostArgs, Op, apply1},
    ops::bias_act::{derivative_by_input, gelu_derivative, hardswish_derivative, silu_derivative},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

kernel_params! {
    pub struct EpilogueGradientParams {
        t: DevicePtr,
        result: DevicePtr,
        y: DevicePtr,
        count: u64,
        pos_scale: f32,
        neg_scale: f32,
        clamp: f32,
        unused: u32,
    }

    pub struct EpilogueSumsParams {
        t: DevicePtr,
        from: DevicePtr,
        y: DevicePtr,
        parts: DevicePtr,
        sums: DevicePtr,
        rows: u64,
        cols: u32,
        run: u32,
        runs: u32,
        tiles: u32,
        aligned: u32,
        activation: u32,
        pos_scale: f32,
        neg_scale: f32,
        clamp: f32,
        unused: u32,
    }
}

/// What the derivative of an activation is taken from.
#[derive(Clone, Copy)]
pub(super) enum Derivative {
    OfOutput(EpilogueGradient),
    OfInput(Activation, ActivationParams),
}

impl Derivative {
    /// `t · derivative`.
    pub fn apply(self, t: &Tensor, of: &Tensor) -> Result<Tensor> {
        match self {
            Derivative::OfOutput(gradient) => apply1(gradient, &[t, of]),
            Derivative::OfInput(activation, params) => derivative_by_input(1, t, of, activation, params),
        }
    }
}

/// `(t, result) -> t · derivative`, the derivative of a piecewise-linear epilogue by the sign of `result`; linear in `t`, and flat
/// in `result` wherever it has a derivative.
#[derive(Clone, Copy)]
pub(super) struct EpilogueGradient {
    pub pos_scale: f64,
    pub neg_scale: f64,
    pub clamp: f64,
}

// SAFETY: only this file fills `EpilogueGradientParams`, from the tensors and scratch memory of the launch and from their sizes.
pub const GRADIENT: Kernel<EpilogueGradientParams> =
    unsafe { Kernel::new(&modules::BIAS_ACT, "bwd_epilogue", 256, FLOATS) };
// SAFETY: as above, `EpilogueSumsParams`.
pub const SUMS: Kernel<EpilogueSumsParams> =
    unsafe { Kernel::new(&modules::BIAS_ACT, "bwd_epilogue_sums", 256, FLOATS) };
// SAFETY: as above, `EpilogueSumsParams`.
pub const BIAS: Kernel<EpilogueSumsParams> =
    unsafe { Kernel::new(&modules::BIAS_ACT, "bwd_epilogue_bias", 256, FLOATS) };

impl Op for EpilogueGradient {
    fn name(&self) -> &'static str {
        "epilogue_gradient"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0] != x[1] {
            let message = format!("{}:{} for {}:{}", x[0].shape, x[0].dtype, x[1].shape, x[1].dtype);
            return Err(Error::shape(self.name(), message));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            map2::<T>(args.x(0), args.x(1), args.y(0), self.at());
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let y = args.y[0];
        let params = EpilogueGradientParams {
            t: args.x[0].ptr,
            result: args.x[1].ptr,
            y: y.ptr,
            count: y.elems() as u64,
            pos_scale: self.pos_scale as f32,
            neg_scale: self.neg_scale as f32,
            clamp: self.clamp as f32,
            unused: 0,
        };
        let each = 16 / y.dtype().bytes();
        args.launch(&GRADIENT, y.dtype(), blocks(y.elems(), 256 * each), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![v.when(0, || apply1(*self, &[v.upstream()?, v.x(1)]))?, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

impl EpilogueGradient {
    /// `(t, result) -> t · derivative`
    #[inline(always)]
    fn at<T: Real>(&self) -> impl Fn(T, T) -> T + Copy + Send + Sync + use<T> {
        let (pos_scale, neg_scale, clamp, zero) =
            (T::c(self.pos_scale), T::c(self.neg_scale), T::c(self.clamp), T::c(0.0));
        let bounded = self.clamp < f64::INFINITY;
        inlined!(move |t: T, y: T| {
            if bounded && y.abs() >= clamp { zero } else { t * if y > zero { pos_scale } else { neg_scale } }
        })
    }
}

/// `(t, of) -> (t · derivative, its sums over all axes but the last)` in one pass.
pub(super) struct DerivativeAndSums {
    pub derivative: Derivative,
}

impl Op for DerivativeAndSums {
    fn name(&self) -> &'static str {
        "epilogue_gradient_sums"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0] != x[1] || x[0].shape.rank() == 0 {
            let message = format!("{}:{} for {}:{}", x[0].shape, x[0].dtype, x[1].shape, x[1].dtype);
            return Err(Error::shape(self.name(), message));
        }
        Ok(vec![x[0], Spec::new([x[0].shape.last()], x[0].dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(0).last();
        float_dispatch!(args, T => match self.derivative {
            Derivative::OfOutput(gradient) => columns::<T>(args, cols, gradient.at()),
            Derivative::OfInput(activation, params) => {
                let gain = T::c(params.gain);
                let clamp = T::c(params.clamp.unwrap_or(f64::INFINITY));
                match activation {
                    Activation::Sigmoid => {
                        columns::<T>(args, cols, smooth_derivative(gain, clamp, inlined!(|x| sigmoid(x)), inlined!(|x| {
                            let s = sigmoid(x);
                            s * (T::c(1.0) - s)
                        })))
                    }
                    Activation::Silu => {
                        columns::<T>(args, cols, smooth_derivative(gain, clamp, inlined!(|x| x * sigmoid(x)), silu_derivative::<T>))
                    }
                    Activation::Hardswish => {
                        columns::<T>(args, cols, smooth_derivative(gain, clamp, hardswish::<T>, hardswish_derivative::<T>))
                    }
                    _ => columns::<T>(args, cols, smooth_derivative(gain, clamp, inlined!(|x| x * normal_cdf(x)), gelu_derivative::<T>)),
                }
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (t, y) = (args.x[0], args.y[0]);
        let (rows, cols) = (t.shape().rows(), t.shape().last());
        let aligned = cols.is_multiple_of(4);
        let tiles = blocks(cols, if aligned { 128 } else { 32 });
        let run = rows.div_ceil((COLUMN_SUM_BLOCKS / tiles.max(1) as usize).max(1)).max(1).next_multiple_of(8);
        let runs = blocks(rows, run);
        let parts = args.scratch((runs as usize * cols * 4).max(4))?;
        let (pos_scale, neg_scale, clamp, activation) = match self.derivative {
            Derivative::OfOutput(EpilogueGradient { pos_scale, neg_scale, clamp }) => {
                (pos_scale, neg_scale, clamp, Activation::Linear)
            }
            Derivative::OfInput(activation, ActivationParams { gain, clamp, .. }) => {
                (gain, gain, clamp.unwrap_or(f64::INFINITY), activation)
            }
        };
        let params = EpilogueSumsParams {
            t: t.ptr,
            from: args.x[1].ptr,
            y: y.ptr,
            parts: parts.ptr(),
            sums: args.y[1].ptr,
            rows: rows as u64,
            cols: count31(self.name(), cols)?,
            run: count31(self.name(), run)?,
            runs,
            tiles,
            aligned: aligned.into(),
            activation: activation as u32,
            pos_scale: pos_scale as f32,
            neg_scale: neg_scale as f32,
            clamp: clamp as f32,
            unused: 0,
        };
        args.launch(&SUMS, t.dtype(), blocks_for_each(runs as usize, tiles), 0, &params)?;
        args.launch(&BIAS, t.dtype(), blocks(cols, 32), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (t, of) = (v.x(0), v.x(1));
        // A sum's gradient is that of each of its terms.
        let spread = v.dy(1).map(|dsums| dsums.broadcast_to(of.shape())).transpose()?;
        let upstream = match (v.dy(0), spread) {
            (Some(dy), Some(spread)) => dy.add(&spread)?,
            (Some(dy), None) => dy.clone(),
            (None, Some(spread)) => spread,
            (None, None) => return Err(Error::OrderExceeded { op: self.name() }),
        };
        let dt = v.when(0, || self.derivative.apply(&upstream, of))?;
        let dof = match self.derivative {
            Derivative::OfOutput(_) => None,
            Derivative::OfInput(activation, params) => {
                v.when(1, || derivative_by_input(2, &upstream.mul(t)?, of, activation, params))?
            }
        };
        Ok(vec![dt, dof])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `(t, x) -> t · gain · f′(x)`, zero where the value at `x` is clamped.
fn smooth_derivative<T: Real>(
    gain: T,
    clamp: T,
    value: impl Fn(T) -> T + Copy + Send + Sync,
    derivative: impl Fn(T) -> T + Copy + Send + Sync,
) -> impl Fn(T, T) -> T + Copy + Send + Sync {
    let bounded = clamp < T::c(f64::INFINITY);
    inlined!(move |t: T, x: T| {
        if bounded && (gain * value(x)).abs() > clamp { T::zero() } else { t * (gain * derivative(x)) }
    })
}

/// `dsum = f(t, of)` and its sums over the rows, for `(t, of) -> (dsum, sums)`.
fn columns<T: Real>(args: &mut HostArgs, cols: usize, f: impl Fn(T, T) -> T + Copy + Send + Sync) {
    let (t, of) = (args.x::<T>(0), args.x::<T>(1));
    let [dsum, sums] = args.ys::<T, 2>();
    let [total] = rows_with_sums::<T, 1>(dsum, cols, |first, dsum, sums| {
        vectorised!([f], {
            let rows = dsum.chunks_exact_mut(cols).zip(t[first * cols..].chunks_exact(cols));
            for ((dsum, t), of) in rows.zip(of[first * cols..].chunks_exact(cols)) {
                for ((dsum, sum), (&t, &of)) in dsum.iter_mut().zip(sums.iter_mut()).zip(t.iter().zip(of)) {
                    *dsum = f(t, of);
                    *sum += *dsum;
                }
            }
        });
    });
    sums.iter_mut().zip(total).for_each(|(sum, total)| *sum = <T as Element>::from_f64(total));
}
