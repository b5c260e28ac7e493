//! What a launch did, counted exactly; equal for equal seeds, so that tests can hold snapshots.

use std::{fmt, ops::AddAssign};

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counts of one launch. "Warp instructions" count issues, "thread instructions" active lanes.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $(#[doc = $doc] pub $name: u64,)* }

        impl AddAssign<&Counters> for Counters {
            fn add_assign(&mut self, other: &Counters) { $(self.$name += other.$name;)* }
        }

        impl Counters {
            /// Every count times `all / some`.
            pub(crate) fn scaled(&self, some: u64, all: u64) -> Counters {
                let scale = |count: u64| (u128::from(count) * u128::from(all) / u128::from(some.max(1))) as u64;
                Counters { $($name: scale(self.$name),)* }
            }
        }

        impl Counters {
            /// Names and values, in declaration order, for tables and snapshots.
            pub fn fields(&self) -> Vec<(&'static str, u64)> { vec![$((stringify!($name), self.$name)),*] }
        }
    };
}

counters! {
    /// Instructions issued, one per warp and step, predicated-off ones included.
    warp_instructions,
    /// Active lanes over all issued instructions.
    thread_instructions,
    /// Thread instructions: integer and logic arithmetic, address conversion.
    integer,
    /// Thread instructions: f32 arithmetic (an fma is one).
    float32,
    /// Thread instructions: f64 arithmetic.
    float64,
    /// Thread instructions: f16 and bf16 arithmetic, packed or not.
    float16,
    /// Thread instructions: approximate functions (rcp, rsqrt, ex2, lg2, sin, cos, tanh).
    special,
    /// Thread instructions: conversions between types.
    convert,
    /// Thread instructions: comparisons, selections, moves.
    compare_move,
    /// Thread instructions: loads, stores and atomics of every space.
    memory,
    /// Thread instructions: shuffles, votes, matches, warp reductions.
    warp_collective,
    /// Thread instructions: barriers, fences, waits.
    synchronisation,
    /// Thread instructions: branches, calls, exits.
    control,
    /// Thread instructions: matrix loads and matrix products.
    matrix,
    /// Multiply-adds done by matrix instructions.
    mma_macs,
    /// Branches after which a warp's lanes went different ways.
    divergent_branches,
    /// Barriers completed (a block-wide one counts once).
    barriers,
    /// Global load instructions issued by warps with at least one active lane.
    global_load_requests,
    /// Distinct 32-byte sectors over all global load requests.
    global_load_sectors,
    /// The fewest sectors that could hold the distinct bytes of each request.
    global_load_ideal_sectors,
    /// Bytes loaded from global memory, by active lanes.
    global_load_bytes,
    /// Global store instructions issued.
    global_store_requests,
    /// Distinct 32-byte sectors over all global store requests.
    global_store_sectors,
    /// The fewest sectors that could hold the distinct bytes of each store.
    global_store_ideal_sectors,
    /// Bytes stored to global memory, by active lanes.
    global_store_bytes,
    /// Shared load, store and atomic instructions issued.
    shared_requests,
    /// Passes over the 32 banks that shared accesses took; an upper bound on some GPUs.
    shared_wavefronts,
    /// Passes they would have taken without bank conflicts.
    shared_ideal_wavefronts,
    /// Bytes loaded from shared memory by active lanes, matrix loads included.
    shared_load_bytes,
    /// Bytes stored to shared memory by active lanes, asynchronous copies included.
    shared_store_bytes,
    /// Local memory accesses by threads.
    local_accesses,
    /// Atomics and reductions by threads, global and shared.
    atomics,
    /// Atomic steps after serialisation: per instruction, the most lanes on one address.
    atomic_serialised,
    /// Asynchronous copies by threads or bulk requests.
    async_copies,
    /// Blocks.
    blocks,
    /// Warps.
    warps,
    /// Shared memory of all blocks, static and dynamic.
    shared_bytes,
    /// Sectors that passed the first-level cache, loads that missed it and all stores ([`crate::Options::l1_bytes`]).
    l2_sectors,
    /// Of these, sectors that the launch loaded or stored for the first time.
    dram_sectors,
}

impl Counters {
    /// Wavefronts beyond the ideal.
    pub fn shared_conflicts(&self) -> u64 {
        self.shared_wavefronts.saturating_sub(self.shared_ideal_wavefronts)
    }

    /// Bytes moved between the chip and its memory if no cache helped: 32 per sector.
    pub fn global_sector_bytes(&self) -> u64 {
        32 * (self.global_load_sectors + self.global_store_sectors)
    }

    /// Mean share of lanes active in an issued instruction.
    pub fn lane_efficiency(&self) -> f64 {
        self.thread_instructions as f64 / (32 * self.warp_instructions.max(1)) as f64
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.fields().into_iter().filter(|(_, value)| *value > 0) {
            writeln!(f, "{name:28} {value:>16}")?;
        }
        Ok(())
    }
}
