//! PTX cut at its entries, so that one kernel is compiled and not its whole module. Uses the standard library alone: `build.rs`
//! includes this file.
//!
//! A text is what stands around its entries (version, target, tables, shared arrays, device functions) and the entries. Each
//! leaves its line ends behind, so that put back alone it has the line numbers of the whole: reports name them.

/// A text in pieces.
pub struct Cut<'a> {
    /// The text with nothing but line ends where entries were.
    pub around: String,
    pub entries: Vec<Entry<'a>>,
}

/// One entry, from the line it begins on to its closing brace.
pub struct Entry<'a> {
    pub name: &'a str,
    /// Where its line ends are in the text around.
    pub at: usize,
    pub text: &'a str,
}

/// An entry with what stands around it, the others left out.
pub fn alone(around: &str, at: usize, entry: &str) -> String {
    let left_behind = entry.matches('\n').count();
    [&around[..at], entry, &around[at + left_behind..]].concat()
}

/// Cuts a text, or says what of it is not understood.
pub fn cut(ptx: &str) -> Result<Cut<'_>, String> {
    let (mut around, mut entries) = (String::new(), Vec::new());
    let mut kept = 0;
    let mut tokens = Tokens { text: ptx, at: 0 };
    let (mut depth, mut began) = (0usize, None);
    while let Some((at, token)) = tokens.next() {
        match token {
            ".entry" if depth == 0 && began.is_none() => {
                let line = ptx[..at].rfind('\n').map_or(0, |end| end + 1);
                let name = tokens.next().map(|(_, name)| name).ok_or("`.entry` without a name")?;
                if !["", ".visible", ".weak"].contains(&ptx[line..at].trim()) {
                    return Err(format!("entry {name} does not begin its line"));
                }
                began = Some((line, name));
            }
            // Declared, and defined elsewhere.
            ";" if depth == 0 => began = None,
            "{" => depth += 1,
            "}" => {
                depth = depth.checked_sub(1).ok_or("a brace closes what was not opened")?;
                if let Some((line, name)) = began.take_if(|_| depth == 0) {
                    let text = &ptx[line..at + 1];
                    around.push_str(&ptx[kept..line]);
                    entries.push(Entry { name, at: around.len(), text });
                    around.extend(text.matches('\n'));
                    kept = at + 1;
                }
            }
            _ => {}
        }
    }
    if depth != 0 || began.is_some() {
        return Err("a brace is left open".to_string());
    }
    around.push_str(&ptx[kept..]);
    Ok(Cut { around, entries })
}

/// Words and punctuation with where they begin; comments and strings are passed over.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.len() - rest.trim_start().len();
            let (start, rest) = (self.at + blank, &rest[blank..]);
            let first = rest.chars().next()?;
            let end_of =
                |mark: &str, from: usize| rest[from..].find(mark).map_or(rest.len(), |at| from + at + mark.len());
            let passed_over = match first {
                '/' if rest.starts_with("//") => Some(end_of("\n", 0)),
                '/' if rest.starts_with("/*") => Some(end_of("*/", 2)),
                '"' => Some(end_of("\"", 1)),
                _ => None,
            };
            if let Some(bytes) = passed_over {
                self.at = start + bytes;
                continue;
            }
            let is_word = |c: char| c.is_ascii_alphanumeric() || "._$%".contains(c);
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let token = if word == 0 { &rest[..first.len_utf8()] } else { &rest[..word] };
            self.at = start + token.len();
            return Some((start, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "// one { brace\n.version 8.0\n.shared .b8 held[32];\n.visible .entry a(\n\t.param .b32 p\n)\n.maxntid 32, 1, 1\n{\n\
        \t{ .reg .b32 r; }\n\t.pragma \"} {\";\n\tret; /* } */\n}\n\t// .globl b\n.entry b()\n{\n\tret;\n}\n\n.entry later();\n";

    #[test]
    fn entries_are_cut_where_their_braces_close() {
        let Cut { around, entries } = cut(TEXT).expect("understood");
        assert_eq!(entries.iter().map(|entry| entry.name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(entries[0].text.starts_with(".visible .entry a(") && entries[0].text.ends_with("/* } */\n}"));
        assert_eq!(around.lines().count(), TEXT.lines().count());
        assert!(around.contains("held[32]") && around.contains(".entry later();") && !around.contains("ret"));
    }

    #[test]
    fn an_entry_alone_keeps_its_lines() {
        let Cut { around, entries } = cut(TEXT).expect("understood");
        let b = alone(&around, entries[1].at, entries[1].text);
        assert_eq!(b.lines().position(|line| line == ".entry b()"), TEXT.lines().position(|line| line == ".entry b()"));
        assert!(!b.contains(".entry a"));
        // Last first, so that what lies before stays where it is: the text is whole again.
        let whole = entries.iter().rev().fold(around.clone(), |text, entry| alone(&text, entry.at, entry.text));
        assert_eq!(whole, TEXT);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for text in [".entry a() {", "}", ".reg .b32 x; .entry a() { }", ".entry"] {
            assert!(cut(text).is_err(), "{text}");
        }
    }
}
