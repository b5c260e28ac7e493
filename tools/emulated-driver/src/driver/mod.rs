//! The driver's interface: `cu...`.

pub(crate) mod context;
mod graph;
pub(crate) mod link;
pub(crate) mod memory;
mod module;
mod stream;
