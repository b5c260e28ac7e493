//! JSON and TOML files that carry a checksum of themselves.
//!
//! A sealed JSON object has one more key, `checksum`, over everything else in it; how it is spaced and in which order its
//! keys stand does not count. A sealed TOML file opens with a comment that holds the checksum of all that follows.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    io::{atomic, checksum::Digest, text},
};

const KEY: &str = "checksum";

/// Whether a sealed file was found with its seal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seal {
    Whole,
    /// No checksum: written by hand or by another program.
    Absent,
}

/// Writes `value`, which is an object as JSON, with its checksum.
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let path = path.as_ref();
    let unusable = |what: String| Error::internal(format_args!("{}: {what}", path.display()));
    let mut json = serde_json::to_value(value).map_err(|e| unusable(e.to_string()))?;
    let digest = Digest::of_bytes(json.to_string().as_bytes());
    let object = json.as_object_mut().ok_or_else(|| unusable("only an object can carry its checksum".into()))?;
    object.insert(KEY.into(), digest.to_string().into());
    atomic::write_bytes(path, format!("{json:#}\n").as_bytes())
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
/// `Io` where the file cannot be read; `Input` where it is damaged, carries no checksum or does not hold a `T`.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    match read_json_unsealed(path)? {
        (value, Seal::Whole) => Ok(value),
        (_, Seal::Absent) => Err(Error::input(path, "carries no checksum", "delete it and run the same command again")),
    }
}

/// As [`read_json`], but takes files without a checksum too.
pub fn read_json_unsealed<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<(T, Seal)> {
    let path = path.as_ref();
    let unusable = |what: String| Error::input(path, what, "run the command that wrote it again");
    let bytes = text::read_bytes(path, text::MAX_JSON_BYTES)?;
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| unusable(format!("is no whole JSON ({e})")))?;
    let seal = match json.as_object_mut().and_then(|object| object.remove(KEY)) {
        None => Seal::Absent,
        Some(held) if held == Digest::of_bytes(json.to_string().as_bytes()).to_string() => Seal::Whole,
        Some(_) => return Err(unusable("is damaged or was edited: its checksum is another".into())),
    };
    let value = serde_json::from_value(json).map_err(|e| unusable(format!("does not fit this program ({e})")))?;
    Ok((value, seal))
}

const COMMENT: &str = "# checksum of what follows: ";

/// Writes a TOML document with its checksum in the first line.
pub fn write_toml(path: impl AsRef<Path>, document: &str) -> Result<()> {
    let digest = Digest::of_bytes(document.as_bytes());
    atomic::write_bytes(path, format!("{COMMENT}{digest}\n{document}").as_bytes())
}

/// Checks the first line that [`write_toml`] wrote; a document without one passes.
///
/// # Errors
/// `Input` where the document is not what the checksum says.
pub fn check_toml(path: &Path, text: &str) -> Result<Seal> {
    let Some((held, document)) = text.strip_prefix(COMMENT).and_then(|rest| rest.split_once('\n')) else {
        return Ok(Seal::Absent);
    };
    if held.trim_end() == Digest::of_bytes(document.as_bytes()).to_string() {
        return Ok(Seal::Whole);
    }
    Err(Error::input(path, "is damaged or was edited: its checksum is another", "run the same command again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen_or_changes_nothing() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.json");
        let value = serde_json::json!({ "step": 12, "loss": 0.1, "name": "a \u{e9}", "list": [1.5e-7, null, true] });
        write_json(&path, &value)?;
        assert_eq!(read_json::<Value>(&path)?, value);
        let whole = std::fs::read(&path).expect("readable");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).expect("writable");
            if let Ok(read) = read_json::<Value>(&path) {
                assert_eq!(read, value, "bit {bit} went unseen");
            }
        }
        Ok(())
    }

    #[test]
    fn an_edited_document_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.toml");
        write_toml(&path, "seed = 1\n")?;
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(check_toml(&path, &text)?, Seal::Whole);
        assert!(check_toml(&path, &text.replace("seed = 1", "seed = 3")).is_err());
        assert_eq!(check_toml(&path, "seed = 3\n")?, Seal::Absent);
        Ok(())
    }
}
