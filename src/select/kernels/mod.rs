//! The selectors' GPU kernels, one op per file of `kernels/`: batches of images in, scores out.

use crate::op::OpSpec;

pub mod canny;
pub mod shannon;
pub mod shannon_jpeg;
pub mod shannon_order0;
pub mod texture;

/// The ops that selectors add to the registry.
pub static OPS: &[&OpSpec] =
    &[&canny::SPEC, &shannon::SPEC, &shannon_jpeg::SPEC, &shannon_order0::SPEC, &texture::SPEC];

/// A batch of patches as scans score them, which benches time.
const PATCHES: [usize; 4] = [16, 1024, 1024, 3];
