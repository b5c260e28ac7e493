//! Layers as plain structs over tensors.

pub mod builder;
pub mod equalized;
pub mod residual;

pub use builder::{Builder, Init, Params};
