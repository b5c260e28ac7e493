//! Delimited text as people have it: tabs, commas, semicolons or spaces; gzip; byte-order marks; any line ending; quotes;
//! `#` comments; GCT preambles; R's tables whose header lacks the name of the first column.
//!
//! Every table that is read, is read here: expression, slides, sample sheets, labels, splits, scales, predictions.
//! Liberal in form, strict in content: a row of the wrong length, a quote that is never closed, a number that is none,
//! decimal commas beside decimal points, a file cut short are errors that name the file and the line.
//!
//! [`Source`] reads row by row, [`Table`] holds a small table in memory.

mod number;
mod record;
mod source;
mod text;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub use number::{is_missing, parse_number};
pub use source::Source;
pub use text::read_text;

use number::Numbers;

/// Rows of a table that is held in memory as text. A slide table of the largest archives has some 100,000.
const MAX_ROWS: usize = 4_000_000;

/// A column's name without case, spaces and punctuation.
pub fn plain_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The first column called one of these names, the names in order of preference; case and punctuation do not matter.
/// Errors where two columns have the name.
pub fn find_column(path: &Path, header: &[String], names: &[&str]) -> Result<Option<usize>> {
    let header: Vec<String> = header.iter().map(|h| plain_name(h)).collect();
    for name in names {
        let plain = plain_name(name);
        let mut places = header.iter().enumerate().filter(|(_, h)| **h == plain).map(|(i, _)| i);
        if let Some(place) = places.next() {
            return match places.next() {
                None => Ok(Some(place)),
                Some(_) => Err(Error::input(path, format!("has two columns {name}"), "keep one of them")),
            };
        }
    }
    Ok(None)
}

/// As [`find_column`]; a missing column is an error that says which there are.
pub fn require_column(path: &Path, header: &[String], names: &[&str]) -> Result<usize> {
    find_column(path, header, names)?.ok_or_else(|| {
        let has = header.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
        Error::input(path, format!("has no column {} (it has: {has})", names[0]), "add or rename the column")
    })
}

/// A row of a small table.
pub struct Row {
    /// Number of its line in the file, from 1.
    pub line: u64,
    fields: Vec<String>,
}

impl Row {
    /// The field of a column.
    pub fn get(&self, column: usize) -> &str {
        self.fields.get(column).map_or("", String::as_str)
    }

    /// The field of an optional column, `None` where the column or its value is missing.
    pub fn present(&self, column: Option<usize>) -> Option<&str> {
        column.map(|c| self.get(c)).filter(|v| !is_missing(v))
    }
}

/// A small table in memory: a slide table, a sample sheet, labels. Every row is as long as the header.
pub struct Table {
    pub path: PathBuf,
    pub header: Vec<String>,
    pub rows: Vec<Row>,
    delimiter: u8,
}

impl Table {
    pub fn read(path: impl AsRef<Path>) -> Result<Table> {
        let mut source = Source::open(path)?;
        let mut rows = Vec::new();
        let mut fields = Vec::new();
        while source.next_row(&mut fields)? {
            rows.push(Row { line: source.line(), fields: std::mem::take(&mut fields) });
            if rows.len() > MAX_ROWS {
                let problem = format!("has more than {MAX_ROWS} rows, which no list of slides or samples has");
                return Err(Error::input(source.path(), problem, "name the table that is meant"));
            }
        }
        Ok(Table { path: source.path().to_path_buf(), delimiter: source.delimiter, header: source.first, rows })
    }

    /// See [`find_column`].
    pub fn column(&self, names: &[&str]) -> Result<Option<usize>> {
        find_column(&self.path, &self.header, names)
    }

    /// See [`require_column`].
    pub fn required(&self, names: &[&str]) -> Result<usize> {
        require_column(&self.path, &self.header, names)
    }

    /// The numbers of a column, row by row; NaN where a value is missing. Errors name the line.
    pub fn numbers(&self, column: usize) -> Result<Vec<f64>> {
        let mut numbers = Numbers::default();
        let parse = |row: &Row| numbers.parse(&self.path, row.get(column), row.line, &self.header[column]);
        let values = self.rows.iter().map(parse).collect::<Result<Vec<f64>>>()?;
        numbers.settle(&self.path, self.delimiter)?;
        Ok(values)
    }
}
