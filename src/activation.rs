//! Activation functions and their parameters, as layers name them and kernels number them.

use crate::error::{Error, Result};

/// The function applied to every element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Linear,
    Relu,
    /// `x` where positive, else `alpha · x`.
    LeakyRelu,
    Sigmoid,
    Tanh,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, exact.
    Gelu,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `x · clamp(x + 3, 0, 6) / 6`.
    Hardswish,
    /// `clamp(x, 0, 6)`: a ReLU with a clamp of its own, see [`Activation::with`].
    Relu6,
}

impl Activation {
    pub const ALL: [Activation; 10] = [
        Activation::Linear,
        Activation::Relu,
        Activation::LeakyRelu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Silu,
        Activation::Gelu,
        Activation::Softplus,
        Activation::Hardswish,
        Activation::Relu6,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Activation::Linear => "linear",
            Activation::Relu => "relu",
            Activation::LeakyRelu => "leaky_relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::Softplus => "softplus",
            Activation::Hardswish => "hardswish",
            Activation::Relu6 => "relu6",
        }
    }

    /// Whether its derivative needs the pre-activation: all but linear and the ReLUs, whose derivative follows from the result.
    pub const fn is_smooth(self) -> bool {
        use Activation::*;
        !matches!(self, Linear | Relu | LeakyRelu | Relu6)
    }

    /// The same function as kernels know it, which is a ReLU clamped at 6 for [`Activation::Relu6`], and this one otherwise.
    pub fn with(self, params: ActivationParams) -> (Activation, ActivationParams) {
        if self != Activation::Relu6 {
            return (self, params);
        }
        let six = 6.0 * params.gain.abs();
        let clamp = Some(params.clamp.map_or(six, |clamp| clamp.min(six)));
        (Activation::Relu, ActivationParams { clamp, ..params })
    }

    /// The activation of that name, as [`Activation::name`] writes it.
    pub fn parse(name: &str) -> Result<Activation> {
        Activation::ALL.into_iter().find(|activation| activation.name() == name).ok_or_else(|| {
            let known = Activation::ALL.map(Activation::name).join(", ");
            Error::Usage(format!("activation {name}: unknown; use one of {known}"))
        })
    }
}

/// The parameters of an activation: `clamp(gain · f(x))`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ActivationParams {
    /// Derivative of the leaky ReLU below zero.
    pub alpha: f64,
    /// The activation's value is multiplied by this.
    pub gain: f64,
    /// Then limited to ± this.
    pub clamp: Option<f64>,
}

impl Default for ActivationParams {
    fn default() -> ActivationParams {
        ActivationParams { alpha: 0.2, gain: 1.0, clamp: None }
    }
}

impl ActivationParams {
    /// Whether `clamp(gain · activation(x))` is a multiple of `x`.
    pub fn is_linear(&self, activation: Activation) -> bool {
        activation == Activation::Linear && self.clamp.is_none()
    }

    /// Gain times the derivative of a piecewise-linear activation, above and below zero; of a smooth one both are the gain.
    pub fn scales(&self, activation: Activation) -> [f64; 2] {
        let negative = match activation {
            Activation::Relu => 0.0,
            Activation::LeakyRelu => self.alpha,
            _ => 1.0,
        };
        [self.gain, self.gain * negative]
    }
}
