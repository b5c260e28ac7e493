//! Races: shared memory inside a block, global memory between blocks.

use crate::{machine::Launch, options::Options};

/// What an access does to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Atomic,
}

/// Order between accesses to one block's shared memory.
pub struct BlockRaces {}

impl BlockRaces {
    /// For a block of so many warps.
    pub fn new(_launch: &Launch<'_>, _shared_bytes: u32, _warps: u32) -> Self {
        Self {}
    }
}

/// Order between blocks' accesses to global memory.
pub struct GlobalRaces {}

impl GlobalRaces {
    /// For one launch.
    pub fn new(_options: &Options) -> Self {
        Self {}
    }
}
