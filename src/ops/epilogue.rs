//! What follows the sum of a product or a convolution, done where the sum is made:
//!
//! `y = clamp(gain · f(sum + strength · noise + bias)) + residual`
//!
//! The linear function and the rectifiers are lines bent at zero: their slope is read off the sign of `y`, and whether a value
//! was clamped off its size, so the tape keeps `y` alone. Sigmoid, SiLU and GELU need their argument again: an op that takes them
//! ([`Fused::curved`]) writes it as a second output while a tape is alive. A residual would hide the sign, so it is taken only
//! behind a line without a clamp.

mod gradient;

use rayon::prelude::*;

pub(super) use self::gradient::{BIAS, GRADIENT, SUMS};
use self::gradient::{EpilogueGradient, Slope, SlopeAndSums};
use super::bias_act::{Activation, BiasAct};
use crate::{
    DType,
    device::{
        driver::DevicePtr,
        host::{Element, HostBuffer, Real},
        math::{normal_below, sigmoid},
        vector::{par_rows, rows_a_task, vectorised},
    },
    error::{Error, Result},
    kernel_params,
    op::{DeviceArgs, HostArgs, apply_n},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// What a product or a convolution does to its sums before it stores them.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// As long as the last axis.
    pub bias: Option<&'a Tensor>,
    /// One value for all channels of a pixel (the result's shape with a last axis of 1), and its strength `[1]`.
    pub noise: Option<(&'a Tensor, &'a Tensor)>,
    pub activation: Activation,
    pub around: BiasAct,
    /// Of the result's shape.
    pub residual: Option<&'a Tensor>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        let (activation, around) = (Activation::Linear, BiasAct::default());
        Epilogue { bias: None, noise: None, activation, around, residual: None }
    }
}

impl<'a> Epilogue<'a> {
    /// A bias alone.
    pub fn bias(bias: Option<&'a Tensor>) -> Epilogue<'a> {
        Epilogue { bias, ..Epilogue::default() }
    }

    /// What the op remembers of it; its tensors are appended to the op's inputs in the order bias, noise, strength, residual.
    pub(crate) fn join(&self, x: &mut Vec<&'a Tensor>) -> Fused {
        let Epilogue { bias, noise, activation, around, residual } = *self;
        let fused = Fused {
            first: x.len(),
            activation,
            around,
            bias: bias.is_some(),
            noise: noise.is_some(),
            residual: residual.is_some(),
        };
        x.extend(bias);
        x.extend(noise.into_iter().flat_map(|(noise, strength)| [noise, strength]));
        x.extend(residual);
        fused
    }
}

/// An [`Epilogue`] inside an op: its numbers, and which tensors stand among the inputs from `first` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fused {
    pub first: usize,
    pub activation: Activation,
    pub around: BiasAct,
    pub bias: bool,
    pub noise: bool,
    pub residual: bool,
}

kernel_params! {
    pub(crate) struct EpilogueParams {
        bias: DevicePtr,
        noise: DevicePtr,
        strength: DevicePtr,
        residual: DevicePtr,
        before: DevicePtr,
        above: f32,
        below: f32,
        clamp: f32,
        function: u32,
    }
}

impl EpilogueParams {
    /// Sums are stored as they are.
    pub const NONE: EpilogueParams = EpilogueParams {
        bias: DevicePtr::NULL,
        noise: DevicePtr::NULL,
        strength: DevicePtr::NULL,
        residual: DevicePtr::NULL,
        before: DevicePtr::NULL,
        above: 1.0,
        below: 1.0,
        clamp: f32::INFINITY,
        function: Activation::Linear as u32,
    };

    /// Whether it matters which channel or pixel a sum belongs to.
    pub fn by_channel(&self) -> bool {
        [self.bias, self.noise].iter().any(|&ptr| ptr != DevicePtr::NULL)
    }
}

impl Fused {
    /// Inputs it takes.
    pub fn inputs(&self) -> usize {
        usize::from(self.bias) + 2 * usize::from(self.noise) + usize::from(self.residual)
    }

    /// Whether at most a bias is added.
    pub fn is_bias(&self) -> bool {
        !self.noise && !self.residual && self.is_line() && self.around.gain == 1.0
    }

    /// Whether the slope is the same everywhere.
    fn is_line(&self) -> bool {
        self.activation == Activation::Linear && self.around.clamp.is_none()
    }

    /// Whether the derivative needs the function's argument.
    pub fn curved(&self) -> bool {
        !matches!(self.activation, Activation::Linear | Activation::Relu | Activation::LeakyRelu)
    }

    /// Slopes times gain above zero and below.
    fn slopes(&self) -> [f64; 2] {
        let below = match self.activation {
            Activation::Relu => 0.0,
            Activation::LeakyRelu => self.around.alpha,
            _ => 1.0,
        };
        [self.around.gain, self.around.gain * below]
    }

    /// Whether the tensors fit a result `y`, and the numbers allow what is promised of the gradient. `curves`: the op takes sigmoid,
    /// SiLU and GELU.
    pub fn check(&self, op: &'static str, x: &[Spec], y: Spec, curves: bool) -> Result<()> {
        let wrong = |what: String| Err(Error::shape(op, what));
        let mut at = self.first;
        let mut next = |wanted: Shape, what: &str| {
            let spec = x[at];
            at += 1;
            if spec.shape == wanted && spec.dtype == y.dtype {
                return Ok(());
            }
            Err(Error::shape(op, format!("{what} {}:{} for a result {}:{}", spec.shape, spec.dtype, y.shape, y.dtype)))
        };
        let rank = y.shape.rank();
        if rank == 0 {
            return wrong("a result without axes".to_string());
        }
        if self.bias {
            next([y.shape.last()].into(), "bias")?;
        }
        if self.noise {
            next(y.shape.with(rank - 1, 1), "noise")?;
            next([1].into(), "noise strength")?;
        }
        if self.residual {
            next(y.shape, "residual")?;
        }
        let BiasAct { alpha, gain, clamp } = self.around;
        match self.activation {
            Activation::Linear | Activation::Relu | Activation::LeakyRelu => {}
            Activation::Sigmoid | Activation::Silu | Activation::Gelu if curves => {}
            other => return wrong(format!("{} is not done in one pass with the sum; use bias_act", other.name())),
        }
        if !self.is_line()
            && (gain.is_nan() || gain <= 0.0 || clamp.is_some_and(|clamp| clamp.is_nan() || clamp <= 0.0))
        {
            return wrong(format!("gain {gain}, clamp {clamp:?}: above zero wanted"));
        }
        if self.activation == Activation::LeakyRelu && (alpha.is_nan() || alpha < 0.0) {
            return wrong(format!("a leaky rectifier of slope {alpha}; zero or more wanted"));
        }
        if self.residual && !self.is_line() {
            return wrong("a residual is added to a line alone; add it afterwards".to_string());
        }
        Ok(())
    }

    /// What a kernel takes. `before`: where a curve's argument goes.
    pub fn params(&self, args: &DeviceArgs, before: Option<DevicePtr>) -> EpilogueParams {
        let mut at = self.first;
        let mut next = |there: bool| {
            let ptr = if there { args.x[at].ptr } else { DevicePtr::NULL };
            at += usize::from(there);
            ptr
        };
        let [above, below] = self.slopes().map(|slope| slope as f32);
        EpilogueParams {
            bias: next(self.bias),
            noise: next(self.noise),
            strength: next(self.noise),
            residual: next(self.residual),
            before: before.unwrap_or(DevicePtr::NULL),
            above,
            below,
            clamp: self.around.clamp.map_or(f32::INFINITY, |clamp| clamp as f32),
            function: self.activation as u32,
        }
    }

    /// Its tensors in host memory.
    pub fn host<'a, T: Element>(&self, args: &HostArgs<'a>) -> HostEpilogue<'a, T> {
        let mut at = self.first;
        let mut next = |there: bool| {
            at += usize::from(there);
            there.then(|| args.x::<T>(at - 1))
        };
        let (bias, noise, strength) = (next(self.bias), next(self.noise), next(self.noise));
        let noise = noise.zip(strength).map(|(noise, strength)| (noise, strength[0]));
        HostEpilogue { of: *self, bias, noise, residual: next(self.residual) }
    }

    /// What of its own inputs and outputs the gradient reads; to be joined with the op's.
    pub fn keep(&self) -> Keep {
        // Noise and its strength are each other's gradients.
        let x = if self.noise { 0b11 << (self.first + usize::from(self.bias)) } else { 0 };
        let y = if self.is_line() { 0 } else { 1 << usize::from(self.curved()) };
        Keep { x, y }
    }

    /// The gradient that arrives at the sum, and what is made with it in one pass.
    pub fn through(&self, v: &Vjp) -> Result<Through> {
        if self.is_line() {
            let dy = v.upstream()?;
            let dsum = if self.around.gain == 1.0 { dy.clone() } else { dy.scale(self.around.gain)? };
            return Ok(Through { dsum, dbias: None });
        }
        let of = v.y(usize::from(self.curved()));
        let slope = self.slope(of.dtype());
        // A curve's argument is an output too, to which gradients of gradients arrive.
        let through = match v.dy(0) {
            None => None,
            Some(dy) if self.bias && v.need(self.first) => {
                let [dsum, dbias] = apply_n(SlopeAndSums { slope }, &[dy, of])?;
                Some(Through { dsum, dbias: Some(dbias) })
            }
            Some(dy) => Some(Through { dsum: slope.apply(dy, of)?, dbias: None }),
        };
        match (through, if self.curved() { v.dy(1) } else { None }) {
            (Some(through), None) => Ok(through),
            (Some(Through { dsum, .. }), Some(also)) => Ok(Through { dsum: dsum.add(also)?, dbias: None }),
            (None, Some(dsum)) => Ok(Through { dsum: dsum.clone(), dbias: None }),
            (None, None) => Ok(Through { dsum: v.upstream()?.clone(), dbias: None }),
        }
    }

    /// `dsum · sum`, from the result: `dsum` times the function's argument is `dy` times what the function made of it.
    pub fn by_sum(&self, v: &Vjp, dsum: &Tensor) -> Result<Tensor> {
        let (mut dy, mut y, mut at) = (v.upstream()?.clone(), v.y(0).clone(), self.first);
        if self.around.clamp.is_some() {
            let clamp = self.clamp_in(y.dtype());
            dy = Slope::OfResult(EpilogueGradient { above: 1.0, below: 1.0, clamp }).apply(&dy, &y)?;
        }
        let mut added: Option<Tensor> = None;
        if self.bias {
            added = Some(v.x(at).clone());
            at += 1;
        }
        if self.noise {
            let noise = v.x(at).mul(v.x(at + 1))?;
            added = Some(added.map_or_else(|| Ok(noise.clone()), |bias| noise.add(&bias))?);
            at += 2;
        }
        if self.residual {
            y = y.sub(v.x(at))?;
        }
        let all = dy.mul(&y)?;
        added.map_or_else(|| Ok(all.clone()), |added| all.sub(&dsum.mul(&added)?))
    }

    fn slope(&self, dtype: DType) -> Slope {
        if self.curved() {
            return Slope::OfArgument(self.activation, self.around);
        }
        let [above, below] = self.slopes();
        Slope::OfResult(EpilogueGradient { above, below, clamp: self.clamp_in(dtype) })
    }

    /// A result can only be as far out as its type can hold the clamp.
    fn clamp_in(&self, dtype: DType) -> f64 {
        let held = |clamp: f64| HostBuffer::F64(vec![clamp]).cast(dtype).cast(DType::F64);
        match self.around.clamp.map(held) {
            Some(HostBuffer::F64(clamp)) => clamp[0],
            _ => f64::INFINITY,
        }
    }

    /// Gradients of its own inputs, in their order.
    pub fn gradients(&self, v: &Vjp, Through { dsum, dbias }: &Through) -> Result<Vec<Option<Tensor>>> {
        let (mut all, mut at) = (Vec::with_capacity(self.inputs()), self.first);
        if self.bias {
            all.push(v.when(at, || match dbias {
                Some(dbias) => Ok(dbias.clone()),
                None => dsum.sum_to(v.x_spec(at).shape),
            })?);
            at += 1;
        }
        if self.noise {
            let per_pixel = if v.need(at) || v.need(at + 1) { Some(dsum.sum_to(v.x_spec(at).shape)?) } else { None };
            for (i, other) in [(at, at + 1), (at + 1, at)] {
                let product = per_pixel.as_ref().filter(|_| v.need(i)).map(|dsum| {
                    let product = dsum.mul(v.x(other))?;
                    if i == at { Ok(product) } else { product.sum_all() }
                });
                all.push(product.transpose()?);
            }
            at += 2;
        }
        if self.residual {
            all.push(v.when(at, || Ok(v.upstream()?.clone()))?);
        }
        Ok(all)
    }
}

/// What passed an epilogue on its way back.
pub(crate) struct Through {
    /// The gradient that arrives at the sum.
    pub dsum: Tensor,
    /// The bias's gradient, where the same pass made it.
    dbias: Option<Tensor>,
}

/// The definition of an epilogue.
pub(crate) struct HostEpilogue<'a, T> {
    of: Fused,
    bias: Option<&'a [T]>,
    noise: Option<(&'a [T], T)>,
    residual: Option<&'a [T]>,
}

impl<T: Real> HostEpilogue<'_, T> {
    /// Where bias and residual may stand before sums are added to them: writes them to `y`. Says whether it did.
    pub fn begin(&self, channels: usize, y: &mut [T]) -> bool {
        let plain = self.of.is_line() && self.of.around.gain == 1.0;
        let nothing = self.bias.is_none() && self.residual.is_none();
        if channels == 0 || self.noise.is_some() || nothing || (self.residual.is_some() && !plain) {
            return false;
        }
        par_rows(y, channels, |task, y| {
            let first = task * rows_a_task(channels) * channels;
            let residual = self.residual.map(|residual| &residual[first..][..y.len()]);
            match (residual, self.bias) {
                (None, None) => {}
                (None, Some(bias)) => y.chunks_mut(channels).for_each(|y| y.copy_from_slice(bias)),
                (Some(residual), None) => y.copy_from_slice(residual),
                (Some(residual), Some(bias)) => {
                    for (y, residual) in y.chunks_mut(channels).zip(residual.chunks(channels)) {
                        y.iter_mut().zip(residual.iter().zip(bias)).for_each(|(y, (&r, &b))| *y = r + b);
                    }
                }
            }
        });
        true
    }

    /// What is left to do to the sums, `begin` having said `begun`.
    pub fn end(&self, channels: usize, y: &mut [T], before: Option<&mut [T]>, begun: bool) {
        match before {
            _ if !begun => self.finish(channels, y, before),
            None if self.of.is_line() && self.of.around.gain == 1.0 => {}
            None => par_rows(y, channels, |_, y| self.bend(y)),
            Some(before) => {
                let step = rows_a_task(channels) * channels;
                let parts = y.par_chunks_mut(step).zip(before.par_chunks_mut(step));
                parts.for_each(|(y, before)| {
                    before.copy_from_slice(y);
                    self.bend(y);
                });
            }
        }
    }

    /// `y` holds sums, pixels of `channels`, and receives the results; a curve's arguments go to `before`.
    pub fn finish(&self, channels: usize, y: &mut [T], before: Option<&mut [T]>) {
        if channels == 0 || (self.bias.is_none() && self.of.is_bias()) {
            return;
        }
        match before {
            None => par_rows(y, channels, |task, y| {
                let first = task * rows_a_task(channels);
                self.shift(first, channels, y);
                self.bend(y);
                if let Some(residual) = self.residual {
                    let residual = &residual[first * channels..][..y.len()];
                    y.iter_mut().zip(residual).for_each(|(y, &residual)| *y += residual);
                }
            }),
            Some(before) => {
                par_rows(y, channels, |task, y| self.shift(task * rows_a_task(channels), channels, y));
                before.copy_from_slice(y);
                par_rows(y, channels, |_, y| self.bend(y));
            }
        }
    }

    /// Adds noise and bias to the pixels from `first` on.
    fn shift(&self, first: usize, channels: usize, y: &mut [T]) {
        for (pixel, y) in y.chunks_mut(channels).enumerate() {
            if let Some((noise, strength)) = self.noise {
                let noise = strength * noise[first + pixel];
                y.iter_mut().for_each(|y| *y += noise);
            }
            if let Some(bias) = self.bias {
                y.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias);
            }
        }
    }

    /// `y = clamp(gain · f(y))`.
    fn bend(&self, y: &mut [T]) {
        let [above, below] = self.of.slopes().map(T::c);
        match self.of.activation {
            Activation::Sigmoid => self.each(
                y,
                #[inline(always)]
                move |x| above * sigmoid(x),
            ),
            Activation::Silu => self.each(
                y,
                #[inline(always)]
                move |x| above * (x * sigmoid(x)),
            ),
            Activation::Gelu => self.each(
                y,
                #[inline(always)]
                move |x| above * (x * normal_below(x)),
            ),
            _ => self.each(
                y,
                #[inline(always)]
                move |x| x * if x < T::zero() { below } else { above },
            ),
        }
    }

    fn each(&self, y: &mut [T], f: impl Fn(T) -> T + Copy) {
        let clamp = T::c(self.of.around.clamp.unwrap_or(f64::INFINITY));
        vectorised(
            #[inline(always)]
            || {
                let (f, clamp) = (f, clamp);
                for y in y.iter_mut() {
                    let x = f(*y);
                    let x = if x > clamp { clamp } else { x };
                    *y = if x < -clamp { -clamp } else { x };
                }
            },
        );
    }
}
