//! Tables, images and the report of a run as one artefact: `results.json` says what they were made from and holds their
//! checksums.
//!
//! They cannot carry a checksum themselves, as features and networks do. Results of other inputs are removed as soon as a
//! run knows its inputs, so that an interrupted run never leaves them beside its own files; results that are whole and of
//! the same inputs and networks are kept.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{Run, reach::RANGE_FILE, scan::LeftOut, selection::Selected};
use crate::{
    error::{Error, Fault, Result},
    eval::tables,
    io::{checksum::Digest, sealed},
};

pub const SUMMARY_FILE: &str = "summary.json";
pub const REPORT_FILE: &str = "report.html";
pub const SELECTORS_FILE: &str = "selectors.svg";
const RESULTS_FILE: &str = "results.json";

/// What is made anew from networks and features, and belongs to nothing else.
const FILES: [&str; 7] = [
    RANGE_FILE,
    tables::PREDICTIONS_FILE,
    tables::EVALUATION_JSON,
    tables::EVALUATION_CSV,
    SUMMARY_FILE,
    REPORT_FILE,
    SELECTORS_FILE,
];

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Of all that the run was given.
    inputs: Digest,
    /// Of the extractors and networks by their checksums.
    networks: Digest,
    files: BTreeMap<String, Digest>,
}

/// Of all that a run was given: its configuration, the pixels and patches of its slides, their targets, what was left out.
pub fn inputs(run: &Run, selected: &[Selected], left_out: &[LeftOut]) -> Digest {
    let mut config = run.config.absolute();
    config.out.clear();
    for train in config.methods_mut() {
        (train.parallel, train.checkpoint_s) = (0, 0);
    }
    let slide = |slide: &Selected| {
        let marks: Vec<_> = slide.patches.iter().map(|p| (p.x, p.y, p.score.to_bits(), p.kept)).collect();
        let entry = (&slide.entry.id, &slide.entry.patient, &slide.entry.project);
        Digest::of("slide of a run", &(entry, slide.pixels, slide.mpp.map(f64::to_bits), marks))
    };
    let slides: Vec<Digest> = selected.iter().map(slide).collect();
    let targets: Vec<u64> = run.cohort.targets.iter().map(|t| t.to_bits()).collect();
    let patients: Vec<_> = run.cohort.patients.iter().map(|p| (&p.id, &p.site, &p.project)).collect();
    let matched: Vec<_> = run.cohort.slides.iter().map(|s| (&s.id, s.sample_index)).collect();
    let cohort = (run.cohort.gene_labels(), targets, patients, matched);
    Digest::of("inputs of a run", &(config, slides, cohort, left_out))
}

/// Removes results that were made from something else.
pub fn forget_others(dir: &Path, inputs: Digest) -> Result<()> {
    match stored(dir)? {
        Some(stored) if stored.inputs == inputs => Ok(()),
        _ => FILES.iter().chain([&RESULTS_FILE]).try_for_each(|name| {
            let path = dir.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, e)),
                _ => Ok(()),
            }
        }),
    }
}

/// Whether every result is there, whole, and made from these inputs by these networks.
pub fn are_current(dir: &Path, inputs: Digest, networks: Digest) -> Result<bool> {
    let Some(stored) = stored(dir)? else { return Ok(false) };
    if (stored.inputs, stored.networks) != (inputs, networks) || !stored.files.contains_key(SUMMARY_FILE) {
        return Ok(false);
    }
    for (name, checksum) in &stored.files {
        let path = dir.join(name);
        if !path.is_file() || Digest::of_file(&path)? != *checksum {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Records that the results that are there now are of these inputs and networks.
pub fn record(dir: &Path, inputs: Digest, networks: Digest) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in FILES {
        let path = dir.join(name);
        if path.is_file() {
            files.insert(name.to_string(), Digest::of_file(&path)?);
        }
    }
    sealed::write_json(dir.join(RESULTS_FILE), &Stored { inputs, networks, files })
}

fn stored(dir: &Path) -> Result<Option<Stored>> {
    match sealed::read_json(dir.join(RESULTS_FILE)) {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.fault() == Fault::Input => Ok(None),
        Err(error) => Err(error),
    }
}
