//! Modules, functions, launches, tensor maps.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use ptx_emulator::{
    LaunchShape,
    asynchronous::{TensorMap, encode_tensor_map},
};

use crate::{
    abi::{Answer, error, exported, offer, put, status},
    launch::{Attribute, launch},
    module::{Function, Loaded},
    state::state,
};

const ERROR_LOG_BUFFER: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// # Safety
/// `image` is PTX that ends with zero or a fat binary; `module` is for the result.
unsafe fn load(module: *mut *mut c_void, image: *const c_void) -> Answer {
    let mut state = state();
    // SAFETY: by the caller.
    match unsafe { state.load(image) } {
        // SAFETY: by the caller.
        Ok(loaded) => unsafe { put(module, state.modules.insert(loaded)) },
        Err(reason) => {
            state.refuse(&format!("a module cannot be loaded: {reason}"));
            Err(error::INVALID_PTX)
        }
    }
}

/// # Safety
/// `name` is a text, `function` for the result.
unsafe fn find(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> Answer {
    let mut state = state();
    let loaded: Loaded = state.modules.get(module)?.clone();
    // SAFETY: by the caller.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let found = state.find(&loaded, &name)?;
    // SAFETY: by the caller.
    unsafe { put(function, state.functions.insert(found)) }
}

/// Parameters as a launch gives them: one pointer each, or a buffer of all by `extra`.
///
/// # Safety
/// As `cuLaunchKernel` documents them.
unsafe fn params(function: &Function, pointers: *mut *mut c_void, extra: *mut *mut c_void) -> Answer<Vec<u8>> {
    if !pointers.is_null() || extra.is_null() {
        // SAFETY: by the caller.
        return unsafe { function.gather(pointers.cast()) };
    }
    let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), 0usize);
    for pair in 0.. {
        // SAFETY: pairs of a mark and a pointer, up to a mark of zero.
        let (mark, value) = unsafe { ((*extra.add(2 * pair)).addr(), extra.add(2 * pair + 1)) };
        match mark {
            // SAFETY: as above.
            1 => buffer = unsafe { *value }.cast(),
            // SAFETY: as above.
            2 => bytes = unsafe { *(*value).cast() },
            _ => break,
        }
    }
    let wanted = function.entry()?.param_bytes as usize;
    if buffer.is_null() || bytes < wanted {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the buffer has `bytes` bytes, which are enough.
    Ok(unsafe { std::slice::from_raw_parts(buffer, wanted) }.to_vec())
}

/// `CUlaunchConfig`
#[repr(C)]
pub struct Configuration {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: *mut c_void,
    attributes: *const Attribute,
    count: c_uint,
}

impl Configuration {
    /// # Safety
    /// There are `count` attributes.
    unsafe fn shape(&self) -> LaunchShape {
        let mut shape =
            LaunchShape { dynamic_shared_bytes: self.shared_bytes, ..LaunchShape::new(self.grid, self.block) };
        for n in 0..self.count as usize {
            // SAFETY: by the caller.
            unsafe { &*self.attributes.add(n) }.apply(&mut shape);
        }
        shape
    }
}

exported! { status;
    fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) { load(module, image) }

    fn cuModuleLoadFatBinary(module: *mut *mut c_void, image: *const c_void) { load(module, image) }

    fn cuModuleLoad(module: *mut *mut c_void, path: *const c_char) {
        let path = CStr::from_ptr(path).to_string_lossy();
        let Ok(mut bytes) = std::fs::read(&*path) else { return Err(301) };
        bytes.push(0);
        load(module, bytes.as_ptr().cast())
    }

    fn cuModuleLoadDataEx(
        module: *mut *mut c_void,
        image: *const c_void,
        count: c_uint,
        options: *const c_int,
        values: *const *mut c_void,
    ) {
        let mut state = state();
        let said = match state.load(image) {
            Ok(loaded) => return put(module, state.modules.insert(loaded)),
            Err(said) => said,
        };
        let (mut log, mut bytes) = (std::ptr::null_mut::<u8>(), 0);
        for i in 0..count as usize {
            match *options.add(i) {
                ERROR_LOG_BUFFER => log = (*values.add(i)).cast(),
                ERROR_LOG_BYTES => bytes = (*values.add(i)).addr(),
                _ => {}
            }
        }
        if log.is_null() || bytes <= said.len() {
            state.refuse(&format!("a module cannot be loaded: {said}"));
        } else {
            std::ptr::copy_nonoverlapping(said.as_ptr(), log, said.len());
            log.add(said.len()).write(0);
        }
        Err(error::INVALID_PTX)
    }

    fn cuModuleUnload(module: *mut c_void) { state().modules.remove(module).map(|_| ()) }

    fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        find(function, module, name)
    }

    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: *mut c_void, name: *const c_char) {
        let mut state = state();
        let module = state.modules.get(module)?.module.clone();
        let found = state.gpu.symbol(&module, &CStr::from_ptr(name).to_string_lossy());
        let (at, held) = found.ok().flatten().ok_or(error::NOT_FOUND)?;
        offer(address, at);
        offer(bytes, held as usize);
        Ok(())
    }

    // 2: modules are loaded when they are used.
    fn cuModuleGetLoadingMode(mode: *mut c_int) { put(mode, 2) }

    fn cuLibraryLoadData(
        library: *mut *mut c_void,
        image: *const c_void,
        _options: *const c_int,
        _values: *const *mut c_void,
        _count: c_uint,
        _library_options: *const c_int,
        _library_values: *const *mut c_void,
        _library_count: c_uint,
    ) {
        load(library, image)
    }

    fn cuLibraryUnload(library: *mut c_void) { state().modules.remove(library).map(|_| ()) }

    fn cuLibraryGetModule(module: *mut *mut c_void, library: *mut c_void) { put(module, library) }

    fn cuLibraryGetKernel(kernel: *mut *mut c_void, library: *mut c_void, name: *const c_char) {
        find(kernel, library, name)
    }

    fn cuKernelGetFunction(function: *mut *mut c_void, kernel: *mut c_void) { put(function, kernel) }

    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: *mut c_void) {
        let state = state();
        put(value, state.function_attribute(state.functions.get(function)?, attribute)?)
    }

    fn cuFuncSetAttribute(function: *mut c_void, _attribute: c_int, _value: c_int) {
        state().functions.get(function).map(|_| ())
    }

    fn cuFuncSetCacheConfig(_function: *mut c_void, _configuration: c_int) { Ok(()) }

    fn cuLaunchKernel(
        function: *mut c_void,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: *mut c_void,
        pointers: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let function = state().functions.get(function)?.clone();
        let shape = LaunchShape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let params = params(&function, pointers, extra)?;
        launch(stream, function, LaunchShape { dynamic_shared_bytes: shared_bytes, ..shape }, params)
    }

    fn cuLaunchCooperativeKernel(
        function: *mut c_void,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: *mut c_void,
        pointers: *mut *mut c_void,
    ) {
        let function = state().functions.get(function)?.clone();
        let shape = LaunchShape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let params = params(&function, pointers, std::ptr::null_mut())?;
        launch(stream, function, LaunchShape { dynamic_shared_bytes: shared_bytes, cooperative: true, ..shape }, params)
    }

    fn cuLaunchKernelEx(
        configuration: *const Configuration,
        function: *mut c_void,
        pointers: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let function = state().functions.get(function)?.clone();
        let configuration = &*configuration;
        let params = params(&function, pointers, extra)?;
        launch(configuration.stream, function, configuration.shape(), params)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: *mut c_void,
        threads: c_int,
        shared: usize,
    ) {
        let state = state();
        put(blocks, state.occupancy(state.functions.get(function)?, threads as u32, shared)? as c_int)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int,
        function: *mut c_void,
        threads: c_int,
        shared: usize,
        _flags: c_uint,
    ) {
        let state = state();
        put(blocks, state.occupancy(state.functions.get(function)?, threads as u32, shared)? as c_int)
    }

    fn cuOccupancyMaxActiveClusters(count: *mut c_int, function: *mut c_void, configuration: *const Configuration) {
        let state = state();
        put(count, state.clusters(state.functions.get(function)?, &(*configuration).shape())?)
    }

    fn cuTensorMapEncodeTiled(
        map: *mut [u8; 128],
        element: c_int,
        rank: c_uint,
        base: u64,
        extents: *const u64,
        strides: *const u64,
        box_extents: *const u32,
        element_strides: *const u32,
        interleave: c_int,
        swizzle: c_int,
        _promotion: c_int,
        fill: c_int,
    ) {
        let mut state = state();
        if state.capability.major < 9 {
            return Err(error::INVALID_VALUE);
        }
        let element_bytes = match element {
            0 => 1,
            1 | 6 | 9 => 2,
            2 | 3 | 7 | 10..=12 => 4,
            4 | 5 | 8 => 8,
            _ => 0,
        };
        let swizzle_bytes = match swizzle {
            0..=3 => [0, 32, 64, 128][swizzle as usize],
            _ => u32::MAX,
        };
        if interleave != 0 || fill != 0 || rank == 0 || rank > 5 {
            state.refuse("a tensor map with interleave, a fill of NaN or other than 1 to 5 dimensions");
            return Err(error::INVALID_VALUE);
        }
        let rank = rank as usize;
        let encoded = encode_tensor_map(&TensorMap {
            base,
            element_bytes,
            extents: std::slice::from_raw_parts(extents, rank).to_vec(),
            strides_bytes: std::slice::from_raw_parts(strides, rank - 1).to_vec(),
            box_extents: std::slice::from_raw_parts(box_extents, rank).to_vec(),
            element_strides: std::slice::from_raw_parts(element_strides, rank).to_vec(),
            swizzle_bytes,
        });
        match encoded {
            Ok(bytes) => put(map, bytes),
            Err(reason) => {
                state.refuse(&reason.to_string());
                Err(error::INVALID_VALUE)
            }
        }
    }
}
