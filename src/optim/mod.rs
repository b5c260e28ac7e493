//! Optimisers, averages of weights, learning-rate schedules and gradient clipping. All of them update in place, outside
//! every tape.

pub mod adam;
pub mod clip;
pub mod ema;
pub mod schedule;
pub mod sgd;

pub use adam::{Adam, AdamConfig};
pub use clip::clip_scale;
pub use ema::Ema;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};

use std::collections::HashMap;

use crate::{
    device::kernel::KernelInfo,
    error::{Error, Result},
    tensor::Tensor,
};

/// Kernels of the optimisers.
pub const KERNELS: &[KernelInfo] = &[adam::KERNEL, sgd::KERNEL];

/// The tensor of that name in the file `origin`, of the shape and type of `like`, on its device.
fn restored(tensors: &HashMap<String, Tensor>, name: &str, like: &Tensor, origin: &str) -> Result<Tensor> {
    match tensors.get(name) {
        Some(t) if t.spec() == like.spec() => t.to_device(like.device()),
        Some(t) => {
            let problem = format!("{name} is {}:{}, not {}", t.shape(), t.dtype(), like.shape());
            Err(Error::input(origin, problem, "resume with the settings the run began with"))
        }
        None => Err(Error::input(origin, format!("{name} is missing"), "resume from an earlier checkpoint")),
    }
}
