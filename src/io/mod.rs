//! Files of numbers: delimited tables, safetensors, PyTorch weights, HDF5, checkpoints. Every write is atomic, and what a run reads
//! again carries its checksum.

pub mod array;
pub use crate::atomic;
pub mod checkpoint;
pub mod checksum;
pub mod claim;
pub mod file_name;
pub mod fingerprint;
#[cfg(feature = "app")]
pub mod hdf5;
pub mod metrics;
#[cfg(feature = "app")]
pub mod npz;
#[cfg(feature = "app")]
mod pickle;
#[cfg(feature = "app")]
pub mod pytorch;
pub mod safetensors;
pub mod sealed;
#[cfg(feature = "app")]
pub mod table;
pub mod text;
#[cfg(feature = "app")]
pub mod weights;

pub use array::{ArrayView, ElementType, NamedArray};
#[cfg(feature = "app")]
pub use weights::Weights;

use std::{fs::File, path::Path};

use crate::error::{Error, Result};

/// Opens an ordinary file. What it is, is asked before it is opened: opening a pipe waits for somebody who writes into it.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !found.is_file() {
        return Err(Error::input(path, "is not a file", "name a file"));
    }
    File::open(path).map_err(|e| Error::io(path, e))
}
