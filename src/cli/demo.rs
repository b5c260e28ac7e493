//! `isg demo`: a small synthetic cohort and everything this program does with it, in a few minutes.

use std::path::PathBuf;

use super::{Context, Outcome};
use crate::{
    error::Result,
    pipeline::{RunConfig, Stage},
    synth::{self, SynthOptions},
};

/// Enough patients for five folds and an interval that means something; few enough for minutes on two cores.
const SLIDES: usize = 40;
/// A quarter of what the cohort's own configuration asks for: a demonstration ends while one watches.
const EXTRACTOR_STEPS: u64 = 400;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  isg demo\n  isg demo --out /tmp/demo --seed 7")]
pub struct Args {
    /// Folder for the cohort and the run.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// The same seed makes the same cohort and the same numbers.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let cohort = args.out.join("cohort");
    let options = SynthOptions { slides: SLIDES, seed: args.seed, ..SynthOptions::default() };
    synth::generate(&cohort, &options, &context.progress)?;
    let mut config = RunConfig::read(&cohort.join("isg.toml"))?;
    config.out = args.out.join("run");
    for extractor in [&mut config.extractor.global, &mut config.extractor.local] {
        extractor.steps = EXTRACTOR_STEPS;
    }
    super::run::execute(config, Stage::Report, args.json, context)
}
