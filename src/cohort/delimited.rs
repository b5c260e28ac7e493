//! Delimited text as people have it: tabs, commas, semicolons or spaces; gzip; byte-order marks; any line ending; quotes;
//! `#` comments; GCT preambles; R's tables whose header lacks the name of the first column.
//!
//! Liberal in form, strict in content: a row of the wrong length, a number that is none, a file cut short are errors that
//! name the line. Numbers may use a decimal comma only where semicolons separate the fields.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use csv::ByteRecord;
use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

/// A line of a wide table holds a number per sample or gene; more than this is not a table.
const MAX_LINE_BYTES: usize = 256 << 20;

/// A table being read: its first line split, the others on demand.
pub struct Source {
    path: PathBuf,
    pub delimiter: u8,
    /// Comment lines before the first, without `#`.
    pub comments: Vec<String>,
    /// The first line's fields: a header, or data where the table has none.
    pub first: Vec<String>,
    /// A data line already taken from the reader, because the header stood in a comment.
    pending: Option<Vec<String>>,
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    lines_before: u64,
    record: ByteRecord,
}

/// Opens a file for text, unpacking gzip. Errors name what else the file is.
fn open_text(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Error::input(path, "is a folder", "name a table"));
    }
    let mut raw = BufReader::with_capacity(1 << 17, file);
    let head = raw.fill_buf().map_err(|e| Error::io(path, e))?;
    let mut text: Box<dyn BufRead + Send> = match head {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 17, MultiGzDecoder::new(raw))),
        [b'P', b'K', 3, 4, ..] => {
            return Err(Error::input(path, "is a workbook or zip archive, not a table", "save it as CSV or TSV"));
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
    Ok(text)
}

fn cut_off(path: &Path, e: &std::io::Error) -> Error {
    Error::input(path, format!("cannot be read to its end ({e})"), "download or pack it again")
}

/// One line without its ending (`\n`, `\r\n` or `\r`); `None` at the end of the file.
fn read_line(path: &Path, text: &mut dyn BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let head = text.fill_buf().map_err(|e| cut_off(path, &e))?;
        if head.is_empty() {
            return Ok((!line.is_empty()).then_some(line));
        }
        let Some(end) = head.iter().position(|&b| b == b'\n' || b == b'\r') else {
            line.extend_from_slice(head);
            let n = head.len();
            text.consume(n);
            if line.len() > MAX_LINE_BYTES {
                return Err(Error::input(path, "holds a line of more than 256 MiB", "name a table"));
            }
            continue;
        };
        line.extend_from_slice(&head[..end]);
        let carriage_return = head[end] == b'\r';
        text.consume(end + 1);
        if carriage_return && text.fill_buf().map_err(|e| cut_off(path, &e))?.first() == Some(&b'\n') {
            text.consume(1);
        }
        return Ok(Some(line));
    }
}

/// The separator that occurs outside quotes: tab before semicolon and comma before space.
fn find_delimiter(line: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [0usize; 4];
    for &b in line {
        match b {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'\t' => counts[0] += 1,
            b';' => counts[1] += 1,
            b',' => counts[2] += 1,
            b' ' => counts[3] += 1,
            _ => {}
        }
    }
    let [tabs, semicolons, commas, spaces] = counts;
    match () {
        () if tabs > 0 => b'\t',
        () if semicolons > commas => b';',
        () if commas > 0 || spaces == 0 => b',',
        () => b' ',
    }
}

fn split(line: &[u8], delimiter: u8) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(line);
    let mut record = ByteRecord::new();
    let _ = reader.read_byte_record(&mut record);
    record.iter().map(clean).collect()
}

/// A field as text, without the spaces around it.
fn clean(field: &[u8]) -> String {
    String::from_utf8_lossy(field.trim_ascii()).into_owned()
}

impl Source {
    pub fn open(path: impl AsRef<Path>) -> Result<Source> {
        let path = path.as_ref();
        let mut text = open_text(path)?;
        let mut comments = Vec::new();
        let mut lines_before = 0;
        let mut preamble = false;
        let first = loop {
            let line = read_line(path, &mut *text)?
                .ok_or_else(|| Error::input(path, "is empty", "name a table with a header and rows"))?;
            lines_before += 1;
            let line = line.trim_ascii_end();
            if let Some(comment) = line.strip_prefix(b"#") {
                // GCT files: "#1.2", then a line of two counts, then the header.
                preamble |= comments.is_empty() && matches!(comment, b"1.2" | b"1.3");
                comments.push(clean_comment(comment));
            } else if !line.trim_ascii().is_empty() && !std::mem::take(&mut preamble) {
                break line.to_vec();
            }
        };
        let delimiter = find_delimiter(&first);
        let mut first = split(&first, delimiter);
        let mut pending = None;
        if let Some(comment) = comments.last() {
            // "#gene<TAB>S1<TAB>S2": as many fields as the line below, which holds numbers where it holds none.
            let fields = split(comment.as_bytes(), delimiter);
            let numbers =
                |f: &[String]| f.iter().skip(1).any(|v| parse_number(v, delimiter).is_some_and(|n| !n.is_nan()));
            if fields.len() >= 2 && fields.len() == first.len() && numbers(&first) && !numbers(&fields) {
                pending = Some(std::mem::replace(&mut first, fields));
                comments.pop();
            }
        }
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .comment(Some(b'#'))
            .from_reader(text);
        let record = ByteRecord::new();
        Ok(Source { path: path.to_path_buf(), delimiter, comments, first, pending, reader, lines_before, record })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next line's fields into `out`; false at the end. Empty lines are passed over.
    pub fn next_fields(&mut self, out: &mut Vec<String>) -> Result<bool> {
        if let Some(fields) = self.pending.take() {
            *out = fields;
            return Ok(true);
        }
        loop {
            let more = self.reader.read_byte_record(&mut self.record).map_err(|e| match e.into_kind() {
                csv::ErrorKind::Io(e) => cut_off(&self.path, &e),
                other => Error::input(&self.path, format!("{other:?}"), "correct the table"),
            })?;
            if !more {
                out.clear();
                return Ok(false);
            }
            if self.record.iter().any(|f| !f.trim_ascii().is_empty()) {
                // A matrix has millions of fields: their buffers are used again.
                out.resize_with(self.record.len(), String::new);
                for (text, field) in out.iter_mut().zip(&self.record) {
                    text.clear();
                    text.push_str(&String::from_utf8_lossy(field.trim_ascii()));
                }
                return Ok(true);
            }
        }
    }

    /// Line number of the record read last, for messages.
    pub fn line(&self) -> u64 {
        self.lines_before + self.record.position().map_or(0, csv::Position::line)
    }

    /// A number of the record read last, or NaN where the field says that there is none.
    pub fn number(&self, field: &str) -> Result<f64> {
        self.number_at(field, self.line())
    }

    /// A number of the record that stood on `line`.
    pub fn number_at(&self, field: &str, line: u64) -> Result<f64> {
        parse_number(field, self.delimiter).ok_or_else(|| {
            let shown: String = field.chars().take(40).collect();
            Error::input(
                &self.path,
                format!("line {line} holds {shown:?} where a number is expected"),
                "correct it, or write NA where a value is missing",
            )
        })
    }

    /// Makes a row as long as the header: one empty field too many (a trailing separator) is dropped.
    pub fn check_width(&self, fields: &mut Vec<String>, width: usize) -> Result<()> {
        if fields.len() == width + 1 && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() == width {
            return Ok(());
        }
        let problem = format!("line {} has {} fields, the header {width}", self.line(), fields.len());
        Err(Error::input(&self.path, problem, "the file is cut short or damaged: correct or download it again"))
    }
}

fn clean_comment(comment: &[u8]) -> String {
    // Only the space after the hash goes: a leading tab would be an empty first field.
    String::from_utf8_lossy(comment.strip_prefix(b" ").unwrap_or(comment)).into_owned()
}

/// Whether a field says that a value is missing.
pub fn is_missing(field: &str) -> bool {
    matches!(
        field.trim().to_ascii_lowercase().as_str(),
        "" | "na"
            | "n/a"
            | "#n/a"
            | "nan"
            | "null"
            | "none"
            | "."
            | "-"
            | "--"
            | "?"
            | "missing"
            | "not available"
            | "'--"
    )
}

/// A finite number; NaN for a missing one; `None` for anything else.
pub fn parse_number(field: &str, delimiter: u8) -> Option<f64> {
    let field = field.trim();
    let first = field.as_bytes().first().copied().unwrap_or(b'?');
    if !(first.is_ascii_digit() || (matches!(first, b'-' | b'+' | b'.') && field.len() > 1)) {
        return is_missing(field).then_some(f64::NAN);
    }
    let parsed = if delimiter == b';' && field.contains(',') && !field.contains('.') {
        field.replacen(',', ".", 1).parse()
    } else {
        field.parse::<f64>()
    };
    match parsed {
        Ok(v) if v.is_finite() => Some(v),
        _ => is_missing(field).then_some(f64::NAN),
    }
}

/// A column's name without case, spaces and punctuation.
pub fn plain_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A row of a small table.
pub struct Row(Vec<String>);

impl Row {
    /// The field of a column; empty where the row is shorter.
    pub fn get(&self, column: usize) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// The field of an optional column, `None` where it is missing.
    pub fn present(&self, column: Option<usize>) -> Option<&str> {
        column.map(|c| self.get(c)).filter(|v| !is_missing(v))
    }
}

/// A small table in memory: a slide table, a sample sheet, labels.
pub struct Table {
    pub path: PathBuf,
    pub header: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn read(path: impl AsRef<Path>) -> Result<Table> {
        let mut source = Source::open(path)?;
        let mut header = std::mem::take(&mut source.first);
        let mut rows = Vec::new();
        let mut fields = Vec::new();
        while source.next_fields(&mut fields)? {
            if rows.is_empty() && fields.len() == header.len() + 1 && !fields.last().is_some_and(String::is_empty) {
                header.insert(0, String::new()); // R leaves out the name of the row names
            }
            if fields.len() > header.len() {
                source.check_width(&mut fields, header.len())?;
            }
            rows.push(Row(std::mem::take(&mut fields)));
        }
        Ok(Table { path: source.path, header, rows })
    }

    /// The first column called one of these names, the names in order of preference; case and punctuation do not matter.
    pub fn column(&self, names: &[&str]) -> Option<usize> {
        let header: Vec<String> = self.header.iter().map(|h| plain_name(h)).collect();
        names.iter().find_map(|name| {
            let name = plain_name(name);
            header.iter().position(|h| *h == name)
        })
    }

    /// As [`Table::column`], or an error that says which columns there are.
    pub fn required(&self, names: &[&str]) -> Result<usize> {
        self.column(names).ok_or_else(|| {
            let has = self.header.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            Error::input(&self.path, format!("has no column {} (it has: {has})", names[0]), "add or rename the column")
        })
    }
}

/// The whole of a possibly packed text file, up to `limit_bytes`.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    let mut bytes = Vec::new();
    open_text(path)?.take(limit_bytes).read_to_end(&mut bytes).map_err(|e| cut_off(path, &e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
