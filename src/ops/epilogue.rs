//! Epilogues: what a GEMM or a convolution does to its sums before it stores them, in the same pass.
//!
//! `y = clamp(gain · f(sum + strength · noise + bias)) + residual`
//!
//! Linear, ReLU and leaky ReLU are piecewise linear: their derivative follows from the sign of `y`, and whether a value was
//! clamped from its magnitude, so the tape keeps `y` alone; ReLU6 is a ReLU with a clamp. Sigmoid, SiLU, GELU and hardswish need
//! their pre-activation again: an op that takes them ([`Fused::is_smooth`]) writes it as a second output while a tape is alive. A residual would hide the sign, so it is
//! taken only where the activation is linear and nothing is clamped.

mod gradient;

pub(super) use self::gradient::{BIAS, GRADIENT, SUMS};
use self::gradient::{Derivative, DerivativeAndSums, EpilogueGradient};
use crate::{
    DType,
    activation::{Activation, ActivationParams},
    cpu,
    device::{
        driver::DevicePtr,
        host::{HostBuffer, Real},
    },
    error::{Error, Result},
    gemm::epilogue::EpilogueParams,
    op::{DeviceArgs, HostArgs, apply_n},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// What a GEMM or a convolution does to its sums before it stores them.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// As long as the last axis.
    pub bias: Option<&'a Tensor>,
    /// One value for all channels of a pixel (the result's shape with a last axis of 1), and its strength `[1]`.
    pub noise: Option<(&'a Tensor, &'a Tensor)>,
    pub activation: Activation,
    pub params: ActivationParams,
    /// Of the result's shape.
    pub residual: Option<&'a Tensor>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        let (activation, params) = (Activation::Linear, ActivationParams::default());
        Epilogue { bias: None, noise: None, activation, params, residual: None }
    }
}

impl<'a> Epilogue<'a> {
    /// A bias alone.
    pub fn bias(bias: Option<&'a Tensor>) -> Epilogue<'a> {
        Epilogue { bias, ..Epilogue::default() }
    }

    /// What the op remembers of it; its tensors are appended to the op's inputs in the order bias, noise, strength, residual.
    pub(crate) fn join(&self, x: &mut Vec<&'a Tensor>) -> Fused {
        let Epilogue { bias, noise, residual, .. } = *self;
        let (activation, params) = self.activation.with(self.params);
        let mut slot = |t: &'a Tensor| {
            x.push(t);
            x.len() - 1
        };
        Fused {
            activation,
            params,
            bias: bias.map(&mut slot),
            noise: noise.map(|(noise, strength)| [slot(noise), slot(strength)]),
            residual: residual.map(&mut slot),
        }
    }
}

/// An [`Epilogue`] inside an op: its numbers, and at which of the op's inputs each tensor stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fused {
    activation: Activation,
    params: ActivationParams,
    bias: Option<usize>,
    /// The noise and its strength.
    noise: Option<[usize; 2]>,
    residual: Option<usize>,
}

impl Fused {
    /// Whether the derivative needs the pre-activation.
    pub fn is_smooth(&self) -> bool {
        self.activation.is_smooth()
    }

    /// Whether the derivative is the same everywhere.
    fn is_linear(&self) -> bool {
        self.params.is_linear(self.activation)
    }

    /// Each tensor's input, name, and shape for a result of shape `y`.
    fn slots(&self, y: Shape) -> impl Iterator<Item = (usize, &'static str, Shape)> + use<> {
        let last = y.rank().saturating_sub(1);
        let bias = self.bias.map(|at| (at, "bias", [y.last()].into()));
        let noise = self.noise.map(|[at, _]| (at, "noise", y.with(last, 1)));
        let strength = self.noise.map(|[_, at]| (at, "noise strength", [1].into()));
        let residual = self.residual.map(|at| (at, "residual", y));
        [bias, noise, strength, residual].into_iter().flatten()
    }

    /// Whether the tensors fit a result `y`, and the numbers allow what is promised of the gradient. `smooth`: the op takes
    /// sigmoid, SiLU, GELU and hardswish.
    pub fn check(&self, op: &'static str, x: &[Spec], y: Spec, smooth: bool) -> Result<()> {
        let wrong = |what: String| Err(Error::shape(op, what));
        if y.shape.rank() == 0 {
            return wrong("a result without axes".to_string());
        }
        for (at, what, shape) in self.slots(y.shape) {
            let spec = x[at];
            if spec.shape != shape || spec.dtype != y.dtype {
                return wrong(format!("{what} {}:{} for a result {}:{}", spec.shape, spec.dtype, y.shape, y.dtype));
            }
        }
        let ActivationParams { alpha, gain, clamp } = self.params;
        match self.activation {
            Activation::Linear | Activation::Relu | Activation::LeakyRelu => {}
            Activation::Sigmoid | Activation::Silu | Activation::Gelu | Activation::Hardswish if smooth => {}
            other => return wrong(format!("{} cannot be fused here; use bias_act", other.name())),
        }
        if !self.is_linear()
            && (gain.is_nan() || gain <= 0.0 || clamp.is_some_and(|clamp| clamp.is_nan() || clamp <= 0.0))
        {
            return wrong(format!("gain {gain}, clamp {clamp:?}: above zero wanted"));
        }
        if self.activation == Activation::LeakyRelu && (alpha.is_nan() || alpha < 0.0) {
            return wrong(format!("a leaky ReLU with alpha {alpha}; zero or more wanted"));
        }
        if self.residual.is_some() && !self.is_linear() {
            return wrong("a residual is fused only without activation and clamp; add it afterwards".to_string());
        }
        Ok(())
    }

    /// What a kernel takes. `pre_activation`: where a smooth activation's input goes.
    pub fn device(&self, args: &DeviceArgs, pre_activation: Option<DevicePtr>) -> EpilogueParams {
        let at = |slot: Option<usize>| slot.map_or(DevicePtr::NULL, |i| args.x[i].ptr);
        let [pos_scale, neg_scale] = self.params.scales(self.activation).map(|scale| scale as f32);
        EpilogueParams {
            bias: at(self.bias),
            noise: at(self.noise.map(|[noise, _]| noise)),
            strength: at(self.noise.map(|[_, strength]| strength)),
            residual: at(self.residual),
            pre_activation: pre_activation.unwrap_or(DevicePtr::NULL),
            pos_scale,
            neg_scale,
            clamp: self.params.clamp.map_or(f32::INFINITY, |clamp| clamp as f32),
            activation: self.activation as u32,
        }
    }

    /// The definition, with its tensors in host memory.
    pub fn host<'a, T: Real>(&self, args: &HostArgs<'a>) -> cpu::epilogue::Epilogue<'a, T> {
        cpu::epilogue::Epilogue {
            bias: self.bias.map(|i| args.x::<T>(i)),
            noise: self.noise.map(|[noise, strength]| (args.x::<T>(noise), args.x::<T>(strength)[0])),
            residual: self.residual.map(|i| args.x::<T>(i)),
            activation: self.activation,
            params: self.params,
        }
    }

    /// What of its own inputs and outputs the gradient reads; to be joined with the op's.
    pub fn keep(&self) -> Keep {
        // Noise and its strength are each other's gradients.
        let x = self.noise.map_or(0, |[noise, strength]| 1 << noise | 1 << strength);
        let y = if self.is_linear() { 0 } else { 1 << usize::from(self.is_smooth()) };
        Keep { x, y }
    }

    /// The gradient that arrives at the sum, and what is made with it in one pass.
    pub fn backprop(&self, v: &Vjp) -> Result<Backprop> {
        if self.is_linear() {
            let dy = v.upstream()?;
            let dsum = if self.params.gain == 1.0 { dy.clone() } else { dy.scale(self.params.gain)? };
            return Ok(Backprop { dsum, dbias: None });
        }
        let of = v.y(usize::from(self.is_smooth()));
        let derivative = self.derivative(of.dtype());
        let backprop = match v.dy(0) {
            None => None,
            Some(dy) if self.bias.is_some_and(|bias| v.need(bias)) => {
                let [dsum, dbias] = apply_n(DerivativeAndSums { derivative }, &[dy, of])?;
                Some(Backprop { dsum, dbias: Some(dbias) })
            }
            Some(dy) => Some(Backprop { dsum: derivative.apply(dy, of)?, dbias: None }),
        };
        // The pre-activation is an output too, at which gradients of gradients arrive.
        match (backprop, if self.is_smooth() { v.dy(1) } else { None }) {
            (Some(backprop), None) => Ok(backprop),
            (Some(Backprop { dsum, .. }), Some(also)) => Ok(Backprop { dsum: dsum.add(also)?, dbias: None }),
            (None, Some(dsum)) => Ok(Backprop { dsum: dsum.clone(), dbias: None }),
            (None, None) => Ok(Backprop { dsum: v.upstream()?.clone(), dbias: None }),
        }
    }

    /// `dsum · sum`, from the result: `dsum` times the pre-activation is `dy` times what the activation made of it.
    pub fn by_sum(&self, v: &Vjp, dsum: &Tensor) -> Result<Tensor> {
        let (mut dy, mut y) = (v.upstream()?.clone(), v.y(0).clone());
        if self.params.clamp.is_some() {
            let clamp = self.clamp_in(y.dtype());
            let inside = EpilogueGradient { pos_scale: 1.0, neg_scale: 1.0, clamp };
            dy = Derivative::OfOutput(inside).apply(&dy, &y)?;
        }
        let mut added: Option<Tensor> = self.bias.map(|bias| v.x(bias).clone());
        if let Some([noise, strength]) = self.noise {
            let noise = v.x(noise).mul(v.x(strength))?;
            added = Some(added.map_or_else(|| Ok(noise.clone()), |bias| noise.add(&bias))?);
        }
        if let Some(residual) = self.residual {
            y = y.sub(v.x(residual))?;
        }
        let all = dy.mul(&y)?;
        added.map_or_else(|| Ok(all.clone()), |added| all.sub(&dsum.mul(&added)?))
    }

    fn derivative(&self, dtype: DType) -> Derivative {
        if self.is_smooth() {
            return Derivative::OfInput(self.activation, self.params);
        }
        let [pos_scale, neg_scale] = self.params.scales(self.activation);
        Derivative::OfOutput(EpilogueGradient { pos_scale, neg_scale, clamp: self.clamp_in(dtype) })
    }

    /// A result can only be as far out as its type can hold the clamp.
    fn clamp_in(&self, dtype: DType) -> f64 {
        let held = |clamp: f64| HostBuffer::F64(vec![clamp]).cast(dtype).cast(DType::F64);
        match self.params.clamp.map(held) {
            Some(HostBuffer::F64(clamp)) => clamp[0],
            _ => f64::INFINITY,
        }
    }

    /// Gradients of its own inputs, in their order.
    pub fn gradients(&self, v: &Vjp, Backprop { dsum, dbias }: &Backprop) -> Result<Vec<Option<Tensor>>> {
        let mut all = Vec::new();
        if let Some(at) = self.bias {
            all.push(v.when(at, || match dbias {
                Some(dbias) => Ok(dbias.clone()),
                None => dsum.sum_to(v.x_spec(at).shape),
            })?);
        }
        if let Some([noise, strength]) = self.noise {
            let needed = v.need(noise) || v.need(strength);
            let per_pixel = if needed { Some(dsum.sum_to(v.x_spec(noise).shape)?) } else { None };
            for (at, other) in [(noise, strength), (strength, noise)] {
                let gradient = per_pixel.as_ref().filter(|_| v.need(at)).map(|dsum| {
                    let scaled = dsum.mul(v.x(other))?;
                    if at == noise { Ok(scaled) } else { scaled.sum_all() }
                });
                all.push(gradient.transpose()?);
            }
        }
        if let Some(at) = self.residual {
            all.push(v.when(at, || Ok(v.upstream()?.clone()))?);
        }
        Ok(all)
    }
}

/// A gradient behind an epilogue.
pub(crate) struct Backprop {
    /// The gradient that arrives at the sum.
    pub dsum: Tensor,
    /// The bias's gradient, where the same pass made it.
    dbias: Option<Tensor>,
}
