//! Launches, what is known of kernels, how many blocks fit.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use super::{
    register::{launch_stub, shape},
    told,
};
use crate::{
    abi::{Answer, Dim3, exported, put},
    device::SHARED_DEFAULT,
    launch::Attribute,
    state::state,
};
use ptx_emulator::LaunchShape;

/// `cudaLaunchConfig_t`
#[repr(C)]
pub struct Configuration {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: usize,
    stream: *mut c_void,
    attributes: *const Attribute,
    count: c_uint,
}

impl Configuration {
    /// # Safety
    /// There are `count` attributes.
    unsafe fn shape(&self) -> LaunchShape {
        let dynamic_shared_bytes = u32::try_from(self.shared_bytes).unwrap_or(u32::MAX);
        let mut shape = LaunchShape { dynamic_shared_bytes, ..LaunchShape::new(self.grid, self.block) };
        for n in 0..self.count as usize {
            // SAFETY: by the caller.
            unsafe { &*self.attributes.add(n) }.apply(&mut shape);
        }
        shape
    }
}

/// `cudaFuncAttributes`
#[repr(C)]
pub struct FunctionAttributes {
    shared_bytes: usize,
    constant_bytes: usize,
    local_bytes: usize,
    max_threads: c_int,
    registers: c_int,
    ptx_version: c_int,
    binary_version: c_int,
    cached_globals: c_int,
    max_dynamic_shared_bytes: c_int,
    shared_carveout: c_int,
    cluster_must_be_set: c_int,
    required_cluster: [c_int; 3],
    cluster_policy: c_int,
    any_cluster_size: c_int,
    reserved: [c_int; 16],
}

/// Blocks of a kernel on a multiprocessor.
fn blocks(function: *const c_void, threads: c_int, shared_bytes: usize) -> Answer<c_int> {
    let mut state = state();
    let function = state.function(function)?;
    Ok(state.occupancy(&function, threads.max(0) as u32, shared_bytes)? as c_int)
}

exported! { told;
    fn cudaLaunchKernel(
        function: *const c_void,
        grid: Dim3,
        block: Dim3,
        pointers: *mut *mut c_void,
        shared_bytes: usize,
        stream: *mut c_void,
    ) {
        launch_stub(function, shape(grid, block, shared_bytes)?, pointers, stream)
    }

    fn cudaLaunchCooperativeKernel(
        function: *const c_void,
        grid: Dim3,
        block: Dim3,
        pointers: *mut *mut c_void,
        shared_bytes: usize,
        stream: *mut c_void,
    ) {
        let shape = LaunchShape { cooperative: true, ..shape(grid, block, shared_bytes)? };
        launch_stub(function, shape, pointers, stream)
    }

    fn cudaLaunchKernelExC(configuration: *const Configuration, function: *const c_void, pointers: *mut *mut c_void) {
        let configuration = &*configuration;
        launch_stub(function, configuration.shape(), pointers, configuration.stream)
    }

    fn cudaFuncGetAttributes(attributes: *mut FunctionAttributes, function: *const c_void) {
        let mut state = state();
        let function = state.function(function)?;
        let entry = function.entry()?;
        let threads = entry.required_threads.or(entry.max_threads).map_or(1024, |t| t.iter().product::<u32>());
        let version = state.capability.number() as c_int;
        put(attributes, FunctionAttributes {
            shared_bytes: entry.shared_bytes as usize,
            constant_bytes: 0,
            local_bytes: 0,
            max_threads: threads as c_int,
            registers: 0,
            ptx_version: version,
            binary_version: version,
            cached_globals: 0,
            max_dynamic_shared_bytes: SHARED_DEFAULT as c_int - entry.shared_bytes as c_int,
            shared_carveout: 0,
            cluster_must_be_set: c_int::from(entry.cluster.is_some()),
            required_cluster: entry.cluster.unwrap_or_default().map(|n| n as c_int),
            cluster_policy: 0,
            any_cluster_size: 0,
            reserved: [0; 16],
        })
    }

    fn cudaFuncSetAttribute(function: *const c_void, _attribute: c_int, _value: c_int) {
        state().function(function).map(|_| ())
    }

    fn cudaFuncSetCacheConfig(_function: *const c_void, _configuration: c_int) { Ok(()) }

    fn cudaFuncSetSharedMemConfig(_function: *const c_void, _configuration: c_int) { Ok(()) }

    fn cudaGetFuncBySymbol(function: *mut *mut c_void, stub: *const c_void) {
        let mut state = state();
        let found = state.function(stub)?;
        put(function, state.functions.insert(found))
    }

    fn cudaFuncGetName(name: *mut *const c_char, function: *const c_void) {
        let found = state().function(function)?;
        // As long as the program, as on the device: there are as many as there are kernels.
        let kept = CString::new(&*found.entry).unwrap_or_default().into_raw();
        put(name, kept.cast_const())
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        count: *mut c_int,
        function: *const c_void,
        threads: c_int,
        shared_bytes: usize,
    ) {
        put(count, blocks(function, threads, shared_bytes)?)
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: *mut c_int,
        function: *const c_void,
        threads: c_int,
        shared_bytes: usize,
        _flags: c_uint,
    ) {
        put(count, blocks(function, threads, shared_bytes)?)
    }

    fn cudaOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize,
        function: *const c_void,
        blocks: c_int,
        _threads: c_int,
    ) {
        let mut state = state();
        let function = state.function(function)?;
        put(bytes, state.shared_available(&function, blocks.max(1) as u32)?)
    }

    fn cudaOccupancyMaxActiveClusters(
        count: *mut c_int,
        function: *const c_void,
        configuration: *const Configuration,
    ) {
        let mut state = state();
        let function = state.function(function)?;
        put(count, state.clusters(&function, &(*configuration).shape())?)
    }

    fn cudaOccupancyMaxPotentialClusterSize(
        size: *mut c_int,
        function: *const c_void,
        _configuration: *const Configuration,
    ) {
        state().function(function)?;
        put(size, 8)
    }
}
