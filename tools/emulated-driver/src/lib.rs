//! A `libcuda` with one GPU, which is the PTX emulator.
//!
//! It has the functions of the driver API that `src/device/cuda.rs` calls, and no others, so that all of that file (streams,
//! staging, pool, graphs, modules) runs where there is no GPU:
//!
//! ```text
//! cargo build --release --package emulated-driver
//! mkdir -p target/emulated && cp target/release/libemulated_driver.so target/emulated/libcuda.so.1
//! XDG_CACHE_HOME=$PWD/target/emulated LD_LIBRARY_PATH=target/emulated ISG_DEVICE=cuda cargo test --release gpu::
//! ```
//!
//! Work is done when it is queued. `EMULATED_MEMORY_MIB` sets the memory; a fault is printed and is error 719.

mod graph;
mod launch;
mod memory;

use std::{
    collections::HashMap,
    ffi::{c_char, c_int, c_uint, c_void},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use graph::Node;
use ptx_emulator::{Gpu, Options};

pub(crate) type Status = c_uint;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const INVALID_VALUE: Status = 1;
pub(crate) const OUT_OF_MEMORY: Status = 2;
pub(crate) const INVALID_IMAGE: Status = 200;
pub(crate) const INVALID_PTX: Status = 218;
pub(crate) const NOT_FOUND: Status = 500;
pub(crate) const LAUNCH_FAILED: Status = 719;
pub(crate) const CAPTURE_UNSUPPORTED: Status = 900;

/// What an A100 says of itself.
const MULTIPROCESSORS: c_int = 108;
const SHARED_BYTES: c_int = 163 << 10;

pub(crate) struct State {
    pub gpu: Gpu,
    pub held_bytes: u64,
    pub total_bytes: u64,
    /// Nodes recorded so far, by stream.
    pub captures: HashMap<usize, Vec<Node>>,
    next_handle: usize,
}

impl State {
    /// A value no other handle has.
    fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }
}

pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| {
        let mib = std::env::var("EMULATED_MEMORY_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(4096u64);
        let total_bytes = mib << 20;
        let options =
            Options { memory_bytes: total_bytes, max_shared_bytes: SHARED_BYTES as u32, ..Options::default() };
        let gpu = Gpu::new(options);
        Mutex::new(State { gpu, held_bytes: 0, total_bytes, captures: HashMap::new(), next_handle: 0 })
    });
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Status {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, and valid by the caller's word.
    unsafe { to.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: c_uint) -> Status {
    SUCCESS
}

/// # Safety
/// As every function of the driver API: pointers are valid for what they name. This holds for all of them here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    // SAFETY: by the caller.
    unsafe { put(version, 12000) }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    // SAFETY: by the caller.
    unsafe { put(count, 1) }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    if ordinal != 0 {
        return 101;
    }
    // SAFETY: by the caller.
    unsafe { put(device, 0) }
}

/// # Safety
/// As above; `name` has room for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, bytes: c_int, _: c_int) -> Status {
    let text = b"Emulated GPU\0";
    if name.is_null() || (bytes as usize) < text.len() {
        return INVALID_VALUE;
    }
    // SAFETY: there is room for the text.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len()) };
    SUCCESS
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _: c_int) -> Status {
    let found = match attribute {
        16 => MULTIPROCESSORS,
        75 => 8,
        76 => 0,
        97 => SHARED_BYTES,
        _ => return INVALID_VALUE,
    };
    // SAFETY: by the caller.
    unsafe { put(value, found) }
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _: c_int) -> Status {
    // SAFETY: by the caller.
    unsafe { put(context, std::ptr::without_provenance_mut(16)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_: c_int) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_: *mut c_void) -> Status {
    SUCCESS
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _: c_uint) -> Status {
    let handle = state().handle();
    // SAFETY: by the caller.
    unsafe { put(stream, std::ptr::without_provenance_mut(handle)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(_: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Status {
    if state().captures.contains_key(&stream.addr()) { CAPTURE_UNSUPPORTED } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(_: *mut c_void, _: *mut c_void, _: c_uint) -> Status {
    SUCCESS
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _: c_uint) -> Status {
    let handle = state().handle();
    // SAFETY: by the caller.
    unsafe { put(event, std::ptr::without_provenance_mut(handle)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(_: *mut c_void, _: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_: *mut c_void) -> Status {
    SUCCESS
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, _: *mut c_void, _: *mut c_void) -> Status {
    // SAFETY: by the caller.
    unsafe { put(ms, 1.0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(_: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Status {
    SUCCESS
}
