//! Who is who: slides of one patient that the tables do not call so, and patients who cannot be told apart.
//!
//! A patient whose slides are spread over folds is tested by a network that has seen them. Where it is certain that two
//! names are one patient they are merged, and it is said; where it may be so, it is said or refused.

use std::collections::{BTreeMap, HashMap};

use crate::{
    cohort::{
        expression::{ExpressionTable, Sample},
        matching::Matched,
        names::folded,
    },
    error::{Error, Result},
};

/// So many equal values that are not zero are no coincidence.
const CERTAIN_VALUES: usize = 10;

/// Merges and checks the patients of matched slides.
pub(super) fn settle(
    matched: &mut [Matched],
    samples: &[Option<Sample>],
    table: &ExpressionTable,
    remarks: &mut Vec<String>,
) -> Result<()> {
    merge_spellings(matched, samples, table, remarks)?;
    remarks.extend(grouped_by_case(matched));
    merge_equal_expression(matched, samples, table, remarks);
    one_patient_a_sample(matched, samples)
}

/// Ids that differ only in case are one patient, unless the table has a column of its own for each.
fn merge_spellings(
    matched: &mut [Matched],
    samples: &[Option<Sample>],
    table: &ExpressionTable,
    remarks: &mut Vec<String>,
) -> Result<()> {
    let mut spellings: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, m) in matched.iter().enumerate() {
        spellings.entry(folded(&m.patient)).or_default().push(i);
    }
    for slides in spellings.into_values() {
        let first = matched[slides[0]].patient.clone();
        let Some(&other) = slides.iter().find(|&&i| matched[i].patient != first) else { continue };
        let second = matched[other].patient.clone();
        let own_column = |i: usize| {
            let sample = samples[matched[i].row].as_ref()?;
            (folded(&sample.name) == folded(&matched[i].patient)).then_some(sample)
        };
        if let (Some(a), Some(b)) = (own_column(slides[0]), own_column(other))
            && !table.same_values(matched[slides[0]].row, matched[other].row)
        {
            let problem = format!("patients {first} and {second} differ only in case, and their expression differs");
            let remedy = format!("rename one of {} and {} if they are two patients, else keep one", a.column, b.column);
            return Err(Error::input(&a.path, problem, remedy));
        }
        remarks.push(format!("patients {first} and {second} differ only in case and count as one, {first}"));
        slides.iter().for_each(|&i| matched[i].patient = first.clone());
    }
    Ok(())
}

/// Says that slides with a sample of their own each are grouped by their CPTAC case.
fn grouped_by_case(matched: &[Matched]) -> Option<String> {
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for m in matched.iter().filter(|m| m.slide.patient.is_none()) {
        if m.slide.cptac().is_some_and(|c| c.case == m.patient) {
            rows.entry(&m.patient).or_default().push(m.row);
        }
    }
    rows.retain(|_, rows| rows.iter().any(|r| *r != rows[0]));
    let first = rows.keys().next()?;
    Some(format!("slides and samples of {} CPTAC cases, such as {first}, are grouped by case", rows.len()))
}

/// A name up to its last separator: `A-1` and `A-2` may be slides of `A`.
fn stem(name: &str) -> Option<&str> {
    let (stem, _) = name.rsplit_once(['-', '_', '.', ' '])?;
    (!stem.is_empty()).then_some(stem)
}

/// Tables keyed by slide repeat a patient's expression for each slide. Where nobody says whose the slides are, equal
/// expression tells.
fn merge_equal_expression(
    matched: &mut [Matched],
    samples: &[Option<Sample>],
    table: &ExpressionTable,
    remarks: &mut Vec<String>,
) {
    let unknown = |m: &Matched| {
        let of_sample = samples[m.row].as_ref().and_then(Sample::patient_name);
        m.slide.known_patient().is_none() && of_sample.is_none()
    };
    let open: Vec<usize> = (0..matched.len()).filter(|&i| unknown(&matched[i])).collect();
    let mut equal: HashMap<Vec<u64>, Vec<usize>> = HashMap::new();
    for &i in &open {
        let bits = table.sample_values(matched[i].row).iter().map(|v| v.to_bits()).collect();
        equal.entry(bits).or_default().push(i);
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for slides in equal.into_values().filter(|g| g.len() > 1) {
        let values = table.sample_values(matched[slides[0]].row);
        let mut several: Vec<&str> = slides.iter().map(|&i| matched[i].patient.as_str()).collect();
        several.dedup();
        if several.len() > 1 && values.iter().filter(|v| **v != 0.0 && v.is_finite()).count() >= CERTAIN_VALUES {
            groups.push(slides);
        }
    }
    if groups.is_empty() {
        groups = stems_that_explain(matched, &open, table);
    }
    groups.sort();
    for slides in groups {
        let names: Vec<String> = slides.iter().map(|&i| matched[i].slide.id.clone()).collect();
        let bases: Vec<Option<&str>> = slides.iter().map(|&i| stem(&matched[i].patient)).collect();
        let patient = match bases[0].filter(|s| bases.iter().all(|other| *other == Some(s))) {
            Some(stem) => stem.to_string(),
            None => matched[slides[0]].patient.clone(),
        };
        remarks
            .push(format!("slides {} have the same expression and count as one patient, {patient}", names.join(", ")));
        slides.iter().for_each(|&i| matched[i].patient = patient.clone());
    }
}

/// Few genes may agree by chance, but not where every name up to its last separator stands for one expression, and the
/// names before it for different ones.
fn stems_that_explain(matched: &[Matched], open: &[usize], table: &ExpressionTable) -> Vec<Vec<usize>> {
    let mut bases: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &i in open {
        if let Some(stem) = stem(&matched[i].patient) {
            bases.entry(stem).or_default().push(i);
        }
    }
    let groups: Vec<Vec<usize>> = bases.into_values().filter(|g| g.len() > 1).collect();
    let same = |a: usize, b: usize| table.same_values(matched[a].row, matched[b].row);
    let explained = groups.len() > 1
        && groups.iter().all(|g| g.iter().all(|&i| same(g[0], i)))
        && (1..groups.len()).any(|i| !same(groups[0][0], groups[i][0]));
    let rows = |g: &Vec<usize>| g.iter().any(|&i| matched[i].row != matched[g[0]].row);
    if explained { groups.into_iter().filter(rows).collect() } else { Vec::new() }
}

/// Two patients of one sample would be trained and tested on the same expression.
fn one_patient_a_sample(matched: &[Matched], samples: &[Option<Sample>]) -> Result<()> {
    let mut patient_of: HashMap<usize, usize> = HashMap::new();
    for (i, m) in matched.iter().enumerate() {
        let first = &matched[*patient_of.entry(m.row).or_insert(i)];
        if first.patient != m.patient
            && let Some(sample) = &samples[m.row]
        {
            let problem = format!(
                "sample {} is that of slide {} of patient {} and of slide {} of patient {}",
                sample.name, first.slide.id, first.patient, m.slide.id, m.patient
            );
            return Err(Error::input(&sample.path, problem, "say in the slide table whose it is"));
        }
    }
    Ok(())
}
