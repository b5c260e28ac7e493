//! `isg synth`: draw a synthetic cohort.

use std::path::{Path, PathBuf};

use super::{Context, Outcome, output};
use crate::{
    Result,
    progress::Progress,
    synth::{self, SynthOptions, SynthSummary, modules},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg synth cohort --slides 60 --seed 1
  isg synth small --slides 8 --size-px 1024
  isg synth nests --design modules            120 patients: genes in nests, beside what fools rules of selection")]
pub struct Args {
    /// Directory to fill; slides already there are kept.
    out_dir: PathBuf,
    /// plain: genes follow nuclei and glands anywhere; modules: genes live in nests, beside pools, blur, folds, dust and decoys,
    /// and colours see nothing of two of them.
    #[arg(long, default_value = "plain", value_parser = ["plain", "modules"])]
    design: String,
    /// Number of slides; by default 60, of modules 120.
    #[arg(long, value_name = "N")]
    slides: Option<usize>,
    /// The same seed draws the same cohort.
    #[arg(long, value_name = "S", default_value_t = SynthOptions::default().seed)]
    seed: u64,
    /// Side of the square slides in pixels of 0.5 µm.
    #[arg(long, value_name = "PX", default_value_t = SynthOptions::default().size_px)]
    size_px: usize,
}

/// Enough patients to tell selectors apart.
const MODULES_SLIDES: usize = 120;

type Generate = fn(&Path, &SynthOptions, &dyn Progress) -> Result<SynthSummary>;

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let (generate, usual): (Generate, usize) = match args.design.as_str() {
        "modules" => (modules::generate, MODULES_SLIDES),
        _ => (synth::generate, SynthOptions::default().slides),
    };
    let options = SynthOptions { slides: args.slides.unwrap_or(usual), seed: args.seed, size_px: args.size_px };
    let summary = generate(&args.out_dir, &options, &context.progress)?;
    let kept = summary.slides - summary.drawn;
    output::line(format_args!(
        "{}: {} slides of {} patients{}",
        args.out_dir.display(),
        summary.slides,
        summary.patients,
        if kept > 0 { format!(", {kept} of them already there") } else { String::new() }
    ))?;
    if !context.quiet {
        output::line(format_args!("next: isg run {}", args.out_dir.join("isg.toml").display()))?;
    }
    Ok(Outcome::Done)
}
