//! Who may write into a run directory: one process that may do anything, or any number that share it, each doing slides or networks
//! that nobody else does.
//!
//! `RUN/.lock` is held alone by the first kind and shared by the second. Taking it is a matter of moments, in which nobody else
//! takes it (`RUN/.opening`): so shards that begin together never refuse each other.

use std::{fs::File, path::Path};

use crate::{
    error::{Error, Result},
    io::claim,
};

/// What a process wants to do in a run directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Anything; nobody else works there.
    Alone,
    /// Its part, beside others.
    Shared,
}

/// A process's right to work in a run directory, until it is dropped.
pub(super) struct Held {
    _file: File,
}

/// Takes that right. `prepare` is told whether nobody else works there now, and nobody begins before it has returned.
///
/// # Errors
/// Another process stands against it; a file system without locks; those of `prepare`.
pub(super) fn take(dir: &Path, access: Access, prepare: impl FnOnce(bool) -> Result<()>) -> Result<Held> {
    let path = dir.join(".opening");
    let opening = claim::open(&path)?;
    opening.lock().map_err(|e| claim::no_locks(&path, &e))?;
    let path = dir.join(".lock");
    let file = claim::open(&path)?;
    if claim::try_alone(&file, &path)? {
        prepare(true)?;
        if access == Access::Shared && !claim::try_shared(&file, &path)? {
            return Err(Error::input(dir, "was taken by another process meanwhile", "give the same command again"));
        }
        return Ok(Held { _file: file });
    }
    let shared = claim::try_shared(&file, &path)?;
    match access {
        Access::Shared if shared => {
            prepare(false)?;
            Ok(Held { _file: file })
        }
        Access::Alone if shared => {
            Err(Error::input(dir, "shards work in this run directory", "wait for them (`isg status` says how long)"))
        }
        _ => Err(Error::input(dir, "another process works in this run directory", "wait for it, or stop it")),
    }
}
