//! What the person at the terminal is told: faults as compute-sanitizer prints them, notes, refusals, and what kernels
//! print.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    io::Write as _,
    os::fd::AsRawFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use ptx_emulator::{Fault, FaultKind, Report};

use crate::{
    abi::{Status, error},
    state::State,
};

/// The environment variable that names the file through which `cuda-emulate` learns how the program did.
pub(crate) const TALLY: &str = "CUDA_EMULATE_TALLY";

/// Launches, faults and notes so far, in a file that the command which started the program reads.
pub(crate) struct Tally(Option<NonNull<[AtomicU64; 4]>>);

// SAFETY: points to a mapping that lives as long as the process, accessed by atomics alone.
unsafe impl Send for Tally {}

impl Tally {
    pub fn open() -> Self {
        let file = std::env::var_os(TALLY).and_then(|path| {
            std::fs::File::options().read(true).write(true).open(path).ok().filter(|f| f.set_len(32).is_ok())
        });
        let mapped = file.and_then(|file| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a fresh mapping of a file of 32 bytes, at an address of the system's choice.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 32, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
            NonNull::new(at).filter(|_| at != libc::MAP_FAILED).map(NonNull::cast)
        });
        let tally = Self(mapped);
        tally.count(0);
        tally
    }

    fn count(&self, which: usize) {
        if let Some(counts) = self.0 {
            // SAFETY: mapped in `open` for the life of the process.
            let counts = unsafe { counts.as_ref() };
            counts[which].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn launch(&self) {
        self.count(1);
    }
}

/// One line or several on standard error, each marked.
pub(crate) fn say(text: &str) {
    let lines: String = text.lines().map(|line| format!("========= {line}\n")).collect();
    // Where nobody reads on, nobody is told.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    let kernel = if report.kernel.is_empty() { "a kernel".to_owned() } else { demangled(&report.kernel) };
    text.push_str(&format!("    in {kernel}\n"));
    match (&report.source, report.ptx_line) {
        (Some(source), line) => {
            text.push_str(&format!("    at {source} (PTX line {line}: {})\n", report.instruction));
        }
        (None, 0) => {}
        (None, line) => text.push_str(&format!(
            "    at PTX line {line}: {} (compile with -lineinfo for lines of the source)\n",
            report.instruction
        )),
    }
    let triple = |[x, y, z]: [u32; 3]| format!("({x},{y},{z})");
    match (report.thread, report.block) {
        (Some(thread), Some(block)) => {
            text.push_str(&format!("    by thread {} in block {}\n", triple(thread), triple(block)));
        }
        (None, Some(block)) => text.push_str(&format!("    in block {}\n", triple(block))),
        _ => {}
    }
    text.push_str(&format!("    {}\n", report.message));
    if let Some(address) = report.address {
        let of = report.allocation.as_deref().filter(|name| !name.is_empty());
        let of = of.map(|name| format!(" in {name}")).unwrap_or_default();
        text.push_str(&format!("    address {address:#x}{of}\n"));
    } else if let Some(allocation) = &report.allocation {
        text.push_str(&format!("    in {allocation}\n"));
    }
    text
}

/// A name of C++ as it was written; others as they are.
fn demangled(name: &str) -> String {
    type Demangle = unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize, *mut c_int) -> *mut c_char;
    let whole = || {
        // SAFETY: a name that ends with zero; the library of C++ is there wherever a program of C++ runs.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_demangle".as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: the C++ ABI gives this function this type.
        let demangle = unsafe { std::mem::transmute::<*mut libc::c_void, Demangle>(found) };
        let mangled = CString::new(name).ok()?;
        let mut status = 0;
        // SAFETY: null asks for memory of malloc.
        let text = unsafe { demangle(mangled.as_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), &mut status) };
        if text.is_null() {
            return None;
        }
        // SAFETY: a text that ends with zero.
        let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        // SAFETY: from malloc, freed once.
        unsafe { libc::free(text.cast()) };
        Some(copy)
    };
    whole().unwrap_or_else(|| name.to_owned())
}

impl State {
    /// Tells of a fault. All but a refused launch end the work of the device, as there.
    pub fn fault(&mut self, fault: &Fault) -> Status {
        self.tally.count(2);
        say(&format!("ERROR: {}\n{}", fault.kind().words(), describe(fault.report())));
        let status = match fault.kind() {
            FaultKind::Launch => return error::INVALID_VALUE,
            FaultKind::OutOfBounds | FaultKind::UseAfterFree | FaultKind::ReadOnly => error::ILLEGAL_ADDRESS,
            FaultKind::Misaligned => error::MISALIGNED_ADDRESS,
            FaultKind::Trap if fault.report().message.contains("assert") => error::ASSERT,
            _ => error::LAUNCH_FAILURE,
        };
        self.failed = Some(status);
        status
    }

    /// Tells of a call of the program that is wrong or beyond what is emulated.
    pub fn refuse(&mut self, message: &str) {
        self.tally.count(2);
        say(&format!("ERROR: {message}"));
    }

    /// Tells of the notes that launches have left since the last time.
    pub fn tell_notes(&mut self) {
        for note in self.gpu.notes().iter().skip(self.notes_told) {
            self.tally.count(3);
            say(&format!("note: {}\n{}", note.kind.words(), describe(note)));
        }
        self.notes_told = self.gpu.notes().len();
    }

    /// Prints what kernels printed, through the program's own standard output, so that the order is right.
    pub fn flush_printed(&mut self) {
        let text = self.gpu.take_printed();
        if text.is_empty() {
            return;
        }
        unsafe extern "C" {
            static stdout: *mut libc::FILE;
        }
        // SAFETY: the C library's own stream, open from start to end; the text has that many bytes.
        unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout) };
    }
}
