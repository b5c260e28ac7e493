//! Modules, functions and launches.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::Arc,
};

use ptx_emulator::Module;

use crate::{
    INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS, Status,
    graph::{Node, do_or_record},
    put,
};

struct Function {
    module: Module,
    entry: Arc<str>,
}

const ERROR_LOG_BUFFER: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// # Safety
/// `image` is zero-terminated PTX; there are `count` options with a value each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    count: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
) -> Status {
    // SAFETY: by the caller.
    let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
    match Module::load(&text) {
        // SAFETY: by the caller.
        Ok(loaded) => unsafe { put(module, Box::into_raw(Box::new(loaded)).cast()) },
        Err(error) => {
            let (mut log, mut bytes) = (std::ptr::null_mut::<u8>(), 0);
            for i in 0..count as usize {
                // SAFETY: there are `count` of each.
                let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
                match option {
                    ERROR_LOG_BUFFER => log = value.cast(),
                    ERROR_LOG_BYTES => bytes = value.addr(),
                    _ => {}
                }
            }
            let said = error.to_string();
            if !log.is_null() && bytes > said.len() {
                // SAFETY: the log has `bytes` bytes, which is more than the text.
                unsafe {
                    std::ptr::copy_nonoverlapping(said.as_ptr(), log, said.len());
                    log.add(said.len()).write(0);
                }
            }
            INVALID_PTX
        }
    }
}

/// # Safety
/// `module` is from `cuModuleLoadDataEx`, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: *mut c_void) -> Status {
    // SAFETY: a box of ours, dropped once; functions hold the module themselves.
    drop(unsafe { Box::from_raw(module.cast::<Module>()) });
    SUCCESS
}

/// # Safety
/// `module` is live, `name` zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Status {
    // SAFETY: by the caller.
    let (module, name) = unsafe { (&*module.cast::<Module>(), CStr::from_ptr(name).to_string_lossy()) };
    if module.entry(&name).is_none() {
        return NOT_FOUND;
    }
    // Lives as long as the program, as there are as many as there are kernels.
    let found = Box::new(Function { module: module.clone(), entry: name.as_ref().into() });
    // SAFETY: by the caller.
    unsafe { put(function, Box::into_raw(found).cast()) }
}

/// # Safety
/// `function` is from `cuModuleGetFunction`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: *mut c_void) -> Status {
    // SAFETY: by the caller.
    let Function { module, entry } = unsafe { &*function.cast::<Function>() };
    let Some(entry) = module.entry(entry) else { return INVALID_VALUE };
    let found = match attribute {
        0 => entry.max_threads.map_or(1024, |t| t.iter().product::<u32>()) as c_int,
        1 => entry.shared_bytes as c_int,
        // Registers and local memory are the assembler's choice; there is none here.
        3 | 4 => 0,
        _ => return INVALID_VALUE,
    };
    // SAFETY: by the caller.
    unsafe { put(value, found) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(_: *mut c_void, _: c_int, _: c_int) -> Status {
    SUCCESS
}

/// # Safety
/// `function` is live; `params` points to a pointer to its one parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    params: *mut *mut c_void,
    _: *mut *mut c_void,
) -> Status {
    // SAFETY: by the caller.
    let Function { module, entry } = unsafe { &*function.cast::<Function>() };
    let Some(found) = module.entry(entry) else { return INVALID_VALUE };
    // SAFETY: by the caller; the entry's own declaration says how long its parameter is, as with the real driver.
    let params = unsafe { std::slice::from_raw_parts((*params).cast::<u8>(), found.param_bytes as usize) }.to_vec();
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    if grid.contains(&0) || grid[1] > 65535 || grid[2] > 65535 {
        return INVALID_VALUE;
    }
    let (module, entry) = (module.clone(), entry.clone());
    do_or_record(stream, Node::Launch { module, entry, grid, block, shared_bytes, params })
}

/// No tensor memory accelerator: this GPU is of compute capability 8.0.
#[unsafe(no_mangle)]
pub extern "C" fn cuTensorMapEncodeTiled() -> Status {
    INVALID_VALUE
}
