//! When two names mean the same: whole, in another case, or as R renames columns. Never by a part of a name.

use std::collections::BTreeMap;

/// What R's `make.names` (and so `read.table` with `check.names`) makes of a column's name: everything but letters,
/// digits and `_` becomes `.`, and a name that cannot begin so gets an `X`.
pub fn make_names(name: &str) -> String {
    let mut characters = name.chars();
    let good_start = match characters.next() {
        Some('.') => !characters.next().is_some_and(|c| c.is_ascii_digit()),
        Some(c) => c.is_alphabetic(),
        None => false,
    };
    let valid = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '.' };
    let prefix = if good_start { "" } else { "X" };
    prefix.chars().chain(name.chars().map(valid)).collect()
}

/// A name without case.
pub fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// GDC appends a file's id to the barcode of a slide: `TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291`.
/// The name without such an id, if it has one.
pub fn without_uuid(name: &str) -> Option<&str> {
    let (start, uuid) = name.rsplit_once('.')?;
    (is_uuid(uuid) && !start.is_empty()).then_some(start)
}

/// `f6e9a5df-d8fb-45cf-b4bd-c6b76294c291`
pub fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == 5
        && groups.iter().zip([8, 4, 4, 4, 12]).all(|(g, n)| g.len() == n && g.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A number without the zeros that a spreadsheet drops, and without R's `X`.
pub fn plain_number(text: &str) -> Option<&str> {
    let digits = text.trim().trim_start_matches(['X', 'x']);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.trim_start_matches('0'))
}

/// How a name was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agreement {
    Whole,
    /// But for upper and lower case.
    Case,
    /// As `make.names` renames one to the other.
    MakeNames,
}

impl Agreement {
    /// For the column `rule` of `matching.csv`: what is said after the rule's name.
    pub fn words(self) -> &'static str {
        match self {
            Agreement::Whole => "",
            Agreement::Case => ", case",
            Agreement::MakeNames => ", make.names",
        }
    }
}

/// Things by their names. One thing may have several names.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    whole: BTreeMap<String, Vec<usize>>,
    folded: BTreeMap<String, Vec<usize>>,
    renamed: BTreeMap<String, Vec<usize>>,
}

impl NameIndex {
    pub fn add(&mut self, name: &str, thing: usize) {
        let mut put = |map: fn(&mut NameIndex) -> &mut BTreeMap<String, Vec<usize>>, key: String| {
            let things = map(self).entry(key).or_default();
            if !things.contains(&thing) {
                things.push(thing);
            }
        };
        put(|x| &mut x.whole, name.trim().to_string());
        put(|x| &mut x.folded, folded(name));
        put(|x| &mut x.renamed, folded(&make_names(name.trim())));
    }

    /// What is called `name`, and how that was found: everything at the first kind of agreement that finds anything. More
    /// than one thing means that the name does not say which.
    pub fn find(&self, name: &str) -> Option<(Agreement, Vec<usize>)> {
        if let Some(things) = self.whole.get(name.trim()) {
            return Some((Agreement::Whole, things.clone()));
        }
        if let Some(things) = self.folded.get(&folded(name)) {
            return Some((Agreement::Case, things.clone()));
        }
        // Either the thing was renamed, or `name` was; that both were, from different names, is no agreement.
        let thing_renamed = self.folded.get(&folded(&make_names(name.trim())));
        let name_renamed = self.renamed.get(&folded(name));
        let mut things: Vec<usize> = thing_renamed.into_iter().chain(name_renamed).flatten().copied().collect();
        things.sort_unstable();
        things.dedup();
        (!things.is_empty()).then_some((Agreement::MakeNames, things))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_r_does_it() {
        for (name, renamed) in [
            ("LUAD-001-A", "LUAD.001.A"),
            ("001", "X001"),
            ("a b", "a.b"),
            ("_a", "X_a"),
            (".2x", "X.2x"),
            (".x", ".x"),
            ("-1", "X.1"),
            ("a_b.c-d", "a_b.c.d"),
            ("", "X"),
            ("Müller", "Müller"),
        ] {
            assert_eq!(make_names(name), renamed, "{name}");
        }
    }

    #[test]
    fn names_agree_whole_or_not_at_all() {
        let mut index = NameIndex::default();
        ["LUAD.001", "p02", "P.03", "X9", "a b", "A.1", "A 1"].iter().enumerate().for_each(|(i, n)| index.add(n, i));
        assert_eq!(index.find("LUAD.001"), Some((Agreement::Whole, vec![0])));
        assert_eq!(index.find("luad-001"), Some((Agreement::MakeNames, vec![0])));
        assert_eq!(index.find("LUAD-001-A"), None, "no part of a name");
        assert_eq!(index.find("P02"), Some((Agreement::Case, vec![1])));
        assert_eq!(index.find("9"), Some((Agreement::MakeNames, vec![3])));
        assert_eq!(index.find("a-b"), None, "two names that R would make the same are still two");
        assert_eq!(index.find("a.b"), Some((Agreement::MakeNames, vec![4])));
        assert_eq!(index.find("a.1"), Some((Agreement::Case, vec![5])));
        assert_eq!(index.find("A-1"), Some((Agreement::MakeNames, vec![5])));
        index.add("p-03", 7);
        index.add("p 03", 8);
        assert_eq!(index.find("p.03").unwrap(), (Agreement::Case, vec![2]));
        index.add("P-9", 9);
        index.add("P 9", 10);
        assert_eq!(index.find("P.9").unwrap(), (Agreement::MakeNames, vec![9, 10]), "the caller sees both");
    }

    #[test]
    fn ids_of_files() {
        let name = "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291";
        assert_eq!(without_uuid(name), Some("TCGA-3C-AALI-01Z-00-DX1"));
        assert_eq!(without_uuid("study1.P01"), None);
        assert_eq!(without_uuid("F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291"), None);
    }
}
