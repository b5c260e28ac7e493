//! `isg run` and the commands that stop after one of its stages: all take the same configuration, all resume where an
//! earlier one stopped.

use std::path::{Path, PathBuf};

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    eval::{metrics::Unit, tables},
    pipeline::{
        self, Access, Run, RunConfig, Stage, Summary,
        plan::{FoldPlan, MethodPlan, Parameters, PatchPlan, Plan, size},
    },
    report::PatchCounts,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg run cohort/isg.toml             everything, or what is left of it
  isg run cohort/isg.toml --out other the same into another folder
  isg run cohort/isg.toml --json      the summary as JSON
  isg run cohort/isg.toml --dry-run   what it would do: slides, patients, folds, patches, memory, disk

A run that was stopped, by Ctrl-C or by anything else, resumes when the same command is given again.")]
pub struct Args {
    /// The run's configuration; see README.
    config: PathBuf,
    /// Run directory, instead of the configuration's.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the plan and stop; writes matching.csv and excluded.csv and nothing else. Exit status 1 where the run would be
    /// refused.
    #[arg(long)]
    dry_run: bool,
    /// Print the summary (or the plan) as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// The configuration, with the run directory of the command line.
    pub(super) fn config(&self) -> Result<RunConfig> {
        let mut config = RunConfig::read(&self.config)?;
        if let Some(out) = &self.out {
            config.out.clone_from(out);
        }
        Ok(config)
    }
}

/// Runs up to a stage; `Report` is everything.
pub fn run(args: Args, until: Stage, context: &Context) -> Result<Outcome> {
    let config = args.config()?;
    if args.dry_run { plan(&config, args.json, context) } else { execute(config, until, args.json, context) }
}

/// Says what a run would do.
fn plan(config: &RunConfig, json: bool, context: &Context) -> Result<Outcome> {
    let planned = context.device_id().and_then(|device| pipeline::dry_run(config, device, &context.progress));
    let plan = match planned {
        Ok(plan) => plan,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // Whatever stops a plan would stop the run.
        Err(error) => {
            if json {
                output::json(&serde_json::json!({ "refused": error.to_string() }))?;
            }
            output::say(format_args!("isg: {error}"));
            return Ok(Outcome::Refused);
        }
    };
    if json {
        output::json(&plan)?;
    } else {
        print_plan(&plan)?;
    }
    match &plan.refused {
        None => Ok(Outcome::Done),
        Some(reason) => {
            output::say(format_args!("isg: {reason}"));
            Ok(Outcome::Refused)
        }
    }
}

fn print_plan(plan: &Plan) -> Result<()> {
    let row = |name: &str, what: String| output::line(format_args!("{name:<12}{what}"));
    output::line(format_args!("{}: what a run would do; nothing was run", plan.run))?;
    let lists = "matching.csv and excluded.csv name them";
    row("slides", format!("{} matched, {} left out; {lists}", plan.slides, plan.left_out))?;
    row("patients", plan.patients.to_string())?;
    let named: Vec<&str> = plan.genes.iter().take(6).map(String::as_str).collect();
    let more = if plan.genes.len() > named.len() { ", ..." } else { "" };
    row("genes", format!("{} ({}{more})", plan.genes.len(), named.join(", ")))?;
    let range = |of: &dyn Fn(&FoldPlan) -> usize| {
        let sizes = || plan.folds.iter().map(of);
        let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
        if least == most { least.to_string() } else { format!("{least} to {most}") }
    };
    let sets = [range(&|fold| fold.train), range(&|fold| fold.valid), range(&|fold| fold.test)];
    let [train, valid, test] = sets;
    row("folds", format!("{}: {train} slides to train on, {valid} to validate, {test} to test", plan.folds.len()))?;
    let PatchPlan { to_score, kept_expected, unreadable } = plan.patches;
    let unreadable = if unreadable > 0 { format!("; {unreadable} slides cannot be opened") } else { String::new() };
    row("patches", format!("{to_score} to score, about {kept_expected} expected to be kept{unreadable}"))?;
    let Parameters { global_extractor, local_extractor } = plan.parameters;
    row("extractors", format!("{global_extractor} and {local_extractor} parameters"))?;
    for MethodPlan { name, networks, tasks, parameters } in &plan.methods {
        row(name, format!("{networks} networks of {parameters} parameters, each with {tasks} tuned copies"))?;
    }
    let free = plan.free_bytes.map_or(String::new(), |free| format!("; {} are free", size(free)));
    row("features", format!("about {} on disk{free}", size(plan.features_bytes)))?;
    row("memory", format!("about {}", size(plan.memory_bytes)))
}

/// Runs a configuration and prints what it found.
pub(super) fn execute(config: RunConfig, until: Stage, json: bool, context: &Context) -> Result<Outcome> {
    let device = context.device_id()?;
    let work = if until == Stage::Report { "run" } else { until.name() };
    let run = Run::open_for(work, Access::Alone, config, &context.progress)?;
    match pipeline::execute(&run, until, device, &context.progress)? {
        None => {
            output::line(format_args!("{}: finished up to {}", run.config.out.display(), until.name()))?;
            Ok(Outcome::Done)
        }
        Some(summary) => {
            if json {
                output::json(&summary)?;
            } else {
                print(&summary, &run.path("report.html"))?;
            }
            Ok(if summary.left_out.is_empty() { Outcome::Done } else { Outcome::Partial })
        }
    }
}

fn print(summary: &Summary, report: &Path) -> Result<()> {
    let PatchCounts { scored, kept } = summary.patches;
    output::line(format_args!(
        "{} slides of {} patients; {kept} of {scored} patches kept",
        summary.slides, summary.patients
    ))?;
    if !summary.left_out.is_empty() {
        output::line(format_args!("{} slides left out; left_out.json says why", summary.left_out.len()))?;
    }
    output::line(format_args!("\n{}", tables::text(&summary.genes, &summary.all_projects, Unit::Patient)))?;
    output::line(tables::explanation(&pipeline::evaluation_settings(0), &summary.genes).trim_end())?;
    output::line(format_args!("\nreport: {}", report.display()))
}
