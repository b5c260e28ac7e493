//! The paper's tables on one's own cohort: every arm an ordinary run, all of them compared on the same patients.
//!
//! ```text
//! OUT/arms/NAME/seed-S/    a run directory each, as `isg run` makes it and can go on with
//! OUT/results.csv          table,arm,seed,project,gene,fold,n,pearson,mse,mse_scaled
//! OUT/comparison.csv       table,arm,reference,project,gene,…: paired differences
//! OUT/reproduction.json    everything the page shows
//! OUT/report.html          the tables in the paper's layout
//! ```
//!
//! Folds are the same in all arms; seeds change the training alone. An arm takes over what an earlier one with the same settings
//! has made: scores, encoders, features. They are linked into its directory, where the run holds them against what they
//! depend on, as it does with its own; what does not fit is made again.

mod adopt;
mod arms;
mod efficiency;
mod page;
pub mod paper;
mod results;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::{Run, RunConfig, Stage, config, evaluation_settings, execute, scan};
use crate::{
    cohort::{Cohort, Findings, SlideEntry},
    device::DeviceId,
    error::{Error, Fault, Result},
    eval::{metrics, predictions, stats::Bootstrap, tables},
    io::atomic,
    progress::{Progress, Silent},
    report::selection,
    select::{Scorer, Selector},
};

use arms::{Arm, TablePlan};
use efficiency::Efficiency;
use results::{Outcome, Trained};
pub use results::{RowResult, TableResult, text};

pub const REPORT_FILE: &str = "report.html";

/// What to reproduce.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of tables.
    pub tables: Vec<u8>,
    /// Trainings per arm.
    pub seeds: usize,
    /// Three folds, one network each, a third of the epochs, at most 32 patches of a slide: a look, not a result.
    pub fast: bool,
    /// Arms by name; empty: all.
    pub arms: Vec<String>,
    /// Where everything goes; `None`: beside the configuration's run directory.
    pub out: Option<PathBuf>,
}

/// `[reproduce]` of a configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    /// `[[reproduce.encoders]]`: further encoders of table 5, as `[encoder]` names them.
    encoders: Vec<Table>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Reproduction {
    pub out: PathBuf,
    pub slides: usize,
    pub patients: usize,
    pub folds: usize,
    pub seeds: usize,
    pub fast: bool,
    pub tables: Vec<TableResult>,
    /// Of the arms of table 1 that the paper timed.
    pub efficiency: Vec<Efficiency>,
}

/// Keys of `--fast`.
const FAST: &str = "
splits.folds = 3
train.members = 1
train.epochs = 20
train.fine_tune.enabled = false
extractor.steps = 400
select.most_patches = 32
";

/// Keys of every arm, where the configuration does not say otherwise.
const DEFAULTS: &str = "extractor.patches = \"tissue\"";

/// Runs the arms of the tables and writes what they gave. Arms that were finished before are not run again.
///
/// # Errors
/// A configuration that cannot be used, a sick machine, the user's interruption. An arm that cannot be run as configured (weights
/// that are not at hand) is left out with its reason.
pub fn reproduce(path: &Path, options: &Options, device: DeviceId, progress: &dyn Progress) -> Result<Reproduction> {
    let mut given = config::read_table(path)?;
    let section: Section = match given.remove("reproduce") {
        None => Section::default(),
        Some(section) => section.try_into().map_err(|e: toml::de::Error| {
            Error::input(path, format!("reproduce: {}", e.message()), "correct that key")
        })?,
    };
    let mut keys: Table = DEFAULTS.parse().map_err(Error::internal)?;
    config::overlay(&mut keys, given);
    if options.fast {
        config::overlay(&mut keys, FAST.parse().map_err(Error::internal)?);
    }
    let base = RunConfig::of(path, keys.clone())?;
    let out = options.out.clone().unwrap_or_else(|| beside(&base.out));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    let plans = plans(options, &section, &base)?;
    let total: usize = plans.iter().map(|plan| plan.arms.len() * options.seeds).sum();
    let mut bench = Bench { path, keys, base: &base, out: &out, device, progress, done: Vec::new(), total, at: 0 };
    let mut finished: Vec<(TablePlan, Vec<Outcome>)> = Vec::new();
    for plan in plans {
        let mut outcomes = Vec::new();
        for arm in &plan.arms {
            outcomes.push(bench.arm(plan.number, arm, options.seeds)?);
        }
        finished.push((plan, outcomes));
    }
    let settings = Bootstrap { resamples: 2000, seed: base.seed, ..Bootstrap::default() };
    if none_ran(&finished)
        && let Some(Outcome::Skipped(why)) = finished.iter().flat_map(|(_, outcomes)| outcomes).next()
    {
        return Err(Error::Usage(format!("no arm could be run; the first: {why}")));
    }
    let tables = finished
        .iter()
        .map(|(plan, outcomes)| results::gather(plan, outcomes, settings))
        .collect::<Result<Vec<_>>>()?;
    let first = finished.iter().flat_map(|(_, outcomes)| outcomes).find_map(|outcome| match outcome {
        Outcome::Trained(runs) => runs.first(),
        Outcome::Skipped(_) => None,
    });
    let count = |of: &dyn Fn(&metrics::Prediction) -> String| {
        let mut names: Vec<String> = first.map_or(Vec::new(), |run| run.table.predictions.iter().map(of).collect());
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    let Cohort { slides, .. } = Cohort::load(&base.cohort, &mut Findings::default(), &Silent)?;
    let efficiency = bench.efficiency(&finished, &slides)?;
    let figure = bench.figure_two(options, &slides)?;
    let reproduction = Reproduction {
        out: out.clone(),
        slides: count(&|p| p.slide.clone()),
        patients: count(&|p| p.patient.clone()),
        folds: count(&|p| format!("{}.{}", p.repeat, p.fold)),
        seeds: options.seeds,
        fast: options.fast,
        tables,
        efficiency,
    };
    results::write_scores(&out.join("results.csv"), &finished)?;
    results::write_differences(&out.join("comparison.csv"), &reproduction.tables)?;
    super::write_json(&out.join("reproduction.json"), &reproduction)?;
    let html =
        page::page("The paper's tables on this cohort", &summary(&reproduction), &reproduction, figure.as_deref());
    atomic::write_bytes(out.join(REPORT_FILE), html.as_bytes())?;
    Ok(reproduction)
}

fn none_ran(finished: &[(TablePlan, Vec<Outcome>)]) -> bool {
    finished.iter().flat_map(|(_, outcomes)| outcomes).all(|outcome| matches!(outcome, Outcome::Skipped(_)))
}

/// How the numbers came about, for the head of the page.
fn summary(of: &Reproduction) -> String {
    let fast = if of.fast { " A fast run: fewer folds and epochs than a result wants." } else { "" };
    format!(
        "{} slides of {} patients, {} folds, {} training seed{} an arm. Cells: correlation within the project, mean over folds; small: \
         the paper's. Differences: patients drawn with replacement, the same for all arms, 95 % intervals, Holm's correction.{fast}",
        of.slides,
        of.patients,
        of.folds,
        of.seeds,
        if of.seeds == 1 { "" } else { "s" },
    )
}

/// `run-reproduction` beside `run`.
fn beside(run: &Path) -> PathBuf {
    let name = run.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    run.with_file_name(format!("{name}-reproduction"))
}

/// The tables asked for, with the arms asked for and each table's reference.
fn plans(options: &Options, section: &Section, base: &RunConfig) -> Result<Vec<TablePlan>> {
    let mut plans = Vec::new();
    for &number in &options.tables {
        let Some(mut plan) = arms::plan(number, &section.encoders, &base.cohort) else {
            continue;
        };
        let wanted =
            |arm: &Arm| options.arms.is_empty() || options.arms.contains(&arm.name) || arm.name == plan.reference;
        plan.arms.retain(wanted);
        plans.push(plan);
    }
    if plans.is_empty() {
        let why = "no table is left to make: table 3 wants cohort.labels, all others cohort.expression";
        return Err(Error::Usage(why.to_string()));
    }
    if let Some(unknown) =
        options.arms.iter().find(|name| !plans.iter().any(|plan| plan.arms.iter().any(|a| a.name == **name)))
    {
        let known: Vec<String> = (options.tables.iter())
            .filter_map(|&number| arms::plan(number, &section.encoders, &base.cohort))
            .flat_map(|plan| plan.arms.into_iter().map(|arm| arm.name))
            .collect();
        return Err(Error::Usage(format!("there is no arm {unknown}; the arms are {}", known.join(", "))));
    }
    Ok(plans)
}

/// Where arms are run.
struct Bench<'a> {
    path: &'a Path,
    keys: Table,
    base: &'a RunConfig,
    out: &'a Path,
    device: DeviceId,
    progress: &'a dyn Progress,
    /// Finished run directories with their configurations.
    done: Vec<RunConfig>,
    total: usize,
    at: usize,
}

/// Slides that are timed.
const SLIDES_TIMED: usize = 10;

impl Bench<'_> {
    /// Times the arms of table 1 that the paper timed.
    fn efficiency(&self, finished: &[(TablePlan, Vec<Outcome>)], slides: &[SlideEntry]) -> Result<Vec<Efficiency>> {
        let of_table = finished.iter().filter(|(plan, _)| plan.number == 1);
        let arms =
            of_table.flat_map(|(plan, _)| &plan.arms).filter(|arm| paper::SECONDS.iter().any(|row| row.0 == arm.name));
        let slides: Vec<_> = slides.iter().take(SLIDES_TIMED).map(|s| (&*s.path, s.mpp)).collect();
        let mut found = Vec::new();
        for arm in arms {
            let method = |done: &&RunConfig| done.train.method.name() == arm.name;
            let Some(run) = self.done.iter().find(method) else { continue };
            found.extend(efficiency::measure((&arm.name, &arm.title), &run.out, &slides, self.device, self.progress)?);
        }
        Ok(found)
    }

    /// Figure 2 on the cohort's middle slide, as SVG, where table 2 is made.
    fn figure_two(&self, options: &Options, slides: &[SlideEntry]) -> Result<Option<String>> {
        let Some(run) = self.done.first().filter(|_| options.tables.contains(&2)) else { return Ok(None) };
        let entry = &slides[slides.len() / 2];
        let device = self.device.open()?;
        let scorer = |selector: &Arc<dyn Selector>| {
            let threshold = selector.default_threshold();
            Ok((Scorer::new(selector, &device)?, threshold))
        };
        let complete = run.select.selectors.all().filter(|selector| selector.is_complete());
        let compared = complete.map(scorer).collect::<Result<Vec<_>>>()?;
        let plane = scan::plane(entry, &run.select)?;
        let comparison = selection::compare(&plane, run.select.patch_px, &compared, self.progress)?;
        Ok(Some(selection::figure(&comparison)))
    }

    fn arm(&mut self, table: u8, arm: &Arm, seeds: usize) -> Result<Outcome> {
        let mut runs = Vec::new();
        for seed in 0..seeds as u64 {
            self.at += 1;
            self.progress.check()?;
            self.progress.note(&format!("table {table}, {} ({} of {})", arm.name, self.at, self.total));
            match self.run(arm, self.base.train.seed + seed) {
                Ok(run) => runs.push(Trained { seed, ..run }),
                // What an arm is configured with is its own affair; a sick machine is everybody's.
                Err(error) if error.fault() == Fault::Input => {
                    self.progress.note(&format!("{} is left out: {error}", arm.name));
                    self.at += seeds - 1 - seed as usize;
                    return Ok(Outcome::Skipped(error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Trained(runs))
    }

    fn run(&mut self, arm: &Arm, seed: u64) -> Result<Trained> {
        let mut config = RunConfig::of(self.path, arms::configuration(&self.keys, arm, seed as i64))?;
        // The same run under another name: table 6's ISG-10-2 may be table 1's ISG.
        config.out.clone_from(&self.base.out);
        let same =
            self.done.iter().find(|done| RunConfig { out: config.out.clone(), ..(*done).clone() } == config).cloned();
        let mut seconds = BTreeMap::new();
        let dir = match same {
            Some(done) => done.out,
            None => {
                config.out = self.out.join("arms").join(&arm.name).join(format!("seed-{seed}"));
                adopt::from_earlier(&self.done, &config)?;
                let run = Run::open(config.clone(), self.progress)?;
                execute(&run, Stage::Training, self.device, self.progress)?;
                seconds = run.timings();
                let dir = config.out.clone();
                self.done.push(config);
                dir
            }
        };
        let table = predictions::read(&dir.join(tables::PREDICTIONS_FILE))?;
        let evaluation = metrics::evaluate(&table.genes, &table.predictions, evaluation_settings(self.base.seed))?;
        Ok(Trained { seed, table, evaluation, seconds })
    }
}
