//! `isg synth`: draw a synthetic cohort.

use std::path::PathBuf;

use super::{Context, Outcome, output};
use crate::{
    Result,
    synth::{self, SynthOptions},
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  isg synth cohort --slides 60 --seed 1\n  isg synth small --slides 8 --size-px 1024"
)]
pub struct Args {
    /// Directory to fill; slides already there are kept.
    out_dir: PathBuf,
    /// Number of slides.
    #[arg(long, value_name = "N", default_value_t = SynthOptions::default().slides)]
    slides: usize,
    /// The same seed draws the same cohort.
    #[arg(long, value_name = "S", default_value_t = SynthOptions::default().seed)]
    seed: u64,
    /// Side of the square slides in pixels of 0.5 µm.
    #[arg(long, value_name = "PX", default_value_t = SynthOptions::default().size_px)]
    size_px: usize,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let options = SynthOptions { slides: args.slides, seed: args.seed, size_px: args.size_px };
    let summary = synth::generate(&args.out_dir, &options, &context.progress)?;
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
