//! What networks compute in. Weights, optimiser, losses and everything stored are f32 at any precision.

use serde::{Deserialize, Serialize};

use crate::{
    device::{self, Device},
    dtype::DType,
    error::Result,
    tensor::Tensor,
};

/// The number format of forward and backward passes on a GPU. The CPU computes in f32 whatever is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputePrecision {
    /// As exact as f32 arithmetic.
    F32,
    /// f32 tensors, large GEMMs of operands rounded to TF32.
    Tf32,
    /// Activations and their gradients in bf16, and the weights that meet them rounded to it once a step (Micikevicius et al. 2018,
    /// without the loss scale that f16 needs). Sums, statistics of normalisations, softmax and demodulation are f32 within their
    /// kernels; heads, codes and losses are f32 tensors, whose large GEMMs round to TF32.
    #[default]
    Bf16,
}

impl ComputePrecision {
    pub const ALL: [ComputePrecision; 3] = [ComputePrecision::F32, ComputePrecision::Tf32, ComputePrecision::Bf16];

    /// What is computed in on this device.
    pub fn on(self, device: &Device) -> ComputePrecision {
        if device.is_cpu() { ComputePrecision::F32 } else { self }
    }

    /// The type of activations.
    pub fn dtype(self) -> DType {
        if self == ComputePrecision::Bf16 { DType::Bf16 } else { DType::F32 }
    }

    /// What enters a network in f32, at the type of its activations.
    pub fn narrowed(self, x: &Tensor) -> Result<Tensor> {
        if x.dtype() == DType::F32 { x.cast(self.dtype()) } else { Ok(x.clone()) }
    }

    /// Has the device multiply f32 matrices at this precision for as long as the result lives.
    #[must_use]
    pub fn enter(self, device: &Device) -> Entered {
        let entered = Entered { device: device.clone(), before: device.precision() };
        device.set_precision(match self {
            ComputePrecision::F32 => device::Precision::F32,
            ComputePrecision::Tf32 | ComputePrecision::Bf16 => device::Precision::TF32,
        });
        entered
    }
}

/// Gives the device its own precision back when it is dropped.
pub struct Entered {
    device: Device,
    before: device::Precision,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.device.set_precision(self.before);
    }
}
