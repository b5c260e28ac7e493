//! Files of numbers: delimited tables, safetensors, PyTorch weights, checkpoints. Every write is atomic.

pub mod array;
pub mod atomic;
pub mod checkpoint;
pub mod metrics;
mod pickle;
pub mod pytorch;
pub mod safetensors;
pub mod table;
pub mod weights;

pub use array::{ArrayView, ElementType, NamedArray};
pub use weights::Weights;
