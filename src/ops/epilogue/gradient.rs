//! Gradients of what follows a sum: the slope read off the result or off the argument, and, in the same pass, the sums over
//! pixels that a bias wants.

use crate::{
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        index::count31,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each},
        math::{normal_below, sigmoid},
        vector::{map2, rows_with_sums, vectorised},
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1},
    ops::bias_act::{Activation, BiasAct, by_argument, gelu_slope, silu_slope},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

kernel_params! {
    pub struct EpilogueGradientParams {
        t: DevicePtr,
        result: DevicePtr,
        y: DevicePtr,
        count: u64,
        above: f32,
        below: f32,
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
        whole: u32,
        function: u32,
        above: f32,
        below: f32,
        clamp: f32,
        unused: u32,
    }
}

/// Where the derivative of what follows a sum is read off.
#[derive(Clone, Copy)]
pub(super) enum Slope {
    OfResult(EpilogueGradient),
    OfArgument(Activation, BiasAct),
}

impl Slope {
    /// `t · slope`.
    pub fn apply(self, t: &Tensor, of: &Tensor) -> Result<Tensor> {
        match self {
            Slope::OfResult(gradient) => apply1(gradient, &[t, of]),
            Slope::OfArgument(activation, around) => by_argument(1, t, of, activation, around),
        }
    }
}

/// `(t, result) -> t · slope`, the slope read off `result`; linear in `t`, and flat in `result` wherever it has a derivative.
#[derive(Clone, Copy)]
pub(super) struct EpilogueGradient {
    pub above: f64,
    pub below: f64,
    pub clamp: f64,
}

pub const GRADIENT: Kernel<EpilogueGradientParams> = Kernel::new("bias_act", "bwd_epilogue", 256, FLOATS);
pub const SUMS: Kernel<EpilogueSumsParams> = Kernel::new("bias_act", "bwd_epilogue_sums", 256, FLOATS);
pub const BIAS: Kernel<EpilogueSumsParams> = Kernel::new("bias_act", "bwd_epilogue_bias", 256, FLOATS);

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
            above: self.above as f32,
            below: self.below as f32,
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
    /// `(t, result) -> t · slope`
    #[inline(always)]
    fn at<T: Real>(&self) -> impl Fn(T, T) -> T + Copy + Send + Sync + use<T> {
        let (above, below, clamp, zero) = (T::c(self.above), T::c(self.below), T::c(self.clamp), T::c(0.0));
        let bounded = self.clamp < f64::INFINITY;
        #[inline(always)]
        move |t: T, y: T| if bounded && y.abs() >= clamp { zero } else { t * if y > zero { above } else { below } }
    }
}

/// `(t, of) -> (t · slope, its sums over all axes but the last)` in one pass.
pub(super) struct SlopeAndSums {
    pub slope: Slope,
}

impl Op for SlopeAndSums {
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
        float_dispatch!(args, T => match self.slope {
            Slope::OfResult(gradient) => columns::<T>(args, cols, gradient.at()),
            Slope::OfArgument(activation, around) => {
                let gain = T::c(around.gain);
                let clamp = T::c(around.clamp.unwrap_or(f64::INFINITY));
                match activation {
                    Activation::Sigmoid => {
                        columns::<T>(args, cols, curve(gain, clamp, #[inline(always)] |x| sigmoid(x), #[inline(always)] |x| {
                            let s = sigmoid(x);
                            s * (T::c(1.0) - s)
                        }))
                    }
                    Activation::Silu => {
                        columns::<T>(args, cols, curve(gain, clamp, #[inline(always)] |x| x * sigmoid(x), silu_slope::<T>))
                    }
                    _ => columns::<T>(args, cols, curve(gain, clamp, #[inline(always)] |x| x * normal_below(x), gelu_slope::<T>)),
                }
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (t, y) = (args.x[0], args.y[0]);
        let (rows, cols) = (t.shape().rows(), t.shape().last());
        let whole = cols.is_multiple_of(4);
        let tiles = blocks(cols, if whole { 128 } else { 32 });
        // Four blocks for each multiprocessor of a large device. A function of the shape alone: every device adds in one order.
        let run = rows.div_ceil((528 / tiles.max(1) as usize).max(1)).max(1).next_multiple_of(8);
        let runs = blocks(rows, run);
        let parts = args.scratch((runs as usize * cols * 4).max(4))?;
        let (above, below, clamp, function) = match self.slope {
            Slope::OfResult(EpilogueGradient { above, below, clamp }) => (above, below, clamp, Activation::Linear),
            Slope::OfArgument(activation, BiasAct { gain, clamp, .. }) => {
                (gain, gain, clamp.unwrap_or(f64::INFINITY), activation)
            }
        };
        let params = EpilogueSumsParams {
            t: t.ptr,
            from: args.x[1].ptr,
            y: y.ptr,
            parts: parts.ptr,
            sums: args.y[1].ptr,
            rows: rows as u64,
            cols: count31(self.name(), cols)?,
            run: count31(self.name(), run)?,
            runs,
            tiles,
            whole: whole.into(),
            function: function as u32,
            above: above as f32,
            below: below as f32,
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
        let dt = v.when(0, || self.slope.apply(&upstream, of))?;
        let dof = match self.slope {
            Slope::OfResult(_) => None,
            Slope::OfArgument(activation, around) => {
                v.when(1, || by_argument(2, &upstream.mul(t)?, of, activation, around))?
            }
        };
        Ok(vec![dt, dof])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `(t, x) -> t · gain · f′(x)`, zero where the value at `x` is clamped.
fn curve<T: Real>(
    gain: T,
    clamp: T,
    value: impl Fn(T) -> T + Copy + Send + Sync,
    slope: impl Fn(T) -> T + Copy + Send + Sync,
) -> impl Fn(T, T) -> T + Copy + Send + Sync {
    let bounded = clamp < T::c(f64::INFINITY);
    #[inline(always)]
    move |t: T, x: T| {
        if bounded && (gain * value(x)).abs() > clamp { T::zero() } else { t * (gain * slope(x)) }
    }
}

/// `dsum = f(t, of)` and its sums over the rows, for `(t, of) -> (dsum, sums)`.
fn columns<T: Real>(args: &mut HostArgs, cols: usize, f: impl Fn(T, T) -> T + Copy + Send + Sync) {
    let (t, of) = (args.x::<T>(0), args.x::<T>(1));
    let [dsum, sums] = args.ys::<T, 2>();
    let [total] = rows_with_sums::<T, 1>(dsum, cols, |first, dsum, sums| {
        vectorised(
            #[inline(always)]
            || {
                let f = f;
                let rows = dsum.chunks_exact_mut(cols).zip(t[first * cols..].chunks_exact(cols));
                for ((dsum, t), of) in rows.zip(of[first * cols..].chunks_exact(cols)) {
                    for ((dsum, sum), (&t, &of)) in dsum.iter_mut().zip(sums.iter_mut()).zip(t.iter().zip(of)) {
                        *dsum = f(t, of);
                        *sum += *dsum;
                    }
                }
            },
        );
    });
    sums.iter_mut().zip(total).for_each(|(sum, total)| *sum = <T as Element>::from_f64(total));
}
