//! Tells whether a file is the one that was read before: by every byte of it, hashed once.
//!
//! Hashing a slide means reading all of it, so a fingerprint remembers where and when the file was found (size, times,
//! inode) and is believed without reading as long as those are the same. A file whose times are so young that another
//! write could share them is read again.

use std::{
    fs::Metadata,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    io::checksum::Digest,
};

/// Coarsest step of the clocks that file systems use, with room to spare.
const CLOCK_STEP_NS: i64 = 3_000_000_000;

/// Of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of all its bytes.
    pub content: Digest,
    /// What the file system said; `None` where its times were too young to be trusted.
    seen: Option<Seen>,
}

/// What changes whenever a file is written, moved over or replaced.
#[derive(Clone, Eq, Debug, Serialize, Deserialize)]
struct Seen {
    size_bytes: u64,
    /// Nanoseconds since 1970.
    modified_ns: i64,
    /// When content or attributes changed last, which no program can set; 0 where the system has no such time.
    changed_ns: i64,
    /// Device and inode; 0 where the system has none.
    inode: [u64; 2],
}

/// Devices do not count: on a network file system every machine has a number of its own for the same one, and no other file has
/// this inode and was written in that nanosecond.
impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        let all = |seen: &Seen| (seen.size_bytes, seen.modified_ns, seen.changed_ns, seen.inode[1]);
        all(self) == all(other)
    }
}

impl Seen {
    fn of(meta: &Metadata) -> Option<Seen> {
        let modified_ns = nanoseconds(meta.modified().ok()?)?;
        #[cfg(unix)]
        let (changed_ns, inode) = {
            use std::os::unix::fs::MetadataExt;
            (meta.ctime().checked_mul(1_000_000_000)?.checked_add(meta.ctime_nsec())?, [meta.dev(), meta.ino()])
        };
        #[cfg(not(unix))]
        let (changed_ns, inode) = (0, [0; 2]);
        Some(Seen { size_bytes: meta.len(), modified_ns, changed_ns, inode })
    }

    /// Whether a later write must have later times.
    fn is_settled(&self) -> bool {
        let last = self.modified_ns.max(self.changed_ns);
        nanoseconds(SystemTime::now()).is_some_and(|now| last.saturating_add(CLOCK_STEP_NS) < now)
    }
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

impl Fingerprint {
    /// Reads the whole file.
    pub fn of(path: &Path) -> Result<Fingerprint> {
        let io = |e| Error::io(path, e);
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(Error::input(path, "is not a file", "name a file")); // a pipe would be waited for
        }
        let before = Seen::of(&meta);
        let content = Digest::of_file(path)?;
        let after = Seen::of(&std::fs::metadata(path).map_err(io)?);
        Ok(Fingerprint { content, seen: before.filter(|seen| seen.is_settled() && after.as_ref() == Some(seen)) })
    }

    /// Of the file as it is now; reads it only where `earlier` does not vouch for it.
    pub fn renewed(path: &Path, earlier: Option<&Fingerprint>) -> Result<Fingerprint> {
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        match earlier {
            Some(earlier) if earlier.seen.is_some() && earlier.seen == Seen::of(&meta) => Ok(earlier.clone()),
            _ => Fingerprint::of(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen_even_where_the_time_is_set_back() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("slide");
        std::fs::write(&path, vec![7; 3 << 20]).expect("writable");
        let first = Fingerprint::of(&path)?;
        assert_eq!(Fingerprint::renewed(&path, Some(&first))?.content, first.content);
        let modified = std::fs::metadata(&path).and_then(|m| m.modified()).expect("a time");
        let mut bytes = vec![7; 3 << 20];
        bytes[1_234_567] = 8;
        std::fs::write(&path, &bytes).expect("writable");
        let file = std::fs::File::options().write(true).open(&path).expect("writable");
        file.set_modified(modified).expect("a settable time");
        assert_ne!(Fingerprint::renewed(&path, Some(&first))?.content, first.content);
        Ok(())
    }

    #[test]
    fn a_settled_file_is_not_read_again() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("slide");
        std::fs::write(&path, b"tissue").expect("writable");
        let seen = Seen::of(&std::fs::metadata(&path).expect("a file"));
        let claimed = Fingerprint { content: Digest::of_bytes(b"remembered"), seen };
        assert_eq!(Fingerprint::renewed(&path, Some(&claimed))?, claimed);
        std::fs::rename(&path, folder.path().join("old")).expect("writable");
        std::fs::write(&path, b"tissue").expect("writable");
        assert_eq!(Fingerprint::renewed(&path, Some(&claimed))?.content, Digest::of_bytes(b"tissue"));
        Ok(())
    }
}
