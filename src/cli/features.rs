//! `isg features`: the first stages of a run, and what they found for other programs.

use super::{Context, Outcome, output};
use crate::{
    error::Result,
    pipeline::{
        Run, Stage,
        export::{self, Kind},
    },
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: super::run::Args,
    /// Also write every slide's vectors and corners into RUN/export: h5 (TRIDENT's layout), npz or csv.
    #[arg(long, value_name = "KIND", conflicts_with = "dry_run")]
    export: Option<Kind>,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let Args { run: args, export } = args;
    let Some(kind) = export else { return super::run::run(args, Stage::Features, context) };
    let config = args.config()?;
    let outcome = super::run::run(args, Stage::Features, context)?;
    // What was just written is found current, so that this only reads the cohort again.
    let run = Run::open(config, &context.progress)?;
    let (folder, slides) = export::export(&run, kind, &context.progress)?;
    output::line(format_args!("{}: {slides} slides as {}", folder.display(), kind.name()))?;
    Ok(outcome)
}
