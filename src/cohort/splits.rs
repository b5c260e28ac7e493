//! Patient-level cross-validation: all slides of a patient are in one set of a fold, never in two.
//!
//! As HE2RNA: the test sets of K folds (5) partition the patients; of the others a tenth validates, the rest trains.
//! Sites may be spread evenly over the folds (`stratify = "site"`), so that no fold lacks one, or kept whole
//! (`stratify = "site_preserved"`), so that a model is only tested on sites it has not seen: slides betray their site
//! (Howard et al. 2021). A tissue source site of TCGA is a code, not an institution: one hospital may have several, and a
//! table `institutions` says which. With `repeats` the whole is done again with other folds. The folds depend on the
//! patients' names and the seed, not on their order in a table.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::{institutions::Institutions, labels::patient_name, names::NameIndex, splits_file as given, validation},
    error::{Error, Result},
    io::{atomic, text},
    random::Philox,
};

/// What is balanced over the folds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stratify {
    #[default]
    None,
    /// Each site's (and project's) patients are spread over the folds as evenly as they go.
    Site,
    /// Each project's patients are spread evenly.
    Project,
    /// All patients of a site are tested in the same fold.
    SitePreserved,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    pub folds: usize,
    /// Passes through the whole cross-validation, each with folds of its own; every patient is tested once in each.
    pub repeats: usize,
    /// Part of the patients that are not tested which validates.
    pub valid_fraction: f64,
    pub seed: u64,
    pub stratify: Stratify,
    /// A file that gives the folds instead (see [`Splits::read`]).
    pub file: Option<PathBuf>,
    /// A table `code,institution` of the sites. TCGA's tissue source site codes are not institutions: a hospital has
    /// several, one for each kind of cancer it sent.
    pub institutions: Option<PathBuf>,
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig {
            folds: 5,
            repeats: 1,
            valid_fraction: 0.1,
            seed: 0,
            stratify: Stratify::None,
            file: None,
            institutions: None,
        }
    }
}

/// Who is to be split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitPatient {
    pub id: String,
    pub site: Option<String>,
    pub project: Option<String>,
    /// Their class where labels are predicted: every fold, and its validation, gets its part of each.
    pub label: Option<String>,
}

impl SplitPatient {
    /// The site; a patient of unknown site is a site alone.
    pub(super) fn site_name(&self) -> String {
        self.site.clone().unwrap_or_else(|| format!("patient {}", self.id))
    }
}

/// One fold, by patient. The three lists are disjoint and sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fold {
    /// Which pass through the cross-validation it belongs to; within one, no patient is tested twice.
    #[serde(default)]
    pub repeat: usize,
    pub train: Vec<String>,
    #[serde(default)]
    pub valid: Vec<String>,
    pub test: Vec<String>,
}

/// The folds of all repeats, one repeat after the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Splits {
    pub folds: Vec<Fold>,
}

impl Splits {
    /// Folds from the configured file, or drawn. The strings are remarks worth showing, such as patients that a file does
    /// not mention. Errors where there are too few patients, or sites, for the folds.
    pub fn new(patients: &[SplitPatient], config: &SplitConfig) -> Result<(Splits, Vec<String>)> {
        let mut patients = patients.to_vec();
        let mut remarks = Vec::new();
        if let Some(path) = &config.institutions {
            remarks.extend(Institutions::read(path)?.replace_codes(&mut patients));
        }
        let splits = match &config.file {
            Some(path) => {
                let (splits, more) = Splits::read(path, &patients, config)?;
                remarks.extend(more);
                splits
            }
            None => Splits::draw(&patients, config)?,
        };
        Ok((splits, remarks))
    }

    /// Repeat and number within it of every fold.
    pub fn numbers(&self) -> Vec<(usize, usize)> {
        let within = |i: usize| self.folds[..i].iter().filter(|f| f.repeat == self.folds[i].repeat).count();
        (0..self.folds.len()).map(|i| (self.folds[i].repeat, within(i))).collect()
    }

    /// Draws K folds, in every repeat others.
    pub fn draw(patients: &[SplitPatient], config: &SplitConfig) -> Result<Splits> {
        let unique: BTreeMap<&str, &SplitPatient> = patients.iter().map(|p| (p.id.as_str(), p)).collect();
        if config.folds < 2 || unique.len() < config.folds.max(3) {
            let wanted = config.folds.max(3);
            return Err(Error::Usage(format!(
                "{} patients cannot be split into {} folds; at least 2 folds and {wanted} patients are needed",
                unique.len(),
                config.folds
            )));
        }
        if config.repeats == 0 {
            return Err(Error::Usage("splits.repeats is 0; 1 is one pass through the cross-validation".into()));
        }
        check_fraction(config.valid_fraction)?;
        let repeats = (0..config.repeats).map(|repeat| draw_repeat(&unique, config, repeat));
        Ok(Splits { folds: repeats.collect::<Result<Vec<_>>>()?.concat() })
    }

    /// Reads folds from a file: JSON `{"folds": [{"train": [...], "valid": [...], "test": [...]}, ...]}` (or the list
    /// alone), or a table with the columns `patient` and `fold`, each patient being tested in that fold; with a column
    /// `set` (train, valid, test) it says everything itself. Validation patients are drawn where the file names none.
    /// Patients unknown to the cohort are ignored with a remark, as are the cohort's that the file does not mention.
    pub fn read(path: &Path, patients: &[SplitPatient], config: &SplitConfig) -> Result<(Splits, Vec<String>)> {
        check_fraction(config.valid_fraction)?;
        let bytes = text::read_bytes(path, text::MAX_JSON_BYTES)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).trim_ascii_start();
        let mut folds = match text.first() {
            Some(b'{' | b'[') => given::of_json(path, text)?,
            _ => given::of_table(path)?,
        };
        let by_id: BTreeMap<&str, &SplitPatient> = patients.iter().map(|p| (p.id.as_str(), p)).collect();
        let known: BTreeSet<&str> = by_id.keys().copied().collect();
        let names = PatientNames::new(&by_id);
        let mut taken_for = Vec::new();
        for id in folds.iter_mut().flat_map(|f| f.train.iter_mut().chain(&mut f.valid).chain(&mut f.test)) {
            if let Some(patient) = names
                .find(id)
                .map_err(|problem| Error::input(path, problem, "write the patients' ids as the cohort has them"))?
                && *id != patient
            {
                taken_for.push(format!("{id} for {patient}"));
                *id = patient;
            }
        }
        taken_for.sort();
        taken_for.dedup();
        let mentioned: BTreeSet<String> =
            folds.iter().flat_map(|f| f.train.iter().chain(&f.valid).chain(&f.test)).cloned().collect();
        let mut remarks = Vec::new();
        if let Some(first) = taken_for.first() {
            let n = taken_for.len();
            remarks.push(format!("{}: {n} patients are spelt otherwise in the cohort ({first}, ...)", path.display()));
        }
        let strangers = mentioned.iter().filter(|id| !known.contains(id.as_str())).count();
        if strangers > 0 {
            remarks.push(format!("{}: {strangers} patients are not in the cohort and are ignored", path.display()));
        }
        let missing: Vec<&str> = known.iter().copied().filter(|id| !mentioned.contains(*id)).collect();
        if !missing.is_empty() {
            let first = missing.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let n = missing.len();
            remarks.push(format!("{}: {n} of the cohort's patients are in no fold ({first}, ...)", path.display()));
        }
        for (number, fold) in folds.iter_mut().enumerate() {
            for list in [&mut fold.train, &mut fold.valid, &mut fold.test] {
                list.retain(|id| known.contains(id.as_str()));
                list.sort();
                list.dedup();
            }
            let problem = fold.problem();
            if let Some(problem) = problem {
                return Err(Error::input(path, format!("fold {number}: {problem}"), "correct the splits file"));
            }
            if fold.valid.is_empty() {
                let test = fold.test.iter().map(String::as_str).collect();
                let rest = fold.train.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect();
                *fold = Fold { repeat: fold.repeat, ..fold_with_validation(rest, test, number, config) };
            }
        }
        if folds.is_empty() {
            return Err(Error::input(path, "names no fold", "give the columns patient,fold"));
        }
        given::number_repeats(path, &mut folds)?;
        folds.sort_by_key(|fold| fold.repeat);
        Ok((Splits { folds }, remarks))
    }

    /// Writes the folds as JSON that [`Splits::read`] reads.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(Error::internal)?;
        atomic::write_bytes(path, &text)
    }
}

/// The cohort's patients by their names.
struct PatientNames<'a> {
    ids: Vec<&'a str>,
    index: NameIndex,
}

impl PatientNames<'_> {
    fn new<'a>(patients: &BTreeMap<&'a str, &SplitPatient>) -> PatientNames<'a> {
        let ids: Vec<&str> = patients.keys().copied().collect();
        let mut index = NameIndex::default();
        ids.iter().enumerate().for_each(|(i, id)| index.add(id, i));
        PatientNames { ids, index }
    }

    /// The patient that a file means; `None` for a stranger. The error says which two it may mean.
    fn find(&self, name: &str) -> Result<Option<String>, String> {
        let found = self.index.find(name).or_else(|| self.index.find(&patient_name(name)));
        match found.map(|(_, patients)| patients).as_deref() {
            None | Some([]) => Ok(None),
            Some([one]) => Ok(Some(self.ids[*one].to_string())),
            Some([a, b, ..]) => Err(format!("{name} may be patient {} or {}", self.ids[*a], self.ids[*b])),
        }
    }
}

impl Fold {
    /// What makes this fold unusable, if anything does.
    fn problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        for id in self.train.iter().chain(&self.valid).chain(&self.test) {
            if !seen.insert(id) {
                return Some(format!("patient {id} is in two of its sets"));
            }
        }
        if self.train.is_empty() || self.test.is_empty() {
            return Some("has no patient of the cohort to train on, or none to test".to_string());
        }
        None
    }
}

fn check_fraction(fraction: f64) -> Result<()> {
    if (0.0..0.9).contains(&fraction) {
        return Ok(());
    }
    Err(Error::Usage(format!("valid_fraction is {fraction}; give a number from 0 to below 0.9")))
}

/// The folds of one pass.
fn draw_repeat(unique: &BTreeMap<&str, &SplitPatient>, config: &SplitConfig, repeat: usize) -> Result<Vec<Fold>> {
    let ids: Vec<&str> = unique.keys().copied().collect();
    let stream = if repeat == 0 { "folds".to_string() } else { format!("folds {repeat}") };
    let order = Philox::named(config.seed, &stream).permutation(ids.len());
    let shuffled: Vec<&SplitPatient> = order.iter().map(|&i| unique[ids[i]]).collect();
    let fold_of = match config.stratify {
        Stratify::SitePreserved => whole_sites(&shuffled, config.folds)?,
        _ => dealt(&shuffled, config),
    };
    let test_of = |fold: usize| -> BTreeSet<&str> {
        shuffled.iter().zip(&fold_of).filter(|(_, f)| **f == fold).map(|(p, _)| p.id.as_str()).collect()
    };
    let fold = |f: usize| {
        let test = test_of(f);
        let rest = ids.iter().filter(|id| !test.contains(*id)).map(|id| unique[id]).collect();
        Fold { repeat, ..fold_with_validation(rest, test, repeat * config.folds + f, config) }
    };
    Ok((0..config.folds).map(fold).collect())
}

/// Draws the validation patients of a fold out of those that are not tested: of every project its part, so that each can
/// be watched while it trains; whole sites where folds are by site, so that a model is not stopped by what it knows of
/// its sites.
fn fold_with_validation(rest: Vec<&SplitPatient>, test: BTreeSet<&str>, number: usize, config: &SplitConfig) -> Fold {
    let order = Philox::named(config.seed, &format!("validation {number}")).permutation(rest.len());
    let shuffled: Vec<&SplitPatient> = order.iter().map(|&i| rest[i]).collect();
    let whole_sites = if config.stratify == Stratify::SitePreserved {
        validation::of_whole_sites(&shuffled, config.valid_fraction)
    } else {
        None
    };
    let valid = whole_sites.unwrap_or_else(|| validation::of_every_project(&shuffled, config.valid_fraction));
    let pick = |wanted: bool| {
        let mut ids: Vec<String> =
            shuffled.iter().zip(&valid).filter(|(_, v)| **v == wanted).map(|(p, _)| p.id.clone()).collect();
        ids.sort();
        ids
    };
    Fold { repeat: 0, train: pick(false), valid: pick(true), test: test.into_iter().map(str::to_string).collect() }
}

/// Deals patients round the folds, stratum after stratum, without starting anew at each: every stratum is spread within
/// one patient, and so is the whole.
fn dealt(shuffled: &[&SplitPatient], config: &SplitConfig) -> Vec<usize> {
    let stratum = |p: &SplitPatient| {
        let label = p.label.clone();
        match config.stratify {
            Stratify::Site => (p.project.clone(), p.site.clone(), label),
            Stratify::Project => (p.project.clone(), None, label),
            Stratify::None | Stratify::SitePreserved => (None, None, label),
        }
    };
    let mut order: Vec<usize> = (0..shuffled.len()).collect();
    order.sort_by_key(|&i| stratum(shuffled[i])); // stable: the shuffle decides within a stratum
    let mut fold_of = vec![0; shuffled.len()];
    for (place, &i) in order.iter().enumerate() {
        fold_of[i] = place % config.folds;
    }
    fold_of
}

/// Gives whole sites to folds: the largest first, each to the fold with the fewest patients so far.
fn whole_sites(shuffled: &[&SplitPatient], folds: usize) -> Result<Vec<usize>> {
    let mut sites: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, p) in shuffled.iter().enumerate() {
        sites.entry(p.site_name()).or_default().push(i);
    }
    if sites.len() < folds {
        let fewer = if sites.len() < 2 { "use" } else { "use fewer folds or" };
        return Err(Error::Usage(format!(
            "{} sites cannot be kept whole over {folds} folds; {fewer} stratify = \"site\"",
            sites.len()
        )));
    }
    let mut groups: Vec<Vec<usize>> = sites.into_values().collect();
    groups.sort_by_key(|g| (std::cmp::Reverse(g.len()), g[0]));
    let mut sizes = vec![0usize; folds];
    let mut fold_of = vec![0; shuffled.len()];
    for group in groups {
        let smallest = (0..folds).min_by_key(|&f| sizes[f]).unwrap_or(0);
        sizes[smallest] += group.len();
        group.into_iter().for_each(|i| fold_of[i] = smallest);
    }
    Ok(fold_of)
}
