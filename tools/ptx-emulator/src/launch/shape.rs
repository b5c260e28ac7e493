//! What a launch asks for, whether a device could give it, and how shared memory lies.

use crate::{
    Gpu, MemoryError,
    decode::{RESERVED_SHARED_BYTES, SHARED_GUARD_BYTES},
    module::Entry,
};

/// Dynamic shared memory starts at a multiple of this, as on the device without static shared memory before it.
const DYNAMIC_ALIGN: u32 = 1024;

/// Everything a launch says beside the kernel and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks, or with clusters still blocks, per axis.
    pub grid: [u32; 3],
    /// Threads of a block per axis.
    pub block: [u32; 3],
    /// Shared memory beside what the code declares.
    pub dynamic_shared_bytes: u32,
    /// Blocks of a cluster per axis, where the code does not fix them.
    pub cluster: Option<[u32; 3]>,
    /// All blocks must be able to wait for each other: refused where a device could not hold them at once.
    pub cooperative: bool,
}

impl LaunchShape {
    /// Blocks and threads, nothing else.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, dynamic_shared_bytes: 0, cluster: None, cooperative: false }
    }
}

/// What `grid.sync()` of cooperative groups finds in the registers of the environment: its own size, and a barrier.
pub(super) fn workspace(gpu: &mut Gpu) -> Result<u64, MemoryError> {
    let address = gpu.alloc_named(8, "workspace of the cooperative grid")?;
    gpu.write(address, &[8, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(address)
}

pub(super) fn check(gpu: &Gpu, entry: &Entry, shape: &LaunchShape, params: &[u8]) -> Result<(), String> {
    let &LaunchShape { grid, block, dynamic_shared_bytes: dynamic_shared, .. } = shape;
    let threads = block.iter().try_fold(1u32, |n, b| n.checked_mul(*b)).unwrap_or(u32::MAX);
    if threads == 0 || threads > 1024 || block[2] > 64 {
        return Err(format!("a block of {}x{}x{} threads; 1 to 1024 are possible", block[0], block[1], block[2]));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(format!("a grid of {}x{}x{} blocks", grid[0], grid[1], grid[2]));
    }
    if let Some(most) = entry.max_threads
        && u128::from(threads) > most.iter().map(|n| u128::from(*n)).product()
    {
        return Err(format!("{threads} threads in a block; .maxntid allows {most:?}"));
    }
    if let Some(required) = entry.required_threads
        && block != required
    {
        return Err(format!("a block of {block:?} threads; .reqntid asks for {required:?}"));
    }
    if let (Some(fixed), Some(asked)) = (entry.cluster, shape.cluster)
        && fixed != asked
    {
        return Err(format!("clusters of {asked:?} blocks; .reqnctapercluster asks for {fixed:?}"));
    }
    let cluster = entry.cluster.or(shape.cluster);
    if let Some(cluster) = cluster
        && cluster.iter().map(|n| u128::from(*n)).product::<u128>() > 16
    {
        return Err(format!("clusters of {cluster:?} blocks; 16 are the most"));
    }
    if let Some(cluster) = cluster
        && let Some(axis) = (0..3).find(|&n| !grid[n].is_multiple_of(cluster[n].max(1)))
    {
        return Err(format!("a grid of {grid:?} blocks is no multiple of clusters of {cluster:?} on axis {axis}"));
    }
    if params.len() != entry.param_bytes as usize {
        return Err(format!("{} bytes of parameters; the entry takes {}", params.len(), entry.param_bytes));
    }
    let shared = shared_bytes(entry, dynamic_shared);
    if shared > gpu.options.max_shared_bytes {
        return Err(format!("{shared} bytes of shared memory; the device has {}", gpu.options.max_shared_bytes));
    }
    if shape.cooperative {
        let per_multiprocessor = (2048 / threads.next_multiple_of(32)).min(32).min(228 * 1024 / (shared + 1024));
        let most = u64::from(per_multiprocessor) * u64::from(MULTIPROCESSORS);
        let blocks: u64 = grid.iter().map(|n| u64::from(*n)).product();
        if blocks > most {
            return Err(format!("a cooperative grid of {blocks} blocks; {most} of them fit on the device at once"));
        }
    }
    Ok(())
}

/// What `%nsmid` says.
pub(super) const MULTIPROCESSORS: u32 = 132;

/// Where dynamic shared memory starts, on a device.
fn dynamic_start(entry: &Entry, dynamic_shared: u32) -> u32 {
    let align = if dynamic_shared >= DYNAMIC_ALIGN { DYNAMIC_ALIGN } else { 16 };
    if entry.dynamic_shared { entry.shared_bytes.next_multiple_of(align) } else { entry.shared_bytes }
}

/// Shared memory of a block on a device.
pub(super) fn shared_bytes(entry: &Entry, dynamic_shared: u32) -> u32 {
    dynamic_start(entry, dynamic_shared).saturating_add(dynamic_shared)
}

/// Shared memory as it lies here, with guards between variables.
#[derive(Clone, Copy)]
pub(super) struct SharedLayout {
    pub dynamic: u32,
    pub reserved: u32,
    pub limit: u32,
}

impl SharedLayout {
    pub fn new(entry: &Entry, dynamic_shared: u32) -> Self {
        let code = &entry.code;
        let mut guards = if code.shared.is_empty() { 0 } else { code.guard_bytes };
        // Behind the last variable a guard needs something to keep it from.
        if dynamic_shared == 0 && !code.reserved_shared {
            guards = guards.saturating_sub(SHARED_GUARD_BYTES);
        }
        let dynamic = dynamic_start(entry, dynamic_shared).saturating_add(guards);
        let end = dynamic.saturating_add(dynamic_shared);
        if !code.reserved_shared {
            return Self { dynamic, reserved: end, limit: end };
        }
        let reserved = end.saturating_add(SHARED_GUARD_BYTES).next_multiple_of(SHARED_GUARD_BYTES);
        Self { dynamic, reserved, limit: reserved + RESERVED_SHARED_BYTES }
    }

    /// Ranges that belong to nothing.
    pub fn guards(self, entry: &Entry, dynamic_shared: u32) -> Vec<(u32, u32)> {
        let mut taken: Vec<(u32, u32)> = entry.code.shared.iter().map(|(_, at, bytes)| (*at, at + bytes)).collect();
        taken.push((self.dynamic, self.dynamic + dynamic_shared));
        taken.push((self.reserved, self.limit));
        taken.retain(|(start, end)| start < end);
        taken.sort_unstable();
        let gaps = taken.windows(2).map(|pair| (pair[0].1, pair[1].0));
        gaps.filter(|(start, end)| end.saturating_sub(*start) >= SHARED_GUARD_BYTES).collect()
    }
}
