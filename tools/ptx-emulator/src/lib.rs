//! Runs NVIDIA PTX kernels on a CPU.

#![allow(clippy::needless_range_loop, reason = "a lane's number indexes several registers at once")]

mod ast;
pub mod asynchronous;
mod counters;
mod decode;
mod gpu;
mod launch;
mod lexer;
pub mod machine;
pub mod memory;
mod module;
mod ops;
mod options;
mod parse;
pub mod race;
mod report;
mod rng;
mod scheduler;
pub mod tensor_core;

pub use counters::Counters;
pub use gpu::Gpu;
pub use module::{Entry, Module, Param, ParamRead};
pub use options::{Checks, Options};
pub use report::{Fault, FaultKind, LoadError, MemoryError, Report};
