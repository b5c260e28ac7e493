//! A whole run: from slides and expression tables to cross-validated predictions, stage by stage, in one directory.
//!
//! ```text
//! RUN/config.toml            the resolved configuration
//! RUN/matching.csv           for every slide its patient, sample and column, and by which rule, or why not
//! RUN/excluded.csv           slides, samples, genes and files that are left out, and why
//! RUN/slides/ID.json         scores of a slide's patches, or why it was left out
//! RUN/selection.json         the run's threshold and scale, as `predict` uses them
//! RUN/extractor/{global,local}/   what encoders of either scale learn: the two autoencoders, their checkpoints and curves
//! RUN/features/ID.safetensors     global vectors and local cubes of a slide
//! RUN/export/ID.h5           the vectors for other programs, where they are asked for
//! RUN/model/METHOD/          per method one network a fold, their checkpoints and curves
//! RUN/predictions.csv evaluation.json evaluation.csv summary.json report.html selectors.svg
//! RUN/results.json           what the files of the line above were made from, and their checksums
//! RUN/timings.json .workers/ seconds by stage; who works on it now
//! ```
//!
//! Every stage keeps what it finished: a run that was stopped, at any point and in any way, resumes when the
//! same command is given again, and ends with the same numbers. Slides and networks may be done by many processes at once, on
//! any machines that see the directory ([`shards`]); what one process makes of it afterwards are the same bytes.
//!
//! Every artefact carries a checksum of itself and the digest of all it was made from, down to the bytes of the slides:
//! scores of the slide and the selector; an extractor of its configuration and the patches; features of the slide, the kept
//! patches and both extractors; a network of its configuration, the features and targets of its slides and, where it is
//! tuned, of the network it began as. One that differs in anything, or is damaged, is made again; a finished directory is
//! worth what a fresh run of the same command would give. The device and the number of threads are not among what an
//! artefact depends on: a run may be resumed on another machine, with numbers that agree to rounding. The precision that the
//! configuration names is: a GPU computes in it, the CPU in f32, and every network says what it was trained in.

mod access;
pub mod config;
pub mod export;
pub mod features;
pub mod maps;
pub mod patches;
mod places;
pub mod plan;
pub mod predict;
pub mod reach;
pub mod reporting;
pub mod reproduce;
mod results;
pub mod scales;
pub mod scan;
pub mod selection;
pub mod shards;
pub mod spots;
pub mod status;
pub mod workers;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cohort::{Cohort, Excluded, ExcludedKind, Findings, SplitPatient, Splits},
    device::{Device, DeviceId},
    encoder::Site,
    error::{Error, Result},
    eval::{
        metrics::Settings,
        permutation::Permutations,
        predictions,
        stats::Bootstrap,
        tables::{self, Comparison, GeneResult, Method},
    },
    extractor::training,
    io::{atomic, checksum::Digest, claim, sealed},
    mil::{config::TrainConfig, crossval},
    progress::Progress,
    report::PatchCounts,
};

pub use access::Access;
pub use config::{RunConfig, Scale};
use patches::SlidePatches;
use scan::{LeftOut, Scanned};
use selection::{KeptShare, Selected, Selection};
use workers::Presence;

/// Slides that are not used, and why.
const LEFT_OUT_FILE: &str = "left_out.json";

/// The parts of a run in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Scan,
    Extractors,
    Features,
    Training,
    Report,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Scan => "scan",
            Stage::Extractors => "extractors",
            Stage::Features => "features",
            Stage::Training => "training",
            Stage::Report => "report",
        }
    }
}

/// An opened run directory. Holds its lock: two processes never do the same work in one run.
pub struct Run {
    pub config: RunConfig,
    pub cohort: Cohort,
    pub excluded: Vec<Excluded>,
    presence: Presence,
    _held: access::Held,
}

impl Run {
    /// Loads the cohort, refuses what can be refused before any work, and makes or reopens the directory that the
    /// configuration names, in which nobody else works then.
    pub fn open(config: RunConfig, progress: &dyn Progress) -> Result<Run> {
        Run::open_for("run", Access::Alone, config, progress)
    }

    /// As [`Run::open`], for `work` in these words, alone or beside others who do their part of the same.
    ///
    /// # Errors
    /// Those of [`Run::open`]; others work in the directory who stand against it, or with another configuration.
    pub fn open_for(work: &str, access: Access, config: RunConfig, progress: &dyn Progress) -> Result<Run> {
        let dir = &config.out;
        let (cohort, excluded) = load_cohort(&config, progress)?;
        plan::check(&config, &cohort)?;
        plan::check_room(&config, plan::patches(&config, &cohort)?.kept_expected)?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let text = toml::to_string_pretty(&config.absolute()).map_err(Error::internal)?;
        let held = access::take(dir, access, |nobody_else| {
            let path = dir.join("config.toml");
            if nobody_else {
                // A shard leaves the rest as it is: it may be the first of many, and looks at its own part alone.
                if access == Access::Alone {
                    tidy(dir)?;
                }
                return sealed::write_toml(path, &text);
            }
            let theirs = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            if theirs.ends_with(&text) {
                return Ok(());
            }
            let problem = "is of others who work in this run directory, and differs from the one given";
            Err(Error::input(&path, problem, "give theirs, wait for them, or choose another folder with --out"))
        })?;
        let presence = Presence::new(dir, work)?;
        Ok(Run { config, cohort, excluded, presence, _held: held })
    }

    /// A file or folder of the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.config.out.join(name)
    }

    /// Gives `work` the place of the encoder of this scale.
    fn at_site<T>(&self, scale: Scale, work: impl FnOnce(Site) -> Result<T>) -> Result<T> {
        features::at_site(&self.config, &self.config.out, scale, work)
    }

    /// Runs a stage and adds what it took to `timings.json`, which sums over interrupted runs.
    fn timed<T>(&self, stage: Stage, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let result = work();
        let path = self.path("timings.json");
        // Others may add theirs.
        let lock = claim::path_of(&path);
        let file = claim::open(&lock)?;
        file.lock().map_err(|e| claim::no_locks(&lock, &e))?;
        let mut timings = self.timings();
        *timings.entry(stage.name().to_string()).or_default() += begun.elapsed().as_secs_f64();
        sealed::write_json(path, &timings)?;
        result
    }

    /// Seconds spent in each stage so far.
    pub fn timings(&self) -> BTreeMap<String, f64> {
        sealed::read_json(self.path("timings.json")).unwrap_or_default()
    }
}

/// What a run found, as `summary.json` holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub slides: usize,
    pub patients: usize,
    pub patches: PatchCounts,
    pub left_out: Vec<LeftOut>,
    /// The rule that chose patches, and how much of every slide it kept.
    pub selection: Selection,
    pub kept: Vec<KeptShare>,
    /// Mean of the headline over genes and projects.
    pub mean_pearson: Option<f64>,
    /// Every gene of every project, patients as observations.
    pub genes: Vec<GeneResult>,
    /// The same over all projects together, where there are several: telling them apart counts as prediction there.
    pub all_projects: Vec<GeneResult>,
    /// Seconds by stage, over all the processes that worked on the run.
    pub seconds: BTreeMap<String, f64>,
}

/// How a run evaluates its predictions.
pub fn evaluation_settings(seed: u64) -> Settings {
    Settings {
        bootstrap: Bootstrap { seed, ..Bootstrap::default() },
        permutations: Permutations { seed, ..Permutations::default() },
        ..Settings::default()
    }
}

/// Loads the cohort of a run and writes into its directory how far matching came, also where it ended with an error.
fn load_cohort(config: &RunConfig, progress: &dyn Progress) -> Result<(Cohort, Vec<Excluded>)> {
    let mut findings = Findings::default();
    let cohort = Cohort::load(&config.cohort, &mut findings, progress);
    findings.write(&config.out)?;
    Ok((cohort?, findings.excluded))
}

/// Plans a run and writes which slides it would use, `matching.csv` and `excluded.csv`, into its directory, and nothing else.
///
/// # Errors
/// What keeps the cohort from being loaded. What would be refused later is in the plan.
pub fn dry_run(config: &RunConfig, device: DeviceId, progress: &dyn Progress) -> Result<plan::Plan> {
    device.open()?;
    let (cohort, excluded) = load_cohort(config, progress)?;
    let left_out = excluded.iter().filter(|e| e.kind == ExcludedKind::Slide).count();
    plan::plan(config, &cohort, left_out, device)
}

/// Runs every stage up to `until`. Finished work is kept and not done again. `None` unless the report was reached.
///
/// Folds train on threads that open `id` for themselves.
pub fn execute(run: &Run, until: Stage, id: DeviceId, progress: &dyn Progress) -> Result<Option<Summary>> {
    let progress: &dyn Progress = &run.presence.over(progress);
    let device = id.open()?;
    let Scanned { mut selected, mut left_out, selection } =
        run.timed(Stage::Scan, || scan::scan(run, &device, progress))?;
    let excluded = run.excluded.iter().filter(|e| e.kind == ExcludedKind::Slide);
    left_out.splice(0..0, excluded.map(|e| LeftOut { slide: e.name.clone(), reason: e.reason.clone() }));
    write_json(&run.path(LEFT_OUT_FILE), &left_out)?;
    if selected.is_empty() {
        return Err(Error::Usage(format!("no slide is usable; {} says why", run.path(LEFT_OUT_FILE).display())));
    }
    let inputs = results::inputs(run, &selected, &left_out);
    results::forget_others(&run.config.out, inputs)?;
    if until == Stage::Scan {
        return Ok(None);
    }

    run.config.encoder.encoder.licence().iter().for_each(|terms| progress.note(terms));
    plan::check_room(&run.config, selected.iter().map(|slide| slide.kept().count() as u64).sum())?;
    run.timed(Stage::Extractors, || train_extractors(run, &selected, &device, progress))?;
    if until == Stage::Extractors {
        return Ok(None);
    }

    let (stored, failed) = run.timed(Stage::Features, || features::extract(run, &selected, &device, progress))?;
    selected.retain(|slide| failed.iter().all(|f| f.slide != slide.entry.id));
    left_out.extend(failed);
    write_json(&run.path(LEFT_OUT_FILE), &left_out)?;
    if until == Stage::Features {
        return Ok(None);
    }

    let (splits, remarks) = splits(run, &selected)?;
    splits.write(run.path("splits.json"))?;
    if until == Stage::Report
        && let Some(networks) = networks(run, &splits)?
        && results::are_current(&run.config.out, inputs, networks)?
    {
        return read_json(&run.path(results::SUMMARY_FILE)).map(Some);
    }
    let set = features::bags(run, &selection, &selected, stored)?;
    remarks.iter().for_each(|remark| progress.note(remark));
    let results = run.timed(Stage::Training, || {
        let one = |train: &TrainConfig| {
            crossval::cross_validate(train, &set, &splits, &model_dir(&run.config.out, train), id, progress)
        };
        remove_other_methods(run)?;
        run.config.methods().map(one).collect::<Result<Vec<_>>>()
    })?;
    let named = run.config.methods().zip(&results);
    let methods: Vec<Method> = named
        .map(|(train, cv)| Method { name: &train.name, genes: &set.genes, predictions: &cv.predictions })
        .collect();
    predictions::write(&run.path(tables::PREDICTIONS_FILE), &methods)?;
    reach::FeatureRange::of(&set)?.write(&run.config.out)?;
    if until == Stage::Training {
        return Ok(None);
    }

    let comparison = Comparison::new(&methods, evaluation_settings(run.config.seed))?;
    tables::write(&run.config.out, &comparison)?;
    let report = run.timed(Stage::Report, || {
        let view = reporting::View {
            run,
            selected: &selected,
            selection: &selection,
            set: &set,
            cv: &results[0],
            comparison: &comparison,
            left_out: &left_out,
        };
        reporting::report(&view, &device, progress)
    })?;
    atomic::write_bytes(run.path(results::REPORT_FILE), report.as_bytes())?;
    let summary = summarise(run, &selected, selection, left_out, &comparison);
    write_json(&run.path(results::SUMMARY_FILE), &summary)?;
    if let Some(networks) = networks(run, &splits)? {
        results::record(&run.config.out, inputs, networks)?;
    }
    Ok(Some(summary))
}

/// Removes what killed processes left in a run directory. Only where nobody works.
fn tidy(dir: &Path) -> Result<()> {
    for folder in ["", "slides", "extractor", "features", "model"] {
        atomic::remove_leftovers(&dir.join(folder), !folder.is_empty())?;
    }
    for folder in ["slides", "features", "model"] {
        claim::remove_all(&dir.join(folder))?;
    }
    workers::forget(dir);
    Scale::BOTH.into_iter().try_for_each(|scale| training::remove_unfinished(&extractor_dir(dir, scale)))
}

fn train_extractors(run: &Run, selected: &[Selected], device: &Device, progress: &dyn Progress) -> Result<()> {
    let encoder = &run.config.encoder.encoder;
    for scale in run.config.scales() {
        if encoder.learns() {
            let source = SlidePatches::new(selected, &run.config, scale)?;
            run.at_site(scale, |site| encoder.learn(site, &source, device, progress))?;
        }
    }
    Ok(())
}

/// Of the encoders and networks that are on disk, and of the slides that each is asked about; `None` where one is missing
/// or damaged.
fn networks(run: &Run, splits: &Splits) -> Result<Option<Digest>> {
    let mut models = Vec::new();
    for method in run.config.methods() {
        match crossval::whole_networks(&model_dir(&run.config.out, method))? {
            Some(of_method) => models.push(of_method),
            None => return Ok(None),
        }
    }
    let mut checksums = Vec::new();
    for scale in run.config.scales() {
        checksums.push(run.at_site(scale, |site| run.config.encoder.encoder.digest(site))?);
    }
    Ok(Some(Digest::of("networks", &(checksums, models, splits))))
}

/// Folds over the patients whose slides are usable.
fn splits(run: &Run, selected: &[Selected]) -> Result<(Splits, Vec<String>)> {
    let has_slide = |patient: &SplitPatient| selected.iter().any(|slide| slide.entry.patient == patient.id);
    let patients: Vec<SplitPatient> = run.cohort.split_patients().into_iter().filter(has_slide).collect();
    Splits::new(&patients, &run.config.splits)
}

fn summarise(
    run: &Run,
    selected: &[Selected],
    selection: Selection,
    left_out: Vec<LeftOut>,
    comparison: &Comparison,
) -> Summary {
    let mut patients: Vec<&str> = selected.iter().map(|slide| slide.entry.patient.as_str()).collect();
    patients.sort_unstable();
    patients.dedup();
    Summary {
        slides: selected.len(),
        patients: patients.len(),
        patches: PatchCounts {
            scored: selected.iter().map(|slide| slide.patches.len() as u64).sum(),
            kept: selected.iter().map(|slide| slide.kept().count() as u64).sum(),
        },
        left_out,
        selection,
        kept: selected.iter().map(Selected::share).collect(),
        mean_pearson: comparison.first().mean_pearson(),
        genes: comparison.results(),
        all_projects: comparison.results_over_projects(),
        seconds: run.timings(),
    }
}

/// Where a method's networks lie.
fn model_dir(run: &Path, method: &TrainConfig) -> PathBuf {
    run.join("model").join(&method.name)
}

/// Removes the networks of methods that the run no longer has.
fn remove_other_methods(run: &Run) -> Result<()> {
    let dir = run.path("model");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        let kept = run.config.methods().any(|method| path == model_dir(&run.config.out, method));
        if !kept && path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

fn extractor_dir(run: &Path, scale: Scale) -> PathBuf {
    run.join("extractor").join(scale.name())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let unusable = |e| Error::input(path, format!("does not fit this program ({e})"), "delete it and run again");
    serde_json::from_slice(&bytes).map_err(unusable)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format_args!("{}: {e}", path.display())))?;
    atomic::write_bytes(path, &text)
}
