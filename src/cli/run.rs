//! `isg run` and the commands that stop after one of its stages: all take the same configuration, all go on where an
//! earlier one stopped.

use std::path::{Path, PathBuf};

use super::{Context, Outcome};
use crate::{
    error::Result,
    pipeline::{self, Run, RunConfig, Stage, Summary},
    report::PatchCounts,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg run cohort/isg.toml             everything, or what is left of it
  isg run cohort/isg.toml --out other the same into another folder
  isg run cohort/isg.toml --json      the summary as JSON

A run that was stopped, by Ctrl-C or by anything else, goes on where it was when the same command is given again.")]
pub struct Args {
    /// The run's configuration; see README.
    config: PathBuf,
    /// Run directory, instead of the configuration's.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs up to a stage; `Report` is everything.
pub fn run(args: Args, until: Stage, context: &Context) -> Result<Outcome> {
    let mut config = RunConfig::read(&args.config)?;
    if let Some(out) = args.out {
        config.out = out;
    }
    execute(config, until, args.json, context)
}

/// Runs a configuration and prints what it found.
pub(super) fn execute(config: RunConfig, until: Stage, json: bool, context: &Context) -> Result<Outcome> {
    let device = context.device_name()?;
    let run = Run::open(config, &context.progress)?;
    match pipeline::execute(&run, until, &device, &context.progress)? {
        None => {
            println!("{}: finished up to {}", run.config.out.display(), until.name());
            Ok(Outcome::Done)
        }
        Some(summary) => {
            if json {
                println!("{}", serde_json::to_string_pretty(&summary).unwrap_or_default());
            } else {
                print(&summary, &run.path("report.html"));
            }
            Ok(if summary.left_out.is_empty() { Outcome::Done } else { Outcome::Partial })
        }
    }
}

fn print(summary: &Summary, report: &Path) {
    let PatchCounts { scored, kept } = summary.patches;
    println!("{} slides of {} patients; {kept} of {scored} patches kept", summary.slides, summary.patients);
    if !summary.left_out.is_empty() {
        println!("{} slides left out; left_out.json says why", summary.left_out.len());
    }
    println!("\nheld-out prediction, pooled over folds");
    println!("{:<16} {:>6}  {:<16} {:>9} {:>8} {:>7}", "gene", "PCC", "95 % interval", "p", "q", "ridge");
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    for gene in &summary.genes {
        let interval = gene.interval.map_or("-".to_string(), |i| format!("{:.2} to {:.2}", i.low, i.high));
        let p = gene.p_value.map_or("-".to_string(), |p| format!("{p:.1e}"));
        println!(
            "{:<16} {:>6}  {:<16} {:>9} {:>8} {:>7}",
            gene.gene,
            number(gene.pearson, 3),
            interval,
            p,
            number(gene.false_discovery_rate, 4),
            number(gene.ridge_pearson, 3),
        );
    }
    println!("\nreport: {}", report.display());
}
