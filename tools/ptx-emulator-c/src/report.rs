//! A finding, as C reads it.

use std::ffi::{CString, c_char};

use ptx_emulator::Report;

/// A text that ends with zero; it ends earlier where it holds one.
pub(crate) fn text(of: &str) -> CString {
    let end = of.find('\0').unwrap_or(of.len());
    CString::new(&of[..end]).unwrap_or_default()
}

/// `ptx_report`
#[repr(C)]
pub struct PtxReport {
    kind: *const c_char,
    kernel: *const c_char,
    source: *const c_char,
    instruction: *const c_char,
    allocation: *const c_char,
    message: *const c_char,
    text: *const c_char,
    address: u64,
    ptx_line: u32,
    has_block: u32,
    block: [u32; 3],
    has_thread: u32,
    thread: [u32; 3],
}

/// A report, and the texts that it points to.
pub(crate) struct Held {
    _texts: [CString; 7],
    report: PtxReport,
}

impl Held {
    pub(crate) fn new(of: &Report) -> Box<Self> {
        let empty = String::new();
        let texts = [
            text(of.kind.words()),
            text(&of.kernel),
            text(of.source.as_ref().unwrap_or(&empty)),
            text(&of.instruction),
            text(of.allocation.as_ref().unwrap_or(&empty)),
            text(&of.message),
            text(&of.to_string()),
        ];
        // A text's bytes stay where they are when its handle moves.
        let [kind, kernel, source, instruction, allocation, message, whole] =
            std::array::from_fn(|n| texts[n].as_ptr());
        let report = PtxReport {
            kind,
            kernel,
            source,
            instruction,
            allocation,
            message,
            text: whole,
            address: of.address.unwrap_or(0),
            ptx_line: of.ptx_line,
            has_block: u32::from(of.block.is_some()),
            block: of.block.unwrap_or_default(),
            has_thread: u32::from(of.thread.is_some()),
            thread: of.thread.unwrap_or_default(),
        };
        Box::new(Self { _texts: texts, report })
    }

    pub(crate) fn report(&self) -> &PtxReport {
        &self.report
    }
}
