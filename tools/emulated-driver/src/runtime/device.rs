//! The device, its properties, limits and errors.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use super::{LAST, told};
use crate::{
    abi::{Answer, Status, error, exported, offer, put},
    device::{
        BLOCKS_PER_MULTIPROCESSOR, Capability, MULTIPROCESSORS, SHARED_DEFAULT, SHARED_RESERVED,
        THREADS_PER_MULTIPROCESSOR,
    },
    driver::context::{NAME, entry_point},
    state::state,
    work::synchronise,
};

/// `cudaDeviceProp` of CUDA 13.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    name: [u8; 256],
    uuid: [u8; 16],
    luid: [u8; 8],
    luid_device_node_mask: c_uint,
    total_global_mem: usize,
    shared_mem_per_block: usize,
    regs_per_block: c_int,
    warp_size: c_int,
    mem_pitch: usize,
    max_threads_per_block: c_int,
    max_threads_dim: [c_int; 3],
    max_grid_size: [c_int; 3],
    total_const_mem: usize,
    major: c_int,
    minor: c_int,
    texture_alignment: usize,
    texture_pitch_alignment: usize,
    multi_processor_count: c_int,
    integrated: c_int,
    can_map_host_memory: c_int,
    /// Extents of textures and surfaces, which are not emulated.
    textures: [c_int; 39],
    surface_alignment: usize,
    concurrent_kernels: c_int,
    ecc_enabled: c_int,
    pci_bus_id: c_int,
    pci_device_id: c_int,
    pci_domain_id: c_int,
    tcc_driver: c_int,
    async_engine_count: c_int,
    unified_addressing: c_int,
    memory_bus_width: c_int,
    l2_cache_size: c_int,
    persisting_l2_cache_max_size: c_int,
    max_threads_per_multi_processor: c_int,
    stream_priorities_supported: c_int,
    global_l1_cache_supported: c_int,
    local_l1_cache_supported: c_int,
    shared_mem_per_multiprocessor: usize,
    regs_per_multiprocessor: c_int,
    managed_memory: c_int,
    is_multi_gpu_board: c_int,
    multi_gpu_board_group_id: c_int,
    host_native_atomic_supported: c_int,
    pageable_memory_access: c_int,
    concurrent_managed_access: c_int,
    compute_preemption_supported: c_int,
    can_use_host_pointer_for_registered_mem: c_int,
    cooperative_launch: c_int,
    shared_mem_per_block_optin: usize,
    pageable_memory_access_uses_host_page_tables: c_int,
    direct_managed_mem_access_from_host: c_int,
    max_blocks_per_multi_processor: c_int,
    access_policy_max_window_size: c_int,
    reserved_shared_mem_per_block: usize,
    /// From `hostRegisterSupported` to `ipcEventSupported`.
    interoperation: [c_int; 11],
    cluster_launch: c_int,
    /// From `unifiedFunctionPointers` to the end.
    rest: [c_int; 64],
}

impl Properties {
    fn of(capability: Capability, total_bytes: u64) -> Self {
        // SAFETY: numbers and arrays of numbers, for which zeros are values.
        let mut p: Self = unsafe { std::mem::zeroed() };
        p.name[..NAME.len()].copy_from_slice(NAME);
        p.uuid = *b"emulated GPU 0\0\0";
        p.total_global_mem = total_bytes as usize;
        p.shared_mem_per_block = SHARED_DEFAULT as usize;
        (p.regs_per_block, p.regs_per_multiprocessor) = (1 << 16, 1 << 16);
        p.warp_size = 32;
        p.mem_pitch = i32::MAX as usize;
        p.max_threads_per_block = 1024;
        p.max_threads_dim = [1024, 1024, 64];
        p.max_grid_size = [i32::MAX, 65535, 65535];
        p.total_const_mem = 64 << 10;
        (p.major, p.minor) = (capability.major, capability.minor);
        (p.texture_alignment, p.texture_pitch_alignment) = (512, 32);
        p.multi_processor_count = MULTIPROCESSORS;
        p.can_map_host_memory = 1;
        p.concurrent_kernels = 1;
        p.async_engine_count = 1;
        p.unified_addressing = 1;
        p.memory_bus_width = 5120;
        p.l2_cache_size = 50 << 20;
        p.max_threads_per_multi_processor = THREADS_PER_MULTIPROCESSOR as c_int;
        p.stream_priorities_supported = 1;
        (p.global_l1_cache_supported, p.local_l1_cache_supported) = (1, 1);
        p.shared_mem_per_multiprocessor = capability.shared_per_multiprocessor() as usize;
        (p.managed_memory, p.concurrent_managed_access) = (1, 1);
        p.compute_preemption_supported = 1;
        p.cooperative_launch = 1;
        p.shared_mem_per_block_optin = capability.shared_per_block() as usize;
        p.max_blocks_per_multi_processor = BLOCKS_PER_MULTIPROCESSOR as c_int;
        p.reserved_shared_mem_per_block = SHARED_RESERVED as usize;
        p.cluster_launch = c_int::from(capability.major >= 9);
        p
    }
}

fn only(device: c_int) -> Answer {
    if device == 0 { Ok(()) } else { Err(error::INVALID_DEVICE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> Status {
    let status = LAST.take();
    state().failed.unwrap_or(status)
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> Status {
    state().failed.unwrap_or(LAST.get())
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(of: Status) -> *const c_char {
    error::words(of).1.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(of: Status) -> *const c_char {
    error::words(of).0.as_ptr()
}

exported! { told;
    fn cudaGetDeviceCount(count: *mut c_int) { put(count, 1) }

    fn cudaGetDevice(device: *mut c_int) { put(device, 0) }

    fn cudaSetDevice(device: c_int) { only(device) }

    fn cudaInitDevice(device: c_int, _flags: c_uint, _more: c_uint) { only(device) }

    fn cudaSetDeviceFlags(_flags: c_uint) { Ok(()) }

    fn cudaGetDeviceFlags(flags: *mut c_uint) { put(flags, 0) }

    fn cudaChooseDevice(device: *mut c_int, _properties: *const c_void) { put(device, 0) }

    fn cudaGetDeviceProperties(properties: *mut Properties, device: c_int) {
        only(device)?;
        let state = state();
        put(properties, Properties::of(state.capability, state.total_bytes))
    }

    fn cudaDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) {
        only(device)?;
        put(value, state().capability.attribute(attribute)?)
    }

    fn cudaDeviceGetPCIBusId(text: *mut c_char, bytes: c_int, device: c_int) {
        only(device)?;
        let id = c"0000:00:00.0".to_bytes_with_nul();
        if (bytes as usize) < id.len() {
            return Err(error::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(id.as_ptr().cast(), text, id.len());
        Ok(())
    }

    fn cudaDeviceCanAccessPeer(can: *mut c_int, _device: c_int, _peer: c_int) { put(can, 0) }

    fn cudaDeviceSynchronize() { synchronise(None) }

    fn cudaDeviceReset() {
        let mut state = state();
        state.flush_printed();
        state.failed = None;
        Ok(())
    }

    fn cudaDeviceSetLimit(_limit: c_int, _value: usize) { Ok(()) }

    fn cudaDeviceGetLimit(value: *mut usize, _limit: c_int) { put(value, 1 << 20) }

    fn cudaDeviceSetCacheConfig(_configuration: c_int) { Ok(()) }

    fn cudaDeviceGetCacheConfig(configuration: *mut c_int) { put(configuration, 0) }

    fn cudaDeviceSetSharedMemConfig(_configuration: c_int) { Ok(()) }

    fn cudaDeviceGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        offer(least, 0);
        offer(greatest, -5);
        Ok(())
    }

    fn cudaDriverGetVersion(version: *mut c_int) { put(version, 13000) }

    fn cudaRuntimeGetVersion(version: *mut c_int) { put(version, 13000) }

    fn cudaGetDriverEntryPoint(
        name: *const c_char,
        function: *mut *mut c_void,
        _flags: c_ulonglong,
        found: *mut c_int,
    ) {
        let address = entry_point(CStr::from_ptr(name));
        offer(found, c_int::from(address.is_none()));
        put(function, address.unwrap_or(std::ptr::null_mut()))
    }

    fn cudaGetDriverEntryPointByVersion(
        name: *const c_char,
        function: *mut *mut c_void,
        _version: c_uint,
        _flags: c_ulonglong,
        found: *mut c_int,
    ) {
        let address = entry_point(CStr::from_ptr(name));
        offer(found, c_int::from(address.is_none()));
        put(function, address.unwrap_or(std::ptr::null_mut()))
    }

    fn cudaProfilerStart() { Ok(()) }

    fn cudaProfilerStop() { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_lie_where_programs_look_for_them() {
        // Offsets as nvcc 13.0 gives them for `cudaDeviceProp`.
        assert_eq!(std::mem::offset_of!(Properties, major), 360);
        assert_eq!(std::mem::offset_of!(Properties, multi_processor_count), 384);
        assert_eq!(std::mem::offset_of!(Properties, surface_alignment), 552);
        assert_eq!(std::mem::offset_of!(Properties, shared_mem_per_multiprocessor), 624);
        assert_eq!(std::mem::offset_of!(Properties, shared_mem_per_block_optin), 672);
        assert_eq!(std::mem::offset_of!(Properties, cluster_launch), 748);
        assert_eq!(std::mem::size_of::<Properties>(), 1008);
    }
}
