//! `isg`: a GPU compute library with hand-written kernels, a minimal autograd tape, and on it the whole of the paper
//! "ISG: I can See Your Gene Expression": from a gigapixel histology slide to predicted gene expression.
//!
//! ```
//! use isg::{DType, Device, Tape, Tensor, activation::Activation, nn::{builder::Builder, linear::Linear}, optim::{Adam, AdamConfig}};
//!
//! # fn main() -> isg::Result<()> {
//! let device = Device::cpu(); // or Device::named("cuda"), or "emulator": the GPU's kernels, every access checked
//! let x = Tensor::from_vec(vec![0.0f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], [4, 2], &device)?;
//! let xor = Tensor::from_vec(vec![0.0f32, 1.0, 1.0, 0.0], [4, 1], &device)?;
//!
//! let mut builder = Builder::fresh(7, DType::F32, &device);
//! let first = builder.scope("first", |b| Linear::new(b, 2, 16, 1.0))?;
//! let last = builder.scope("last", |b| Linear::new(b, 16, 1, 1.0))?;
//! let params = builder.finish()?;
//! let forward = |x: &Tensor| last.forward(&first.forward_activated(x, Activation::Gelu)?);
//!
//! let mut adam = Adam::new(&params, AdamConfig { lr: 0.05, ..AdamConfig::default() })?;
//! for _ in 0..200 {
//!     let tape = Tape::start();
//!     tape.watch(params.trainable());
//!     let loss = forward(&x)?.mse_loss(&xor)?;
//!     let grads = tape.backward(&loss)?;
//!     adam.step(&params, &grads, 0.0)?;
//! }
//! let learned = forward(&x)?.to_vec::<f32>()?;
//! assert!(learned.iter().zip([0.0, 1.0, 1.0, 0.0]).all(|(y, target)| (y - target).abs() < 0.1), "{learned:?}");
//! # Ok(())
//! # }
//! ```
//!
//! [`Tensor`] has the operations, [`Tape`] the gradients; [`op::Op`] and [`device::kernel::Kernel`] are what a crate with operations
//! and kernels of its own implements. With the feature `app`, which is on by default, comes everything from slides to reports;
//! without it the crate is a small kernels library.

// Functions that vectorised loops call stand in closures that are inlined with them: `inlined!`.
#![allow(clippy::redundant_closure)]

pub mod activation;
pub mod atomic;
#[cfg(feature = "app")]
pub mod cli;
#[cfg(feature = "app")]
pub mod cohort;
pub mod conv2d;
pub mod cpu;
pub mod device;
pub mod dtype;
#[cfg(feature = "app")]
pub mod encoder;
pub mod error;
pub mod escape;
#[cfg(feature = "app")]
pub mod eval;
#[cfg(feature = "app")]
pub mod extractor;
pub mod gemm;
#[cfg(feature = "app")]
pub mod image;
pub mod io;
pub mod kmeans;
pub mod math;
#[cfg(feature = "app")]
pub mod mil;
pub mod nn;
pub mod op;
pub mod ops;
pub mod optim;
#[cfg(feature = "app")]
pub mod pipeline;
#[cfg(feature = "app")]
pub mod preset;
pub mod progress;
pub mod random;
#[cfg(feature = "app")]
pub mod report;
#[cfg(feature = "app")]
pub mod select;
pub mod shape;
#[cfg(feature = "app")]
pub mod slide;
#[cfg(feature = "app")]
pub mod synth;
pub mod tape;
pub mod tensor;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use shape::Shape;
pub use tape::Tape;
pub use tensor::Tensor;

/// Every op there is: those on tensors and those the selectors add.
pub fn ops() -> impl Iterator<Item = &'static op::OpSpec> {
    #[cfg(feature = "app")]
    let of_selectors = select::kernels::OPS;
    #[cfg(not(feature = "app"))]
    let of_selectors: &[&op::OpSpec] = &[];
    ops::OPS.iter().chain(of_selectors).copied()
}

/// Every kernel that is launched: the ops' and those of in-place updates.
pub fn kernels() -> impl Iterator<Item = device::kernel::KernelInfo> {
    let of_ops = ops().flat_map(|spec| spec.kernels).copied();
    of_ops.chain(optim::KERNELS.iter().copied()).chain([ops::lerp::KERNEL])
}
