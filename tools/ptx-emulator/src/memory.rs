//! Global memory: every allocation has a number of its own in the top bits of its addresses, so that an address names
//! its allocation for ever. One past the end, before the start or after the free is seen at once.
//!
//! Layout of an address: bits 60..64 the window (0 global, 1 shared, 2 local, 3 param), bits 36..60 the allocation's
//! number plus one, bits 0..36 the offset.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    collections::VecDeque,
    mem,
    ptr::NonNull,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::report::{Fault, FaultKind, MemoryError};

/// Width of the offset in an address.
pub const OFFSET_BITS: u32 = 36;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// First bit of the window in a generic address.
pub const WINDOW_SHIFT: u32 = 60;
/// Generic addresses of shared memory; bits 32..40 hold the block's rank in its cluster.
pub const SHARED_WINDOW: u64 = 1 << WINDOW_SHIFT;
/// Generic addresses of a thread's local memory.
pub const LOCAL_WINDOW: u64 = 2 << WINDOW_SHIFT;
/// Generic addresses of kernel parameters.
pub const PARAM_WINDOW: u64 = 3 << WINDOW_SHIFT;
/// Freed numbers wait this long before they are used again, so that stale addresses keep pointing at nothing.
const QUARANTINE: usize = 1 << 16;

/// Addresses below 2^47 belong to the host: allocations of these numbers are at its addresses, and memory of the host's.
const HOST_NUMBERS: usize = (1 << (47 - OFFSET_BITS)) - 1;

/// Bytes aligned like a device allocation, zeroed at first; or bytes of the host.
pub(crate) struct Buffer {
    pointer: NonNull<u8>,
    bytes: usize,
    owned: bool,
}

// SAFETY: a Buffer owns its bytes; sharing is governed by `Global`, see there.
unsafe impl Send for Buffer {}
// SAFETY: as above; all access through `&Buffer` is by raw pointer inside this crate.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes.max(1), 256).ok()
    }

    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let layout = Self::layout(bytes)?;
        // SAFETY: the layout's size is at least one.
        let pointer = unsafe { alloc_zeroed(layout) };
        match NonNull::new(pointer) {
            Some(pointer) => Some(Self { pointer, bytes, owned: true }),
            None if bytes < 1 << 20 => handle_alloc_error(layout),
            None => None,
        }
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    pub(crate) fn slice(&self) -> &[u8] {
        // SAFETY: the buffer owns `bytes` initialised bytes; callers hold the host side's exclusive access.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.bytes) }
    }

    pub(crate) fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.bytes) }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let Some(mut copy) = Self::zeroed(self.bytes) else {
            // As every other copy on this machine's heap does.
            handle_alloc_error(Layout::from_size_align(self.bytes.max(1), 256).unwrap_or(Layout::new::<u8>()))
        };
        copy.slice_mut().copy_from_slice(self.slice());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.bytes).filter(|_| self.owned) {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.pointer(), layout) }
        }
    }
}

/// One allocation, alive or freed.
#[derive(Clone)]
pub struct Allocation {
    pub(crate) data: Buffer,
    /// One byte per byte: 1 where somebody wrote. None where all of it is known to be written.
    pub(crate) written: Option<Buffer>,
    /// Size asked for.
    pub bytes: u64,
    /// Kernels may store to it.
    pub writable: bool,
    /// What reports call it.
    pub name: String,
    /// What it held before a launch that may have to be repeated wrote to it.
    kept: OnceLock<Kept>,
}

#[derive(Clone)]
struct Kept {
    data: Vec<u8>,
    written: Option<Vec<u8>>,
}

#[derive(Clone)]
enum Slot {
    /// Kept for memory of the host.
    Host,
    Alive(Allocation),
    Freed {
        bytes: u64,
        name: String,
    },
}

/// All global memory of one emulated GPU.
///
/// Kernels reach the bytes through raw pointers. Blocks run on several threads only where the launch is known not to let
/// them communicate. If one of them races anyway, what they wrote is taken back and the launch repeated on one thread, so that
/// its report does not depend on who was faster.
pub struct Global {
    slots: Vec<Slot>,
    dead: VecDeque<u32>,
    held: u64,
    capacity: u64,
    track_writes: bool,
    poison: bool,
    /// Allocations are kept before they are written; the numbers of those that were.
    keeping: Option<Mutex<Vec<usize>>>,
}

impl Clone for Global {
    fn clone(&self) -> Self {
        let (slots, dead) = (self.slots.clone(), self.dead.clone());
        Self { slots, dead, keeping: None, ..*self }
    }
}

impl Global {
    pub(crate) fn new(capacity: u64, track_writes: bool, poison: bool, host_mapped: bool) -> Self {
        let slots = if host_mapped { vec![Slot::Host; HOST_NUMBERS] } else { Vec::new() };
        Self { slots, dead: VecDeque::new(), held: 0, capacity, track_writes, poison, keeping: None }
    }

    /// A launch begins that may have to be repeated.
    pub(crate) fn begin_keeping(&mut self) {
        self.keeping = Some(Mutex::default());
    }

    /// Before each write of a kernel.
    #[inline(always)]
    pub(crate) fn about_to_write(&self, allocation: &Allocation, address: u64) {
        if let Some(numbers) = &self.keeping
            && allocation.kept.get().is_none()
        {
            Self::keep(numbers, allocation, (address >> OFFSET_BITS).wrapping_sub(1) as usize);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep(numbers: &Mutex<Vec<usize>>, allocation: &Allocation, number: usize) {
        // Whoever else wants to write waits here, so that the copy is whole.
        allocation.kept.get_or_init(|| {
            numbers.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            let written = allocation.written.as_ref().map(|written| written.slice().to_vec());
            Kept { data: allocation.data.slice().to_vec(), written }
        });
    }

    /// The launch is over: what it wrote stays, or is taken back.
    pub(crate) fn end_keeping(&mut self, take_back: bool) {
        let numbers =
            mem::take(&mut self.keeping).map(|numbers| numbers.into_inner().unwrap_or_else(PoisonError::into_inner));
        for number in numbers.unwrap_or_default() {
            let Some(Slot::Alive(allocation)) = self.slots.get_mut(number) else { continue };
            if let Some(kept) = allocation.kept.take().filter(|_| take_back) {
                allocation.data.slice_mut().copy_from_slice(&kept.data);
                if let (Some(written), Some(kept)) = (&mut allocation.written, kept.written) {
                    written.slice_mut().copy_from_slice(&kept);
                }
            }
        }
    }

    /// Bytes alive.
    pub fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn alloc(&mut self, bytes: u64, name: String, writable: bool) -> Result<u64, MemoryError> {
        let refused = || MemoryError::OutOfMemory { asked: bytes, held: self.held, capacity: self.capacity };
        if bytes > OFFSET_MASK || self.held.saturating_add(bytes) > self.capacity {
            return Err(refused());
        }
        let mut data = Buffer::zeroed(bytes as usize).ok_or_else(refused)?;
        let written = match self.track_writes {
            true => Some(Buffer::zeroed(bytes as usize).ok_or_else(refused)?),
            false => None,
        };
        if self.poison {
            data.slice_mut().fill(0xff);
        }
        let allocation = Allocation { data, written, bytes, writable, name, kept: OnceLock::new() };
        let index = if self.dead.len() > QUARANTINE { self.dead.pop_front() } else { None };
        let index = match index {
            Some(index) => {
                self.slots[index as usize] = Slot::Alive(allocation);
                index as usize
            }
            None if self.slots.len() as u64 >= (1 << (WINDOW_SHIFT - OFFSET_BITS)) - 1 => return Err(refused()),
            None => {
                self.slots.push(Slot::Alive(allocation));
                self.slots.len() - 1
            }
        };
        self.held += bytes;
        Ok((index as u64 + 1) << OFFSET_BITS)
    }

    /// Memory of the host becomes an allocation at its own address.
    ///
    /// # Safety
    /// The bytes are valid for reads and writes until [`Global::free`].
    pub(crate) unsafe fn adopt(&mut self, start: NonNull<u8>, bytes: u64, name: String) -> Result<u64, MemoryError> {
        let address = start.as_ptr().addr() as u64;
        let index = (address >> OFFSET_BITS).wrapping_sub(1) as usize;
        let free = matches!(self.slots.get(index), Some(Slot::Host | Slot::Freed { .. })) && index < HOST_NUMBERS;
        if !free || address & OFFSET_MASK != 0 || bytes > OFFSET_MASK {
            let what =
                "no place for memory of the host: a multiple of 2^36 below 2^47 that is free, in a GPU made for it";
            return Err(MemoryError::BadAddress { address, bytes, what: what.into() });
        }
        let data = Buffer { pointer: start, bytes: bytes as usize, owned: false };
        let kept = OnceLock::new();
        self.slots[index] = Slot::Alive(Allocation { data, written: None, bytes, writable: true, name, kept });
        self.held += bytes;
        Ok(address)
    }

    pub(crate) fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let bad = |what: &str| MemoryError::BadAddress { address, bytes: 0, what: what.into() };
        if address & OFFSET_MASK != 0 {
            return Err(bad("not the start of an allocation"));
        }
        let index = (address >> OFFSET_BITS).wrapping_sub(1) as usize;
        match self.slots.get_mut(index) {
            Some(slot @ Slot::Alive(_)) => {
                if let Slot::Alive(a) = slot {
                    self.held -= a.bytes;
                    let owned = a.data.owned;
                    *slot = Slot::Freed { bytes: a.bytes, name: std::mem::take(&mut a.name) };
                    self.dead.extend(owned.then_some(index as u32));
                }
                Ok(())
            }
            Some(Slot::Freed { .. }) => Err(bad("freed before")),
            Some(Slot::Host) | None => Err(bad("no allocation")),
        }
    }

    /// The allocation an address names, if it is alive.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64) -> Option<&Allocation> {
        match self.slots.get((address >> OFFSET_BITS).wrapping_sub(1) as usize) {
            Some(Slot::Alive(allocation)) => Some(allocation),
            _ => None,
        }
    }

    fn find_mut(&mut self, address: u64) -> Option<&mut Allocation> {
        match self.slots.get_mut((address >> OFFSET_BITS).wrapping_sub(1) as usize) {
            Some(Slot::Alive(allocation)) => Some(allocation),
            _ => None,
        }
    }

    /// Start and size of the living allocation that holds an address.
    pub(crate) fn extent(&self, address: u64) -> Option<(u64, u64)> {
        let allocation = self.find(address).filter(|a| Self::offset(address) <= a.bytes)?;
        Some((address & !OFFSET_MASK, allocation.bytes))
    }

    /// Offset of an address in its allocation.
    #[inline(always)]
    pub(crate) fn offset(address: u64) -> u64 {
        address & OFFSET_MASK
    }

    /// The host's view of a range, for copies.
    pub(crate) fn bytes(&self, address: u64, bytes: u64) -> Result<&[u8], MemoryError> {
        let Some(allocation) = self.find(address) else { return Err(self.bad(address, bytes)) };
        let start = Self::offset(address);
        match start.checked_add(bytes).filter(|end| *end <= allocation.bytes) {
            Some(end) => Ok(&allocation.data.slice()[start as usize..end as usize]),
            None => Err(self.bad(address, bytes)),
        }
    }

    /// The host's view of a range it is going to write whole.
    pub(crate) fn bytes_mut(&mut self, address: u64, bytes: u64) -> Result<&mut [u8], MemoryError> {
        let start = Self::offset(address);
        let fits = self.find(address).is_some_and(|a| start.checked_add(bytes).is_some_and(|end| end <= a.bytes));
        if !fits {
            return Err(self.bad(address, bytes));
        }
        let bad = MemoryError::BadAddress { address, bytes, what: "no allocation".into() };
        let allocation = self.find_mut(address).ok_or(bad)?;
        let range = start as usize..(start + bytes) as usize;
        if start == 0 && bytes == allocation.bytes {
            allocation.written = None;
        } else if let Some(written) = &mut allocation.written {
            written.slice_mut()[range.clone()].fill(1);
        }
        Ok(&mut allocation.data.slice_mut()[range])
    }

    /// Copies what is known about a range's initialisation along with its bytes.
    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let data = self.bytes(from, bytes)?.to_vec();
        let start = Self::offset(from) as usize;
        let known = self
            .find(from)
            .and_then(|a| a.written.as_ref())
            .map(|w| w.slice()[start..start + bytes as usize].to_vec())
            .filter(|w| w.contains(&0));
        let whole_before = self.find(to).is_some_and(|a| a.written.is_none());
        self.bytes_mut(to, bytes)?.copy_from_slice(&data);
        let Some(known) = known else { return Ok(()) };
        let start = Self::offset(to) as usize;
        if let Some(allocation) = self.find_mut(to) {
            if allocation.written.is_none() {
                let mut all = Buffer::zeroed(allocation.bytes as usize).ok_or(MemoryError::OutOfMemory {
                    asked: bytes,
                    held: 0,
                    capacity: 0,
                })?;
                all.slice_mut().fill(u8::from(whole_before));
                allocation.written = Some(all);
            }
            if let Some(written) = &mut allocation.written {
                written.slice_mut()[start..start + bytes as usize].copy_from_slice(&known);
            }
        }
        Ok(())
    }

    fn bad(&self, address: u64, bytes: u64) -> MemoryError {
        MemoryError::BadAddress { address, bytes, what: self.describe(address).1 }
    }

    /// What an address that does not fit points at: the kind of finding, a sentence, the allocation.
    pub(crate) fn describe(&self, address: u64) -> (FaultKind, String, Option<String>) {
        let offset = Self::offset(address);
        let number = address >> OFFSET_BITS;
        let before = 1 << 20;
        // A small step back from the start of an allocation lands far past the end of the one numbered before it.
        if offset > OFFSET_MASK - before
            && let Some(Slot::Alive(next)) = self.slots.get(number as usize)
        {
            let back = OFFSET_MASK + 1 - offset;
            let words = format!("{back} bytes before the start of an allocation of {} bytes", next.bytes);
            return (FaultKind::OutOfBounds, words, Some(next.name.clone()));
        }
        match self.slots.get(number.wrapping_sub(1) as usize) {
            Some(Slot::Alive(a)) => {
                let words = format!("offset {offset} of an allocation of {} bytes", a.bytes);
                (FaultKind::OutOfBounds, words, Some(a.name.clone()))
            }
            Some(Slot::Freed { bytes, name }) => {
                let words = format!("offset {offset} of an allocation of {bytes} bytes that was freed");
                (FaultKind::UseAfterFree, words, Some(name.clone()))
            }
            _ if address < 1 << 20 => (FaultKind::OutOfBounds, "a null pointer or close to one".into(), None),
            Some(Slot::Host) => {
                (FaultKind::OutOfBounds, "an address of the host, whose memory this device does not see".into(), None)
            }
            None => (FaultKind::OutOfBounds, "no allocation holds this address".into(), None),
        }
    }

    /// The fault for an access of `bytes` at `address` that failed its checks.
    pub(crate) fn fault(&self, address: u64, bytes: u64, what: &str) -> Fault {
        let (kind, words, allocation) = self.describe(address);
        Fault::new(kind, format!("{what} of {bytes} bytes at {words}")).edit(|r| {
            r.address = Some(address);
            r.allocation = allocation;
        })
    }
}

impl Global {
    /// See [`crate::Gpu::forget`].
    pub(crate) fn forget(&mut self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let (poison, track) = (self.poison, self.track_writes);
        self.bytes(address, bytes)?;
        let bad = self.bad(address, bytes);
        let allocation = self.find_mut(address).ok_or(bad)?;
        let range = Self::offset(address) as usize..(Self::offset(address) + bytes) as usize;
        if poison {
            allocation.data.slice_mut()[range.clone()].fill(0xff);
        }
        if track {
            if allocation.written.is_none() {
                allocation.written = Buffer::zeroed(allocation.bytes as usize);
                if let Some(written) = &mut allocation.written {
                    written.slice_mut().fill(1);
                }
            }
            if let Some(written) = &mut allocation.written {
                written.slice_mut()[range].fill(0);
            }
        }
        Ok(())
    }
}
