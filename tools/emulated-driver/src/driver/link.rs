//! The linker: PTX in, "compiled" code out, which here is the PTX itself.

use std::ffi::{c_char, c_int, c_uint, c_void};

use ptx_emulator::Module;

use crate::{
    abi::{error, exported, put, status},
    state::state,
};

const INFO_LOG_BUFFER: c_int = 3;
const ERROR_LOG_BUFFER: c_int = 5;

/// A text being compiled. Real drivers report at the end, into buffers named at the beginning.
pub(crate) struct Link {
    info: Log,
    error: Log,
    /// PTX and a zero.
    code: Vec<u8>,
}

/// Where what is said goes: an address, and how many bytes fit.
struct Log {
    address: usize,
    bytes: usize,
}

impl Log {
    /// The buffer that the option `buffer` gives, its size that of the option after it.
    ///
    /// # Safety
    /// There are `count` options with a value each.
    unsafe fn of(buffer: c_int, count: c_uint, options: *const c_int, values: *const *mut c_void) -> Self {
        let mut log = Self { address: 0, bytes: 0 };
        for i in 0..count as usize {
            // SAFETY: by the caller.
            let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
            match option - buffer {
                0 => log.address = value.expose_provenance(),
                1 => log.bytes = value.addr(),
                _ => {}
            }
        }
        log
    }

    /// Writes a text with a zero, or nothing where there is no room.
    ///
    /// # Safety
    /// The buffer is still there.
    unsafe fn say(&self, text: &str) {
        if self.address != 0 && self.bytes > text.len() {
            let to: *mut u8 = std::ptr::with_exposed_provenance_mut(self.address);
            // SAFETY: there is room for the text and a zero.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
                to.add(text.len()).write(0);
            }
        }
    }
}

exported! { status;
    fn cuLinkCreate_v2(
        count: c_uint,
        options: *const c_int,
        values: *const *mut c_void,
        link: *mut *mut c_void,
    ) {
        let [info, error] = [INFO_LOG_BUFFER, ERROR_LOG_BUFFER].map(|buffer| Log::of(buffer, count, options, values));
        put(link, state().links.insert(Link { info, error, code: Vec::new() }))
    }

    fn cuLinkAddData_v2(
        link: *mut c_void,
        _kind: c_int,
        data: *const c_void,
        bytes: usize,
        _name: *const c_char,
        _count: c_uint,
        _options: *const c_int,
        _values: *const *mut c_void,
    ) {
        let mut state = state();
        let link = state.links.get_mut(link)?;
        let data = std::slice::from_raw_parts(data.cast::<u8>(), bytes);
        match Module::load(String::from_utf8_lossy(data).trim_end_matches('\0')) {
            Ok(module) => {
                link.code = data.to_vec();
                link.code.push(0);
                let entries = module.entries();
                let said = entries.map(|e| format!("info    : Compiling entry function '{}', 0 bytes spill stores", e.name));
                link.info.say(&said.collect::<Vec<_>>().join("\n"));
                Ok(())
            }
            Err(why) => {
                link.error.say(&why.to_string());
                Err(error::INVALID_PTX)
            }
        }
    }

    fn cuLinkComplete(link: *mut c_void, code: *mut *mut c_void, bytes: *mut usize) {
        let mut state = state();
        let link = state.links.get_mut(link)?;
        put(bytes, link.code.len())?;
        put(code, link.code.as_mut_ptr().cast())
    }

    fn cuLinkDestroy(link: *mut c_void) { state().links.remove(link).map(drop) }
}
