//! Small text files read whole: configurations, splits, states. Each kind has a size that no real one reaches, so that a
//! device or a mistaken file name costs an error and not the machine's memory.

use std::{fs::File, io::Read, path::Path};

use crate::error::{Error, Result};

/// A run's configuration is some kilobytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// JSON that this program writes for itself.
pub const MAX_JSON_BYTES: u64 = 256 << 20;

/// The bytes of a file of at most `limit_bytes`. Reads no further than that, whatever the file claims to hold.
pub fn read_bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit_bytes {
        let limit = match limit_bytes >> 20 {
            0 => format!("{} KiB", limit_bytes >> 10),
            mib => format!("{mib} MiB"),
        };
        return Err(Error::input(path, format!("is larger than {limit}"), "name the right file"));
    }
    Ok(bytes)
}

/// As [`read_bytes`], as UTF-8 without a byte-order mark.
pub fn read(path: &Path, limit_bytes: u64) -> Result<String> {
    let text = String::from_utf8(read_bytes(path, limit_bytes)?)
        .map_err(|_| Error::input(path, "is not UTF-8 text", "save it as UTF-8, or name the right file"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

/// A TOML file of at most [`MAX_CONFIG_BYTES`].
#[cfg(feature = "app")]
pub fn read_toml(path: &Path) -> Result<toml::Table> {
    parse_toml(path, &read(path, MAX_CONFIG_BYTES)?)
}

/// The text of a TOML file. Errors say line, column and what is wrong there; the line itself is not repeated.
#[cfg(feature = "app")]
pub fn parse_toml(path: &Path, text: &str) -> Result<toml::Table> {
    text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let what = e.message().trim().replace('\n', ", ");
        Error::input(path, format!("is not TOML at line {line}, column {column} ({what})"), "correct that line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_refused_and_errors_are_short() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, format!("a = 1\nb = [{}", "\"x\", ".repeat(30_000))).expect("writable");
        let message = read_toml(&path).expect_err("never closed").to_string();
        assert!(message.contains("line 2, column") && message.len() < 400, "{message}");
        std::fs::write(&path, vec![b' '; 3 << 20]).expect("writable");
        assert!(read_toml(&path).is_err_and(|e| e.to_string().contains("is larger than 1 MiB")));
        std::fs::write(&path, "\u{feff}a = 1").expect("writable");
        assert_eq!(read_toml(&path).ok().and_then(|table| table["a"].as_integer()), Some(1));
    }
}
