//! Text of a file, unpacked, line by line.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

/// A line of a wide table holds a number per sample or gene; more than this is not a table.
const MAX_LINE_BYTES: usize = 256 << 20;
/// Packed text is refused once it has unpacked to more than this and to more than [`MAX_EXPANSION`] times its size.
/// Tables of counts shrink to a tenth, those of zeros to a hundredth.
const FREE_BYTES: u64 = 256 << 20;
const MAX_EXPANSION: u64 = 200;

/// Opens a file for text, unpacking gzip. Errors name what else the file is.
fn open_text(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
    if metadata.is_dir() {
        return Err(Error::input(path, "is a folder", "name a table"));
    }
    let mut raw = BufReader::with_capacity(1 << 17, file);
    let head = raw.fill_buf().map_err(|e| Error::io(path, e))?;
    let mut text: Box<dyn BufRead + Send> = match head {
        [0x1f, 0x8b, ..] => {
            let limit = FREE_BYTES.max(metadata.len().saturating_mul(MAX_EXPANSION));
            let unpacked = Limited { inner: MultiGzDecoder::new(raw), left: limit };
            Box::new(BufReader::with_capacity(1 << 17, unpacked))
        }
        [b'P', b'K', 3, 4, ..] => {
            return Err(Error::input(path, "is a workbook or zip archive, not a table", "save it as CSV or TSV"));
        }
        [0xd0, 0xcf, 0x11, 0xe0, ..] => {
            return Err(Error::input(path, "is an old Excel workbook, not a table", "save it as CSV or TSV"));
        }
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return Err(Error::input(path, "is compressed by bzip2, xz or zstd", "unpack it, or use gzip"));
        }
        _ => Box::new(raw),
    };
    let head = text.fill_buf().map_err(|e| cut_off(path, &e))?;
    if head.starts_with(b"\xef\xbb\xbf") {
        text.consume(3);
        return Ok(text);
    }
    let utf16 = head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]);
    if utf16 || head.iter().take(4096).any(|&b| b == 0) {
        let problem = if utf16 { "is UTF-16 text" } else { "is not text" };
        return Err(Error::input(path, problem, "save it as CSV or TSV in UTF-8"));
    }
    if head.starts_with(b"version https://git-lfs") {
        return Err(Error::input(path, "is a git-lfs pointer, not the table", "fetch it with git lfs pull"));
    }
    let start = head.trim_ascii_start().get(..9).unwrap_or_default().to_ascii_lowercase();
    if start.starts_with(b"<html") || start == b"<!doctype" {
        return Err(Error::input(
            path,
            "is a web page, not a table",
            "download it again, logged in where that is needed",
        ));
    }
    Ok(text)
}

/// A reader that fails once it has given more than it may.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let mib = FREE_BYTES >> 20;
            std::io::Error::other(format!("it unpacks to more than {mib} MiB and {MAX_EXPANSION} times its size"))
        })?;
        Ok(n)
    }
}

fn cut_off(path: &Path, e: &std::io::Error) -> Error {
    Error::input(path, format!("cannot be read to its end ({e})"), "download or pack it again")
}

/// The whole of a possibly packed text file, up to `limit_bytes`.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    let mut bytes = Vec::new();
    open_text(path)?.take(limit_bytes).read_to_end(&mut bytes).map_err(|e| cut_off(path, &e))?;
    Ok(decode(&bytes).into_owned())
}

/// UTF-8, or else Latin-1, which old spreadsheets write: no two names become one.
pub(super) fn decode(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|&b| char::from(b)).collect::<String>().into(),
    }
}

/// Lines of a text, and which of them is the current one.
pub(super) struct Lines {
    pub path: PathBuf,
    text: Box<dyn BufRead + Send>,
    /// The current line without its ending.
    pub current: Vec<u8>,
    /// Its number, from 1.
    pub number: u64,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Lines> {
        Ok(Lines { path: path.to_path_buf(), text: open_text(path)?, current: Vec::new(), number: 0 })
    }

    /// Moves to the next line, ended by `\n`, `\r\n`, `\r` or the end of the file; false where there is none.
    pub fn advance(&mut self) -> Result<bool> {
        self.current.clear();
        self.number += 1;
        loop {
            let head = self.text.fill_buf().map_err(|e| cut_off(&self.path, &e))?;
            if head.is_empty() {
                return Ok(!self.current.is_empty());
            }
            let Some(end) = head.iter().position(|&b| b == b'\n' || b == b'\r') else {
                self.current.extend_from_slice(head);
                let n = head.len();
                self.text.consume(n);
                if self.current.len() > MAX_LINE_BYTES {
                    return Err(Error::input(&self.path, "holds a line of more than 256 MiB", "name a table"));
                }
                continue;
            };
            self.current.extend_from_slice(&head[..end]);
            let carriage_return = head[end] == b'\r';
            self.text.consume(end + 1);
            if carriage_return {
                let next = self.text.fill_buf().map_err(|e| cut_off(&self.path, &e))?;
                if next.first() == Some(&b'\n') {
                    self.text.consume(1);
                }
            }
            return Ok(true);
        }
    }
}
