//! Optimisers, averages of weights, learning-rate schedules and gradient clipping. All of them update in place, outside
//! every tape.

pub mod adam;
pub mod clip;
pub mod ema;
pub mod schedule;

pub use adam::{Adam, AdamConfig};
pub use clip::clip_scale;
pub use ema::Ema;
pub use schedule::Schedule;

use crate::device::kernel::KernelInfo;

/// Kernels of the optimisers.
pub const KERNELS: &[KernelInfo] = &[adam::KERNEL];
