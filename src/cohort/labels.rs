//! Labels of patients as targets: microsatellite instability (MSI), a subtype, any class.
//!
//! A table with a column of patients and one of classes stands where expression tables stand, and finds its slides by the
//! same rules. Two classes make one target, 0 or 1; more make one target each, 1 for the patients of the class (one-hot).

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        barcode::Barcode,
        expression::{ExpressionTable, Sample},
        findings::{ExcludedKind, Findings},
        genes::GeneName,
        names::folded,
    },
    error::{Error, Result},
    io::table::{Row, Table, is_missing, plain_name},
};

/// Columns that hold patients in people's tables, in order of preference.
pub const PATIENT_COLUMNS: [&str; 9] = [
    "patient",
    "patient_id",
    "case",
    "case_id",
    "case_submitter_id",
    "submitter_id",
    "bcr_patient_barcode",
    "subject",
    "subject_id",
];
/// Columns that hold classes, likewise.
const LABEL_COLUMNS: [&str; 6] = ["label", "class", "status", "msi", "msi_status", "subtype"];
const PROJECT_COLUMNS: [&str; 3] = ["project", "project_id", "cohort"];

/// What has more values is a measurement or a name, and no label.
const MOST_CLASSES: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum MsiStatus {
    /// Microsatellite instable, high.
    High,
    /// Low: neither class for most authors.
    Low,
    /// Microsatellite stable.
    Stable,
    Indeterminate,
}

impl MsiStatus {
    /// Reads the spellings in use: MSI-H, MSIH, MSIMUT, MSS, MSI-L, Indeterminate.
    pub fn parse(text: &str) -> Option<MsiStatus> {
        Some(match plain_name(text).as_str() {
            "msih" | "msihigh" | "msimut" | "msi" => MsiStatus::High,
            "msil" | "msilow" => MsiStatus::Low,
            "mss" | "stable" => MsiStatus::Stable,
            "indeterminate" | "nottested" | "unknown" => MsiStatus::Indeterminate,
            _ => return None,
        })
    }
}

/// What becomes of MSI-L patients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelLow {
    /// Left out, as HE2RNA.
    #[default]
    Drop,
    /// Counted as stable, as Kather et al.
    Stable,
}

/// The classes that a cohort's targets stand for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Classes {
    /// What the label is called: its column's name.
    pub label: String,
    /// Of two, the first is target 0 and the second target 1; of more, each is a target of its own, in this order.
    pub names: Vec<String>,
}

/// A patient's entry in a table of labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Label {
    /// Place in [`LabelTable::classes`].
    Class(usize),
    /// Decides nothing, and why: "MSI-L, which is neither class".
    Undecided(String),
}

/// Labels by patient.
#[derive(Clone, PartialEq, Debug)]
pub struct LabelTable {
    pub path: PathBuf,
    /// What the label is called.
    pub name: String,
    /// Negative before positive where their names say so (0 and 1, WT and mutated, MSS and MSI-H), else in order of names.
    pub classes: Vec<String>,
    pub by_patient: BTreeMap<String, Label>,
    projects: BTreeMap<String, String>,
}

impl LabelTable {
    /// Reads a table with a column of patients and one of labels. They are told by their names, else by their contents
    /// (HE2RNA's MSI tables call them `0` and `1`): patients by barcodes, labels by MSI statuses, or as the only other
    /// column.
    ///
    /// # Errors
    /// A table without either column, with one class or more than 20, with an MSI status of unknown meaning.
    pub fn read(path: impl AsRef<Path>, low: LabelLow) -> Result<LabelTable> {
        let table = Table::read(path)?;
        let (patient, label, is_msi) = columns(&table)?;
        let project = table.column(&PROJECT_COLUMNS)?.filter(|&c| c != label && c != patient);
        let rows: Vec<&Row> =
            table.rows.iter().filter(|r| !is_missing(r.get(patient)) && !is_missing(r.get(label))).collect();
        let classes = if is_msi { vec!["MSS".into(), "MSI-H".into()] } else { class_names(&table.path, &rows, label)? };
        let mut out = LabelTable {
            name: label_name(&table.header[label], is_msi),
            path: table.path.clone(),
            classes,
            by_patient: BTreeMap::new(),
            projects: BTreeMap::new(),
        };
        for row in rows {
            let name = patient_name(row.get(patient));
            let value = if is_msi {
                msi_label(row.get(label), low).ok_or_else(|| {
                    let problem = format!("line {}: MSI status {:?} of {name} is unknown", row.line, row.get(label));
                    Error::input(&table.path, problem, "write MSI-H, MSI-L, MSS or Indeterminate")
                })?
            } else {
                let same = |class: &String| folded(class) == folded(row.get(label));
                Label::Class(out.classes.iter().position(same).unwrap_or_default())
            };
            if let Some(project) = row.present(project) {
                out.projects.insert(name.clone(), project.to_string());
            }
            match out.by_patient.get_mut(&name) {
                Some(before) if *before != value => *before = Label::Undecided("given two labels".to_string()),
                Some(_) => {}
                None => drop(out.by_patient.insert(name, value)),
            }
        }
        Ok(out)
    }

    /// A patient's class; `None` where the table decides nothing.
    pub fn class(&self, patient: &str) -> Option<usize> {
        match self.by_patient.get(&patient_name(patient))? {
            Label::Class(class) => Some(*class),
            Label::Undecided(_) => None,
        }
    }

    /// The patients with a class as samples of an expression table whose one gene is the number of the class.
    pub(super) fn samples(&self) -> ExpressionTable {
        let mut table = ExpressionTable { genes: vec![gene(self.name.clone())], ..ExpressionTable::default() };
        for (patient, label) in &self.by_patient {
            let Label::Class(class) = label else { continue };
            let project = self.projects.get(patient).cloned();
            table.samples.push(Sample {
                patient: Some(patient.clone()),
                project,
                ..Sample::named(patient, &self.path)
            });
            table.values.push(*class as f64);
        }
        table
    }

    /// Lists the patients whose label decides nothing, and says of each why, for the slides that are theirs.
    pub(super) fn leave_out_undecided(&self, findings: &mut Findings, without: &mut HashMap<String, String>) {
        for (patient, label) in &self.by_patient {
            if let Label::Undecided(why) = label {
                findings.leave_out(ExcludedKind::Sample, patient, format!("is {why}"));
                without.insert(folded(patient), format!("is {why}"));
            }
        }
    }

    /// Turns the numbers of classes into targets, in place, by the classes that the rows in use have. Returns what the
    /// targets stand for.
    ///
    /// # Errors
    /// Where the rows in use are all of one class.
    pub(super) fn one_hot(&self, table: &mut ExpressionTable, rows: &[usize]) -> Result<Classes> {
        let count = |class: usize| rows.iter().filter(|&&r| table.values[r] == class as f64).count();
        let present: Vec<usize> = (0..self.classes.len()).filter(|&class| count(class) > 0).collect();
        let [first, second, more @ ..] = &present[..] else {
            let only = present.first().map_or("no class", |&class| &self.classes[class]);
            let problem = format!("says {only} of all {} patients with slides", rows.len());
            return Err(Error::input(&self.path, problem, "a label takes two classes: give patients of another"));
        };
        let targets: Vec<usize> = if more.is_empty() { vec![*second] } else { present.clone() };
        let of_class = |&class: &usize| gene(format!("{}={}", self.name, self.classes[class]));
        table.genes =
            if more.is_empty() { vec![gene(self.name.clone())] } else { targets.iter().map(of_class).collect() };
        let row = |value: &f64| targets.iter().map(|&class| f64::from(u8::from(*value == class as f64))).collect();
        table.values = table.values.iter().flat_map(|value| -> Vec<f64> { row(value) }).collect();
        debug_assert!(first < second);
        let names = present.iter().map(|&class| self.classes[class].clone()).collect();
        Ok(Classes { label: self.name.clone(), names })
    }
}

impl Classes {
    /// How many patients are of which class, for people: `counts` as `names`.
    pub(super) fn describe(&self, counts: &[usize]) -> String {
        let each = |separator: &str, what: &dyn Fn(usize) -> String| {
            let classes = self.names.iter().zip(counts).enumerate();
            let words: Vec<String> =
                classes.map(|(i, (name, n))| format!("{name} ({n} patients){}", what(i))).collect();
            words.join(separator)
        };
        match self.names.len() {
            2 => format!("label {}: {}", self.label, each(", ", &|target| format!(" is {target}"))),
            _ => format!("label {}: one target for each of {}", self.label, each(", ", &|_| String::new())),
        }
    }
}

fn gene(symbol: String) -> GeneName {
    GeneName { symbol: Some(symbol), ensembl: None }
}

/// The columns of patients and of labels, and whether these are MSI statuses.
fn columns(table: &Table) -> Result<(usize, usize, bool)> {
    let share = |column: usize, is: &dyn Fn(&str) -> bool| {
        let present: Vec<&str> = table.rows.iter().map(|r| r.get(column)).filter(|v| !is_missing(v)).collect();
        (!present.is_empty()) && present.iter().filter(|v| is(v)).count() * 10 >= present.len() * 9
    };
    let columns = 0..table.header.len();
    let has_msi = |c: usize| share(c, &|v| MsiStatus::parse(v).is_some());
    let has_barcodes = |c: usize| share(c, &|v| Barcode::find(v).is_some());
    let patient = columns.clone().find(|&c| has_barcodes(c)).or(table.column(&PATIENT_COLUMNS)?);
    let Some(patient) = patient else {
        return Err(Error::input(&table.path, "has no column of patients", "give the columns patient and label"));
    };
    let label = match table.column(&LABEL_COLUMNS)?.filter(|&c| c != patient) {
        Some(named) => Some(named),
        None => columns.clone().find(|&c| c != patient && has_msi(c)),
    };
    let others: Vec<usize> = columns.filter(|&c| c != patient).collect();
    match (label, &others[..]) {
        (Some(label), _) | (None, &[label]) => Ok((patient, label, has_msi(label))),
        (None, others) => {
            let names: Vec<&str> = others.iter().take(12).map(|&c| table.header[c].as_str()).collect();
            let problem = format!("does not say which column is the label ({})", names.join(", "));
            Err(Error::input(&table.path, problem, "call that column label"))
        }
    }
}

/// A label's own name where its column has one.
fn label_name(header: &str, is_msi: bool) -> String {
    let says_nothing = header.chars().all(|c| c.is_ascii_digit()) || ["label", "class"].contains(&&*plain_name(header));
    match (says_nothing, is_msi) {
        (false, _) => header.trim().to_string(),
        (true, true) => "msi".to_string(),
        (true, false) => "label".to_string(),
    }
}

fn msi_label(text: &str, low: LabelLow) -> Option<Label> {
    Some(match MsiStatus::parse(text)? {
        MsiStatus::Stable => Label::Class(0),
        MsiStatus::High => Label::Class(1),
        MsiStatus::Low if low == LabelLow::Stable => Label::Class(0),
        MsiStatus::Low => {
            Label::Undecided("MSI-L, which is neither class (cohort.label_low = \"stable\" counts it as MSS)".into())
        }
        MsiStatus::Indeterminate => Label::Undecided("of indeterminate MSI status".into()),
    })
}

/// The values of a column as classes, without regard to case.
fn class_names(path: &Path, rows: &[&Row], column: usize) -> Result<Vec<String>> {
    let mut spelt: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        spelt.entry(folded(row.get(column))).or_insert_with(|| row.get(column).trim().to_string());
    }
    let wrong = |problem: String, remedy: &str| Err(Error::input(path, problem, remedy));
    match spelt.len() {
        0 => return wrong("has no patient with a label".into(), "give the columns patient and label"),
        1 => {
            let only = spelt.into_values().next().unwrap_or_default();
            return wrong(format!("has one class, {only:?}"), "a label takes two classes at least");
        }
        2..=MOST_CLASSES => {}
        n => {
            let problem = format!("has a label of {n} different values");
            let remedy =
                format!("a label takes 2 to {MOST_CLASSES} classes; numbers to predict belong in an expression table");
            return wrong(problem, &remedy);
        }
    }
    let mut classes: Vec<String> = spelt.into_values().collect();
    let number = |class: &String| class.parse::<f64>().unwrap_or(f64::INFINITY);
    classes.sort_by(|a, b| {
        let (sign_a, sign_b) = (sign(a), sign(b));
        sign_a.cmp(&sign_b).then(number(a).total_cmp(&number(b))).then_with(|| folded(a).cmp(&folded(b)))
    });
    Ok(classes)
}

/// Below zero for a name that says no, above for one that says yes.
fn sign(class: &str) -> i8 {
    match plain_name(class).as_str() {
        "0" | "no" | "neg" | "negative" | "false" | "wt" | "wildtype" | "absent" | "normal" | "low" | "control" => -1,
        "1" | "yes" | "pos" | "positive" | "true" | "mut" | "mutant" | "mutated" | "present" | "altered" | "high" => 1,
        _ => 0,
    }
}

/// A patient's name: that of the barcode within the text, or the text itself.
pub fn patient_name(text: &str) -> String {
    Barcode::find(text).map_or_else(|| text.trim().to_string(), |b| b.patient())
}
