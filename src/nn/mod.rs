//! Layers as plain structs over tensors.

pub mod builder;
pub mod class_token;
pub mod equalized;
pub mod fusion;
pub mod linear;
pub mod mbconv;
pub mod norm;
pub mod position;
pub mod residual;
pub mod vit;

pub use builder::{Builder, Init, Params};
