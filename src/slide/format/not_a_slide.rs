//! What people name in place of a slide: nothing at all, archives, web pages, documents, other images. Each gets the
//! sentence that helps.

use super::{Candidate, Format, Opened, xml_root};
use crate::error::{Error, Result};

/// A file of no bytes, asked for before any format looks for marks.
pub struct Empty;
pub static EMPTY: Empty = Empty;

impl Format for Empty {
    fn recognises(&self, candidate: &Candidate) -> bool {
        !candidate.is_folder() && candidate.head().is_empty()
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        Err(Error::input(candidate.path(), "is empty (0 bytes)", "copy or download it again"))
    }
}

/// Everything that no other format recognises.
pub struct NotASlide;

impl Format for NotASlide {
    fn recognises(&self, _: &Candidate) -> bool {
        true
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        if candidate.is_folder() {
            return Err(Error::input(candidate.path(), "is a folder", "name a slide file"));
        }
        let (problem, remedy) = known_bytes(candidate.head()).or_else(|| known_text(candidate.head())).unwrap_or((
            "is not a slide that can be read",
            "give an Aperio SVS, a TIFF, an OME-TIFF, a PNG or a JPEG file",
        ));
        Err(Error::input(candidate.path(), problem, remedy))
    }
}

type Sentence = (&'static str, &'static str);

const UNPACK: &str = "unpack it and name the slide inside";
const TO_TIFF: &str = "convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg";

/// Files told by their first bytes.
fn known_bytes(head: &[u8]) -> Option<Sentence> {
    Some(match head {
        [0x1f, 0x8b, ..] => ("is packed with gzip", "unpack it with gunzip"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => ("is packed with bzip2", "unpack it with bunzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("is packed with xz", "unpack it with unxz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("is packed with Zstandard", "unpack it with unzstd"),
        [b'P', b'K', 3 | 5 | 7, 4 | 6 | 8, ..] => ("is a zip archive", UNPACK),
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => ("is a 7z archive", UNPACK),
        [b'R', b'a', b'r', b'!', 0x1a, 7, ..] => ("is a rar archive", UNPACK),
        _ if head.get(257..262) == Some(b"ustar") => ("is a tar archive", UNPACK),
        _ if head.starts_with(b"%PDF") => ("is a PDF document", "name the slide itself"),
        _ if head.starts_with(b"\0\0\0\x0cjP  \r\n\x87\n") => ("is a JPEG 2000 image", TO_TIFF),
        [0xff, 0x4f, 0xff, 0x51, ..] => ("is a JPEG 2000 codestream", TO_TIFF),
        _ if head.starts_with(b"GIF8") => ("is a GIF image", TO_TIFF),
        _ if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") => ("is a WebP image", TO_TIFF),
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => ("is a BMP image", TO_TIFF),
        _ if head.starts_with(b"\x89HDF\r\n\x1a\n") => {
            ("is an HDF5 file", "convert it: bfconvert -noflat IN OUT.ome.tif, if it is an image")
        }
        _ if head.starts_with(b"SQLite format 3\0") => ("is a SQLite data base", "name the slide itself"),
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => {
            ("is a compound document (Zeiss ZVI, Olympus OIB or Office)", "convert it: bfconvert IN OUT.ome.tif")
        }
        _ if head.len() >= 512 && head.iter().all(|&b| b == 0) => {
            ("begins with nothing but zero bytes", "it was not fully copied or downloaded, do it again")
        }
        _ => return None,
    })
}

/// Text told by its first words.
fn known_text(head: &[u8]) -> Option<Sentence> {
    const PAGE: Sentence =
        ("is a web page (HTML), as a server sends that wants a login", "log in and download the slide itself");
    let text = String::from_utf8_lossy(&head[..head.len().min(4096)]);
    let start = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let root = xml_root(&start);
    if start.starts_with("<!doctype html") || ["html", "head", "body"].iter().any(|name| root.starts_with(name)) {
        return Some(PAGE);
    }
    if root.starts_with("ome") {
        return Some(("is OME-XML without pixels", "name the .ome.tif file that belongs to it"));
    }
    if start.starts_with("<?xml") || !root.is_empty() {
        return Some(("is an XML document", "name the slide itself"));
    }
    if start.starts_with("version https://git-lfs") {
        return Some(("is a git-lfs pointer, not the slide", "fetch it with git lfs pull"));
    }
    if start.starts_with('{') || start.starts_with("[{") {
        return Some(("is JSON text, as a server sends that refuses a download", "download the slide itself"));
    }
    let printable = |b: &u8| (0x20..0x7f).contains(b) || matches!(b, b'\t' | b'\r' | b'\n');
    (!head.is_empty() && head.iter().all(printable)).then_some(("is a text file", "name the slide itself"))
}
