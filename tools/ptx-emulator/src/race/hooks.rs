//! Where the core meets the shadows: one call per access or synchronisation, each a no-op when the check is off.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{
    Case, Conflict, Strength, Values,
    clocks::{BlockClocks, LAST_CLOCK},
    global::{GlobalShadow, Place},
    shared::SharedShadow,
};
use crate::{
    machine::{Block, Launch, R32, R64, Step},
    memory::{Allocation, Global, OFFSET_BITS},
    report::{Fault, FaultKind},
};

/// Order between the warps of one block, and the shadow of its shared memory.
pub struct BlockRaces {
    /// The check is on.
    pub(crate) on: bool,
    pub(crate) clocks: BlockClocks,
    pub(crate) shadow: SharedShadow,
}

impl BlockRaces {
    /// For a block of so many warps; `narrowest` is the least width of its accesses to shared memory.
    pub fn new(launch: &Launch<'_>, block: u64, shared_bytes: u32, narrowest: u32, warps: u32) -> Self {
        let on = launch.options.checks.race;
        let bytes = if on { shared_bytes as usize } else { 0 };
        Self {
            on,
            clocks: BlockClocks::new(block as u32, warps as usize),
            shadow: SharedShadow::new(bytes, narrowest as usize, warps as usize),
        }
    }

    /// The same storage for the next block.
    pub fn restart(&mut self, block: u64) {
        self.clocks = BlockClocks::new(block as u32, self.clocks.warps());
        if self.on {
            self.shadow.clear();
        }
    }

    /// `bar.sync` of all threads is complete.
    pub fn barrier_all(&mut self) {
        if self.on {
            self.clocks.barrier_all();
            self.wrap();
        }
    }

    /// Lanes of a warp arrived at a barrier of part of the block.
    pub fn arrive(&mut self, barrier: u64, warp: u32) {
        if self.on {
            self.clocks.arrive(barrier, warp as usize);
        }
    }

    /// A warp leaves the barrier it waited at.
    pub fn wait(&mut self, barrier: u64, warp: u32) {
        if self.on {
            self.clocks.wait(barrier, warp as usize);
        }
    }

    /// All have left the barrier.
    pub fn forget(&mut self, barrier: u64) {
        if self.on {
            self.clocks.forget(barrier);
        }
    }

    /// `bar.warp.sync`.
    #[inline]
    pub fn warp_sync(&mut self, warp: u32) {
        if self.on {
            self.clocks.warp_sync(warp as usize);
            if self.clocks.now(warp as usize) >= LAST_CLOCK {
                self.wrap();
            }
        }
    }

    /// `membar` or `fence`, whatever its scope.
    pub fn fence(&mut self, warp: u32, sequential: bool) {
        if self.on {
            self.clocks.fence(warp as usize, sequential);
            self.wrap();
        }
    }

    /// `fence.proxy.async`.
    pub fn proxy_fence(&mut self, warp: u32) {
        if self.on {
            self.clocks.proxy_fence(warp as usize);
            self.wrap();
        }
    }

    /// Stamps are used up: forget the past, which can hide a race but never invent one.
    fn wrap(&mut self) {
        if self.clocks.exhausted() {
            self.shadow.clear();
            self.clocks.restart();
        }
    }
}

/// Order between all accesses to global memory, over the launches of one GPU.
///
/// On several threads the shadow is cut into shards, each for every so many pieces of an allocation and under a lock of its own.
/// Blocks that run so do not synchronise through memory, so that no shard needs to know what another does.
#[derive(Default)]
pub struct GlobalRaces {
    whole: Mutex<GlobalShadow>,
    shards: [Mutex<GlobalShadow>; 1 << SHARD_BITS],
    sharded: AtomicBool,
}

/// Pieces of an allocation that stay together.
const PIECE_BITS: u32 = 12;
const SHARD_BITS: u32 = 5;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const PIECE_MASK: u64 = (1 << PIECE_BITS) - 1;

fn locked(shadow: &Mutex<GlobalShadow>) -> MutexGuard<'_, GlobalShadow> {
    shadow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard of an address.
fn shard(address: u64) -> u64 {
    address >> PIECE_BITS & ((1 << SHARD_BITS) - 1)
}

/// Where an address, or a size, lies in its shard.
fn within(address: u64) -> u64 {
    let offset = address & OFFSET_MASK;
    address & !OFFSET_MASK | offset >> (PIECE_BITS + SHARD_BITS) << PIECE_BITS | offset & PIECE_MASK
}

/// The address that lies there.
fn outside(within: u64, shard: u64) -> u64 {
    let offset = within & OFFSET_MASK;
    let pieces = (offset >> PIECE_BITS << SHARD_BITS | shard) << PIECE_BITS;
    within & !OFFSET_MASK | pieces | offset & PIECE_MASK
}

impl GlobalRaces {
    /// A launch starts, of code with or without strong stores to global memory that are no atomics, on one thread or several.
    pub fn begin_launch(&self, strong_stores: bool, threads: usize) {
        self.sharded.store(threads > 1, Ordering::Relaxed);
        match threads {
            1 => locked(&self.whole).begin_launch(strong_stores),
            _ => self.shards.iter().for_each(|shadow| locked(shadow).begin_launch(strong_stores)),
        }
    }

    /// The allocation at that address is gone.
    pub fn free(&self, address: u64) {
        for shadow in [&self.whole].into_iter().chain(&self.shards) {
            locked(shadow).free(address >> OFFSET_BITS);
        }
    }

    /// Calls `access` with the shadow, or once for each shard that the lanes touch, with their places in it.
    #[inline(always)]
    fn each(
        &self,
        mut mask: u32,
        addresses: &R64,
        mut access: impl FnMut(&mut GlobalShadow, u32, &R64, bool) -> Result<(), Conflict>,
    ) -> Result<(), Conflict> {
        if !self.sharded.load(Ordering::Relaxed) {
            return access(&mut locked(&self.whole), mask, addresses, false);
        }
        let places = addresses.map(within);
        while mask != 0 {
            let first = shard(addresses[(mask.trailing_zeros() & 31) as usize]);
            let mut same = 0;
            for (lane, address) in addresses.iter().enumerate() {
                same |= u32::from(shard(*address) == first) << lane;
            }
            same &= mask;
            mask &= !same;
            let mut shadow = locked(&self.shards[first as usize]);
            let found = access(&mut shadow, same, &places, true);
            found.map_err(|conflict| Conflict { address: outside(conflict.address, first), ..conflict })?;
        }
        Ok(())
    }
}

fn kind(case: Case) -> FaultKind {
    match case {
        Case::InFlight => FaultKind::AsyncHazard,
        Case::Guess => FaultKind::Guess,
        Case::Unordered | Case::Simultaneous | Case::ReadOnly | Case::Unfenced => FaultKind::Race,
    }
}

/// Hands on what the checks of an access remarked, with one note for each instruction.
#[cold]
#[inline(never)]
fn remark(block: &mut Block<'_>, warp: u32, now: &str, report: fn(&Block<'_>, u32, Conflict, &str) -> Fault) {
    let remarks = std::mem::take(&mut block.race.clocks.remarks);
    let mut notes = block.launch.notes.lock().unwrap_or_else(PoisonError::into_inner);
    for conflict in remarks {
        let note = report(block, warp, conflict, now).into_report();
        if !notes.iter().any(|old| old.ptx_line == note.ptx_line) {
            notes.push(note);
        }
    }
}

#[cold]
pub(crate) fn shared_fault(block: &Block<'_>, warp: u32, conflict: Conflict, now: &str) -> Fault {
    let kind = kind(conflict.case);
    let allocation = block.shared_name(conflict.address as u32);
    let fault = Fault::new(kind, conflict.words(now)).edit(|r| {
        r.address = Some(conflict.address);
        r.allocation = allocation;
    });
    block.place(fault, warp, conflict.lane as u32)
}

#[cold]
fn global_fault(block: &Block<'_>, warp: u32, conflict: Conflict, now: &str) -> Fault {
    let allocation = block.launch.memory.find(conflict.address).map(|a| a.name.clone());
    let offset = Global::offset(conflict.address);
    let fault = Fault::new(kind(conflict.case), format!("{}, at offset {offset}", conflict.words(now))).edit(|r| {
        r.address = Some(conflict.address);
        r.allocation = allocation;
    });
    block.place(fault, warp, conflict.lane as u32)
}

/// A load from shared memory, checked against its bounds already.
#[inline(always)]
pub fn shared_load(
    block: &mut Block<'_>,
    warp: u32,
    mask: u32,
    addresses: &R32,
    bytes: u32,
    strength: Strength,
) -> Step {
    if !block.race.on {
        return Ok(());
    }
    let races = &mut block.race;
    let result = races.shadow.load(&mut races.clocks, warp as usize, mask, addresses, bytes, strength);
    if !races.clocks.remarks.is_empty() {
        remark(block, warp, "read", shared_fault);
    }
    result.map_err(|conflict| shared_fault(block, warp, conflict, "read"))
}

/// A store to shared memory or an atomic on it, before it happens.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "everything an access is")]
pub fn shared_store(
    block: &mut Block<'_>,
    warp: u32,
    mask: u32,
    addresses: &R32,
    bytes: u32,
    strength: Strength,
    release: bool,
    values: Values<'_>,
) -> Step {
    if !block.race.on {
        return Ok(());
    }
    let (races, memory) = (&mut block.race, &block.shared.bytes);
    let (shadow, clocks) = (&mut races.shadow, &mut races.clocks);
    let result = shadow.store(clocks, warp as usize, mask, addresses, bytes, strength, release, memory, values);
    if !races.clocks.remarks.is_empty() {
        remark(block, warp, "atomic", shared_fault);
    }
    result.map_err(|conflict| shared_fault(block, warp, conflict, "write"))
}

/// The allocation that `address` falls into, as the shadow or a shard of it knows it.
#[inline(always)]
fn place(address: u64, allocation: &Allocation, sharded: bool) -> Place {
    let number = address >> OFFSET_BITS;
    let bytes = if sharded { within(allocation.bytes) + (1 << PIECE_BITS) } else { allocation.bytes };
    Place { allocation: number, bytes, start: number << OFFSET_BITS }
}

/// Calls `access` once for each allocation that the lanes touch.
fn by_allocation(
    memory: &Global,
    mut mask: u32,
    addresses: &R64,
    sharded: bool,
    mut access: impl FnMut(Place, u32) -> Result<(), Conflict>,
) -> Result<(), Conflict> {
    while mask != 0 {
        let first = addresses[mask.trailing_zeros() as usize];
        let number = first >> OFFSET_BITS;
        let mut same = 0;
        for (lane, address) in addresses.iter().enumerate() {
            same |= u32::from(address >> OFFSET_BITS == number) << lane;
        }
        same &= mask;
        mask &= !same;
        if let Some(allocation) = memory.find(first) {
            access(place(first, allocation, sharded), same)?;
        }
    }
    Ok(())
}

/// A load from global memory, checked against its bounds already; `one` is the allocation that holds all of it, if one does.
#[inline(always)]
pub(crate) fn global_load(
    block: &mut Block<'_>,
    warp: u32,
    mask: u32,
    addresses: &R64,
    bytes: u32,
    strength: Strength,
    one: Option<&Allocation>,
) -> Step {
    if !block.race.on {
        return Ok(());
    }
    let launch = block.launch;
    let clocks = &mut block.race.clocks;
    let result = launch.race.each(mask, addresses, |shadow, mask, addresses, sharded| match one {
        Some(allocation) => {
            let place = place(addresses[(mask.trailing_zeros() & 31) as usize], allocation, sharded);
            shadow.load(place, clocks, warp as usize, mask, addresses, bytes, strength)
        }
        None => by_allocation(launch.memory, mask, addresses, sharded, |place, mask| {
            shadow.load(place, clocks, warp as usize, mask, addresses, bytes, strength)
        }),
    });
    if !block.race.clocks.remarks.is_empty() {
        remark(block, warp, "read", global_fault);
    }
    result.map_err(|conflict| global_fault(block, warp, conflict, "read"))
}

/// A store to global memory or an atomic on it, before it happens; `one` as for a load.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "everything an access is")]
pub(crate) fn global_store(
    block: &mut Block<'_>,
    warp: u32,
    mask: u32,
    addresses: &R64,
    bytes: u32,
    strength: Strength,
    atomic: bool,
    release: bool,
    one: Option<&Allocation>,
    values: Values<'_>,
) -> Step {
    if !block.race.on {
        return Ok(());
    }
    let launch = block.launch;
    let clocks = &mut block.race.clocks;
    let memory = |lane: usize| {
        let old = launch.memory.bytes(addresses[lane], bytes.into()).ok()?;
        let mut padded = [0; 16];
        padded[..old.len()].copy_from_slice(old);
        Some(padded)
    };
    let result = launch.race.each(mask, addresses, |shadow, mask, addresses, sharded| {
        let mut access = |place: Place, mask: u32| {
            let (warp, memory) = (warp as usize, &memory);
            shadow.store(place, clocks, warp, mask, addresses, bytes, strength, atomic, release, memory, values)
        };
        match one {
            Some(allocation) => {
                access(place(addresses[(mask.trailing_zeros() & 31) as usize], allocation, sharded), mask)
            }
            None => by_allocation(launch.memory, mask, addresses, sharded, access),
        }
    });
    if !block.race.clocks.remarks.is_empty() {
        remark(block, warp, "atomic", global_fault);
    }
    result.map_err(|conflict| global_fault(block, warp, conflict, "write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_from_their_shards() {
        for offset in [0, 1, 4095, 4096, (1 << 17) - 1, 1 << 17, (1 << 36) - 1] {
            let address = 5 << OFFSET_BITS | offset;
            assert_eq!(outside(within(address), shard(address)), address);
        }
        assert_eq!([within(4096), within(1 << 17)], [0, 4096]);
    }
}
