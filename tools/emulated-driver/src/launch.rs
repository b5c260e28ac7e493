//! Modules, functions and launches.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::Arc,
};

use ptx_emulator::Module;

use crate::{
    INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS, Status,
    graph::{Node, do_or_record},
    put,
};

struct Function {
    module: Module,
    entry: Arc<str>,
}

const INFO_LOG_BUFFER: c_int = 3;
const ERROR_LOG_BUFFER: c_int = 5;

/// How compiled code begins here; PTX and a zero follow.
const MAGIC: &[u8] = b"emulated ";

/// A text being compiled. Real drivers report at the end, into buffers named at the beginning.
struct Link {
    /// Where what is said goes, and how many bytes fit.
    info: (*mut u8, usize),
    error: (*mut u8, usize),
    code: Vec<u8>,
}

/// Writes a text with a zero, or nothing where there is no room.
///
/// # Safety
/// `to` is null or has `bytes` bytes.
unsafe fn say((to, bytes): (*mut u8, usize), text: &str) {
    if !to.is_null() && bytes > text.len() {
        // SAFETY: there is room for the text and a zero.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
            to.add(text.len()).write(0);
        }
    }
}

/// # Safety
/// There are `count` options with a value each; buffers they name outlive the state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkCreate_v2(
    count: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
    state: *mut *mut c_void,
) -> Status {
    let log = |buffer: c_int| {
        let (mut at, mut bytes) = (std::ptr::null_mut(), 0);
        for i in 0..count as usize {
            // SAFETY: there are `count` of each.
            let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
            match option - buffer {
                0 => at = value.cast(),
                1 => bytes = value.addr(),
                _ => {}
            }
        }
        (at, bytes)
    };
    let link = Link { info: log(INFO_LOG_BUFFER), error: log(ERROR_LOG_BUFFER), code: Vec::new() };
    // SAFETY: by the caller.
    unsafe { put(state, Box::into_raw(Box::new(link)).cast()) }
}

/// # Safety
/// `state` is live, `data` zero-terminated PTX of `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkAddData_v2(
    state: *mut c_void,
    _: c_int,
    data: *const c_void,
    bytes: usize,
    _: *const c_char,
    _: c_uint,
    _: *const c_int,
    _: *const *mut c_void,
) -> Status {
    // SAFETY: by the caller.
    let (link, data) = unsafe { (&mut *state.cast::<Link>(), std::slice::from_raw_parts(data.cast::<u8>(), bytes)) };
    match Module::load(String::from_utf8_lossy(data).trim_end_matches('\0')) {
        Ok(module) => {
            link.code = [MAGIC, data].concat();
            for entry in module.entries() {
                let said = format!("info    : Compiling entry function '{}', 0 bytes spill stores", entry.name);
                // SAFETY: the buffer outlives the state, by the caller of `cuLinkCreate`.
                unsafe { say(link.info, &said) };
            }
            SUCCESS
        }
        Err(error) => {
            // SAFETY: as above.
            unsafe { say(link.error, &error.to_string()) };
            INVALID_PTX
        }
    }
}

/// # Safety
/// `state` is live; the code is its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkComplete(state: *mut c_void, code: *mut *mut c_void, bytes: *mut usize) -> Status {
    // SAFETY: by the caller.
    let link = unsafe { &mut *state.cast::<Link>() };
    // SAFETY: by the caller.
    unsafe { put(bytes, link.code.len()).max(put(code, link.code.as_mut_ptr().cast())) }
}

/// # Safety
/// `state` is from `cuLinkCreate`, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkDestroy(state: *mut c_void) -> Status {
    // SAFETY: a box of ours, dropped once.
    drop(unsafe { Box::from_raw(state.cast::<Link>()) });
    SUCCESS
}

/// # Safety
/// `image` is what `cuLinkComplete` gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    _: c_uint,
    _: *const c_int,
    _: *const *mut c_void,
) -> Status {
    // SAFETY: by the caller: it ends in a zero, and none lies before.
    let image = unsafe { CStr::from_ptr(image.cast()) };
    let Some(ptx) = image.to_bytes().strip_prefix(MAGIC) else { return INVALID_IMAGE };
    match Module::load(&String::from_utf8_lossy(ptx)) {
        // SAFETY: by the caller.
        Ok(loaded) => unsafe { put(module, Box::into_raw(Box::new(loaded)).cast()) },
        Err(_) => INVALID_IMAGE,
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
