//! Files of numbers: delimited tables, safetensors, PyTorch weights, checkpoints. Every write is atomic, and what a run reads
//! again carries its checksum.

pub mod array;
pub mod atomic;
pub mod checkpoint;
pub mod checksum;
pub mod file_name;
pub mod fingerprint;
pub mod metrics;
mod pickle;
pub mod pytorch;
pub mod safetensors;
pub mod sealed;
pub mod table;
pub mod weights;

pub use array::{ArrayView, ElementType, NamedArray};
pub use weights::Weights;
