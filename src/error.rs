//! Every way this library fails, in one enum grouped by whose fault it is.
//!
//! Nothing here panics on user input: a file, a table or a configuration that cannot be used becomes one sentence that
//! names the file, says what is wrong with it and what to do.

use std::path::{Path, PathBuf};

use crate::dtype::DType;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    // ---- the input's fault: a file, a table, a configuration, an argument
    /// A file that cannot be used: which, what is wrong, what to do.
    #[error("{}: {problem}; {remedy}", path.display())]
    Input { path: PathBuf, problem: String, remedy: String },
    /// An argument or configuration key that cannot be used, in one sentence.
    #[error("{0}")]
    Usage(String),

    // ---- the caller's fault: a program that uses the library wrongly
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },
    #[error("{op}: {wanted} wanted, got {got}")]
    DType { op: &'static str, wanted: &'static str, got: DType },
    #[error("{op}: tensors live on different devices ({0} and {1})", devices.0, devices.1)]
    DeviceMismatch { op: &'static str, devices: (String, String) },
    /// In-place updates are refused while a tape lives: the tape may still need the old values.
    #[error("{op}: a tape is alive on {device}; finish or drop it before updating in place")]
    TapeAlive { op: &'static str, device: String },
    /// A gradient was asked for that the op does not define at this order.
    #[error("{op}: has no gradient of this order")]
    OrderExceeded { op: &'static str },
    #[error("the tape holds no gradient path from {0}")]
    NotOnTape(String),

    // ---- the machine's fault
    #[error("{op}: no kernel for {device}")]
    NoKernel { op: &'static str, device: String },
    #[error("device {0}")]
    Device(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// The user asked to stop; whatever was finished is on disk.
    #[error("interrupted; run the same command again to go on")]
    Interrupted,
}

impl Error {
    pub fn input(path: impl AsRef<Path>, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Input { path: path.as_ref().to_path_buf(), problem: problem.into(), remedy: remedy.into() }
    }

    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    pub fn shape(op: &'static str, message: impl Into<String>) -> Error {
        Error::Shape { op, message: message.into() }
    }
}
