//! Memory that both sides see at one address, managed, mapped and pinned, and what is known of an address.

use std::ptr::NonNull;

use crate::{
    abi::{Answer, error},
    state::State,
};

/// A mapping of the host that the device sees.
pub(crate) struct HostMemory {
    pub bytes: usize,
    pub flags: u32,
    pub managed: bool,
}

/// The emulated device's addresses have the number of the allocation above this bit: memory of both starts at a multiple.
const STEP: usize = 1 << 36;
/// Numbers to try: where programs, their heaps and libraries are not.
const WINDOWS: std::ops::Range<usize> = 0x80..0x7f0;

impl State {
    /// Fresh memory of zeros at an address that is the same for host and device.
    pub fn map(&mut self, bytes: usize, name: &str) -> Answer<usize> {
        let length = bytes.max(1).next_multiple_of(4096);
        if length >= STEP || self.gpu.held_bytes() + length as u64 > self.total_bytes {
            return Err(error::MEMORY_ALLOCATION);
        }
        for window in WINDOWS {
            let wanted = std::ptr::without_provenance_mut(window * STEP);
            if self.host.contains_key(&(window * STEP)) {
                continue;
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
            // SAFETY: a mapping that replaces none.
            let found = unsafe { libc::mmap(wanted, length, protection, flags, -1, 0) };
            if found == libc::MAP_FAILED {
                continue;
            }
            // Kernels before 4.17 take the wish for a hint.
            if let Some(start) = NonNull::new(found.cast::<u8>()).filter(|_| found == wanted) {
                // SAFETY: mapped now, unmapped in `unmap` after the GPU has let it go.
                if let Ok(address) = unsafe { self.gpu.adopt(start, bytes as u64, name) } {
                    self.host.insert(address as usize, HostMemory { bytes: length, flags: 0, managed: false });
                    return Ok(address as usize);
                }
            }
            // SAFETY: mapped above, known to nobody.
            unsafe { libc::munmap(found, length) };
        }
        Err(error::MEMORY_ALLOCATION)
    }

    /// The same for managed memory.
    pub fn map_managed(&mut self, bytes: usize, name: &str) -> Answer<usize> {
        let address = self.map(bytes, name)?;
        if let Some(memory) = self.host.get_mut(&address) {
            memory.managed = true;
        }
        Ok(address)
    }

    /// Ends memory of [`State::map`].
    pub fn unmap(&mut self, address: usize) -> Answer {
        let memory = self.host.remove(&address).ok_or(error::INVALID_VALUE)?;
        let freed = self.gpu.free(address as u64);
        // SAFETY: mapped by `map`; the program has given it back, and the GPU holds it no longer.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(address), memory.bytes) };
        freed.map_err(|_| error::INVALID_VALUE)
    }

    /// Device memory.
    pub fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        self.gpu.alloc(bytes as u64).map_err(|_| error::MEMORY_ALLOCATION)
    }

    /// Ends device or managed memory; null is nothing.
    pub fn free(&mut self, address: usize) -> Answer {
        if address == 0 {
            return Ok(());
        }
        if self.host.contains_key(&address) {
            return self.unmap(address);
        }
        self.gpu.free(address as u64).map_err(|wrong| {
            self.refuse(&format!("a free of {address:#x}: {wrong}"));
            error::INVALID_VALUE
        })
    }

    /// The memory of both that an address lies in: its start and what is known of it.
    pub fn host_memory(&self, address: usize) -> Option<(usize, &HostMemory)> {
        let start = address & !(STEP - 1);
        self.host.get(&start).filter(|memory| address - start < memory.bytes).map(|memory| (start, memory))
    }
}
