//! What loading a cohort found out, for people to read: how every slide was matched, and what was left out.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
};

/// How each slide found its expression, or why it did not: `matching.csv`.
pub const MATCHING_FILE: &str = "matching.csv";
/// What is not used, and why: `excluded.csv`.
pub const EXCLUDED_FILE: &str = "excluded.csv";

/// What was left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExcludedKind {
    Slide,
    Sample,
    Gene,
    File,
}

/// A slide, expression sample, gene or file that is not used, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Excluded {
    pub kind: ExcludedKind,
    pub name: String,
    pub reason: String,
}

impl Excluded {
    pub fn new(kind: ExcludedKind, name: impl Into<String>, reason: impl Into<String>) -> Excluded {
        Excluded { kind, name: name.into(), reason: reason.into() }
    }
}

/// One slide of `matching.csv`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MatchRow {
    pub slide: String,
    /// Empty where it is not known.
    pub patient: String,
    /// The expression sample, by the name that a sample sheet gives it or else its column's; empty without a match.
    pub sample: String,
    /// What the table itself calls the sample: a column, a row, or a file.
    pub column: String,
    /// The rule by which they were matched, or why not.
    pub rule: String,
}

/// Filled in as far as [`crate::cohort::Cohort::load`] came, also where it ended with an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    pub matching: Vec<MatchRow>,
    pub excluded: Vec<Excluded>,
}

impl Findings {
    pub(super) fn leave_out(&mut self, kind: ExcludedKind, name: impl Into<String>, reason: impl Into<String>) {
        self.excluded.push(Excluded::new(kind, name, reason));
    }

    /// A slide that has no part in the cohort.
    pub(super) fn leave_out_slide(&mut self, slide: &str, patient: Option<String>, reason: &str) {
        self.leave_out(ExcludedKind::Slide, slide, reason);
        let patient = patient.unwrap_or_default();
        self.matching.push(MatchRow { slide: slide.into(), patient, rule: reason.into(), ..MatchRow::default() });
    }

    /// Writes both files into a folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_matching_csv(dir.join(MATCHING_FILE), &self.matching)?;
        write_excluded_csv(dir.join(EXCLUDED_FILE), &self.excluded)
    }
}

/// The slides that the `matching.csv` of a folder matches with expression.
///
/// # Errors
/// There is none, or it is another table.
pub fn matched_slides(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join(MATCHING_FILE);
    let wrong = |e: csv::Error| Error::input(&path, format!("cannot be read ({e})"), "run the same command again");
    let mut rows = csv::Reader::from_path(&path).map_err(wrong)?;
    let mut matched = BTreeSet::new();
    for row in rows.records() {
        let row = row.map_err(wrong)?;
        // Slide and column; the latter is empty without a match.
        if let (Some(slide), Some(column)) = (row.get(0), row.get(3))
            && !column.is_empty()
        {
            matched.insert(escape::uncell(slide).to_string());
        }
    }
    Ok(matched)
}

/// Writes how slides were matched as CSV: slide,patient,sample,column,rule; in order of the slides' names.
pub fn write_matching_csv(path: impl AsRef<Path>, matching: &[MatchRow]) -> Result<()> {
    let mut rows: Vec<[&str; 5]> =
        matching.iter().map(|m| [&*m.slide, &*m.patient, &*m.sample, &*m.column, &*m.rule]).collect();
    rows.sort_unstable();
    write_csv(path.as_ref(), &["slide", "patient", "sample", "column", "rule"], rows)
}

/// Writes what was left out as CSV: kind,name,reason.
pub fn write_excluded_csv(path: impl AsRef<Path>, excluded: &[Excluded]) -> Result<()> {
    let kinds: Vec<String> = excluded.iter().map(|e| format!("{:?}", e.kind).to_lowercase()).collect();
    let rows = kinds.iter().zip(excluded).map(|(kind, e)| [&**kind, &*e.name, &*e.reason]);
    write_csv(path.as_ref(), &["kind", "name", "reason"], rows)
}

fn write_csv<'a, const N: usize>(
    path: &Path,
    header: &[&str; N],
    rows: impl IntoIterator<Item = [&'a str; N]>,
) -> Result<()> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::io(path, e.into());
    out.write_record(header).map_err(failed)?;
    for row in rows {
        out.write_record(row.map(|text| escape::cell(text).into_owned())).map_err(failed)?;
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}
