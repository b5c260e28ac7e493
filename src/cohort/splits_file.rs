//! Folds that a file gives: JSON or a table, one cross-validation or several.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use super::{labels::PATIENT_COLUMNS, splits::Fold};
use crate::{
    error::{Error, Result},
    io::table::{Row, Table},
};

/// JSON: folds with their sets, or patient by patient.
pub(super) fn of_json(path: &Path, text: &[u8]) -> Result<Vec<Fold>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum File {
        Wrapped {
            folds: Vec<Fold>,
        },
        Plain(Vec<Fold>),
        /// patient: fold
        Map(BTreeMap<String, serde_json::Value>),
    }
    let remedy = "give {\"folds\": [{\"train\": [...], \"valid\": [...], \"test\": [...]}]} or a table patient,fold";
    let bad = |e: String| Error::input(path, format!("is no splits file ({e})"), remedy);
    match serde_json::from_slice(text).map_err(|e| bad(e.to_string()))? {
        File::Wrapped { folds } | File::Plain(folds) => Ok(folds),
        File::Map(map) => {
            let name = |v: serde_json::Value| match v {
                serde_json::Value::String(s) => Ok(s),
                serde_json::Value::Number(n) => Ok(n.to_string()),
                other => Err(bad(format!("{other} is no fold"))),
            };
            let pairs = map.into_iter().map(|(p, v)| Ok((p, name(v)?))).collect::<Result<Vec<_>>>()?;
            Ok(folds_of_pairs(&pairs))
        }
    }
}

/// A table of patients and folds, of repeats and sets where it names them.
pub(super) fn of_table(path: &Path) -> Result<Vec<Fold>> {
    let table = Table::read(path)?;
    let column = |names: &[&str]| table.column(names);
    let remedy = "give the columns patient,fold";
    let patient = column(&PATIENT_COLUMNS)?;
    let fold = column(&["fold", "split", "test_fold", "cv_fold", "k"])?;
    let (Some(patient), Some(fold)) = (patient, fold) else {
        return Err(Error::input(path, "lacks a column patient or fold", remedy));
    };
    let set = column(&["set", "subset", "partition", "role"])?;
    let repeat = column(&["repeat", "repetition"])?;
    let repeats = table.rows.iter().map(|r| r.present(repeat).unwrap_or("0").to_string()).collect::<Vec<_>>();
    let mut names: Vec<String> = repeats.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    by_number(&mut names);
    let of_repeat = |(number, name): (usize, &String)| {
        let rows: Vec<&Row> = table.rows.iter().zip(&repeats).filter(|(_, r)| *r == name).map(|(row, _)| row).collect();
        let folds = folds_of_rows(path, &rows, patient, fold, set)?;
        Ok(folds.into_iter().map(|fold| Fold { repeat: number, ..fold }).collect::<Vec<_>>())
    };
    Ok(names.iter().enumerate().map(of_repeat).collect::<Result<Vec<_>>>()?.concat())
}

/// The folds that the rows of one repeat name.
fn folds_of_rows(path: &Path, rows: &[&Row], patient: usize, fold: usize, set: Option<usize>) -> Result<Vec<Fold>> {
    let remedy = "give the columns patient,fold";
    let pairs: Vec<(String, String)> =
        rows.iter().map(|r| (r.get(patient).to_string(), r.get(fold).to_string())).collect();
    if let Some((p, _)) = pairs.iter().find(|(p, f)| p.is_empty() || f.is_empty()) {
        return Err(Error::input(path, format!("a row (patient {p:?}) lacks its patient or fold"), remedy));
    }
    let Some(set) = set else {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (p, f) in &pairs {
            if seen.insert(p, f).is_some_and(|before| before != f) {
                return Err(Error::input(
                    path,
                    format!("patient {p} is in two folds"),
                    "keep one, or add a column set, or repeat",
                ));
            }
        }
        return Ok(folds_of_pairs(&pairs));
    };
    let mut folds: Vec<Fold> = Vec::new();
    let names = fold_names(&pairs);
    folds.resize_with(names.len(), Fold::default);
    for (row, (p, f)) in rows.iter().zip(&pairs) {
        let number = names.iter().position(|n| n == f).unwrap_or(0);
        let list = match row.get(set).to_ascii_lowercase().as_str() {
            "train" | "training" => &mut folds[number].train,
            "valid" | "val" | "validation" => &mut folds[number].valid,
            "test" | "testing" => &mut folds[number].test,
            other => {
                return Err(Error::input(path, format!("{p}: set {other:?} is unknown"), "write train, valid or test"));
            }
        };
        list.push(p.clone());
    }
    Ok(folds)
}

/// Names of the folds in order: by number where all are numbers.
fn fold_names(pairs: &[(String, String)]) -> Vec<String> {
    let mut names: Vec<String> = pairs.iter().map(|(_, f)| f.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    by_number(&mut names);
    names
}

/// In order of number where all are numbers.
fn by_number(names: &mut [String]) {
    if names.iter().all(|n| n.parse::<i64>().is_ok()) {
        names.sort_by_key(|n| n.parse::<i64>().unwrap_or(0));
    }
}

fn folds_of_pairs(pairs: &[(String, String)]) -> Vec<Fold> {
    fold_names(pairs)
        .iter()
        .map(|name| {
            let list = |test: bool| {
                let mut ids: Vec<String> =
                    pairs.iter().filter(|(_, f)| (f == name) == test).map(|(p, _)| p.clone()).collect();
                ids.sort();
                ids.dedup();
                ids
            };
            Fold { repeat: 0, train: list(false), valid: Vec::new(), test: list(true) }
        })
        .collect()
}

/// Finds the repeats of folds that come without their numbers, and refuses patients that are tested twice in one.
///
/// Folds that follow each other belong to one repeat until a patient would be tested again; that is believed where every
/// repeat then tests the same patients.
pub(super) fn number_repeats(path: &Path, folds: &mut [Fold]) -> Result<()> {
    let twice = |folds: &[Fold]| -> Option<(String, usize, usize)> {
        let mut seen: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for (number, fold) in folds.iter().enumerate() {
            for id in &fold.test {
                if let Some(before) = seen.insert((fold.repeat, id), number) {
                    return Some((id.clone(), before, number));
                }
            }
        }
        None
    };
    let Some((id, first, second)) = twice(folds) else { return Ok(()) };
    let refused = || {
        let of_one = if folds.iter().any(|f| f.repeat > 0) { " of one repeat" } else { "" };
        let problem = format!("patient {id} is tested in folds {first} and {second}{of_one}");
        let remedy =
            "test every patient once, or in every repeat of the cross-validation once and number those by `repeat`";
        Err(Error::input(path, problem, remedy))
    };
    if folds.iter().any(|f| f.repeat > 0) {
        return refused();
    }
    let mut repeats: Vec<BTreeSet<&str>> = vec![BTreeSet::new()];
    let mut numbers = Vec::new();
    for fold in folds.iter() {
        let last = repeats.len() - 1;
        if fold.test.iter().any(|id| repeats[last].contains(id.as_str())) {
            repeats.push(BTreeSet::new());
        }
        let last = repeats.len() - 1;
        repeats[last].extend(fold.test.iter().map(String::as_str));
        numbers.push(last);
    }
    if repeats.iter().any(|tested| *tested != repeats[0]) {
        return refused();
    }
    folds.iter_mut().zip(numbers).for_each(|(fold, repeat)| fold.repeat = repeat);
    Ok(())
}
