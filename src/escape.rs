//! Text from outside (file names, table cells, what a damaged file says) made fit for a terminal and for a spreadsheet.
//!
//! A file may be called `\x1b]0;...\x07`: what reaches a terminal raw is obeyed by it. And a name that begins with `=` is
//! executed by the spreadsheet that opens a table of it. What is fit is not changed, so that ordinary names stay
//! readable. [`cell`]'s guard is taken back by [`uncell`].

use std::{borrow::Cow, fmt::Write, path::Path};

/// Characters that terminals obey or that hide text: C0 and C1 controls, DEL, and the marks that turn its direction.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line without control characters: `\n`, `\t`, `\x1b`, `\u{202e}` stand for them.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unfit)
}

/// As [`line()`] for text of several lines: line feeds stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_unfit(c))
}

/// A path in a message.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy()).into_owned()
}

/// As [`line()`], cut to `most` characters: what a hostile file says is not repeated whole.
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

/// A table cell that no spreadsheet executes: text that begins as a formula and not as a number gets an apostrophe in front,
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
