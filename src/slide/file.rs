//! Positioned reads: any number of threads read one open file at once, without a cursor and without a memory map.
//!
//! A map would turn a truncated or vanished network file into a signal; a positioned read turns it into an error.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// An open file of known length. Shared by reference between threads.
#[derive(Debug)]
pub struct PositionedFile {
    path: PathBuf,
    len_bytes: u64,
    #[cfg(unix)]
    file: File,
    /// Elsewhere a read is a seek and a read, so it takes turns.
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl PositionedFile {
    pub fn open(path: impl AsRef<Path>) -> Result<PositionedFile> {
        let path = path.as_ref();
        // Asked before it is opened: opening a pipe waits for somebody who writes into it.
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            let problem = if metadata.is_dir() { "is a folder" } else { "is a pipe, a socket or a device, not a file" };
            return Err(Error::input(path, problem, "name a slide file"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Ok(PositionedFile { path: path.to_path_buf(), len_bytes: metadata.len(), file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Exactly `count` bytes from `offset`. The range is checked against the file's length before anything is
    /// allocated, so a wild count costs nothing.
    pub fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>> {
        let inside = offset.checked_add(count).is_some_and(|end| end <= self.len_bytes);
        let (true, Ok(count)) = (inside, usize::try_from(count)) else {
            return Err(Error::input(
                &self.path,
                format!("{count} bytes at {offset} reach past the end of the file ({} bytes)", self.len_bytes),
                "the file is truncated or damaged, copy it again",
            ));
        };
        let mut bytes = vec![0; count];
        self.fill(offset, &mut bytes).map_err(|e| Error::io(&self.path, e))?;
        Ok(bytes)
    }

    #[cfg(unix)]
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}
