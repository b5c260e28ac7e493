//! Every way this library fails, in one enum grouped by whose fault it is.
//!
//! Nothing here panics on user input: a file, a table or a configuration that cannot be used becomes one sentence that
//! names the file, says what is wrong with it and what to do.

use std::path::{Path, PathBuf};

use crate::{dtype::DType, escape};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The most of a problem or a remedy that is printed: enough for every sentence of ours, not for what a hostile file
/// would have repeated.
const MOST_CHARS: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    // ---- the input's fault: a file, a table, a configuration, an argument
    /// A file that cannot be used: which, what is wrong, what to do.
    #[error(
        "{}: {}; {}",
        escape::path(path),
        escape::clipped(problem, MOST_CHARS),
        escape::clipped(remedy, MOST_CHARS)
    )]
    Input { path: PathBuf, problem: String, remedy: String },
    /// An argument or configuration key that cannot be used, in one sentence.
    #[error("{}", escape::clipped(.0, MOST_CHARS))]
    Usage(String),

    // ---- the caller's fault: a program that uses the library wrongly
    /// Something that cannot be, whatever the input: a fault of this program.
    #[error("{}; this is a fault of the program: please report it", escape::clipped(.0, MOST_CHARS))]
    Internal(String),
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
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: std::io::Error },

    /// The user asked to stop; whatever was finished is on disk.
    #[error("interrupted; run the same command again to resume")]
    Interrupted,
}

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A file, a table, a configuration, an argument.
    Input,
    /// A program that uses the library wrongly, this one included.
    Program,
    /// A device, a disk, memory: what would fail again with any other input.
    Machine,
    /// The user asked to stop.
    Stop,
}

impl Error {
    pub fn fault(&self) -> Fault {
        use std::io::ErrorKind as Kind;
        match self {
            Error::Input { .. } | Error::Usage(_) => Fault::Input,
            Error::Interrupted => Fault::Stop,
            Error::NoKernel { .. } | Error::Device(_) => Fault::Machine,
            Error::Io { source, .. } => match source.kind() {
                Kind::NotFound | Kind::PermissionDenied | Kind::IsADirectory | Kind::NotADirectory => Fault::Input,
                Kind::UnexpectedEof | Kind::InvalidData | Kind::InvalidInput | Kind::InvalidFilename => Fault::Input,
                _ => Fault::Machine,
            },
            _ => Fault::Program,
        }
    }

    /// Whether this one file is to blame, so that others of its kind may still be used: it is damaged, of the wrong kind,
    /// gone or not readable. A disk that fails while the file is read is not the file's fault.
    pub fn lies_with(&self, file: &Path) -> bool {
        match self {
            // Of settings, only a slide's own are looked at while it is read: the scale that a table gives it.
            Error::Input { .. } | Error::Usage(_) => true,
            Error::Io { path, .. } => path == file && self.fault() == Fault::Input,
            _ => false,
        }
    }

    pub fn input(path: impl AsRef<Path>, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Input { path: path.as_ref().to_path_buf(), problem: problem.into(), remedy: remedy.into() }
    }

    pub fn internal(what: impl std::fmt::Display) -> Error {
        Error::Internal(what.to_string())
    }

    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    pub fn shape(op: &'static str, message: impl Into<String>) -> Error {
        Error::Shape { op, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use super::*;

    #[test]
    fn a_sick_machine_is_no_fault_of_a_slide() {
        let slide = Path::new("slides/a.svs");
        let io = |path: &str, kind: ErrorKind| Error::io(path, IoError::from(kind));
        assert!(io("slides/a.svs", ErrorKind::NotFound).lies_with(slide));
        assert!(Error::input(slide, "is damaged", "copy it again").lies_with(slide));
        let sick = [
            io("slides/a.svs", ErrorKind::StorageFull),
            io("slides/a.svs", ErrorKind::FileTooLarge),
            Error::io(slide, IoError::from_raw_os_error(5)), // EIO
            io("run/features/a.safetensors", ErrorKind::PermissionDenied),
            Error::Device("cuda:0: an illegal memory access was encountered".into()),
            Error::NoKernel { op: "conv2d", device: "cuda:0".into() },
            Error::shape("conv2d", "rank 3"),
            Error::Interrupted,
        ];
        for error in sick {
            assert!(!error.lies_with(slide), "{error}");
        }
    }
}
