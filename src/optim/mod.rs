//! Optimisers, averages of weights, learning-rate schedules and gradient clipping. All of them update in place, outside
//! every tape.

pub mod adam;
pub mod clip;
pub mod ema;
pub mod schedule;

pub use adam::{Adam, AdamConfig};
pub use clip::clip_scale;
pub use ema::{Ema, lerp, lerp_by};
pub use schedule::Schedule;

use crate::device::kernel::KernelInfo;

/// Entries of the kernels that update in place; the tests hold them against their PTX.
pub const KERNELS: &[KernelInfo] = &[adam::KERNEL, ema::KERNEL];
