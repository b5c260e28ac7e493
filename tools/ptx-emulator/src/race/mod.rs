//! Race detection: happens-before by vector clocks of warps, with shadows of shared and of global memory.
//!
//! Two accesses race if they overlap, one of them writes, not both are strong (atomic, relaxed, acquire, release) and neither
//! is ordered before the other. Order comes from barriers, mbarriers, and fences followed by strong writes that somebody reads;
//! `volatile` counts as strong in global memory and, after a fence, in shared memory; it is no fence itself: who reads
//! strongly what came after a strong store has not therefore seen that store. A write that changes nothing is no race:
//! many kernels let several threads set the same flag.
//!
//! Inside a warp, lanes are ordered by `bar.warp.sync` and barriers only: shuffles and votes promise nothing about memory, nor
//! does it help that the lanes were in step. What one lane wrote and another reads or overwrites before they have met is a race.
//!
//! `ld.global.nc` may read only what nobody writes in the same launch, the reading thread included.

mod clocks;
mod cluster;
mod global;
mod hooks;
mod publish;
pub(crate) mod runs;
mod shared;

pub(crate) use clocks::{BlockClocks, ENGINE_COUNT, ENGINES};
pub(crate) use cluster::{Deed, RemoteAccess};
pub(crate) use hooks::shared_fault;
pub use hooks::{BlockRaces, GlobalRaces, shared_load, shared_store};
pub(crate) use hooks::{global_load, global_store};
pub(crate) use shared::ReadFault;

/// How strongly an access is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// `.weak`: nothing is promised.
    Plain,
    /// `.volatile`.
    Volatile,
    /// Atomics and `.relaxed`, `.acquire`, `.release`.
    Strong,
    /// A plain read that only guesses what a compare-and-swap will find.
    Guess,
    /// `.nc`: by the path for memory that is read-only while the kernel runs.
    ReadOnly,
}

impl Strength {
    /// Two such accesses do not race.
    #[inline(always)]
    pub fn strong(self) -> bool {
        matches!(self, Self::Volatile | Self::Strong | Self::Guess)
    }

    /// A read that takes what fences before strong writes hand on.
    #[inline(always)]
    pub fn learns(self) -> bool {
        matches!(self, Self::Volatile | Self::Strong)
    }
}

/// In what way two accesses conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Nothing orders them.
    Unordered,
    /// The earlier is asynchronous and not complete.
    InFlight,
    /// Both are the same instruction of one warp.
    Simultaneous,
    /// One reads by the path for read-only memory.
    ReadOnly,
    /// Both are strong, and the reader has seen what came after the write, but no fence makes the write visible.
    Unfenced,
    /// A plain read guesses what a compare-and-swap will find.
    Guess,
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
    /// In what way.
    pub case: Case,
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
        match self.case {
            Case::Unordered => format!("{now} without an order after a {did} by {who}"),
            Case::InFlight => format!("{now} while an asynchronous {did} started by {who} is under way"),
            Case::Simultaneous => {
                format!("threads of one warp, {who} among them, store different values to one place at once")
            }
            Case::ReadOnly => {
                let nc = "ld.global.nc is for memory that nobody writes while the kernel runs";
                format!("{now} after a {did} by {who}; {nc}")
            }
            Case::Unfenced => format!(
                "{now} of what {who} stored without a fence before the later write that was seen; the older value may come"
            ),
            Case::Guess => format!(
                "{now} beside an atomic by {who}: the plain first read of a compare-and-swap loop, a race to the letter"
            ),
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
