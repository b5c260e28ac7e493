//! How far a run is, for whoever asks from another shell: read from what lies in its directory, without a lock that anybody would
//! have to wait for, and without reading slides or features.
//!
//! Files are counted as they are there. Whether they are whole and made from what there is now, only a run finds out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    LEFT_OUT_FILE, RunConfig, Stage, features, model_dir, read_json, results,
    scan::LeftOut,
    workers::{self, Worker},
};
use crate::{
    cohort::{matched_slides, splits::Splits},
    encoder::Site,
    error::{Error, Result},
    io::{metrics, sealed, text},
    mil::{
        config::TrainConfig,
        manifest::{TASKS, member_dir},
        training::{METRICS_FILE, MODEL_FILE},
    },
};

/// How far a run is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub run: PathBuf,
    /// What is not finished yet; `None` where everything is.
    pub stage: Option<Stage>,
    /// Processes that work on it now.
    pub working: Vec<Worker>,
    /// Slides that are scored, of those with expression.
    pub slides: Part,
    /// What scoring a slide took, on average.
    pub seconds_a_slide: Option<f64>,
    /// What encoders learn, by scale; empty where they learn nothing.
    pub extractors: Vec<Learning>,
    /// Slides with features.
    pub features: Part,
    /// By method, the run's own first.
    pub methods: Vec<Networks>,
    /// The line that a training wrote last, and which.
    pub last: Option<Last>,
    /// By stage, over all processes so far that finished it or were asked to stop.
    pub seconds: BTreeMap<String, f64>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Part {
    pub done: u64,
    pub total: u64,
}

/// What an encoder of one scale learns.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Learning {
    pub scale: &'static str,
    pub finished: bool,
    /// Of its training by gradient, if that is how it learns.
    pub steps: Option<Part>,
}

/// Networks of one method, without their tuned copies.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Networks {
    pub method: String,
    pub networks: Part,
    /// One that stopped early has done all of its.
    pub epochs: Part,
    pub tuned_copies: u64,
}

/// The youngest line of all curves.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Last {
    /// The curve's file in the run directory.
    pub curve: PathBuf,
    /// Its losses and where it was, by name.
    pub record: Value,
}

/// What is looked at of a slide's scores.
#[derive(Deserialize)]
struct Slide {
    slide: String,
    seconds: f64,
    outcome: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Scored(IgnoredAny),
    Failed { reason: String },
}

/// Looks at the run in `dir`.
///
/// # Errors
/// It holds no run.
pub fn status(dir: &Path) -> Result<Status> {
    let path = dir.join("config.toml");
    if !path.is_file() {
        let problem = "holds no run (it has no config.toml)";
        return Err(Error::input(dir, problem, "name a run's directory, `out` of its configuration"));
    }
    let config = RunConfig { out: dir.to_path_buf(), ..RunConfig::read(&path)? };
    let matched = matched_slides(dir)?;
    let is_matched = |slide: &str| matched.contains(slide);
    let mut left_out: Vec<LeftOut> = read_json(&dir.join(LEFT_OUT_FILE)).unwrap_or_default();
    let (mut seconds, mut done, mut used) = (0.0, 0, 0);
    for Slide { slide, seconds: took, outcome } in scored(dir).into_iter().filter(|state| is_matched(&state.slide)) {
        let known = left_out.iter().any(|known| known.slide == slide);
        match outcome {
            Outcome::Failed { reason } if !known => left_out.push(LeftOut { slide, reason }),
            Outcome::Failed { .. } => {}
            Outcome::Scored(_) => (seconds, done, used) = (seconds + took, done + 1, used + u64::from(!known)),
        }
    }
    let slides = Part { done, total: matched.len() as u64 };
    // Of the slides left out, those that are scored are left out for what their scores say.
    let unusable = left_out.iter().filter(|known| is_matched(&known.slide)).count() as u64 - (done - used);
    let encoder = &config.encoder.encoder;
    let learning = |scale| {
        features::at_site(&config, dir, scale, |site: Site| {
            let steps = site.extractor.steps;
            let at = encoder.curve(site)?.last().map(|record| record.step);
            let finished = encoder.digest(site).is_ok();
            let steps = at.map(|done| Part { done: done.min(steps), total: steps });
            Ok(Learning { scale: scale.name(), finished, steps })
        })
    };
    let learners = config.scales().into_iter().filter(|_| encoder.learns());
    let extractors = learners.map(learning).collect::<Result<Vec<_>>>()?;
    let features = Part { done: count(&dir.join("features"), "safetensors").min(used), total: used };
    let networks_a_method = folds(dir, &config);
    let methods: Vec<Networks> = config.methods().map(|train| networks(dir, train, networks_a_method)).collect();
    let unfinished = [
        (Stage::Scan, done + unusable < slides.total || slides.total == 0),
        (Stage::Extractors, extractors.iter().any(|learning| !learning.finished)),
        (Stage::Features, features.done < features.total || features.total == 0),
        (Stage::Training, methods.iter().any(|method| method.networks.done < method.networks.total)),
        (Stage::Report, !dir.join(results::SUMMARY_FILE).is_file()),
    ];
    let seconds_a_slide = (done > 0).then(|| seconds / done as f64);
    Ok(Status {
        run: dir.to_path_buf(),
        stage: unfinished.into_iter().find_map(|(stage, is)| is.then_some(stage)),
        working: workers::at_work(dir)?,
        slides,
        seconds_a_slide,
        extractors,
        features,
        last: last(dir),
        methods,
        seconds: sealed::read_json(dir.join("timings.json")).unwrap_or_default(),
        left_out,
    })
}

/// What is on disk of every slide; a file that is being replaced is passed over.
fn scored(dir: &Path) -> Vec<Slide> {
    let files = files(&dir.join("slides"), "json");
    let read = |path: PathBuf| serde_json::from_slice(&text::read_bytes(&path, text::MAX_JSON_BYTES).ok()?).ok();
    files.into_iter().filter_map(read).collect()
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

fn count(dir: &Path, ending: &str) -> u64 {
    files(dir, ending).len() as u64
}

/// Folds of all repeats: those that were drawn, or else as many as are asked for.
fn folds(dir: &Path, config: &RunConfig) -> usize {
    let drawn = read_json::<Splits>(&dir.join("splits.json"));
    drawn.map_or(config.splits.folds * config.splits.repeats.max(1), |splits| splits.folds.len())
}

fn networks(dir: &Path, train: &TrainConfig, folds: usize) -> Networks {
    let dir = model_dir(dir, train);
    let (mut done, mut epochs, mut tuned_copies) = (0, 0, 0);
    for (fold, member) in (0..folds).flat_map(|fold| (0..train.members).map(move |member| (fold, member))) {
        let dir = member_dir(&dir, fold, member);
        if dir.join(MODEL_FILE).is_file() {
            (done, epochs) = (done + 1, epochs + train.epochs as u64);
        } else {
            let curve: Vec<Value> = metrics::read(dir.join(METRICS_FILE)).unwrap_or_default();
            epochs += (curve.len() as u64).min(train.epochs as u64);
        }
        let tasks = std::fs::read_dir(dir.join(TASKS)).into_iter().flatten().flatten();
        tuned_copies += tasks.filter(|task| task.path().join(MODEL_FILE).is_file()).count() as u64;
    }
    let all = (folds * train.members) as u64;
    Networks {
        method: train.name.clone(),
        networks: Part { done, total: all },
        epochs: Part { done: epochs, total: all * train.epochs as u64 },
        tuned_copies,
    }
}

/// The last line of the curve that was written last.
fn last(dir: &Path) -> Option<Last> {
    let (mut youngest, mut pending) = (None::<(SystemTime, PathBuf)>, vec![dir.join("extractor"), dir.join("model")]);
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.file_name().is_some_and(|name| name == METRICS_FILE) {
                let written = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                if youngest.as_ref().is_none_or(|(other, _)| written > *other) {
                    youngest = Some((written, path));
                }
            }
        }
    }
    let (_, path) = youngest?;
    let record = metrics::read::<Value>(&path).ok()?.pop()?;
    Some(Last { curve: path.strip_prefix(dir).unwrap_or(&path).to_path_buf(), record })
}
