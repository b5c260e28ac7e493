//! Race detection: happens-before by vector clocks of warps, with shadows of shared and of global memory.
//!
//! Two accesses race if they overlap, one of them writes, not both are strong (atomic, relaxed, acquire, release) and neither
//! is ordered before the other. Order comes from barriers, mbarriers, and fences followed by strong writes that somebody reads;
//! `volatile` counts as strong in global memory and, after a fence, in shared memory. A write that changes nothing is no race:
//! many kernels let several threads set the same flag.
//!
//! Inside a warp, lanes are ordered by `.sync` instructions only: reading what another lane wrote without one is a race too,
//! unless one side is `volatile`.

mod clocks;
mod cluster;
mod global;
mod hooks;
pub(crate) mod runs;
mod shared;

pub(crate) use clocks::{BlockClocks, ENGINE_COUNT, ENGINES};
pub(crate) use cluster::{Deed, RemoteAccess};
pub(crate) use hooks::shared_fault;
pub use hooks::{BlockRaces, GlobalRaces, shared_load, shared_store};
pub(crate) use hooks::{global_load, global_store};

/// How strongly an access is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// `.weak`: nothing is promised.
    Plain,
    /// `.volatile`.
    Volatile,
    /// Atomics and `.relaxed`, `.acquire`, `.release`.
    Strong,
}

/// Who did the earlier of two racing accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A warp of the same block, and the lane where it is known.
    Warp { warp: usize, lane: Option<usize> },
    /// A copy or matrix instruction still under way, or one that nobody waited for.
    Engine,
    /// A warp of another block.
    Block { block: u32, warp: usize },
}

/// Two accesses without an order between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The lane whose access completes the race.
    pub lane: usize,
    /// Where.
    pub address: u64,
    /// The earlier access wrote.
    pub wrote: bool,
    /// Who did it.
    pub party: Party,
    /// It is asynchronous and not complete.
    pub in_flight: bool,
    /// Both are the same instruction of one warp.
    pub simultaneous: bool,
}

/// The bytes that each lane stores; atomics have none.
pub type Values<'a> = Option<&'a dyn Fn(usize) -> [u8; 16]>;

impl Conflict {
    /// One sentence for a report.
    pub fn words(&self, now: &str) -> String {
        let who = match self.party {
            Party::Warp { warp, lane: Some(lane) } => format!("thread {} of this block", 32 * warp + lane),
            Party::Warp { warp, lane: None } => format!("warp {warp} of this block"),
            Party::Engine => "an asynchronous copy".into(),
            Party::Block { block, warp } => format!("warp {warp} of block {block}"),
        };
        let did = if self.wrote { "write" } else { "read" };
        if self.simultaneous {
            return format!("threads of one warp, {who} among them, store different values to one place at once");
        }
        match self.in_flight {
            true => format!("{now} while an asynchronous {did} started by {who} is under way"),
            false => format!("{now} without an order after a {did} by {who}"),
        }
    }
}

/// Lanes of a mask, in order.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
