//! `include/ptx_emulator.h`, which documents every function.

#![allow(clippy::missing_safety_doc, reason = "the header says what each pointer must be")]

mod report;

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_void},
    fmt,
};

use ptx_emulator::{Checks, Counters, Gpu, LaunchShape, Module, Options};

use report::{Held, PtxReport, text};

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// `ptx_status`
pub type Status = u32;
const OK: Status = 0;
const USAGE: Status = 1;
const LOAD: Status = 2;
const MEMORY: Status = 3;
const FAULT: Status = 4;

/// A GPU with what the last call left.
pub struct PtxGpu {
    gpu: Gpu,
    counters: Counters,
    fault: Option<Box<Held>>,
    #[allow(clippy::vec_box, reason = "C holds pointers to them")]
    notes: Vec<Box<Held>>,
    printed: CString,
}

/// A module with its names as C reads them.
pub struct PtxModule {
    module: Module,
    entries: Vec<(CString, Vec<CString>)>,
}

/// `ptx_options`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PtxOptions {
    seed: u64,
    memory_bytes: u64,
    max_warp_instructions: u64,
    checks: u32,
    max_shared_bytes: u32,
    threads: u32,
    poison: u32,
    perturb_approx: u32,
    weak_memory: u32,
}

/// `ptx_shape`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PtxShape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    cluster: [u32; 3],
    cooperative: u32,
}

/// `ptx_parameter`
#[repr(C)]
pub struct PtxParameter {
    name: *const c_char,
    offset: u32,
    bytes: u32,
    align: u32,
}

fn fail(status: Status, why: impl fmt::Display) -> Status {
    LAST.set(text(&why.to_string()));
    status
}

fn told<E: fmt::Display>(result: Result<(), E>) -> Status {
    result.map_or_else(|why| fail(MEMORY, why), |()| OK)
}

/// Ends a call where a pointer is null; else what it points to.
macro_rules! given {
    (mut $pointer:ident) => {
        // SAFETY: null, or what the header asks for.
        match unsafe { $pointer.as_mut() } {
            Some(found) => found,
            None => return fail(USAGE, concat!(stringify!($pointer), " is null")),
        }
    };
    ($pointer:ident) => {
        // SAFETY: null, or what the header asks for.
        match unsafe { $pointer.as_ref() } {
            Some(found) => found,
            None => return fail(USAGE, concat!(stringify!($pointer), " is null")),
        }
    };
    (text $pointer:ident) => {{
        if $pointer.is_null() {
            return fail(USAGE, concat!(stringify!($pointer), " is null"));
        }
        // SAFETY: a text that ends with zero.
        match unsafe { CStr::from_ptr($pointer) }.to_str() {
            Ok(text) => text,
            Err(_) => return fail(USAGE, concat!(stringify!($pointer), " is not UTF-8")),
        }
    }};
}

#[unsafe(no_mangle)]
pub extern "C" fn ptx_last_error() -> *const c_char {
    // The text stays where it is until the next failure of this thread.
    LAST.with_borrow(|last| last.as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn ptx_default_options() -> PtxOptions {
    let usual = Options::default();
    PtxOptions {
        seed: usual.seed,
        memory_bytes: usual.memory_bytes,
        max_warp_instructions: usual.max_warp_instructions,
        checks: 7,
        max_shared_bytes: usual.max_shared_bytes,
        threads: usual.threads as u32,
        poison: u32::from(usual.poison),
        perturb_approx: u32::from(usual.perturb_approx),
        weak_memory: u32::from(usual.weak_memory),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_gpu_new(options: *const PtxOptions) -> *mut PtxGpu {
    // SAFETY: null or options.
    let o = unsafe { options.as_ref() }.copied().unwrap_or_else(|| ptx_default_options());
    let gpu = Gpu::new(Options {
        seed: o.seed,
        checks: Checks { init: o.checks & 1 != 0, race: o.checks & 2 != 0, sync: o.checks & 4 != 0 },
        poison: o.poison != 0,
        perturb_approx: o.perturb_approx != 0,
        weak_memory: o.weak_memory != 0,
        threads: o.threads.max(1) as usize,
        max_warp_instructions: o.max_warp_instructions,
        memory_bytes: o.memory_bytes,
        max_shared_bytes: o.max_shared_bytes,
        ..Options::default()
    });
    let (counters, fault, notes, printed) = Default::default();
    Box::into_raw(Box::new(PtxGpu { gpu, counters, fault, notes, printed }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_gpu_free(gpu: *mut PtxGpu) {
    if !gpu.is_null() {
        // SAFETY: from `ptx_gpu_new`, freed once.
        drop(unsafe { Box::from_raw(gpu) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_module_load(ptx: *const c_char, bytes: usize, module: *mut *mut PtxModule) -> Status {
    let module = given!(mut module);
    *module = std::ptr::null_mut();
    if ptx.is_null() {
        return fail(USAGE, "text is null");
    }
    // SAFETY: as many bytes as the caller says.
    let Ok(ptx) = std::str::from_utf8(unsafe { std::slice::from_raw_parts(ptx.cast(), bytes) }) else {
        return fail(USAGE, "the PTX is not UTF-8");
    };
    match Module::load(ptx) {
        Ok(loaded) => {
            let names = |entry: &ptx_emulator::Entry| {
                (text(&entry.name), entry.params.iter().map(|param| text(&param.name)).collect())
            };
            let entries = loaded.entries().map(names).collect();
            *module = Box::into_raw(Box::new(PtxModule { module: loaded, entries }));
            OK
        }
        Err(why) => fail(LOAD, why),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_module_free(module: *mut PtxModule) {
    if !module.is_null() {
        // SAFETY: from `ptx_module_load`, freed once.
        drop(unsafe { Box::from_raw(module) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_module_entry(module: *const PtxModule, number: usize) -> *const c_char {
    // SAFETY: null or a module.
    let found = unsafe { module.as_ref() }.and_then(|module| module.entries.get(number));
    found.map_or(std::ptr::null(), |(name, _)| name.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_module_parameter(
    module: *const PtxModule,
    entry: *const c_char,
    number: usize,
    parameter: *mut PtxParameter,
) -> Status {
    let (module, parameter, name) = (given!(module), given!(mut parameter), given!(text entry));
    let Some(entry) = module.module.entry(name) else {
        return fail(USAGE, format!("the module has no kernel {name}"));
    };
    let names = module.entries.iter().find(|(known, _)| known.to_bytes() == name.as_bytes());
    let (Some(param), Some(shown)) = (entry.params.get(number), names.and_then(|(_, names)| names.get(number))) else {
        return fail(USAGE, format!("{name} has {} parameters, none of number {number}", entry.params.len()));
    };
    *parameter = PtxParameter { name: shown.as_ptr(), offset: param.offset, bytes: param.bytes, align: param.align };
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_alloc(gpu: *mut PtxGpu, bytes: u64, name: *const c_char, address: *mut u64) -> Status {
    let (gpu, address) = (given!(mut gpu), given!(mut address));
    let name = if name.is_null() { "" } else { given!(text name) };
    told(gpu.gpu.alloc_named(bytes, name).map(|found| *address = found))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_free(gpu: *mut PtxGpu, address: u64) -> Status {
    told(given!(mut gpu).gpu.free(address))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_write(gpu: *mut PtxGpu, address: u64, from: *const c_void, bytes: usize) -> Status {
    let gpu = given!(mut gpu);
    if bytes == 0 {
        return OK;
    }
    if from.is_null() {
        return fail(USAGE, "from is null");
    }
    // SAFETY: as many bytes as the caller says.
    told(gpu.gpu.write(address, unsafe { std::slice::from_raw_parts(from.cast(), bytes) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_read(gpu: *const PtxGpu, address: u64, to: *mut c_void, bytes: usize) -> Status {
    let gpu = given!(gpu);
    if bytes == 0 {
        return OK;
    }
    if to.is_null() {
        return fail(USAGE, "to is null");
    }
    // SAFETY: room for as many bytes as the caller says.
    told(gpu.gpu.read(address, unsafe { std::slice::from_raw_parts_mut(to.cast(), bytes) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_fill(gpu: *mut PtxGpu, address: u64, value: u8, bytes: u64) -> Status {
    told(given!(mut gpu).gpu.fill(address, value, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_copy(gpu: *mut PtxGpu, to: u64, from: u64, bytes: u64) -> Status {
    told(given!(mut gpu).gpu.copy(to, from, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_forget(gpu: *mut PtxGpu, address: u64, bytes: u64) -> Status {
    told(given!(mut gpu).gpu.forget(address, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_symbol(
    gpu: *mut PtxGpu,
    module: *const PtxModule,
    name: *const c_char,
    address: *mut u64,
    bytes: *mut u64,
) -> Status {
    let (gpu, module, name) = (given!(mut gpu), given!(module), given!(text name));
    let (address, bytes) = (given!(mut address), given!(mut bytes));
    match gpu.gpu.symbol(&module.module, name) {
        Ok(Some(found)) => {
            (*address, *bytes) = found;
            OK
        }
        Ok(None) => fail(USAGE, format!("the module has no variable {name}")),
        Err(why) => fail(MEMORY, why),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_launch(
    gpu: *mut PtxGpu,
    module: *const PtxModule,
    entry: *const c_char,
    shape: *const PtxShape,
    parameters: *const c_void,
    bytes: usize,
) -> Status {
    let (gpu, module, entry, shape) = (given!(mut gpu), given!(module), given!(text entry), given!(shape));
    if parameters.is_null() && bytes > 0 {
        return fail(USAGE, "parameters is null");
    }
    // SAFETY: as many bytes as the caller says.
    let params = if bytes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(parameters.cast(), bytes) } };
    let shape = LaunchShape {
        grid: shape.grid,
        block: shape.block,
        dynamic_shared_bytes: shape.dynamic_shared_bytes,
        cluster: (shape.cluster != [0; 3]).then_some(shape.cluster),
        cooperative: shape.cooperative != 0,
    };
    (gpu.fault, gpu.counters) = (None, Counters::default());
    match gpu.gpu.launch_as(&module.module, entry, &shape, params) {
        Ok(counters) => {
            gpu.counters = counters;
            OK
        }
        Err(fault) => {
            gpu.fault = Some(Held::new(fault.report()));
            fail(FAULT, fault)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_last_report(gpu: *const PtxGpu) -> *const PtxReport {
    // SAFETY: null or a GPU.
    let fault = unsafe { gpu.as_ref() }.and_then(|gpu| gpu.fault.as_ref());
    fault.map_or(std::ptr::null(), |held| held.report())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_note(gpu: *mut PtxGpu, number: usize) -> *const PtxReport {
    // SAFETY: null or a GPU.
    let Some(gpu) = (unsafe { gpu.as_mut() }) else { return std::ptr::null() };
    let fresh = gpu.gpu.notes().iter().skip(gpu.notes.len()).map(Held::new);
    gpu.notes.extend(fresh);
    gpu.notes.get(number).map_or(std::ptr::null(), |held| held.report())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_counter(gpu: *const PtxGpu, name: *const c_char) -> u64 {
    // SAFETY: null or a GPU.
    let Some(gpu) = (unsafe { gpu.as_ref() }).filter(|_| !name.is_null()) else { return 0 };
    // SAFETY: a text that ends with zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let fields = gpu.counters.fields();
    fields.iter().find(|(known, _)| known.as_bytes() == name).map_or(0, |(_, value)| *value)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_take_printed(gpu: *mut PtxGpu) -> *const c_char {
    // SAFETY: null or a GPU.
    let Some(gpu) = (unsafe { gpu.as_mut() }) else { return c"".as_ptr() };
    gpu.printed = text(&gpu.gpu.take_printed());
    gpu.printed.as_ptr()
}
