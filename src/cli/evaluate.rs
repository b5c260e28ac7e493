//! `isg evaluate`: scores a table of predictions, a run's own or anybody's.

use std::path::{Path, PathBuf};

use super::{Outcome, output};
use crate::{
    error::Result,
    eval::{metrics::Unit, stats::Bootstrap, tables},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg evaluate run                       a run's held-out predictions again
  isg evaluate predictions.csv --json    any table slide,patient,fold,gene,truth,predicted
  isg evaluate run --unit slide --out scores

Patients are the units unless --unit slide is given: a patient's prediction is the mean over their slides.")]
pub struct Args {
    /// Run directory, or a CSV with the columns slide,patient,fold,gene,truth,predicted.
    predictions: PathBuf,
    /// Folder for evaluation.json and evaluation.csv.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// patient or slide.
    #[arg(long, value_name = "UNIT", default_value = "patient", value_parser = ["patient", "slide"])]
    unit: String,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<Outcome> {
    let of_run = args.predictions.is_dir();
    let table = if of_run { args.predictions.join(tables::PREDICTIONS_FILE) } else { args.predictions.clone() };
    if let Some(out) = &args.out {
        let written = [out.join(tables::EVALUATION_JSON), out.join(tables::EVALUATION_CSV)];
        output::refuse_overwriting(written.iter().map(PathBuf::as_path), [table.as_path()])?;
    }
    let (genes, predictions) = tables::read_predictions(&table)?;
    let ridge = args.predictions.join(tables::BASELINE_FILE);
    let baseline = if of_run && ridge.is_file() { Some(tables::read_predictions(&ridge)?.1) } else { None };
    let unit = if args.unit == "slide" { Unit::Slide } else { Unit::Patient };
    let bootstrap = Bootstrap { seed: args.seed, ..Bootstrap::default() };
    let comparison = tables::compare(&genes, &predictions, baseline.as_deref(), unit, bootstrap)?;
    if let Some(out) = &args.out {
        tables::write(out, &comparison)?;
    }
    if args.json {
        output::json(&comparison)?;
        return Ok(Outcome::Done);
    }
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    output::line(format_args!(
        "{:<16} {:>4} {:>7}  {:<16} {:>9} {:>8} {:>8}",
        "gene", "n", "PCC", "95 % interval", "p", "q", "MSE"
    ))?;
    for score in &comparison.network.pooled.genes {
        let interval = score.pearson_interval.map_or("-".to_string(), |i| format!("{:.2} to {:.2}", i.low, i.high));
        let p = score.p_one_sided.map_or("-".to_string(), |p| format!("{p:.1e}"));
        let (pcc, q) = (number(score.pearson, 3), number(score.false_discovery_rate, 4));
        let mse = number(score.mse, 4);
        output::line(format_args!(
            "{:<16} {:>4} {pcc:>7}  {interval:<16} {p:>9} {q:>8} {mse:>8}",
            score.gene, score.n
        ))?;
    }
    if let Some(out) = args.out.as_deref().map(Path::display) {
        output::line(format_args!("tables: {out}"))?;
    }
    Ok(Outcome::Done)
}
