//! Runs NVIDIA PTX kernels on a CPU, checks every access and counts what they do.
//!
//! [`Module::load`] parses and decodes a text, refusing what it cannot execute; [`Gpu`] owns memory and launches entries;
//! a launch gives [`Counters`] or the [`Fault`] that stopped it. What is checked, counted and beyond reach is in the README.
//!
//! Inside: `lexer`, `parse` and `ast` read the text; `decode` turns names into register slots and opcodes into functions;
//! `ops` holds the functions, one warp instruction each, compiled twice where AVX2 helps; `scheduler` runs a block's warps,
//! `launch` the blocks; `memory` is the global memory; `race` the order between accesses; `undefined` what became of values that
//! nobody defined; `asynchronous` and `tensor_core`
//! what modern GPUs do beside their threads.

#![allow(clippy::needless_range_loop, reason = "a lane is an index into several registers at once")]
#![allow(clippy::wrong_self_convention, reason = "to_ and from_ name destinations and sources of instructions")]

mod ast;
pub mod asynchronous;
mod caches;
mod counters;
mod decode;
mod gpu;
mod launch;
mod lexer;
mod machine;
mod memory;
mod module;
mod ops;
mod options;
mod parse;
mod race;
mod report;
mod rng;
mod scheduler;
mod tensor_core;
mod texture;
mod undefined;
mod weak;

pub use counters::Counters;
pub use gpu::Gpu;
pub use launch::LaunchShape;
pub use module::{Entry, Module, Param, ParamRead};
pub use options::{Checks, Options};
pub use report::{Fault, FaultKind, Level, LoadError, MemoryError, Report};
pub use texture::{AddressMode, TexelKind, Texture};
