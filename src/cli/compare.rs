//! `isg compare`: do finished runs, or the methods of one run, predict differently well?

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Context, Outcome, evaluate, output};
use crate::{
    error::{Error, Result},
    eval::{
        compare::{self, Arm, Run},
        predictions::{self, PredictionTable},
        stats::Bootstrap,
    },
    progress::Progress,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg compare run                              the methods of one run, its own against the others
  isg compare run-lz run-jpeg                  two runs of one cohort, the second against the first
  isg compare isg=a isg=b he2rna=c he2rna=d    two arms of two training seeds each
  isg compare run --reference ridge --out differences --json

Arms are compared on the patients that all of them predicted: the difference of the correlations or, of labels, of the areas
under the ROC curve (mean over folds, within each project), its 95 % interval by drawing patients within their project with
replacement, the same draws for all arms; a two-sided p from those draws, corrected by Holm's rule for the number of arms;
Steiger's test, of labels DeLong's, on predictions pooled over folds beside it. The first line of an arm is the mean over genes
and projects. Intervals are of these predictions: what another training would have given is in the standard deviation over
seeds, for which give several runs of an arm one name.")]
pub struct Args {
    /// Run directories or tables of predictions; NAME=RUN names one, and runs of one name are an arm's seeds.
    #[arg(required = true, value_name = "[NAME=]RUN")]
    runs: Vec<String>,
    /// The arm that the others are compared with [default: the first].
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Folder for comparison.csv.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resamples behind every interval.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    resamples: usize,
    /// Seed of the resamples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the differences as a JSON array.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    if !(100..=1_000_000).contains(&args.resamples) {
        return Err(Error::Usage(format!("--resamples {}: give 100 to 1000000", args.resamples)));
    }
    let tables = read(&args.runs, context)?;
    let arms = arms(&tables);
    let names = || arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>().join(", ");
    let reference = match &args.reference {
        None => 0,
        Some(wanted) => arms.iter().position(|arm| arm.name == *wanted).ok_or_else(|| {
            Error::Usage(format!("--reference {wanted}: there is no such arm; the arms are {}", names()))
        })?,
    };
    let settings = Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() };
    let differences = compare::compare(&arms, reference, settings)?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
        let written = out.join(compare::COMPARISON_CSV);
        output::refuse_overwriting([written.as_path()], tables.iter().map(|table| table.path.as_path()))?;
        compare::write(&written, &differences)?;
    }
    if args.json {
        output::json(&differences)?;
        return Ok(Outcome::Done);
    }
    output::line(compare::text(&differences).trim_end())?;
    if let Some(out) = &args.out {
        output::line(format_args!("table: {}", out.join(compare::COMPARISON_CSV).display()))?;
    }
    Ok(Outcome::Done)
}

/// One table of predictions and the arm it is a run of.
struct Table {
    arm: String,
    path: PathBuf,
    table: PredictionTable,
}

/// Every method of every run. What is not named is called by its method; where several runs have the method, by its run's folder.
fn read(given: &[String], context: &Context) -> Result<Vec<Table>> {
    let mut methods_of: BTreeMap<String, usize> = BTreeMap::new();
    let mut runs = Vec::new();
    for (name, run) in given.iter().map(|text| named(text)) {
        let path = evaluate::table(run)?;
        let methods = predictions::read_methods(&path)?;
        if name.is_none() {
            methods.iter().for_each(|(method, _)| *methods_of.entry(method.clone()).or_default() += 1);
        }
        runs.push((name, run, path, methods));
    }
    let mut tables = Vec::new();
    for (name, run, path, methods) in runs {
        for (number, (method, table)) in methods.into_iter().enumerate() {
            let arm = match name {
                // A named run stands for its own method, the first.
                Some(_) if number > 0 => continue,
                Some(name) => name.to_string(),
                None if methods_of[&method] == 1 => method,
                None => {
                    let folder =
                        run.file_name().map_or_else(|| run.display().to_string(), |f| f.to_string_lossy().into_owned());
                    if number == 0 { folder } else { format!("{folder}/{method}") }
                }
            };
            let remark = |remark: &String| context.progress.note(&format!("{}, {arm}: {remark}", path.display()));
            table.remarks().iter().for_each(remark);
            tables.push(Table { arm, path: path.clone(), table });
        }
    }
    Ok(tables)
}

/// `NAME=RUN` or `RUN`; a path that exists is a path, whatever is in it.
fn named(text: &str) -> (Option<&str>, &Path) {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !Path::new(text).exists() => (Some(name), Path::new(path)),
        _ => (None, Path::new(text)),
    }
}

/// Tables of one name are one arm, in order of their first mention.
fn arms(tables: &[Table]) -> Vec<Arm<'_>> {
    let mut arms: Vec<Arm> = Vec::new();
    for Table { arm: name, table, .. } in tables {
        let run = Run { genes: &table.genes, predictions: &table.predictions };
        match arms.iter_mut().find(|arm| arm.name == *name) {
            Some(arm) => arm.runs.push(run),
            None => arms.push(Arm { name: name.clone(), runs: vec![run] }),
        }
    }
    arms
}
