//! Layers as plain structs over tensors.

pub mod builder;
pub mod equalized;
pub mod linear;
pub mod mbconv;
pub mod norm;
pub mod residual;
pub mod vit;

pub use builder::{Builder, Init, Params};
