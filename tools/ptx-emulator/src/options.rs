//! What a [`crate::Gpu`] checks, and the seed of everything that real hardware leaves open.

/// Which findings stop a launch. Bounds, alignment, lifetime, deadlock and unknown control flow are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes nobody wrote: shared, local, and global memory of [`crate::Gpu::alloc`].
    pub init: bool,
    /// Conflicting accesses without an order between them: shared memory, and global memory between blocks.
    pub race: bool,
    /// `bar.sync` and aligned instructions reached by part of a warp, `.sync` masks without the caller's own lane.
    pub sync: bool,
}

impl Checks {
    /// Everything on.
    pub const ALL: Self = Self { init: true, race: true, sync: true };
    /// Only what is always checked.
    pub const NONE: Self = Self { init: false, race: false, sync: false };
}

/// Settings of one emulated GPU.
#[derive(Clone, Debug)]
pub struct Options {
    /// Orders blocks and warps, and draws the error of approximate instructions. Equal seeds give equal runs, to the bit.
    pub seed: u64,
    /// What to check besides bounds.
    pub checks: Checks,
    /// Fill fresh allocations and shared memory with bytes that are NaN in every float format (0xFF), not zeros.
    pub poison: bool,
    /// Move the results of `.approx` instructions by a seeded amount inside their documented error, and cut the f32 sums of
    /// matrix instructions towards zero, as tensor cores do.
    pub perturb_approx: bool,
    /// Let relaxed and volatile loads give older values where the memory model lets them, drawn from the seed; otherwise they
    /// are sequentially consistent. For programs that communicate by more than locks and barriers.
    pub weak_memory: bool,
    /// Worker threads for kernels whose blocks cannot communicate; 1 runs everything on the caller's thread.
    pub threads: usize,
    /// Warp instructions after which a launch is called endless.
    pub max_warp_instructions: u64,
    /// Keep addresses below 2^47 for memory of the host ([`crate::Gpu::adopt`]).
    pub host_mapped: bool,
    /// Global memory in bytes; allocations beyond it fail as they would on a device.
    pub memory_bytes: u64,
    /// Bytes of the first-level cache that each block is given in counting `l2_sectors` and `dram_sectors`; 0 counts neither.
    pub l1_bytes: u32,
    /// Runs so many blocks of a launch, neighbours from its middle, and counts them for all; 0 runs all. For models of time: what
    /// the others would have written is missing.
    pub most_blocks: u32,
    /// Most shared memory a block may use, static and dynamic; 227 KiB as on compute capability 9.0 unless changed.
    pub max_shared_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            checks: Checks::ALL,
            poison: true,
            perturb_approx: false,
            weak_memory: false,
            threads: 1,
            max_warp_instructions: 20_000_000_000,
            host_mapped: false,
            memory_bytes: 8 << 30,
            l1_bytes: 0,
            most_blocks: 0,
            max_shared_bytes: 227 << 10,
        }
    }
}
