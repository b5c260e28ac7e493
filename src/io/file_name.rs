//! Names of files for things that users named: ids of slides, genes, projects.

use std::path::{Path, PathBuf};

use crate::io::checksum::Digest;

/// Longest name, in bytes, with room for an extension within the 255 that file systems take.
const LONGEST: usize = 180;

/// A file name of one's own for every name: ASCII letters, digits, `-`, `_`, space and inner dots stand for themselves,
/// every other byte for `%` and two hexadecimal digits. One that would be too long is cut and told apart by a digest.
pub fn escaped(name: &str) -> String {
    let mut out = String::new();
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b' ') || (byte == b'.' && at > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    if out.len() <= LONGEST {
        return out;
    }
    out.truncate(LONGEST - Digest::CHARS - 1);
    // `~` stands in no other name.
    format!("{out}~{}", Digest::of_bytes(name.as_bytes()))
}

/// The file in a folder that is named after a thing with one of these endings: under the name of [`escaped`], or as other programs
/// write it, as it is.
///
/// # Errors
/// There is none: the path of the first that it might be.
pub fn find(folder: &Path, name: &str, endings: &[&str]) -> Result<PathBuf, PathBuf> {
    let own = escaped(name);
    // A name with a separator would leave the folder.
    let plain = (own != name && !name.contains(['/', '\\'])).then_some(name);
    let names = std::iter::once(own.as_str()).chain(plain);
    let mut paths = names.flat_map(|name| endings.iter().map(move |ending| folder.join(format!("{name}.{ending}"))));
    let first = paths.next().unwrap_or_default();
    if first.is_file() { Ok(first) } else { paths.find(|path| path.is_file()).ok_or(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_share_a_file() {
        let long = "x".repeat(300);
        let names =
            ["a/6", "a\u{2f6}", "a%2f6", "a.6", "a 6", "..", ".", ".hidden", "\u{e9}", "e\u{301}", &long, &long[1..]];
        let mut files: Vec<String> = names.iter().map(|name| escaped(name)).collect();
        for file in &files {
            assert!(!file.contains('/') && !file.starts_with('.') && file.len() <= LONGEST, "{file}");
        }
        files.sort();
        files.dedup();
        assert_eq!(files.len(), names.len());
        assert_eq!(escaped("TCGA-05-4244-01Z-00-DX1.d4ff32cd"), "TCGA-05-4244-01Z-00-DX1.d4ff32cd");
    }
}
