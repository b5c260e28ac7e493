//! Files appear only when whole: written beside their destination, flushed, then renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::error::{Error, Result};

/// What names of temporary files begin with; six letters and digits follow.
const PREFIX: &str = ".isg-";
const RANDOM_CHARS: usize = 6;

/// Removes the temporary files that killed processes left in `dir`, and in the folders `below` it where that is asked for;
/// links are not followed. Only for a folder that no other process writes into.
pub fn remove_leftovers(dir: &Path, below: bool) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    for entry in entries.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        if kind.is_dir() && below {
            remove_leftovers(&path, true)?;
        } else if kind.is_file() && is_temporary(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX);
    random.is_some_and(|r| r.len() == RANDOM_CHARS && r.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Writes `path` through `fill`; on any error, or if the process dies, `path` is as it was before.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .rand_bytes(RANDOM_CHARS)
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir, e))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_leftovers_go() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("features");
        write_bytes(dir.join("a.safetensors"), b"whole")?;
        let files = [".isg-Ab3xYz", ".isg-notes.txt", ".isg-", "isg-Ab3xYz", ".isg-Ab3xY_"];
        files.iter().for_each(|name| std::fs::write(dir.join(name), b"").expect("writable"));
        let kept = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM_CHARS).tempfile_in(&dir).expect("a file");
        let (_, left) = kept.keep().expect("a kept file");
        remove_leftovers(folder.path(), false)?;
        assert!(left.exists(), "nothing below was asked for");
        remove_leftovers(folder.path(), true)?;
        assert!(!left.exists() && !dir.join(files[0]).exists());
        assert!(dir.join("a.safetensors").exists() && files[1..].iter().all(|name| dir.join(name).exists()));
        Ok(())
    }
}
