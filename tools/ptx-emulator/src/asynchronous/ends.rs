//! The two ends of a copy, checked: ranges of global memory and of the block's shared memory.

use crate::{
    caches,
    machine::{Block, Warp},
    memory::Global,
    ops::shared_access,
    report::{Fault, FaultKind},
};

/// A range of global memory that is alive.
#[derive(Clone, Copy)]
pub(crate) struct GlobalRange {
    pointer: *mut u8,
    written: Option<*mut u8>,
    bytes: usize,
}

impl GlobalRange {
    /// Copies the bytes out.
    pub(crate) fn read(&self, into: &mut [u8]) {
        let bytes = into.len().min(self.bytes);
        // SAFETY: `find` checked that the allocation holds `bytes` bytes from `pointer`; the launch keeps it alive, and blocks
        // that run at the same time do not communicate.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer, into.as_mut_ptr(), bytes) }
    }

    /// Whether memory holds exactly these bytes.
    #[inline(always)]
    pub(crate) fn holds(&self, expected: &[u8]) -> bool {
        // SAFETY: as in `read`.
        expected.len() == self.bytes && unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) } == expected
    }

    /// Copies bytes in and notes them as written.
    pub(crate) fn write(&self, from: &[u8]) {
        let bytes = from.len().min(self.bytes);
        // SAFETY: as in `read`; `find` refused memory that kernels may not write.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.pointer, bytes);
            if let Some(written) = self.written {
                std::ptr::write_bytes(written, 1, bytes);
            }
        }
    }
}

/// What a copy does with a range of global memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    /// Read a second time: what was written stays so.
    Again,
    Write,
}

/// `bytes` bytes of global memory at `address`, or the fault of the lane that named them.
#[inline(always)]
pub(crate) fn global(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    bytes: usize,
    what: Use,
) -> Result<GlobalRange, Fault> {
    let memory = block.launch.memory;
    let (words, lane) = (if what == Use::Write { "asynchronous write" } else { "asynchronous read" }, lane as u32);
    let start = Global::offset(address) as usize;
    let found = memory.find(address).filter(|a| start as u64 + bytes as u64 <= a.bytes);
    let Some(allocation) = found else {
        return Err(block.place(memory.fault(address, bytes as u64, words), warp.index, lane));
    };
    let name = || Some(allocation.name.clone());
    if what == Use::Write && !allocation.writable {
        let fault = block.fault(warp, lane, FaultKind::ReadOnly, "an asynchronous write to constant memory");
        return Err(fault.edit(|r| (r.address, r.allocation) = (Some(address), name())));
    }
    if what == Use::Read
        && let Some(written) = &allocation.written
    {
        // SAFETY: the shadow is as long as the allocation; see `GlobalRange::read` for who else touches it.
        let known = unsafe { std::slice::from_raw_parts(written.pointer().add(start), bytes) };
        if let Some(hole) = known.iter().position(|w| *w == 0) {
            let message = format!("an asynchronous copy reads offset {}, which nobody has written", start + hole);
            let fault = block.fault(warp, lane, FaultKind::Uninitialised, message);
            return Err(fault.edit(|r| (r.address, r.allocation) = (Some(address + hole as u64), name())));
        }
    }
    if what == Use::Write {
        memory.about_to_write(allocation, address);
    }
    Ok(GlobalRange {
        pointer: allocation.data.pointer().wrapping_add(start),
        written: allocation.written.as_ref().map(|w| w.pointer().wrapping_add(start)),
        bytes,
    })
}

/// `bytes` bytes of global memory that a lane writes through a surface.
pub(crate) fn surface(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    at: u64,
    bytes: usize,
) -> Result<GlobalRange, Fault> {
    global(block, warp, lane, at, bytes, Use::Write)
}

/// `bytes` bytes of the block's shared memory at `address`, a multiple of `align`, or the fault of the lane that named them.
pub(crate) fn shared(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u32,
    bytes: u32,
    align: u32,
) -> Result<std::ops::Range<usize>, Fault> {
    if block.shared.guarded(address, address.saturating_add(bytes)) {
        let fault = shared_access::beyond_variable(block, warp, lane, address, bytes, "copy or matrix access");
        return Err(fault);
    }
    let wrong = if !address.is_multiple_of(align) {
        Some((FaultKind::Misaligned, format!("shared address {address:#x} is no multiple of {align}")))
    } else if u64::from(address) + u64::from(bytes) > u64::from(block.shared.limit) {
        let limit = block.shared.limit;
        Some((FaultKind::OutOfBounds, format!("{bytes} bytes at shared address {address:#x} of {limit} bytes")))
    } else {
        None
    };
    match wrong {
        Some((kind, message)) => Err(block.fault(warp, lane as u32, kind, message).edit(|r| {
            r.address = Some(address.into());
            r.allocation = block.shared_name(address);
        })),
        None => Ok(address as usize..(address + bytes) as usize),
    }
}

/// Adds the traffic of a copy from or to global memory: distinct sectors of one request.
pub(crate) fn count_load(block: &mut Block<'_>, pieces: impl Iterator<Item = (u64, u32)>) {
    let pieces: Vec<(u64, u32)> = pieces.filter(|(_, length)| *length > 0).collect();
    caches::count(block, caches::Access::LoadPast, pieces.iter().copied());
    let mut sectors = Vec::new();
    let mut bytes = 0;
    for (address, length) in pieces {
        sectors.extend(address / 32..=(address + u64::from(length) - 1) / 32);
        bytes += u64::from(length);
    }
    sectors.sort_unstable();
    sectors.dedup();
    let counters = &mut block.counters;
    counters.global_load_requests += u64::from(bytes > 0);
    counters.global_load_sectors += sectors.len() as u64;
    counters.global_load_ideal_sectors += bytes.div_ceil(32);
    counters.global_load_bytes += bytes;
}
