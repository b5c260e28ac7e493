//! The runtime's interface: `cuda...`, and what nvcc's code calls beneath it. In the place of NVIDIA's runtime, which
//! talks to NVIDIA's driver alone.

pub(crate) mod array;
mod device;
pub(crate) mod graph;
mod kernel;
mod memory;
mod register;
mod stream;

use std::cell::Cell;

use crate::abi::{Answer, Status, error};

thread_local! {
    /// The last error of this thread.
    static LAST: Cell<Status> = const { Cell::new(0) };
}

/// The status of an answer, kept for `cudaGetLastError`.
fn told(answer: Answer) -> Status {
    let status = answer.err().unwrap_or(0);
    if status != 0 && status != error::NOT_READY {
        LAST.set(status);
    }
    status
}
