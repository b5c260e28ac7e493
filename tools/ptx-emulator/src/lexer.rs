//! PTX text to tokens.

use crate::report::LoadError;

/// What a token is; words keep their dots, so that `ld.global.v4.f32`, `%tid.x` and `.reg` are one token each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind<'t> {
    Word(&'t str),
    Integer(u64),
    /// `0f3F800000`
    Single(u32),
    /// `0d3FF0000000000000`, or a decimal fraction
    Double(u64),
    Text(&'t str),
    Punctuation(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'t> {
    pub kind: Kind<'t>,
    pub line: u32,
    /// Byte range in the text.
    pub start: usize,
    pub end: usize,
}

pub(crate) fn error(line: u32, message: impl Into<String>) -> LoadError {
    LoadError { line, source: None, message: message.into() }
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// All tokens of a text.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, LoadError> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let kind = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while bytes.get(at).is_some_and(|b| *b != b'\n') {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let open = line;
                at += 2;
                loop {
                    match bytes.get(at) {
                        None => return Err(error(open, "a comment that never ends")),
                        Some(b'*') if bytes.get(at + 1) == Some(&b'/') => break,
                        Some(b'\n') => line += 1,
                        Some(_) => {}
                    }
                    at += 1;
                }
                at += 2;
                continue;
            }
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|b| *b != b'"' && *b != b'\n') {
                    at += 1;
                }
                if bytes.get(at) != Some(&b'"') {
                    return Err(error(line, "a string that never ends"));
                }
                at += 1;
                Kind::Text(text.get(start + 1..at - 1).unwrap_or_default())
            }
            b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'.') {
                    at += 1;
                    let exponent = matches!(bytes.get(at - 1), Some(b'e' | b'E')) && !hexadecimal(&bytes[start..at]);
                    if exponent && matches!(bytes.get(at), Some(b'+' | b'-')) {
                        at += 1;
                    }
                }
                let word = text.get(start..at).unwrap_or_default();
                number(word).ok_or_else(|| error(line, format!("not a number: {word}")))?
            }
            _ if word_byte(byte) => {
                while let Some(&b) = bytes.get(at) {
                    let scope = b == b':' && bytes.get(at + 1) == Some(&b':');
                    if scope {
                        at += 2;
                    } else if word_byte(b) {
                        at += 1;
                    } else {
                        break;
                    }
                }
                Kind::Word(text.get(start..at).unwrap_or_default())
            }
            _ if byte.is_ascii_graphic() => {
                at += 1;
                Kind::Punctuation(byte)
            }
            _ => return Err(error(line, format!("byte {byte:#04x} has no meaning in PTX"))),
        };
        found.push(Token { kind, line, start, end: at });
    }
    Ok(found)
}

fn hexadecimal(word: &[u8]) -> bool {
    word.len() > 1 && word[0] == b'0' && matches!(word[1], b'x' | b'X' | b'f' | b'F' | b'd' | b'D')
}

fn number(word: &str) -> Option<Kind<'static>> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches(['u', 'U']), radix).ok();
    let lower = word.get(..2).unwrap_or_default().to_ascii_lowercase();
    let rest = word.get(2..).unwrap_or_default();
    match lower.as_str() {
        "0f" => return u32::from_str_radix(rest, 16).ok().map(Kind::Single),
        "0d" => return u64::from_str_radix(rest, 16).ok().map(Kind::Double),
        "0x" => return radix(rest, 16).map(Kind::Integer),
        "0b" => return radix(rest, 2).map(Kind::Integer),
        _ => {}
    }
    if word.contains(['.', 'e', 'E']) {
        return word.parse::<f64>().ok().map(|v| Kind::Double(v.to_bits()));
    }
    match word.trim_end_matches(['u', 'U']) {
        octal if octal.len() > 1 && octal.starts_with('0') => radix(&octal[1..], 8).map(Kind::Integer),
        decimal => decimal.parse().ok().map(Kind::Integer),
    }
}
