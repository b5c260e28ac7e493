//! The driver's compiler: PTX of one entry in, code for this GPU out, with what the compiler said.

use std::{
    ffi::{CString, c_void},
    ptr::{null_mut, without_provenance_mut},
    time::{Duration, Instant},
};

use cudarc::driver::sys;

use super::errors::{check, sentence};
use crate::{
    device::{
        images::{Image, Images},
        loads::Origin,
        module::{Arch, Module},
    },
    error::{Error, Result},
};

/// What makes images: all of it may be used on any thread.
pub(super) struct Maker<'a> {
    pub context: sys::CUcontext,
    pub images: &'a Images,
    pub capability: (u32, u32),
    pub device: &'a str,
}

// SAFETY: a context may be current on several threads at once; the rest is shared data.
unsafe impl Sync for Maker<'_> {}

/// An image on its way to becoming an entry.
pub(super) struct Made {
    pub ptx: String,
    pub image: Image,
    pub origin: Origin,
    pub took: Duration,
}

impl Maker<'_> {
    /// The entry's image: that of an earlier run, else compiled on this thread.
    pub fn make(&self, module: &Module, kernel: &str) -> Result<Made> {
        let start = Instant::now();
        let ptx = module.entry(kernel, self.capability, self.device)?;
        let (image, origin) = match self.images.get(&ptx) {
            Some(image) => (image, Origin::Cached),
            None => {
                let image = compile(self.context, kernel, module.arch, &ptx)?;
                self.images.put(&ptx, &image);
                (image, Origin::Compiled)
            }
        };
        Ok(Made { ptx, image, origin, took: start.elapsed() })
    }
}

const LOG_BYTES: usize = 16 << 10;

/// Buffers for what the compiler says, and the options that name them.
struct Logs {
    info: Vec<u8>,
    error: Vec<u8>,
    options: Vec<sys::CUjit_option>,
    values: Vec<*mut c_void>,
}

impl Logs {
    fn new(arch: Arch) -> Logs {
        use sys::CUjit_option as Option;
        let (mut info, mut error) = (vec![0u8; LOG_BYTES], vec![0u8; LOG_BYTES]);
        let number = without_provenance_mut::<c_void>;
        let mut all = vec![
            (Option::CU_JIT_INFO_LOG_BUFFER, info.as_mut_ptr().cast()),
            (Option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, number(LOG_BYTES)),
            (Option::CU_JIT_ERROR_LOG_BUFFER, error.as_mut_ptr().cast()),
            (Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, number(LOG_BYTES)),
            (Option::CU_JIT_LOG_VERBOSE, number(1)),
            (Option::CU_JIT_GENERATE_LINE_INFO, number(1)),
        ];
        if arch.exact {
            // The context's own target stands for the family, which has not what this PTX uses.
            const ACCELERATED: u32 = 0x10000;
            let (major, minor) = arch.capability;
            all.push((Option::CU_JIT_TARGET, number((ACCELERATED + major * 10 + minor) as usize)));
        }
        let (options, values) = all.into_iter().unzip();
        Logs { info, error, options, values }
    }

    fn count(&self) -> u32 {
        self.options.len() as u32
    }

    fn text(log: &[u8]) -> String {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        String::from_utf8_lossy(&log[..end]).trim().to_string()
    }
}

/// Compiles on the calling thread, which enters `context`. The compiler's complaints are the error.
pub(super) fn compile(context: sys::CUcontext, entry: &str, arch: Arch, ptx: &str) -> Result<Image> {
    let failed = |what: String| Error::Device(format!("cuda: {entry}: {what}"));
    let ptx = CString::new(ptx).map_err(|_| failed("its PTX holds a zero byte".into()))?;
    let name = CString::new(entry).map_err(|_| failed("a zero byte in a name".into()))?;
    // SAFETY: the context is live as long as its `Context`, which waits for this call.
    check(unsafe { sys::cuCtxSetCurrent(context) }, "entering the context")?;
    let mut logs = Logs::new(arch);
    let (mut state, mut code, mut bytes) = (null_mut(), null_mut(), 0);
    // SAFETY: options and values are as many as said, the text is zero-terminated and as long as said, and all of them and the
    // buffers they name outlive the state. The code belongs to the state and is copied before that is destroyed.
    let (result, code) = unsafe {
        let (options, values) = (logs.options.as_mut_ptr(), logs.values.as_mut_ptr());
        let mut result = sys::cuLinkCreate_v2(logs.count(), options, values, &mut state);
        if result == sys::CUresult::CUDA_SUCCESS {
            let (kind, text) = (sys::CUjitInputType::CU_JIT_INPUT_PTX, ptx.as_bytes_with_nul());
            let data = text.as_ptr().cast_mut().cast();
            result = sys::cuLinkAddData_v2(state, kind, data, text.len(), name.as_ptr(), 0, null_mut(), null_mut());
        }
        if result == sys::CUresult::CUDA_SUCCESS {
            result = sys::cuLinkComplete(state, &mut code, &mut bytes);
        }
        let copied = match result {
            sys::CUresult::CUDA_SUCCESS => std::slice::from_raw_parts(code.cast::<u8>(), bytes).to_vec(),
            _ => Vec::new(),
        };
        if !state.is_null() {
            let _ = sys::cuLinkDestroy(state);
        }
        (result, copied)
    };
    match result as u32 {
        0 => Ok(Image { log: Logs::text(&logs.info), code }),
        error => {
            let log = Logs::text(&logs.error);
            let colon = if log.is_empty() { "" } else { ": " };
            Err(failed(format!("{} (error {error}){colon}{log}", sentence(error))))
        }
    }
}

/// Loads compiled code into the current context.
pub(super) fn load(entry: &str, image: &Image) -> Result<sys::CUmodule> {
    let mut module = null_mut();
    // SAFETY: a context is current; the code is whole, as the linker gave it.
    let loaded = unsafe { sys::cuModuleLoadDataEx(&mut module, image.code.as_ptr().cast(), 0, null_mut(), null_mut()) };
    check(loaded, &format!("loading {entry}")).map(|()| module)
}

/// The sentence of a compiler's log that says a kernel will be slow: registers spilled to memory, wgmma in sequence.
pub fn complaint(log: &str) -> Option<&str> {
    log.lines().find(|line| {
        let spills = |(number, what): (&str, &str)| {
            what.starts_with("bytes spill") && number.rsplit(' ').next().is_some_and(|n| n.parse() != Ok(0))
        };
        let words = line.split(',').filter_map(|part| part.trim().split_once(' '));
        line.contains("serialized") || words.into_iter().any(spills)
    })
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn spills_and_serialized_products_are_complaints() {
        let fine = "info    : 0 bytes gmem\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n";
        assert_eq!(complaint(fine), None);
        let spilled = fine.replace("0 bytes spill loads", "12 bytes spill loads");
        assert!(complaint(&spilled).is_some_and(|line| line.contains("12 bytes")));
        let serial = "warning : Potential Performance Loss: wgmma.mma_async instructions are serialized due to a call";
        assert_eq!(complaint(serial), Some(serial));
    }
}
