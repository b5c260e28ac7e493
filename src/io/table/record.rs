//! Rows out of lines: fields between separators, some of them quoted.
//!
//! A quoted field may run over several lines, which is also what a quote that is never closed looks like: it swallows
//! the rows up to the next quote. So a quote that spans lines must be closed right before a separator or the end of a
//! line, and what it holds must not itself look like rows.

use std::path::Path;

use super::text::{Lines, decode};
use crate::{
    error::{Error, Result},
    escape,
};

/// A remark in a cell is shorter than this; what runs on is a quote that was not closed.
const MAX_QUOTED_BYTES: usize = 1 << 20;
/// No table has so many samples or genes.
const MAX_FIELDS: usize = 4_000_000;

/// Splits the current line of `lines` (and those that a quoted field runs on to) into `out`. `width` is the number of
/// fields that a row should have, where it is known.
pub(super) fn split(lines: &mut Lines, delimiter: u8, width: Option<usize>, out: &mut Vec<String>) -> Result<()> {
    let mut fields = Fields { out, used: 0 };
    if !lines.current.contains(&b'"') {
        for field in lines.current.split(|&b| b == delimiter) {
            fields.push(field, &lines.path)?;
        }
    } else {
        split_quoted(lines, delimiter, width, &mut fields)?;
    }
    let used = fields.used;
    out.truncate(used);
    Ok(())
}

/// A matrix has millions of fields: their buffers are used again.
struct Fields<'a> {
    out: &'a mut Vec<String>,
    used: usize,
}

impl Fields<'_> {
    fn push(&mut self, field: &[u8], path: &Path) -> Result<()> {
        let text = decode(field);
        // Without the apostrophe that keeps spreadsheets from executing it.
        let text = escape::uncell(text.trim());
        match self.out.get_mut(self.used) {
            Some(old) => {
                old.clear();
                old.push_str(text);
            }
            None => self.out.push(text.to_string()),
        }
        self.used += 1;
        if self.used > MAX_FIELDS {
            let problem = format!("holds a line of more than {MAX_FIELDS} fields");
            return Err(Error::input(path, problem, "name a table of genes and samples"));
        }
        Ok(())
    }
}

fn split_quoted(lines: &mut Lines, delimiter: u8, width: Option<usize>, fields: &mut Fields) -> Result<()> {
    let mut at = 0;
    loop {
        let padding = lines.current[at..].iter().take_while(|&&b| b == b' ' && delimiter != b' ').count();
        if lines.current.get(at + padding) == Some(&b'"') {
            let opened = lines.number;
            let mut content = Vec::new();
            at = quoted(lines, at + padding + 1, &mut content)?;
            let tail = until(&lines.current[at..], delimiter);
            let rest = lines.current[at..at + tail].trim_ascii();
            if lines.number > opened
                && (!rest.is_empty() || width.is_some_and(|w| holds_rows(&content, delimiter, fields.used, w)))
            {
                return Err(unclosed(&lines.path, opened));
            }
            content.extend_from_slice(rest);
            fields.push(&content, &lines.path)?;
            at += tail;
        } else {
            let end = at + until(&lines.current[at..], delimiter);
            fields.push(&lines.current[at..end], &lines.path)?;
            at = end;
        }
        if at == lines.current.len() {
            return Ok(());
        }
        at += 1;
    }
}

fn until(text: &[u8], delimiter: u8) -> usize {
    text.iter().position(|&b| b == delimiter).unwrap_or(text.len())
}

/// Reads a quoted field whose text begins at `at` of the current line; returns the place behind its closing quote.
fn quoted(lines: &mut Lines, mut at: usize, content: &mut Vec<u8>) -> Result<usize> {
    let opened = lines.number;
    loop {
        match lines.current[at..].iter().position(|&b| b == b'"') {
            Some(n) => {
                content.extend_from_slice(&lines.current[at..at + n]);
                at += n + 1;
                if lines.current.get(at) != Some(&b'"') {
                    return Ok(at);
                }
                content.push(b'"');
                at += 1;
            }
            None => {
                content.extend_from_slice(&lines.current[at..]);
                content.push(b'\n');
                at = 0;
                if content.len() > MAX_QUOTED_BYTES || !lines.advance()? {
                    return Err(unclosed(&lines.path, opened));
                }
            }
        }
    }
}

/// Whether text that was quoted over several lines in `column` is the end of one row, whole rows, and the beginning of
/// another.
fn holds_rows(content: &[u8], delimiter: u8, column: usize, width: usize) -> bool {
    let separators: Vec<usize> =
        content.split(|&b| b == b'\n').map(|line| line.iter().filter(|&&b| b == delimiter).count()).collect();
    let (Some(first), Some(last)) = (separators.first(), separators.last()) else { return false };
    let row = width.saturating_sub(1);
    row > 0 && (first + column == row && *last == column || separators.contains(&row))
}

fn unclosed(path: &Path, line: u64) -> Error {
    Error::input(path, format!("line {line} opens a quote that is not closed"), "close or remove that quote")
}
