//! The epilogue as kernels take it: the host's side of `kernels/common/epilogue.cuh`.

use crate::{activation::Activation, device::driver::DevicePtr, kernel_params};

kernel_params! {
    pub struct EpilogueParams {
        bias: DevicePtr,
        noise: DevicePtr,
        strength: DevicePtr,
        residual: DevicePtr,
        pre_activation: DevicePtr,
        pos_scale: f32,
        neg_scale: f32,
        clamp: f32,
        activation: u32,
    }
}

impl EpilogueParams {
    /// Accumulators are stored as they are.
    pub const NONE: EpilogueParams = EpilogueParams {
        bias: DevicePtr::NULL,
        noise: DevicePtr::NULL,
        strength: DevicePtr::NULL,
        residual: DevicePtr::NULL,
        pre_activation: DevicePtr::NULL,
        pos_scale: 1.0,
        neg_scale: 1.0,
        clamp: f32::INFINITY,
        activation: Activation::Linear as u32,
    };

    /// Whether it matters which channel or pixel an accumulator belongs to.
    pub fn by_channel(&self) -> bool {
        [self.bias, self.noise].iter().any(|&ptr| ptr != DevicePtr::NULL)
    }
}
