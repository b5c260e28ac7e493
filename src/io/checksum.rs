//! Digests: checksums of files, and names for everything that a result depends on.
//!
//! One hash (BLAKE3, 128 bits of it) serves both. A file that this program writes carries a checksum of itself, so that a
//! damaged one is noticed; an artefact carries the digest of all it was made from, so that a stale one is.

use std::{fmt, io::Read, path::Path};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

/// Counts the changes of this program after which the same settings give other numbers. It is part of every digest of
/// settings, so that a run begun by an earlier program is done again rather than mixed.
const GENERATION: u32 = 1;

/// 128 bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest([u8; Digest::BYTES]);

impl Digest {
    const BYTES: usize = 16;
    /// Hexadecimal digits.
    pub const CHARS: usize = 2 * Digest::BYTES;

    pub fn of_bytes(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.digest()
    }

    /// Of every byte of a file.
    ///
    /// # Errors
    /// What reading it gives.
    pub fn of_file(path: &Path) -> Result<Digest> {
        let io = |e| Error::io(path, e);
        let mut file = super::open_file(path)?;
        let mut hasher = Hasher::new();
        let mut part = vec![0; 4 << 20];
        loop {
            match file.read(&mut part).map_err(io)? {
                0 => return Ok(hasher.digest()),
                n => hasher.update(&part[..n]),
            }
        }
    }

    /// Of a value as JSON: names and numbers count, the order of an object's keys does not. `kind` says what the value
    /// describes, so that equal values of two kinds have two digests.
    pub fn of(kind: &str, value: &impl Serialize) -> Digest {
        // Values here are plain structs and maps with text keys, which always have a JSON form.
        let text = serde_json::to_value(value).map_or_else(|e| format!("no JSON: {e}"), |json| json.to_string());
        Digest::of_bytes(format!("{GENERATION} {kind}\n{text}").as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        let mut bytes = [0; Digest::BYTES];
        let plain = text.len() == Digest::CHARS && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(format!("{text:?} is not {} hexadecimal digits", Digest::CHARS));
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|e| e.to_string())?;
        }
        Ok(Digest(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Takes bytes piece by piece.
pub struct Hasher(blake3::Hasher);

impl Hasher {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Hasher {
        Hasher(blake3::Hasher::new())
    }

    /// Large pieces are hashed on all cores; the result is the same.
    pub fn update(&mut self, bytes: &[u8]) {
        if bytes.len() < 256 << 10 {
            self.0.update(bytes);
        } else {
            self.0.update_rayon(bytes);
        }
    }

    pub fn digest(&self) -> Digest {
        let mut bytes = [0; Digest::BYTES];
        bytes.copy_from_slice(&self.0.finalize().as_bytes()[..Digest::BYTES]);
        Digest(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_back_and_tell_kinds_apart() {
        let digest = Digest::of("scores", &[1, 2, 3]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_ne!(digest, Digest::of("features", &[1, 2, 3]));
        assert!("zz".parse::<Digest>().is_err() && digest.to_string().to_uppercase().parse::<Digest>().is_err());
    }

    #[test]
    fn a_files_digest_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes: Vec<u8> = (0..9_000_001u32).map(|i| (i % 251) as u8).collect();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).expect("writable");
        assert_eq!(Digest::of_file(&path).expect("readable"), Digest::of_bytes(&bytes));
    }
}
