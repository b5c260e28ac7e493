//! Devices, contexts, errors, and the way to every other function.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::{
    abi::{Answer, error, exported, offer, put, status},
    state::state,
    work::synchronise,
};

/// The only context: the primary one of the only device.
fn context() -> *mut c_void {
    std::ptr::without_provenance_mut(16)
}

/// Name of the device, as it says it itself.
pub(crate) const NAME: &[u8] = b"Emulated GPU\0";

fn only(device: c_int) -> Answer {
    if device == 0 { Ok(()) } else { Err(error::INVALID_DEVICE) }
}

/// A function of this library by name.
pub(crate) fn lookup(name: &CStr) -> Option<*mut c_void> {
    let mut own = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: an address of this library, and room for what is said of it.
    if unsafe { libc::dladdr(NAME.as_ptr().cast(), own.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: filled by the call above, which succeeded; the name lives as long as the library.
    let handle = unsafe { libc::dlopen(own.assume_init().dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    // SAFETY: an open library and a name that ends with zero.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    // Where the handle is null, the search went through the whole program, which may find a real library.
    (!handle.is_null() && !found.is_null()).then_some(found)
}

/// The newest form of a function of the driver.
pub(crate) fn entry_point(name: &CStr) -> Option<*mut c_void> {
    let name = name.to_str().ok().filter(|name| name.starts_with("cu"))?;
    let newest = |version| lookup(&CString::new(format!("{name}{version}")).ok()?);
    ["_v4", "_v3", "_v2", ""].into_iter().find_map(newest)
}

exported! { status;
    fn cuInit(_flags: c_uint) { Ok(()) }

    fn cuDriverGetVersion(version: *mut c_int) { put(version, 13000) }

    fn cuDeviceGetCount(count: *mut c_int) { put(count, 1) }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        only(ordinal)?;
        put(device, 0)
    }

    fn cuDeviceGetName(name: *mut c_char, bytes: c_int, device: c_int) {
        only(device)?;
        if name.is_null() || (bytes as usize) < NAME.len() {
            return Err(error::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, NAME.len());
        Ok(())
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        only(device)?;
        put(uuid, *b"emulated GPU 0\0\0")
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        only(device)?;
        put(bytes, state().total_bytes as usize)
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) {
        only(device)?;
        put(value, state().capability.attribute(attribute)?)
    }

    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) {
        only(device)?;
        put(major, state().capability.major)?;
        put(minor, state().capability.minor)
    }

    fn cuDeviceGetPCIBusId(text: *mut c_char, bytes: c_int, device: c_int) {
        only(device)?;
        let id = c"0000:00:00.0".to_bytes_with_nul();
        if text.is_null() || (bytes as usize) < id.len() {
            return Err(error::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(id.as_ptr().cast(), text, id.len());
        Ok(())
    }

    fn cuDeviceCanAccessPeer(can: *mut c_int, _device: c_int, _peer: c_int) { put(can, 0) }

    fn cuDevicePrimaryCtxRetain(found: *mut *mut c_void, device: c_int) {
        only(device)?;
        put(found, context())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) { only(device) }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) { only(device) }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        only(device)?;
        offer(flags, 0);
        put(active, 1)
    }

    fn cuCtxCreate_v2(found: *mut *mut c_void, _flags: c_uint, device: c_int) {
        only(device)?;
        put(found, context())
    }

    fn cuCtxCreate_v4(found: *mut *mut c_void, _parameters: *mut c_void, _flags: c_uint, device: c_int) {
        only(device)?;
        put(found, context())
    }

    fn cuCtxDestroy_v2(_context: *mut c_void) { Ok(()) }

    fn cuCtxSetCurrent(_context: *mut c_void) { Ok(()) }

    fn cuCtxPushCurrent_v2(_context: *mut c_void) { Ok(()) }

    fn cuCtxPopCurrent_v2(found: *mut *mut c_void) {
        offer(found, context());
        Ok(())
    }

    fn cuCtxGetCurrent(found: *mut *mut c_void) { put(found, context()) }

    fn cuCtxGetDevice(device: *mut c_int) { put(device, 0) }

    fn cuCtxGetApiVersion(_context: *mut c_void, version: *mut c_uint) { put(version, 3020) }

    fn cuCtxSynchronize() { synchronise(None) }

    fn cuCtxSetLimit(_limit: c_int, _value: usize) { Ok(()) }

    fn cuCtxGetLimit(value: *mut usize, _limit: c_int) { put(value, 1 << 20) }

    fn cuCtxSetCacheConfig(_configuration: c_int) { Ok(()) }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        offer(least, 0);
        offer(greatest, -5);
        Ok(())
    }

    fn cuGetErrorName(of: c_uint, name: *mut *const c_char) { put(name, error::words(of).0.as_ptr()) }

    fn cuGetErrorString(of: c_uint, text: *mut *const c_char) { put(text, error::words(of).1.as_ptr()) }

    // What NVIDIA's runtime and libraries share with NVIDIA's driver is between them.
    fn cuGetExportTable(_table: *mut *const c_void, _id: *const c_void) { Err(error::NOT_FOUND) }

    fn cuGetProcAddress(name: *const c_char, function: *mut *mut c_void, _version: c_int, _flags: c_ulonglong) {
        let found = entry_point(CStr::from_ptr(name));
        put(function, found.unwrap_or(std::ptr::null_mut()))?;
        found.map(|_| ()).ok_or(error::NOT_FOUND)
    }

    fn cuGetProcAddress_v2(
        name: *const c_char,
        function: *mut *mut c_void,
        version: c_int,
        _flags: c_ulonglong,
        found: *mut c_int,
    ) {
        // Its own older form has other parameters.
        let address = match CStr::from_ptr(name) {
            name if name == c"cuGetProcAddress" && version < 12000 => lookup(c"cuGetProcAddress"),
            name => entry_point(name),
        };
        offer(found, c_int::from(address.is_none()));
        put(function, address.unwrap_or(std::ptr::null_mut()))?;
        address.map(|_| ()).ok_or(error::NOT_FOUND)
    }

    fn cuProfilerStart() { Ok(()) }

    fn cuProfilerStop() { Ok(()) }
}
