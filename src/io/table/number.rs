//! Numbers in text: points or decimal commas, never both, and the many ways to say that a value is missing.

use std::path::Path;

use crate::error::{Error, Result};

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

/// A finite number with a decimal point or a decimal comma; NaN for a missing one; `None` for anything else.
pub fn parse_number(field: &str) -> Option<f64> {
    let field = field.trim();
    let first = field.as_bytes().first().copied().unwrap_or(b'?');
    if !(first.is_ascii_digit() || (matches!(first, b'-' | b'+' | b'.' | b',') && field.len() > 1)) {
        return is_missing(field).then_some(f64::NAN);
    }
    let parsed = if field.contains(',') {
        if field.contains('.') {
            return None; // thousands are grouped
        }
        field.replacen(',', ".", 1).parse::<f64>()
    } else {
        field.parse::<f64>()
    };
    match parsed {
        Ok(v) if v.is_finite() => Some(v),
        _ => is_missing(field).then_some(f64::NAN),
    }
}

/// `1.234` and `1,234` are one and a bit in one country and a thousand in another; `0.5`, `12.5`, `1234.5` are not.
fn may_group_thousands(field: &str) -> bool {
    let digits = field.trim().trim_start_matches(['+', '-']);
    let Some((whole, rest)) = digits.split_once(['.', ',']) else { return false };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (1..=3).contains(&whole.len())
        && !whole.starts_with('0')
        && rest.len() == 3
        && all_digits(whole)
        && all_digits(rest)
}

/// A number as it stands in the file.
struct Seen {
    text: String,
    line: u64,
    column: String,
}

impl Seen {
    fn words(&self) -> String {
        format!("{:?} on line {} (column {})", self.text, self.line, self.column)
    }
}

/// The numbers with one kind of decimal mark: the first of them, and whether one can be nothing but a decimal number.
#[derive(Default)]
struct Marked {
    first: Option<Seen>,
    certain: bool,
}

impl Marked {
    fn see(&mut self, text: &str, line: u64, column: &str) {
        self.certain = self.certain || !may_group_thousands(text);
        self.first.get_or_insert_with(|| Seen { text: text.to_string(), line, column: column.to_string() });
    }
}

/// The numbers of a table so far. A table writes all of them one way, or it cannot be known what they mean.
#[derive(Default)]
pub(super) struct Numbers {
    with_point: Marked,
    with_comma: Marked,
}

impl Numbers {
    pub fn parse(&mut self, path: &Path, field: &str, line: u64, column: &str) -> Result<f64> {
        let value = parse_number(field).ok_or_else(|| {
            let shown: String = field.chars().take(40).collect();
            let problem = format!("line {line} holds {shown:?} in column {column} where a number is expected");
            Error::input(path, problem, "correct it, or write NA where a value is missing")
        })?;
        if value.is_nan() {
            return Ok(value);
        }
        if field.contains(',') {
            self.with_comma.see(field, line, column);
        } else if !(self.with_point.certain && self.with_point.first.is_some()) && field.contains('.') {
            self.with_point.see(field, line, column);
        }
        match (&self.with_point.first, &self.with_comma.first) {
            (Some(point), Some(comma)) => {
                let problem = format!("mixes decimal commas and points: {}, {}", comma.words(), point.words());
                Err(Error::input(path, problem, "write all numbers one way, without separators of thousands"))
            }
            _ => Ok(value),
        }
    }

    /// Called when every number was seen: refuses a table all of whose marks may separate thousands, where that is as
    /// likely as the other meaning.
    pub fn settle(&self, path: &Path, delimiter: u8) -> Result<()> {
        // Who separates fields by semicolons writes decimal commas, and groups thousands by points.
        let (foreign, other) = match delimiter {
            b';' => (&self.with_point, "write all numbers without separators of thousands"),
            _ => (&self.with_comma, "write decimal points, without separators of thousands"),
        };
        match &foreign.first {
            Some(seen) if !foreign.certain => {
                let problem = format!("holds {}, which may be a decimal number or one in thousands", seen.words());
                Err(Error::input(path, problem, other))
            }
            _ => Ok(()),
        }
    }
}
