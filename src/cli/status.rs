//! `isg status`: how far a run is, asked from another shell.

use std::path::PathBuf;

use super::{
    output,
    progress::{rate, span},
};
use crate::{
    error::Result,
    pipeline::{
        status::{self, Learning, Networks, Part, Status},
        workers::{self, StageNow, Worker},
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg status cohort/run
  isg status cohort/run --json
  watch -n 30 isg status cohort/run

Nobody waits for it: it takes no lock, and counts files as they are there. Whether they are whole and made from what there is now,
only a run finds out.")]
pub struct Args {
    /// A run's directory.
    run: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// So many slides that were left out are named.
const NAMED: usize = 5;

pub fn run(args: &Args) -> Result<()> {
    let status = status::status(&args.run)?;
    if args.json { output::json(&status) } else { print(&status) }
}

fn print(status: &Status) -> Result<()> {
    let row = |name: &str, what: String| output::line(format_args!("{name:<12}{what}"));
    let stage = status.stage.map_or("finished", |stage| stage.name());
    let processes = match status.working.len() {
        0 => "nobody works on it".to_string(),
        1 => "one process works on it".to_string(),
        n => format!("{n} processes work on it"),
    };
    output::line(format_args!("{}: {stage}; {processes}", status.run.display()))?;
    let of = |part: &Part| format!("{} of {}", part.done, part.total);
    let each = status.seconds_a_slide.map_or(String::new(), |seconds| format!(", {seconds:.1} s each"));
    row("slides", format!("{} scored{each}; {} left out", of(&status.slides), status.left_out.len()))?;
    for Learning { scale, finished, steps } in &status.extractors {
        let steps = steps.as_ref().map_or(String::new(), |steps| format!("{} steps", of(steps)));
        let finished = if *finished { "finished" } else { "not finished" };
        let parts: Vec<&str> = [steps.as_str(), finished].into_iter().filter(|part| !part.is_empty()).collect();
        row("extractor", format!("{scale}: {}", parts.join(", ")))?;
    }
    row("features", format!("{} slides", of(&status.features)))?;
    for Networks { method, networks, epochs, tuned_copies } in &status.methods {
        let tuned = if *tuned_copies > 0 { format!(", {tuned_copies} tuned copies") } else { String::new() };
        row("networks", format!("{method}: {}, {} epochs{tuned}", of(networks), of(epochs)))?;
    }
    if let Some(last) = &status.last {
        let numbers = last.record.as_object().into_iter().flatten().filter_map(|(name, value)| {
            let number = value.as_f64()?;
            Some(if number.fract() == 0.0 { format!("{name} {number}") } else { format!("{name} {number:.4}") })
        });
        row("last", format!("{}: {}", last.curve.display(), numbers.collect::<Vec<_>>().join(", ")))?;
    }
    if !status.seconds.is_empty() {
        let took = status.seconds.iter().map(|(stage, seconds)| format!("{stage} {}", span(*seconds)));
        row("took", took.collect::<Vec<_>>().join(", "))?;
    }
    for worker in &status.working {
        row("at work", at_work(worker))?;
    }
    for left_out in status.left_out.iter().take(NAMED) {
        row("left out", format!("{}: {}", left_out.slide, left_out.reason))?;
    }
    match status.left_out.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => row("", format!("and {more} more")),
    }
}

fn at_work(worker: &Worker) -> String {
    let Worker { host, process, work, begun, seen, stage } = worker;
    let since = |then: u64| span(workers::now().saturating_sub(then) as f64);
    let stage = stage.as_ref().map_or(String::new(), |stage| {
        let StageNow { name, unit, done, total, per_second, seconds_left, remark } = stage;
        let remark = if remark.is_empty() { String::new() } else { format!("; {remark}") };
        format!(": {name} {done} of {total} {unit}{}{remark}", rate(*per_second, *seconds_left))
    });
    format!("{work} on {host}, process {process}, for {}{stage} ({} ago)", since(*begun), since(*seen))
}
