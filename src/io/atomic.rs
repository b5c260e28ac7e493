//! Files appear only when whole: written beside their destination, flushed, then renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::error::{Error, Result};

/// Writes `path` through `fill`; on any error, or if the process dies, `path` is as it was before.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut file = tempfile::Builder::new().prefix(".isg-").tempfile_in(dir).map_err(|e| Error::io(dir, e))?;
    {
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        fill(&mut out)?;
        out.flush().map_err(|e| Error::io(path, e))?;
    }
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    set_ordinary_mode(file.as_file());
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    if let Ok(dir) = File::open(dir) {
        // The rename itself is durable only once the directory is; a file system that cannot is no reason to fail.
        let _ = dir.sync_all();
    }
    Ok(())
}

pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, e)))
}

/// Temporary files are private (0600); results are ordinary files.
fn set_ordinary_mode(file: &File) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = file;
}
