//! Work that several processes share, on one file system: who does what is said by locks (`flock`), which the system drops when a
//! process ends, however it ends.
//!
//! A lock lies in an empty file beside the artefact, so that the artefact itself may be replaced while it is held. The file stays:
//! whoever removed it might take it from under one who is just opening it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Ending of the files that hold locks, behind the whole name of what they stand for.
pub const ENDING: &str = "lock";

/// One piece of work that no other process does at the same time, until this is dropped.
pub struct Claim {
    _file: File,
}

impl Claim {
    /// The work that `artefact` is made by; `None` where somebody else does it now.
    ///
    /// # Errors
    /// A folder that cannot be made, a file system without locks.
    pub fn take(artefact: &Path) -> Result<Option<Claim>> {
        let path = path_of(artefact);
        let file = open(&path)?;
        Ok(try_alone(&file, &path)?.then_some(Claim { _file: file }))
    }

    /// Whether somebody works on `artefact`; asking takes nothing from who wants to.
    ///
    /// # Errors
    /// A file system without locks.
    pub fn is_taken(artefact: &Path) -> Result<bool> {
        let path = path_of(artefact);
        match File::open(&path) {
            Ok(file) => Ok(!try_shared(&file, &path)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(&path, e)),
        }
    }
}

/// The file whose lock stands for an artefact.
pub fn path_of(artefact: &Path) -> PathBuf {
    let mut name = artefact.as_os_str().to_os_string();
    name.push(".");
    name.push(ENDING);
    name.into()
}

/// Removes the files of locks in a folder and in those below it. Only for a folder in which nobody else works.
pub fn remove_all(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    for entry in entries.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        if kind.is_dir() {
            remove_all(&path)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == ENDING) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// A file to be locked, made where there is none. For reading too: a lock on a network file system asks for it.
pub fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    opened.map_err(|e| Error::io(path, e))
}

/// Takes the lock for oneself alone, unless anybody holds it; what this file held before is exchanged for it.
pub fn try_alone(file: &File, path: &Path) -> Result<bool> {
    answer(file.try_lock(), path)
}

/// Takes the lock together with others who do, unless somebody holds it alone.
pub fn try_shared(file: &File, path: &Path) -> Result<bool> {
    answer(file.try_lock_shared(), path)
}

fn answer(tried: Result<(), TryLockError>, path: &Path) -> Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(no_locks(path, &e)),
    }
}

/// What is said where a file system has no locks.
pub fn no_locks(path: &Path, why: &std::io::Error) -> Error {
    let problem = format!("cannot be locked ({why})");
    Error::input(path, problem, "put the run on a file system with locks (Lustre: mounted with -o flock)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_asking_takes_nothing() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artefact = folder.path().join("slides/a.json");
        assert!(!Claim::is_taken(&artefact)?);
        let held = Claim::take(&artefact)?.expect("nobody else");
        assert!(Claim::take(&artefact)?.is_none() && Claim::is_taken(&artefact)?);
        drop(held);
        assert!(!Claim::is_taken(&artefact)?);
        drop(Claim::take(&artefact)?.expect("it was given back"));
        std::fs::write(&artefact, "{}").expect("writable");
        remove_all(folder.path())?;
        assert!(artefact.exists() && !path_of(&artefact).exists());
        Ok(())
    }
}
