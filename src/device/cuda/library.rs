//! NVIDIA's driver library: what it must offer for the kernels to run, and what is missing where it does not.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::errors::check;
use crate::error::{Error, Result};

/// The CUDA that the shipped PTX and the calls below ask for, as the driver counts: 12.0.
const OLDEST: i32 = 12000;
/// Everything used below, so that an old or broken library is one sentence and not a panic at the first call.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemsetD16Async",
    "cuMemsetD32Async",
    "cuLinkCreate_v2",
    "cuLinkAddData_v2",
    "cuLinkComplete",
    "cuLinkDestroy",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphGetNodes",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuTensorMapEncodeTiled",
    "cuProfilerStart",
    "cuProfilerStop",
];
/// Where containers and some distributions mount the driver outside the loader's path.
const UNUSUAL_FOLDERS: &[&str] = &[
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
];

/// Loads the library and answers why it cannot be used, or the version it supports.
pub(super) fn probe() -> Result<i32> {
    let failed = |what: String| Error::Device(format!("cuda: {what}"));
    // SAFETY: opens libraries by name; a driver's initialisers are harmless.
    let mut present = unsafe { sys::is_culib_present() };
    for folder in UNUSUAL_FOLDERS {
        if present {
            break;
        }
        let path = std::path::Path::new(folder).join("libcuda.so.1");
        // SAFETY: as above. Kept open, so that the loader finds it by its name from now on.
        if path.exists() && unsafe { libloading::Library::new(&path) }.map(std::mem::forget).is_ok() {
            // SAFETY: as above.
            present = unsafe { sys::is_culib_present() };
        }
    }
    if !present {
        return Err(failed(
            "no NVIDIA driver: libcuda.so.1 is not found; install the driver, or name its folder in LD_LIBRARY_PATH"
                .into(),
        ));
    }
    // SAFETY: the library is present, so this opens it and cannot panic.
    let library = unsafe { sys::culib() };
    let is_missing = |symbol: &&&str| {
        // SAFETY: only the address is looked at.
        unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_err()
    };
    if let Some(symbol) = SYMBOLS.iter().find(is_missing) {
        return Err(failed(format!(
            "libcuda lacks {symbol}: the driver is broken or older than R525; install a newer one"
        )));
    }
    // SAFETY: the symbol is there.
    check(unsafe { sys::cuInit(0) }, "starting the driver")?;
    let mut version = 0;
    // SAFETY: the symbol is there and `version` outlives the call.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }, "asking the driver's version")?;
    if version < OLDEST {
        return Err(failed(format!(
            "the driver is too old: it knows CUDA {}.{}, 12.0 is needed; install R525 or newer",
            version / 1000,
            version % 1000 / 10
        )));
    }
    Ok(version)
}
