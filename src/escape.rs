//! Text from outside (file names, table cells, what a damaged file says) made fit for a terminal and for a spreadsheet.
//!
//! A file may be called `\x1b]0;...\x07`: what reaches a terminal raw is obeyed by it. And a name that begins with `=` is
//! executed by the spreadsheet that opens a table of it. What is fit is not changed, so that ordinary names stay
//! readable. [`cell`]'s guard is taken back by [`uncell`]; [`file_name`] gives different names to different texts.

use std::{borrow::Cow, fmt::Write, path::Path};

use crate::random::fnv1a;

/// Characters that terminals obey or that hide text: C0 and C1 controls, DEL, and the marks that turn its direction.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line without control characters: `\n`, `\t`, `\x1b`, `\u{202e}` stand for them.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unfit)
}

/// As [`line`] for text of several lines: line feeds stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_unfit(c))
}

/// A path in a message.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy()).into_owned()
}

/// As [`line`], cut to `most` characters: what a hostile file says is not repeated whole.
pub fn clipped(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => line(text),
        Some((end, _)) => Cow::Owned(line(&text[..end]).into_owned() + "…"),
    }
}

/// JSON text with the characters that it may hold raw and a terminal must not see, as JSON escapes.
pub fn json(text: &str) -> Cow<'_, str> {
    let unfit = |c| c != '\n' && is_unfit(c);
    if !text.contains(unfit) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // All of them lie in the basic plane.
        let _ = if unfit(c) { write!(out, "\\u{:04x}", c as u32) } else { out.write_char(c) };
    }
    Cow::Owned(out)
}

fn escaped(text: &str, unfit: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unfit) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let _ = match c {
            c if !unfit(c) => out.write_char(c),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32),
            c => write!(out, "\\u{{{:x}}}", c as u32),
        };
    }
    Cow::Owned(out)
}

/// What a spreadsheet takes for the start of a formula.
fn begins_formula(c: char) -> bool {
    matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r')
}

/// A table cell that no spreadsheet executes: text that begins as a formula and is no number gets an apostrophe in front,
/// the spreadsheets' own mark of text. [`uncell`] takes it back.
pub fn cell(text: &str) -> Cow<'_, str> {
    let mut chars = text.chars();
    let formula = match chars.next() {
        Some(first) if begins_formula(first) => !text.parse::<f64>().is_ok_and(f64::is_finite),
        // What would be taken for a guard when read again gets one itself.
        Some('\'') => chars.next().is_some_and(|second| second == '\'' || begins_formula(second)),
        _ => false,
    };
    if formula { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// A cell without the guard of [`cell`].
pub fn uncell(text: &str) -> &str {
    match text.strip_prefix('\'') {
        Some(rest) if rest.starts_with(|c| c == '\'' || begins_formula(c)) => rest,
        _ => text,
    }
}

/// The longest name that file systems take is 255 bytes; this leaves room for an extension.
const MAX_NAME_BYTES: usize = 200;

/// A file name for any text, different for different texts: ASCII letters, digits, `-`, `_`, `.` and spaces stay, every
/// other byte becomes `%` and two hexadecimal digits, as does a dot at the start, which would hide the file. A name that
/// becomes too long ends in a hash of the text instead.
pub fn file_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b' ') || (byte == b'.' && at > 0);
        let _ = if plain { name.write_char(byte.into()) } else { write!(name, "%{byte:02x}") };
    }
    if name.is_empty() {
        name.push('%');
    }
    if name.len() > MAX_NAME_BYTES {
        // `%~` stands in no other name.
        name.truncate(MAX_NAME_BYTES - 18);
        let _ = write!(name, "%~{:016x}", fnv1a(text.as_bytes()));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_see_no_control_characters() {
        assert_eq!(line("a\x1b[31m\n\u{9b}b\u{202e}c é"), "a\\x1b[31m\\n\\x9bb\\u{202e}c é");
        assert_eq!(lines("a\nb\rc"), "a\nb\\rc");
        assert_eq!(json("{\"a\": \"\u{9b}\u{7f}é\"}"), "{\"a\": \"\\u009b\\u007fé\"}");
        assert_eq!(clipped("abc\x07def", 4), "abc\\x07…");
    }

    #[test]
    fn no_two_texts_share_a_file_name() {
        let long = "ä".repeat(200);
        let texts =
            ["a/b", "a%2fb", "→", "!92", "é", "e\u{301}", "a", "", ".a", "%2ea", "..", "a b", &long, &long[2..]];
        let names: std::collections::BTreeSet<String> = texts.iter().map(|text| file_name(text)).collect();
        assert_eq!(names.len(), texts.len());
        assert!(names.iter().all(|name| name.len() <= MAX_NAME_BYTES && !name.contains('/') && !name.starts_with('.')));
        assert_eq!(file_name("TCGA-AA-1234-01Z-00-DX1.0F5B"), "TCGA-AA-1234-01Z-00-DX1.0F5B");
    }

    #[test]
    fn cells_come_back_and_none_is_a_formula() {
        for text in ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\rx", "'=x", "''", "'''=", "-inf", "=", "'-"] {
            assert_eq!(uncell(&cell(text)), text, "{text:?}");
            assert!(!cell(text).starts_with(begins_formula), "{text:?}");
        }
        for plain in ["", "-1.5", "+3", "-1e-7", "TP53", "'quoted'", "5'-UTR", "a=b", "'"] {
            assert_eq!((cell(plain).as_ref(), uncell(plain)), (plain, plain));
        }
    }
}
