//! `isg`: a GPU compute library with hand-written kernels, a minimal autograd tape, and on it the whole of the paper
//! "ISG: I can See Your Gene Expression": from a gigapixel histology slide to predicted gene expression.

// Functions that vectorised loops call stand in closures that are inlined with them: `inlined!`.
#![allow(clippy::redundant_closure)]

pub mod activation;
pub mod atomic;
pub mod cli;
pub mod cohort;
pub mod conv2d;
pub mod cpu;
pub mod device;
pub mod dtype;
pub mod encoder;
pub mod error;
pub mod escape;
pub mod eval;
pub mod extractor;
pub mod gemm;
pub mod image;
pub mod io;
pub mod kmeans;
pub mod math;
pub mod mil;
pub mod nn;
pub mod op;
pub mod ops;
pub mod optim;
pub mod pipeline;
pub mod preset;
pub mod progress;
pub mod random;
pub mod report;
pub mod select;
pub mod shape;
pub mod slide;
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
    ops::OPS.iter().chain(select::kernels::OPS).copied()
}

/// Every kernel that is launched: the ops' and those of in-place updates.
pub fn kernels() -> impl Iterator<Item = device::kernel::KernelInfo> {
    let of_ops = ops().flat_map(|spec| spec.kernels).copied();
    of_ops.chain(optim::KERNELS.iter().copied()).chain([ops::lerp::KERNEL])
}
