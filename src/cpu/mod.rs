//! CPU kernels over slices: vectorised loops, GEMM, convolution, stencils, epilogues. They know buffers and extents, not tensors.

pub mod conv2d;
pub mod epilogue;
pub mod gemm;
pub mod stencil;
pub mod vector;
