//! What functions of a C interface have in common here: pointers in, a status out.

use std::{
    collections::HashMap,
    ffi::c_uint,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Zero, or an error of `CUresult` and `cudaError_t`, which agree where both have one.
pub(crate) type Status = c_uint;
/// What the functions here return among themselves.
pub(crate) type Answer<T = ()> = Result<T, Status>;

/// Errors, by their name in `cudaError_t`.
pub(crate) mod error {
    use super::Status;

    pub const INVALID_VALUE: Status = 1;
    pub const MEMORY_ALLOCATION: Status = 2;
    pub const INVALID_CONFIGURATION: Status = 9;
    pub const INVALID_SYMBOL: Status = 13;
    pub const INVALID_COPY_DIRECTION: Status = 21;
    pub const INVALID_DEVICE_FUNCTION: Status = 98;
    pub const INVALID_DEVICE: Status = 101;
    pub const NO_KERNEL_IMAGE: Status = 209;
    pub const INVALID_PTX: Status = 218;
    pub const INVALID_HANDLE: Status = 400;
    pub const NOT_FOUND: Status = 500;
    pub const NOT_READY: Status = 600;
    pub const ILLEGAL_ADDRESS: Status = 700;
    pub const ASSERT: Status = 710;
    pub const MISALIGNED_ADDRESS: Status = 716;
    pub const LAUNCH_FAILURE: Status = 719;
    pub const NOT_SUPPORTED: Status = 801;
    pub const CAPTURE_UNSUPPORTED: Status = 900;
    pub const CAPTURE_UNMATCHED: Status = 903;

    /// Name and description of an error.
    pub fn words(status: Status) -> (&'static core::ffi::CStr, &'static core::ffi::CStr) {
        match status {
            0 => (c"cudaSuccess", c"no error"),
            INVALID_VALUE => (c"cudaErrorInvalidValue", c"invalid argument"),
            MEMORY_ALLOCATION => (c"cudaErrorMemoryAllocation", c"out of memory"),
            INVALID_CONFIGURATION => (c"cudaErrorInvalidConfiguration", c"invalid configuration argument"),
            INVALID_SYMBOL => (c"cudaErrorInvalidSymbol", c"invalid device symbol"),
            INVALID_COPY_DIRECTION => (c"cudaErrorInvalidMemcpyDirection", c"invalid copy direction for memcpy"),
            INVALID_DEVICE_FUNCTION => (c"cudaErrorInvalidDeviceFunction", c"invalid device function"),
            INVALID_DEVICE => (c"cudaErrorInvalidDevice", c"invalid device ordinal"),
            NO_KERNEL_IMAGE => {
                (c"cudaErrorNoKernelImageForDevice", c"no kernel image is available for execution on the device")
            }
            INVALID_PTX => (c"cudaErrorInvalidPtx", c"a PTX JIT compilation failed"),
            INVALID_HANDLE => (c"cudaErrorInvalidResourceHandle", c"invalid resource handle"),
            NOT_FOUND => (c"cudaErrorSymbolNotFound", c"named symbol not found"),
            NOT_READY => (c"cudaErrorNotReady", c"device not ready"),
            ILLEGAL_ADDRESS => (c"cudaErrorIllegalAddress", c"an illegal memory access was encountered"),
            ASSERT => (c"cudaErrorAssert", c"device-side assert triggered"),
            MISALIGNED_ADDRESS => (c"cudaErrorMisalignedAddress", c"misaligned address"),
            LAUNCH_FAILURE => (c"cudaErrorLaunchFailure", c"unspecified launch failure"),
            NOT_SUPPORTED => (c"cudaErrorNotSupported", c"operation not supported"),
            CAPTURE_UNSUPPORTED => {
                (c"cudaErrorStreamCaptureUnsupported", c"operation not permitted when stream is capturing")
            }
            CAPTURE_UNMATCHED => (c"cudaErrorStreamCaptureUnmatched", c"the capture was not initiated in this stream"),
            _ => (c"cudaErrorUnknown", c"unknown error"),
        }
    }
}

/// Functions that C programs call. A body may follow the pointers it is given, and answers `Ok(())` or an error, which passes
/// through `$finish` on its way out.
macro_rules! exported {
    ($finish:path; $(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        /// # Safety
        /// As the interface documents it: pointers are valid for what they name, or null where that is allowed.
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, clippy::too_many_arguments, reason = "the interface is as it is")]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::abi::Status {
            // SAFETY: bodies follow pointers as the interface documents them, which the caller upholds.
            let body = move || -> $crate::abi::Answer { unsafe { $body } };
            $finish(body())
        }
    )*};
}
pub(crate) use exported;

/// The status of an answer.
pub(crate) fn status(answer: Answer) -> Status {
    answer.err().unwrap_or(0)
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or valid for a write of `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by the caller's word.
    unsafe { to.write(value) };
    Ok(())
}

/// As [`put`], where null means that the caller does not want it.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn offer<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and valid by the caller's word.
        unsafe { to.write(value) };
    }
}

/// What programs hold by a handle: a number that no other thing has, and that ends with it.
pub(crate) struct Table<T>(HashMap<usize, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// Handles look like pointers, but point at nothing. Small ones mean streams of their own.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

impl<T> Table<T> {
    pub fn insert<P>(&mut self, value: T) -> *mut P {
        let handle = NEXT.fetch_add(16, Ordering::Relaxed);
        self.0.insert(handle, value);
        std::ptr::without_provenance_mut(handle)
    }

    pub fn get<P>(&self, handle: *const P) -> Answer<&T> {
        self.0.get(&handle.addr()).ok_or(error::INVALID_HANDLE)
    }

    pub fn get_mut<P>(&mut self, handle: *const P) -> Answer<&mut T> {
        self.0.get_mut(&handle.addr()).ok_or(error::INVALID_HANDLE)
    }

    pub fn remove<P>(&mut self, handle: *const P) -> Answer<T> {
        self.0.remove(&handle.addr()).ok_or(error::INVALID_HANDLE)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }
}

/// Three sizes, by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dim3 {
    pub x: c_uint,
    pub y: c_uint,
    pub z: c_uint,
}

impl From<Dim3> for [u32; 3] {
    fn from(d: Dim3) -> Self {
        [d.x, d.y, d.z]
    }
}
