//! What programs compiled by nvcc call before `main` and around `<<<...>>>`.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
};

use ptx_emulator::LaunchShape;

use super::told;
use crate::{
    abi::{Answer, Dim3, error, exported, offer, put},
    launch::launch,
    module::{Binary, Kernel, Variable},
    state::state,
};

struct Call {
    grid: Dim3,
    block: Dim3,
    shared_bytes: usize,
    stream: *mut c_void,
}

thread_local! {
    /// `<<<...>>>` whose kernels have not been called yet.
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// The handle of a binary is its number plus one, as a pointer.
fn number(handle: *mut *mut c_void) -> usize {
    handle.addr().wrapping_sub(1)
}

/// Text at a pointer that the program's own start gives.
///
/// # Safety
/// It ends with zero.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: by the caller.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// Launches the kernel behind a function of the program.
///
/// # Safety
/// There is a pointer to each parameter of the kernel.
pub(super) unsafe fn launch_stub(
    function: *const c_void,
    shape: LaunchShape,
    pointers: *mut *mut c_void,
    stream: *mut c_void,
) -> Answer {
    let function = state().function(function)?;
    // SAFETY: by the caller.
    let params = unsafe { function.gather(pointers.cast()) }?;
    launch(stream, function, shape, params)
}

/// The shape of `<<<grid, block, shared_bytes>>>`.
pub(super) fn shape(grid: Dim3, block: Dim3, shared_bytes: usize) -> Answer<LaunchShape> {
    let dynamic_shared_bytes = u32::try_from(shared_bytes).map_err(|_| error::INVALID_VALUE)?;
    Ok(LaunchShape { dynamic_shared_bytes, ..LaunchShape::new(grid.into(), block.into()) })
}

/// # Safety
/// `wrapper` is the program's own, and stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaRegisterFatBinary(wrapper: *const c_void) -> *mut *mut c_void {
    let mut state = state();
    state.registry.binaries.push(Binary::new(wrapper));
    std::ptr::without_provenance_mut(state.registry.binaries.len())
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinaryEnd(_: *mut *mut c_void) {}

/// At the end of the program, which may still be printing.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaUnregisterFatBinary(_: *mut *mut c_void) {
    state().flush_printed();
}

/// # Safety
/// `name` is a text.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface is as it is")]
pub unsafe extern "C" fn __cudaRegisterFunction(
    binary: *mut *mut c_void,
    stub: *const c_void,
    _device_stub: *mut c_char,
    name: *const c_char,
    _threads: c_int,
    _thread: *mut c_void,
    _block: *mut c_void,
    _block_size: *mut c_void,
    _grid_size: *mut c_void,
    _warp: *mut c_int,
) {
    // SAFETY: by the caller.
    let kernel = Kernel::new(number(binary), unsafe { text(name) });
    state().registry.kernels.insert(stub.addr(), kernel);
}

/// # Safety
/// `name` is a text.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface is as it is")]
pub unsafe extern "C" fn __cudaRegisterVar(
    binary: *mut *mut c_void,
    shadow: *mut c_char,
    _address: *mut c_char,
    name: *const c_char,
    _external: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    // SAFETY: by the caller.
    let variable = Variable { binary: number(binary), name: unsafe { text(name) }, managed: None };
    state().registry.variables.insert(shadow.addr(), variable);
}

/// # Safety
/// `name` is a text; `pointer` is where the program reads the variable's address.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface is as it is")]
pub unsafe extern "C" fn __cudaRegisterManagedVar(
    binary: *mut *mut c_void,
    pointer: *mut *mut c_void,
    _address: *mut c_char,
    name: *const c_char,
    _external: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    let managed = Some(pointer.expose_provenance());
    // SAFETY: by the caller.
    let variable = Variable { binary: number(binary), name: unsafe { text(name) }, managed };
    state().registry.variables.insert(pointer.addr(), variable);
}

/// Called before the program touches a managed variable.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(binary: *mut *mut c_void) -> c_char {
    told(state().place_managed(number(binary)));
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaPushCallConfiguration(
    grid: Dim3,
    block: Dim3,
    shared_bytes: usize,
    stream: *mut c_void,
) -> c_uint {
    CALLS.with_borrow_mut(|calls| calls.push(Call { grid, block, shared_bytes, stream }));
    0
}

exported! { told;
    fn __cudaPopCallConfiguration(
        grid: *mut Dim3,
        block: *mut Dim3,
        shared_bytes: *mut usize,
        stream: *mut *mut c_void,
    ) {
        // Missing configuration: a kernel called as if it were a function.
        let call = CALLS.with_borrow_mut(Vec::pop).ok_or(52u32)?;
        offer(grid, call.grid);
        offer(block, call.block);
        offer(shared_bytes, call.shared_bytes);
        put(stream, call.stream)
    }

    // The handle of a kernel is the address of its stub.
    fn __cudaGetKernel(kernel: *mut *const c_void, stub: *const c_void) { put(kernel, stub) }

    fn __cudaLaunchKernel(
        kernel: *const c_void,
        grid: Dim3,
        block: Dim3,
        pointers: *mut *mut c_void,
        shared_bytes: usize,
        stream: *mut c_void,
    ) {
        launch_stub(kernel, shape(grid, block, shared_bytes)?, pointers, stream)
    }

    fn __cudaLaunchKernel_ptsz(
        kernel: *const c_void,
        grid: Dim3,
        block: Dim3,
        pointers: *mut *mut c_void,
        shared_bytes: usize,
        stream: *mut c_void,
    ) {
        launch_stub(kernel, shape(grid, block, shared_bytes)?, pointers, stream)
    }
}
