//! Layers as plain structs over tensors.

pub mod builder;
pub mod class_token;
pub mod cycle_mlp;
pub mod depthwise;
pub mod equalized;
pub mod fusion;
pub mod gated_attention;
pub mod linear;
pub mod mbconv;
pub mod mpvit;
pub mod norm;
pub mod position;
pub mod precision;
pub mod residual;
pub mod row_numbers;
pub mod summary_mixing;
pub mod vit;

pub use builder::{Builder, Init, Params};
