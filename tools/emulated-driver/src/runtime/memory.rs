//! Memory, copies, fills, and the program's variables.

use std::ffi::{c_int, c_uint, c_void};

use super::{array::Array, told};
use crate::{
    abi::{Answer, error, exported, offer, put},
    driver::memory::{PITCH_BYTES, copy, copy_now, fill},
    state::state,
    work::{Copy, Fill, Place, Work, queue, synchronise},
};

const LEGACY: *mut c_void = std::ptr::null_mut();

/// `cudaPitchedPtr`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pitched {
    address: usize,
    pitch: usize,
    width: usize,
    height: usize,
}

/// `cudaExtent`, `cudaPos`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    x: usize,
    y: usize,
    z: usize,
}

impl Extent {
    pub(super) fn sizes(self) -> [usize; 3] {
        [self.x, self.y, self.z]
    }
}

impl From<[usize; 3]> for Extent {
    fn from([x, y, z]: [usize; 3]) -> Self {
        Self { x, y, z }
    }
}

/// `cudaMemcpy3DParms`
#[repr(C)]
pub struct Copy3D {
    from_array: usize,
    from_at: Extent,
    from: Pitched,
    to_array: usize,
    to_at: Extent,
    to: Pitched,
    extent: Extent,
    kind: c_int,
}

impl Pitched {
    fn place(&self, at: Extent) -> Place {
        let address = self.address + at.x + self.pitch * (at.y + self.height * at.z);
        Place { address, row_bytes: self.pitch, slice_rows: self.height }
    }
}

impl Copy3D {
    pub(super) fn work(&self) -> Answer<Work> {
        let mut extent = self.extent.sizes();
        let find = |handle: usize| match handle {
            0 => Ok(None),
            handle => state().arrays.get(std::ptr::without_provenance::<c_void>(handle)).cloned().map(Some),
        };
        let arrays = [find(self.to_array)?, find(self.from_array)?];
        // Of arrays, positions and widths are counted in texels.
        if let Some(array) = arrays.iter().flatten().next() {
            extent[0] *= array.texel_bytes();
        }
        let place = |array: &Option<Array>, memory: &Pitched, at: Extent| match array {
            None => Ok(memory.place(at)),
            Some(array) => {
                let x_bytes = at.x * array.texel_bytes();
                if array.holds(x_bytes, at.y, extent, at.z) {
                    return Ok(array.place(x_bytes, at.y, at.z));
                }
                state().refuse(&format!(
                    "a copy of {extent:?} bytes, rows and slices at {at:?} beyond the end of an array"
                ));
                Err(error::INVALID_VALUE)
            }
        };
        let to = place(&arrays[0], &self.to, self.to_at)?;
        let from = place(&arrays[1], &self.from, self.from_at)?;
        Ok(Work::Copy(Copy { to, from, extent }))
    }
}

/// `cudaPointerAttributes`
#[repr(C)]
pub struct PointerAttributes {
    kind: c_int,
    device: c_int,
    device_pointer: usize,
    host_pointer: usize,
    reserved: [usize; 8],
}

/// Holds the direction that a program names against where its pointers lie.
fn direct(to: usize, from: usize, kind: c_int) -> Answer {
    let mut state = state();
    let right = |address: usize, device: bool, what: &str| match device {
        true if !state.is_device(address) => Some(format!("{what} {address:#x} is no memory of the device")),
        false if state.is_device(address) && state.host_memory(address).is_none() => {
            Some(format!("{what} {address:#x} is memory of the device"))
        }
        _ => None,
    };
    let wrong = match kind {
        0 => right(to, false, "the destination").or_else(|| right(from, false, "the source")),
        1 => right(to, true, "the destination").or_else(|| right(from, false, "the source")),
        2 => right(to, false, "the destination").or_else(|| right(from, true, "the source")),
        3 => right(to, true, "the destination").or_else(|| right(from, true, "the source")),
        4 => None,
        _ => return Err(error::INVALID_COPY_DIRECTION),
    };
    match wrong {
        Some(wrong) => {
            let direction = ["host to host", "host to device", "device to host", "device to device"][kind as usize];
            state.refuse(&format!("a copy from {direction}, but {wrong}"));
            Err(error::INVALID_VALUE)
        }
        None => Ok(()),
    }
}

fn rows(to: usize, to_pitch: usize, from: usize, from_pitch: usize, width: usize, height: usize) -> Answer<Work> {
    if width > to_pitch || width > from_pitch {
        return Err(12);
    }
    let place = |address: usize, pitch: usize| Place { address, row_bytes: pitch, slice_rows: 0 };
    Ok(Work::Copy(Copy { to: place(to, to_pitch), from: place(from, from_pitch), extent: [width, height, 1] }))
}

/// Address of bytes of a variable.
fn symbol(shadow: *const c_void, offset: usize, bytes: usize) -> Answer<usize> {
    let (address, held) = state().variable(shadow)?;
    if offset.checked_add(bytes).is_none_or(|end| end as u64 > held) {
        state().refuse(&format!("{bytes} bytes at offset {offset} of a variable of {held} bytes"));
        return Err(error::INVALID_VALUE);
    }
    Ok(address as usize + offset)
}

exported! { told;
    fn cudaMalloc(address: *mut u64, bytes: usize) {
        if bytes == 0 {
            return put(address, 0);
        }
        let mut state = state();
        state.healthy()?;
        put(address, state.allocate(bytes)?)
    }

    fn cudaFree(address: *mut c_void) { state().free(address.addr()) }

    fn cudaMallocAsync(address: *mut u64, bytes: usize, _stream: *mut c_void) { put(address, state().allocate(bytes)?) }

    fn cudaMallocFromPoolAsync(address: *mut u64, bytes: usize, _pool: *mut c_void, _stream: *mut c_void) {
        put(address, state().allocate(bytes)?)
    }

    fn cudaFreeAsync(address: *mut c_void, _stream: *mut c_void) { state().free(address.addr()) }

    fn cudaDeviceGetDefaultMemPool(pool: *mut usize, _device: c_int) { put(pool, 0x10) }

    fn cudaDeviceGetMemPool(pool: *mut usize, _device: c_int) { put(pool, 0x10) }

    fn cudaMemPoolSetAttribute(_pool: *mut c_void, _attribute: c_int, _value: *mut c_void) { Ok(()) }

    fn cudaMemPoolGetAttribute(_pool: *mut c_void, _attribute: c_int, value: *mut u64) {
        put(value, state().gpu.held_bytes())
    }

    fn cudaMemPoolTrimTo(_pool: *mut c_void, _bytes: usize) { Ok(()) }

    fn cudaMallocPitch(address: *mut u64, pitch: *mut usize, width: usize, height: usize) {
        let row = width.next_multiple_of(PITCH_BYTES);
        put(pitch, row)?;
        put(address, state().allocate(row * height)?)
    }

    fn cudaMalloc3D(found: *mut Pitched, extent: Extent) {
        let pitch = extent.x.next_multiple_of(PITCH_BYTES);
        let address = state().allocate(pitch * extent.y * extent.z)? as usize;
        put(found, Pitched { address, pitch, width: extent.x, height: extent.y })
    }

    fn cudaMallocHost(memory: *mut usize, bytes: usize) { put(memory, state().map(bytes, "host memory")?) }

    fn cudaHostAlloc(memory: *mut usize, bytes: usize, flags: c_uint) {
        let mut state = state();
        let found = state.map(bytes, "host memory")?;
        if let Some(memory) = state.host.get_mut(&found) {
            memory.flags = flags;
        }
        put(memory, found)
    }

    fn cudaFreeHost(memory: *mut c_void) { if memory.is_null() { Ok(()) } else { state().unmap(memory.addr()) } }

    fn cudaHostGetDevicePointer(address: *mut usize, memory: *mut c_void, _flags: c_uint) {
        let mut state = state();
        if state.host_memory(memory.addr()).is_none() {
            state.refuse(
                "the device is to see memory that cudaHostRegister locked, which is not emulated; allocate it with \
                 cudaHostAlloc",
            );
            return Err(error::NOT_SUPPORTED);
        }
        put(address, memory.addr())
    }

    fn cudaHostGetFlags(flags: *mut c_uint, memory: *mut c_void) {
        let found = state().host_memory(memory.addr()).map(|(_, memory)| memory.flags);
        put(flags, found.ok_or(error::INVALID_VALUE)?)
    }

    fn cudaHostRegister(_memory: *mut c_void, _bytes: usize, _flags: c_uint) { Ok(()) }

    fn cudaHostUnregister(_memory: *mut c_void) { Ok(()) }

    fn cudaMallocManaged(address: *mut usize, bytes: usize, _flags: c_uint) {
        put(address, state().map_managed(bytes, "managed memory")?)
    }

    fn cudaMemPrefetchAsync(_at: *const c_void, _bytes: usize, _place: u64, _flags: c_uint, _stream: *mut c_void) {
        Ok(())
    }

    fn cudaMemAdvise(_at: *const c_void, _bytes: usize, _advice: c_int, _place: u64) { Ok(()) }

    fn cudaMemGetInfo(free: *mut usize, total: *mut usize) {
        let state = state();
        offer(free, (state.total_bytes - state.gpu.held_bytes()) as usize);
        offer(total, state.total_bytes as usize);
        Ok(())
    }

    fn cudaPointerGetAttributes(attributes: *mut PointerAttributes, address: *const c_void) {
        let state = state();
        let address = address.addr();
        let (kind, device_pointer, host_pointer) = match state.host_memory(address) {
            Some((_, memory)) if memory.managed => (3, address, address),
            Some(_) => (1, address, address),
            None if state.is_device(address) => (2, address, 0),
            None => (0, 0, address),
        };
        put(attributes, PointerAttributes { kind, device: 0, device_pointer, host_pointer, reserved: [0; 8] })
    }

    fn cudaMemcpy(to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int) {
        state().healthy()?;
        direct(to.addr(), from.addr(), if bytes == 0 { 4 } else { kind })?;
        copy_now(to.addr(), from.addr(), bytes)
    }

    fn cudaMemcpyAsync(to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int, stream: *mut c_void) {
        state().healthy()?;
        direct(to.addr(), from.addr(), if bytes == 0 { 4 } else { kind })?;
        copy(to.addr(), from.addr(), bytes, stream)
    }

    fn cudaMemcpyPeer(to: *mut c_void, _to_device: c_int, from: *const c_void, _from_device: c_int, bytes: usize) {
        copy_now(to.addr(), from.addr(), bytes)
    }

    fn cudaMemcpy2D(
        to: *mut c_void,
        to_pitch: usize,
        from: *const c_void,
        from_pitch: usize,
        width: usize,
        height: usize,
        kind: c_int,
    ) {
        direct(to.addr(), from.addr(), kind)?;
        queue(LEGACY, rows(to.addr(), to_pitch, from.addr(), from_pitch, width, height)?)?;
        synchronise(None)
    }

    fn cudaMemcpy2DAsync(
        to: *mut c_void,
        to_pitch: usize,
        from: *const c_void,
        from_pitch: usize,
        width: usize,
        height: usize,
        kind: c_int,
        stream: *mut c_void,
    ) {
        direct(to.addr(), from.addr(), kind)?;
        queue(stream, rows(to.addr(), to_pitch, from.addr(), from_pitch, width, height)?)
    }

    fn cudaMemcpy3D(copy: *const Copy3D) {
        queue(LEGACY, (*copy).work()?)?;
        synchronise(None)
    }

    fn cudaMemcpy3DAsync(copy: *const Copy3D, stream: *mut c_void) { queue(stream, (*copy).work()?) }

    fn cudaMemset(to: *mut c_void, value: c_int, bytes: usize) {
        fill(to.addr(), 0, vec![value as u8], bytes, 1, LEGACY)
    }

    fn cudaMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: *mut c_void) {
        fill(to.addr(), 0, vec![value as u8], bytes, 1, stream)
    }

    fn cudaMemset2D(to: *mut c_void, pitch: usize, value: c_int, width: usize, height: usize) {
        fill(to.addr(), pitch, vec![value as u8], width, height, LEGACY)
    }

    fn cudaMemset2DAsync(
        to: *mut c_void,
        pitch: usize,
        value: c_int,
        width: usize,
        height: usize,
        stream: *mut c_void,
    ) {
        fill(to.addr(), pitch, vec![value as u8], width, height, stream)
    }

    fn cudaMemset3D(to: Pitched, value: c_int, extent: Extent) {
        let to = to.place(Extent { x: 0, y: 0, z: 0 });
        queue(LEGACY, Work::Fill(Fill { to, value: vec![value as u8], extent: [extent.x, extent.y, extent.z] }))
    }

    fn cudaGetSymbolAddress(address: *mut usize, shadow: *const c_void) { put(address, symbol(shadow, 0, 0)?) }

    fn cudaGetSymbolSize(bytes: *mut usize, shadow: *const c_void) { put(bytes, state().variable(shadow)?.1 as usize) }

    fn cudaMemcpyToSymbol(shadow: *const c_void, from: *const c_void, bytes: usize, offset: usize, _kind: c_int) {
        copy_now(symbol(shadow, offset, bytes)?, from.addr(), bytes)
    }

    fn cudaMemcpyToSymbolAsync(
        shadow: *const c_void,
        from: *const c_void,
        bytes: usize,
        offset: usize,
        _kind: c_int,
        stream: *mut c_void,
    ) {
        copy(symbol(shadow, offset, bytes)?, from.addr(), bytes, stream)
    }

    fn cudaMemcpyFromSymbol(to: *mut c_void, shadow: *const c_void, bytes: usize, offset: usize, _kind: c_int) {
        copy_now(to.addr(), symbol(shadow, offset, bytes)?, bytes)
    }

    fn cudaMemcpyFromSymbolAsync(
        to: *mut c_void,
        shadow: *const c_void,
        bytes: usize,
        offset: usize,
        _kind: c_int,
        stream: *mut c_void,
    ) {
        copy(to.addr(), symbol(shadow, offset, bytes)?, bytes, stream)
    }
}
