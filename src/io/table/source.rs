//! A table read row by row.

use std::path::Path;

use super::{
    number::{Numbers, parse_number},
    record,
    text::Lines,
};
use crate::error::{Error, Result};

/// A table being read: its first line split, the others on demand.
pub struct Source {
    pub delimiter: u8,
    /// Comment lines before the first, without `#`.
    pub comments: Vec<String>,
    /// The first line's fields: a header, or data where the table has none.
    pub first: Vec<String>,
    /// A data line already taken, because the header stood in a comment.
    pending: Option<(Vec<String>, u64)>,
    lines: Lines,
    /// Line on which the row read last begins.
    row_line: u64,
    rows: u64,
    numbers: Numbers,
}

impl Source {
    pub fn open(path: impl AsRef<Path>) -> Result<Source> {
        let mut lines = Lines::open(path.as_ref())?;
        let mut comments = Vec::new();
        let mut preamble = false;
        loop {
            if !lines.advance()? {
                return Err(Error::input(&lines.path, "is empty", "name a table with a header and rows"));
            }
            if let Some(comment) = lines.current.strip_prefix(b"#") {
                // GCT files: "#1.2", then a line of two counts, then the header.
                preamble |= comments.is_empty() && matches!(comment.trim_ascii_end(), b"1.2" | b"1.3");
                comments.push(clean_comment(comment));
            } else if !lines.current.trim_ascii().is_empty() && !std::mem::take(&mut preamble) {
                break;
            }
        }
        let delimiter = find_delimiter(&lines.current);
        let first_line = lines.number;
        let mut first = Vec::new();
        record::split(&mut lines, delimiter, None, &mut first)?;
        let mut pending = None;
        if let Some(comment) = comments.last() {
            // "#gene<TAB>S1<TAB>S2": as many fields as the line below, which holds numbers where it holds none.
            let fields: Vec<String> =
                comment.split(char::from(delimiter)).map(|f| f.trim().trim_matches('"').to_string()).collect();
            let numbers = |f: &[String]| f.iter().skip(1).any(|v| parse_number(v).is_some_and(|n| !n.is_nan()));
            if fields.len() >= 2 && fields.len() == first.len() && numbers(&first) && !numbers(&fields) {
                pending = Some((std::mem::replace(&mut first, fields), first_line));
                comments.pop();
            }
        }
        let (row_line, rows, numbers) = (first_line, 0, Numbers::default());
        Ok(Source { delimiter, comments, first, pending, lines, row_line, rows, numbers })
    }

    pub fn path(&self) -> &Path {
        &self.lines.path
    }

    /// The next line's fields into `out`, however many; false at the end. Empty lines and comments are passed over.
    pub fn next_fields(&mut self, out: &mut Vec<String>) -> Result<bool> {
        if let Some((fields, line)) = self.pending.take() {
            *out = fields;
            self.row_line = line;
            self.rows += 1;
            return Ok(true);
        }
        loop {
            if !self.lines.advance()? {
                out.clear();
                self.numbers.settle(&self.lines.path, self.delimiter)?;
                return Ok(false);
            }
            if self.lines.current.first() == Some(&b'#') || self.lines.current.trim_ascii().is_empty() {
                continue;
            }
            self.row_line = self.lines.number;
            record::split(&mut self.lines, self.delimiter, Some(self.first.len()), out)?;
            if out.iter().any(|f| !f.is_empty()) {
                self.rows += 1;
                return Ok(true);
            }
        }
    }

    /// The next row into `out`, as long as the header in [`Source::first`], or an error that names its line. The first
    /// row may show that the header lacks the name of the first column (R), or has a separator at its end.
    pub fn next_row(&mut self, out: &mut Vec<String>) -> Result<bool> {
        if !self.next_fields(out)? {
            return Ok(false);
        }
        if self.rows == 1 {
            // Between commas one field more may be a decimal comma; R quotes the names of its rows.
            let may_be_from_r = self.delimiter != b',' || self.lines.current.first() == Some(&b'"');
            if may_be_from_r && out.len() == self.first.len() + 1 && !out.last().is_some_and(String::is_empty) {
                self.first.insert(0, String::new());
            } else if self.first.len() == out.len() + 1 && self.first.last().is_some_and(String::is_empty) {
                self.first.pop();
            }
        }
        self.check_width(out, self.first.len())?;
        Ok(true)
    }

    /// Line number of the row read last, for messages.
    pub fn line(&self) -> u64 {
        self.row_line
    }

    /// A number of the row read last, or NaN where the field says that there is none. `column` is for messages.
    pub fn number(&mut self, field: &str, column: &str) -> Result<f64> {
        self.number_at(field, self.row_line, column)
    }

    /// A number of the row that began on `line`.
    pub fn number_at(&mut self, field: &str, line: u64, column: &str) -> Result<f64> {
        self.numbers.parse(&self.lines.path, field, line, column)
    }

    /// Makes a row as long as the header: one empty field too many (a trailing separator) is dropped.
    pub fn check_width(&self, fields: &mut Vec<String>, width: usize) -> Result<()> {
        if fields.len() == width + 1 && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() == width {
            return Ok(());
        }
        let problem = format!("line {} has {} fields, the header {width}", self.row_line, fields.len());
        let remedy = match self.delimiter {
            b',' if fields.len() > width => {
                "quote fields that hold commas; with decimal commas, separate by semicolons"
            }
            _ => "the file is cut short or damaged: correct or download it again",
        };
        Err(Error::input(self.path(), problem, remedy))
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

fn clean_comment(comment: &[u8]) -> String {
    // Only the space after the hash goes: a leading tab would be an empty first field.
    String::from_utf8_lossy(comment.strip_prefix(b" ").unwrap_or(comment)).into_owned()
}
