//! Files appear only when whole: written beside their destination, flushed, then renamed.
//!
//! A symbolic link stays one, and what it points to is replaced. What is no ordinary file (a pipe, a device such as
//! `/dev/null`, this process's own `/dev/stdout`) is written into, because there is nothing to rename.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// What names of temporary files begin with; six letters and digits follow.
const PREFIX: &str = ".isg-";
const RANDOM_CHARS: usize = 6;

/// Removes the temporary files that killed processes left in `dir`, and in the folders `below` it where that is asked for;
/// links are not followed. Only for a folder that no other process writes into.
pub fn remove_leftovers(dir: &Path, below: bool) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    for entry in entries.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        if kind.is_dir() && below {
            remove_leftovers(&path, true)?;
        } else if kind.is_file() && is_temporary(&entry.file_name().to_string_lossy()) {
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX);
    random.is_some_and(|r| r.len() == RANDOM_CHARS && r.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Where bytes for a path go.
enum Destination {
    /// An ordinary file, there or not yet, links followed.
    File(PathBuf),
    Stdout,
    Stderr,
    /// A pipe, a device, an open file of this process.
    Stream,
}

/// Writes `path` through `fill`; on any error, or if the process dies, a file at `path` is as it was before.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let io = |e| Error::io(path, e);
    match destination(path)? {
        Destination::File(file) => replace(&file, fill),
        Destination::Stdout => pour(path, std::io::stdout().lock(), fill),
        Destination::Stderr => pour(path, std::io::stderr().lock(), fill),
        // Appended: a file that a shell opened as `>> FILE` keeps what it holds.
        Destination::Stream => pour(path, OpenOptions::new().append(true).open(path).map_err(io)?, fill),
    }
}

pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, e)))
}

fn destination(path: &Path) -> Result<Destination> {
    let text = path.to_string_lossy();
    match text.as_ref() {
        "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => return Ok(Destination::Stdout),
        "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => return Ok(Destination::Stderr),
        open if open.starts_with("/dev/fd/") || open.starts_with("/proc/self/fd/") => return Ok(Destination::Stream),
        _ => {}
    }
    match fs::metadata(path) {
        Ok(found) if found.is_file() => fs::canonicalize(path).map(Destination::File).map_err(|e| Error::io(path, e)),
        Ok(found) if found.is_dir() => Err(Error::input(path, "is a folder", "name a file to write")),
        Ok(_) => Ok(Destination::Stream),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Destination::File(end_of_links(path))),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// What a link names that points to nothing yet; the path itself where it is no link.
fn end_of_links(path: &Path) -> PathBuf {
    let mut at = path.to_path_buf();
    // A loop of links is no `NotFound`, so this ends; the bound is Linux's own.
    for _ in 0..40 {
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => break,
        }
    }
    at
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .rand_bytes(RANDOM_CHARS)
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir, e))?;
    pour(path, file.as_file_mut(), fill)?;
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    set_ordinary_mode(file.as_file(), path);
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    if let Ok(dir) = File::open(dir) {
        // The rename itself is durable only once the directory is; a file system that cannot is no reason to fail.
        let _ = dir.sync_all();
    }
    Ok(())
}

fn pour(path: &Path, to: impl Write, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, to);
    let poured = fill(&mut out).and_then(|()| out.flush().map_err(|e| Error::io(path, e)));
    if poured.is_err() {
        // Without this the rest would be written when the buffer is dropped.
        let _ = out.into_parts();
    }
    poured
}

/// Temporary files are private (0600); results are ordinary files, or as open as the file they replace.
fn set_ordinary_mode(file: &File, replaced: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(replaced).map_or(0o644, |found| found.permissions().mode() & 0o777);
        let _ = file.set_permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = (file, replaced);
}

/// Whether two paths name one file, through links of either kind; false where either does not exist.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        identity(a).is_some_and(|a| Some(a) == identity(b))
    }
    #[cfg(not(unix))]
    {
        let identity = |path: &Path| fs::canonicalize(path).ok();
        identity(a).is_some_and(|a| Some(a) == identity(b))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn links_stay_and_what_they_name_is_replaced() -> Result<()> {
        let folder = folder();
        let [file, link, far] = ["file", "link", "far"].map(|name| folder.path().join(name));
        fs::write(&file, "old").expect("writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
        symlink("file", &link).expect("links work here");
        symlink(&link, &far).expect("links work here");
        write_bytes(&far, b"new")?;
        assert_eq!(fs::read(&file).expect("there"), b"new");
        assert!(link.is_symlink() && far.is_symlink());
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        // A link to nothing yet makes what it names.
        let [dangling, made] = ["dangling", "sub/made"].map(|name| folder.path().join(name));
        symlink("sub/made", &dangling).expect("links work here");
        write_bytes(&dangling, b"made")?;
        assert!(dangling.is_symlink() && fs::read(&made).is_ok_and(|bytes| bytes == b"made"));
        assert!(write_bytes(folder.path(), b"x").is_err_and(|e| e.to_string().contains("is a folder")));
        Ok(())
    }

    #[test]
    fn pipes_and_devices_are_written_into() -> Result<()> {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe)
        });
        write_bytes(&pipe, b"through")?;
        assert_eq!(reader.join().expect("no panic").expect("readable"), b"through");
        assert!(!fs::metadata(&pipe).expect("still there").is_file());
        write_bytes("/dev/null", b"gone")?;
        assert!(!fs::metadata("/dev/null").expect("still there").is_file());
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "old").expect("writable");
        let failed = write(&file, |out| {
            out.write_all(b"half").map_err(|e| Error::io("x", e))?;
            Err(Error::Interrupted)
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&file).expect("there"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
        let hard = folder.path().join("hard");
        fs::hard_link(&file, &hard).expect("one file system");
        assert!(is_same_file(&file, &hard) && !is_same_file(&file, folder.path()));
    }

    #[test]
    fn only_our_leftovers_go() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("features");
        write_bytes(dir.join("a.safetensors"), b"whole")?;
        let files = [".isg-Ab3xYz", ".isg-notes.txt", ".isg-", "isg-Ab3xYz", ".isg-Ab3xY_"];
        files.iter().for_each(|name| fs::write(dir.join(name), b"").expect("writable"));
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
