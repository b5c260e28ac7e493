//! Memory of the device and of the host, copies and fills.

use std::ffi::{c_int, c_uchar, c_uint, c_ushort, c_void};

use crate::{
    abi::{Answer, error, exported, offer, put, status},
    state::state,
    work::{Copy, Fill, Place, Work, queue, synchronise},
};

/// Rows of a pitched allocation start at multiples of this.
pub(crate) const PITCH_BYTES: usize = 512;

/// Queues a copy of bytes that lie one after the other.
pub(crate) fn copy(to: usize, from: usize, bytes: usize, stream: *mut c_void) -> Answer {
    let (to, from) = (Place::flat(to), Place::flat(from));
    queue(stream, Work::Copy(Copy { to, from, extent: [bytes, 1, 1] }))
}

/// Queues a fill with `count` equal values in each of `rows` rows.
pub(crate) fn fill(to: usize, pitch: usize, value: Vec<u8>, count: usize, rows: usize, stream: *mut c_void) -> Answer {
    let to = Place { address: to, row_bytes: pitch, slice_rows: 0 };
    queue(stream, Work::Fill(Fill { to, value, extent: [count, rows, 1] }))
}

/// A copy that is done when the call returns; everything before it is done, too.
pub(crate) fn copy_now(to: usize, from: usize, bytes: usize) -> Answer {
    copy(to, from, bytes, std::ptr::null_mut())?;
    synchronise(None)
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
pub struct Copy2D {
    from_x: usize,
    from_y: usize,
    from_kind: c_uint,
    from_host: usize,
    from_device: usize,
    from_array: usize,
    from_pitch: usize,
    to_x: usize,
    to_y: usize,
    to_kind: c_uint,
    to_host: usize,
    to_device: usize,
    to_array: usize,
    to_pitch: usize,
    width: usize,
    height: usize,
}

impl Copy2D {
    fn work(&self) -> Answer<Work> {
        let place = |kind: c_uint, host: usize, device: usize, pitch: usize, x: usize, y: usize| match kind {
            1 => Ok(Place { address: host + x + y * pitch, row_bytes: pitch, slice_rows: 0 }),
            2 | 4 => Ok(Place { address: device + x + y * pitch, row_bytes: pitch, slice_rows: 0 }),
            _ => Err(error::NOT_SUPPORTED),
        };
        let to = place(self.to_kind, self.to_host, self.to_device, self.to_pitch, self.to_x, self.to_y)?;
        let from = place(self.from_kind, self.from_host, self.from_device, self.from_pitch, self.from_x, self.from_y)?;
        Ok(Work::Copy(Copy { to, from, extent: [self.width, self.height, 1] }))
    }
}

exported! { status;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        put(address, state().allocate(bytes)?)
    }

    fn cuMemAllocPitch_v2(address: *mut u64, pitch: *mut usize, width: usize, height: usize, _element: c_uint) {
        let row = width.next_multiple_of(PITCH_BYTES);
        put(pitch, row)?;
        put(address, state().allocate(row * height)?)
    }

    fn cuMemFree_v2(address: u64) { state().free(address as usize) }

    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: *mut c_void) {
        put(address, state().allocate(bytes)?)
    }

    fn cuMemFreeAsync(address: u64, _stream: *mut c_void) { state().free(address as usize) }

    fn cuMemAllocManaged(address: *mut u64, bytes: usize, _flags: c_uint) {
        put(address, state().map_managed(bytes, "managed memory")? as u64)
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let state = state();
        offer(free, (state.total_bytes - state.gpu.held_bytes()) as usize);
        offer(total, state.total_bytes as usize);
        Ok(())
    }

    fn cuMemGetAddressRange_v2(start: *mut u64, bytes: *mut usize, address: u64) {
        let (found, held) = state().gpu.allocation(address).ok_or(error::INVALID_VALUE)?;
        offer(start, found);
        offer(bytes, held as usize);
        Ok(())
    }

    fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, flags: c_uint) {
        let mut state = state();
        let found = state.map(bytes, "host memory")?;
        if let Some(memory) = state.host.get_mut(&found) {
            memory.flags = flags;
        }
        put(memory, std::ptr::with_exposed_provenance_mut(found))
    }

    fn cuMemAllocHost_v2(memory: *mut *mut c_void, bytes: usize) {
        put(memory, std::ptr::with_exposed_provenance_mut(state().map(bytes, "host memory")?))
    }

    fn cuMemFreeHost(memory: *mut c_void) { if memory.is_null() { Ok(()) } else { state().unmap(memory.addr()) } }

    fn cuMemHostGetDevicePointer_v2(address: *mut u64, memory: *mut c_void, _flags: c_uint) {
        let found = state().host_memory(memory.addr()).is_some();
        if found { put(address, memory.addr() as u64) } else { Err(error::INVALID_VALUE) }
    }

    fn cuMemHostGetFlags(flags: *mut c_uint, memory: *mut c_void) {
        let found = state().host_memory(memory.addr()).map(|(_, memory)| memory.flags);
        put(flags, found.ok_or(error::INVALID_VALUE)?)
    }

    // Pages are locked as far as anybody can tell; the device does not see them.
    fn cuMemHostRegister_v2(_memory: *mut c_void, _bytes: usize, _flags: c_uint) { Ok(()) }

    fn cuMemHostUnregister(_memory: *mut c_void) { Ok(()) }

    fn cuMemPrefetchAsync_v2(_at: u64, _bytes: usize, _place: u64, _flags: c_uint, _stream: *mut c_void) { Ok(()) }

    fn cuMemAdvise_v2(_at: u64, _bytes: usize, _advice: c_int, _place: u64) { Ok(()) }

    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) {
        let state = state();
        let mapped = state.host_memory(address as usize);
        let (start, bytes) = state.gpu.allocation(address).ok_or(error::INVALID_VALUE)?;
        match attribute {
            1 => put(data.cast(), 16usize),
            2 => put(data.cast(), if mapped.is_some_and(|(_, memory)| !memory.managed) { 1u32 } else { 2 }),
            3 => put(data.cast(), address),
            4 if mapped.is_some() => put(data.cast(), address),
            8 => put(data.cast(), u32::from(mapped.is_some_and(|(_, memory)| memory.managed))),
            9 => put(data.cast(), 0u32),
            11 => put(data.cast(), start),
            12 => put(data.cast(), bytes as usize),
            _ => Err(error::INVALID_VALUE),
        }
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) { copy_now(to as usize, from as usize, bytes) }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: *mut c_void) {
        copy(to as usize, from as usize, bytes, stream)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) { copy_now(to as usize, from.addr(), bytes) }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) { copy_now(to.addr(), from as usize, bytes) }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) { copy_now(to as usize, from as usize, bytes) }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) {
        copy(to as usize, from.addr(), bytes, stream)
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) {
        copy(to.addr(), from as usize, bytes, stream)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) {
        copy(to as usize, from as usize, bytes, stream)
    }

    fn cuMemcpy2D_v2(copy: *const Copy2D) {
        queue(std::ptr::null_mut(), (*copy).work()?)?;
        synchronise(None)
    }

    fn cuMemcpy2DUnaligned_v2(copy: *const Copy2D) {
        queue(std::ptr::null_mut(), (*copy).work()?)?;
        synchronise(None)
    }

    fn cuMemcpy2DAsync_v2(copy: *const Copy2D, stream: *mut c_void) { queue(stream, (*copy).work()?) }

    fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) {
        fill(to as usize, 0, vec![value], count, 1, std::ptr::null_mut())
    }

    fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) {
        fill(to as usize, 0, value.to_le_bytes().to_vec(), count, 1, std::ptr::null_mut())
    }

    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) {
        fill(to as usize, 0, value.to_le_bytes().to_vec(), count, 1, std::ptr::null_mut())
    }

    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: *mut c_void) {
        fill(to as usize, 0, vec![value], count, 1, stream)
    }

    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: *mut c_void) {
        fill(to as usize, 0, value.to_le_bytes().to_vec(), count, 1, stream)
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: *mut c_void) {
        fill(to as usize, 0, value.to_le_bytes().to_vec(), count, 1, stream)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: c_uchar, width: usize, height: usize) {
        fill(to as usize, pitch, vec![value], width, height, std::ptr::null_mut())
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: c_uint, width: usize, height: usize) {
        fill(to as usize, pitch, value.to_le_bytes().to_vec(), width, height, std::ptr::null_mut())
    }
}
