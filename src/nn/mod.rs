//! Layers as plain structs over tensors.

pub mod builder;

pub use builder::{Builder, Init, Params};
