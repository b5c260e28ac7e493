//! Memory of the device and of the host, copies and fills.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::HashMap,
    ffi::{c_uchar, c_uint, c_ushort, c_void},
    sync::{LazyLock, Mutex, PoisonError},
};

use crate::{
    CAPTURE_UNSUPPORTED, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, Status,
    graph::{Node, do_or_record},
    put, state,
};

/// Sizes of what is alive: the device's blocks, and pinned host memory.
static DEVICE: LazyLock<Mutex<HashMap<u64, u64>>> = LazyLock::new(Mutex::default);
static HOST: LazyLock<Mutex<HashMap<usize, Layout>>> = LazyLock::new(Mutex::default);

/// # Safety
/// As every function of the driver API: pointers are valid for what they name. This holds for all of them here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Status {
    let mut state = state();
    let Ok(found) = state.gpu.alloc(bytes as u64) else { return OUT_OF_MEMORY };
    state.held_bytes += bytes as u64;
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner).insert(found, bytes as u64);
    // SAFETY: by the caller.
    unsafe { put(address, found) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Status {
    let mut state = state();
    match DEVICE.lock().unwrap_or_else(PoisonError::into_inner).remove(&address) {
        Some(bytes) if state.gpu.free(address).is_ok() => {
            state.held_bytes -= bytes;
            SUCCESS
        }
        _ => INVALID_VALUE,
    }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    let state = state();
    // SAFETY: by the caller.
    unsafe { put(free, (state.total_bytes - state.held_bytes) as usize).max(put(total, state.total_bytes as usize)) }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, _: c_uint) -> Status {
    let Ok(layout) = Layout::from_size_align(bytes.max(1), 4096) else { return INVALID_VALUE };
    // SAFETY: at least one byte.
    let found = unsafe { alloc_zeroed(layout) };
    if found.is_null() {
        return OUT_OF_MEMORY;
    }
    HOST.lock().unwrap_or_else(PoisonError::into_inner).insert(found.addr(), layout);
    // SAFETY: by the caller.
    unsafe { put(memory, found.cast()) }
}

/// # Safety
/// `memory` is from `cuMemHostAlloc` and no longer used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Status {
    let Some(layout) = HOST.lock().unwrap_or_else(PoisonError::into_inner).remove(&memory.addr()) else {
        return INVALID_VALUE;
    };
    // SAFETY: allocated above with this layout, freed once.
    unsafe { dealloc(memory.cast(), layout) };
    SUCCESS
}

/// # Safety
/// `from` holds `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> Status {
    let mut state = state();
    if state.captures.contains_key(&stream.addr()) {
        return CAPTURE_UNSUPPORTED;
    }
    // SAFETY: by the caller.
    let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
    state.gpu.write(to, from).map_or(INVALID_VALUE, |()| SUCCESS)
}

/// # Safety
/// `to` has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> Status {
    let state = state();
    if state.captures.contains_key(&stream.addr()) {
        return CAPTURE_UNSUPPORTED;
    }
    // SAFETY: by the caller.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
    state.gpu.read(from, to).map_or(INVALID_VALUE, |()| SUCCESS)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> Status {
    do_or_record(stream, Node::Copy { to, from, bytes: bytes as u64 })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: *mut c_void) -> Status {
    do_or_record(stream, Node::Fill { to, bytes: vec![value], count })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: *mut c_void) -> Status {
    do_or_record(stream, Node::Fill { to, bytes: value.to_le_bytes().to_vec(), count })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: *mut c_void) -> Status {
    do_or_record(stream, Node::Fill { to, bytes: value.to_le_bytes().to_vec(), count })
}
