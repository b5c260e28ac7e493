//! The command line: thin, one file per command. Commands parse, call the library and print.
//!
//! Exit status: 0 all went well; 1 a command failed; 2 the command line itself is wrong; 3 some slides or files failed
//! and the others were done; 130, 143 or 129 asked to stop by Ctrl-C, SIGTERM or SIGHUP, and the same command resumes where it
//! stopped.

pub mod compare;
pub mod demo;
pub mod doctor;
pub mod encode;
mod encoders;
pub mod evaluate;
pub mod extractor;
pub mod features;
mod images;
pub mod methods;
pub mod output;
pub mod predict;
pub mod progress;
pub mod reproduce;
pub mod run;
pub mod score;
mod selector_flags;
pub mod shannon;
pub mod shards;
pub mod signals;
pub mod slide;
pub mod spots;
pub mod status;
pub mod synth;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    device::{Device, DeviceId, loads, module},
    error::{Error, Result},
    pipeline::Stage,
};

pub(crate) const EXIT_FAILED: u8 = 1;
pub(crate) const EXIT_USAGE: u8 = 2;
pub(crate) const EXIT_PARTIAL: u8 = 3;

/// Gene expression from histology slides.
#[derive(Parser)]
#[command(name = "isg", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  isg demo                                 make a small cohort, run everything on it, write a report
  isg slide info slide.svs --json          what a slide holds
  isg score slide.svs --out scores.csv     bits of texture in every patch, and which are kept
  isg synth cohort --slides 60 --seed 1    draw a cohort whose truth is known
  isg run cohort/isg.toml                  slides and tables in; trained, cross-validated predictions out
  isg reproduce cohort/isg.toml --fast     the paper's tables on a cohort, compared with intervals
  isg methods                              the methods that a run trains and compares
  isg predict --model cohort/run slide.svs predict another slide";

#[derive(clap::Args)]
struct Global {
    /// Where to compute: cpu, cuda, cuda:N or emulator. Default: cuda where there is one, else cpu.
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads to use. Default: one per core.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// No progress and no remarks; errors are still printed.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Progress, remarks and errors as JSON, one object a line.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this machine offers and what is missing, one sentence each.
    Doctor(doctor::Args),
    /// The vectors of any images, by any encoder.
    Encode(encode::Args),
    /// Train the networks that turn patches into feature vectors.
    Extractor(extractor::Args),
    /// Bits of texture in every patch of slides or images, and which patches are kept.
    Score(Box<score::Args>),
    /// An image as the stream whose length is its score, and back.
    Shannon(shannon::Args),
    /// What a slide holds, and its pixels as PNG.
    Slide(slide::Args),
    /// Draw H&E-like slides with planted genes: slides, expression table, sample sheet, truth, run configuration.
    Synth(synth::Args),
    /// Slides and expression tables in; trained, cross-validated predictions, tables and a report out.
    Run(run::Args),
    /// The first stage of a run: patches scored.
    Scan(shards::Scan),
    /// A run up to its encoders, which have learned from its patches.
    Learn(run::Args),
    /// The first stages of a run: patches scored, extractors trained, features stored.
    Features(features::Features),
    /// A run up to its trained networks and their held-out predictions.
    Train(shards::Train),
    /// How far a run is, who works on it, how long it will take.
    Status(status::Args),
    /// Score predictions: correlation per gene, with intervals, p-values and false discovery rate.
    Evaluate(evaluate::Args),
    /// Compare the predictions of finished runs, or of the methods of one run.
    Compare(compare::Args),
    /// The paper's tables on a cohort: every method, selector, threshold, encoder and depth, compared on the same patients.
    Reproduce(reproduce::Args),
    /// What encoders' vectors hold: a small MLP on the mean of a slide's, the same for every encoder.
    Probe(reproduce::ProbeArgs),
    /// The slide-level methods and the encoders there are.
    Methods(methods::Args),
    /// A run to its end, with its tables and its report.
    Report(run::Args),
    /// What a finished run says about other slides.
    Predict(predict::Args),
    /// How well encoders predict spatial transcriptomics, beside depth, position and colour.
    Spots(spots::Args),
    /// Make a small cohort, run everything on it, write a report.
    Demo(demo::Args),
}

/// What every command is given.
pub struct Context {
    device: Option<String>,
    pub quiet: bool,
    pub progress: progress::Bars,
}

impl Context {
    /// The device asked for, or the best there is with one line that says which.
    pub fn device(&self) -> Result<Device> {
        self.opened().map(|(device, _)| device)
    }

    /// As threads open it for themselves.
    pub fn device_id(&self) -> Result<DeviceId> {
        self.opened().map(|(_, id)| id)
    }

    fn opened(&self) -> Result<(Device, DeviceId)> {
        module::check_replacements()?;
        if let Some(name) = &self.device {
            let id = DeviceId::parse(name)?;
            return Ok((id.open()?, id));
        }
        let (device, id, why) = match DeviceId::Cuda(0).open() {
            Ok(device) => (device, DeviceId::Cuda(0), String::new()),
            Err(Error::Device(why)) => (Device::cpu(), DeviceId::Cpu, why.replacen("cuda", "", 1)),
            Err(error) => return Err(error),
        };
        if !self.quiet {
            output::say(format_args!("computing on {device}{why}"));
        }
        Ok((device, id))
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    /// Some inputs failed; each was reported, the others were done.
    Partial,
    /// What was asked about would be refused; the reason was given.
    Refused,
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            let status = if message.use_stderr() { EXIT_USAGE } else { 0 };
            // Help goes to standard output, mistakes to standard error; clap colours them by where.
            return ExitCode::from(if message.print().is_ok() { status } else { EXIT_FAILED });
        }
    };
    signals::listen();
    let Global { device, threads, quiet, log_json } = cli.global;
    if log_json {
        output::log_json();
    }
    let context = Context { device, quiet, progress: progress::Bars::new(quiet) };
    let outcome = start_threads(threads).and_then(|()| run(cli.command, &context));
    if std::env::var_os("ISG_LOG").is_some_and(|what| what == "load") {
        output::say(loads::report(loads::all()));
    }
    match outcome {
        Ok(Outcome::Done) => output::exit_status(0),
        Ok(Outcome::Partial) => output::exit_status(EXIT_PARTIAL),
        Ok(Outcome::Refused) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            output::error(&error);
            ExitCode::from(match error {
                Error::Interrupted => signals::exit_status(),
                Error::Usage(_) => EXIT_USAGE,
                _ => EXIT_FAILED,
            })
        }
    }
}

/// More threads than any machine has cores; each costs a stack, and the system ends a process that asks for too many.
const MAX_THREADS: usize = 1024;

/// Starts the pool that everything shares: as many threads as asked for, by `--threads` or RAYON_NUM_THREADS, else one
/// per core.
fn start_threads(asked: Option<usize>) -> Result<()> {
    let from_environment = || std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.trim().parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match asked.or_else(from_environment) {
        // rayon's own word for the default.
        Some(0) if asked.is_none() => cores,
        Some(threads) => threads,
        None => cores.min(MAX_THREADS),
    };
    if !(1..=MAX_THREADS).contains(&threads) {
        let name = if asked.is_some() { "--threads" } else { "RAYON_NUM_THREADS" };
        let problem =
            format!("{name} {threads}: give a number from 1 to {MAX_THREADS}; this machine has {cores} cores");
        return Err(Error::Usage(problem));
    }
    let started = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    started.map_err(|e| Error::Usage(format!("{threads} threads cannot be started ({e}); give fewer with --threads")))
}

fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Encode(args) => encode::run(&args, context),
        Command::Extractor(args) => extractor::run(&args, context),
        Command::Score(args) => score::run(*args, context),
        Command::Shannon(args) => shannon::run(args, context),
        Command::Slide(args) => slide::run(args).map(|()| Outcome::Done),
        Command::Synth(args) => synth::run(args, context),
        Command::Run(args) | Command::Report(args) => run::run(args, Stage::Report, context),
        Command::Scan(args) => shards::scan(args, context),
        Command::Learn(args) => run::run(args, Stage::Extractors, context),
        Command::Features(args) => features::run(args, context),
        Command::Train(args) => shards::train(args, context),
        Command::Status(args) => status::run(&args).map(|()| Outcome::Done),
        Command::Evaluate(args) => evaluate::run(args, context),
        Command::Compare(args) => compare::run(args, context),
        Command::Reproduce(args) => reproduce::run(args, context),
        Command::Probe(args) => reproduce::probe(args, context),
        Command::Methods(args) => methods::run(args).map(|()| Outcome::Done),
        Command::Predict(args) => predict::run(args, context),
        Command::Spots(args) => spots::run(&args, context),
        Command::Demo(args) => demo::run(args, context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    /// Two groups of arguments of one name, or an argument that conflicts with none that there is, show here at once and elsewhere
    /// only to who gives that command to a debug build.
    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}
