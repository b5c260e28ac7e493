//! `isg features`: the first stages of a run, and what they found for other programs.

use super::{Context, Outcome, output};
use crate::{
    error::Result,
    pipeline::{
        Run, Stage,
        export::{self, Kind},
        shards::{self, Shard},
    },
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg features cohort/isg.toml                everything up to the features
  isg features cohort/isg.toml --shard 2/8    slides as the second of eight processes; after `isg scan` and `isg learn`
  isg features cohort/isg.toml --export h5    and for other programs")]
pub struct Features {
    #[command(flatten)]
    run: super::run::Args,
    /// Also write every slide's vectors and corners into RUN/export: h5 (TRIDENT's layout), npz or csv.
    #[arg(long, value_name = "KIND", conflicts_with = "dry_run")]
    export: Option<Kind>,
    /// Work beside others: begin with part i of n of the slides, then take what nobody works on.
    #[arg(long, value_name = "I/N", conflicts_with_all = ["dry_run", "export"])]
    shard: Option<Shard>,
}

pub fn run(args: Features, context: &Context) -> Result<Outcome> {
    let Features { run: args, export, shard } = args;
    if let Some(shard) = shard {
        return super::shards::part(&args, &format!("features {shard}"), context, |run, device, progress| {
            shards::features(run, shard, device, progress)
        });
    }
    let Some(kind) = export else { return super::run::run(args, Stage::Features, context) };
    let config = args.config()?;
    let outcome = super::run::run(args, Stage::Features, context)?;
    // What was just written is found current, so that this only reads the cohort again.
    let run = Run::open(config, &context.progress)?;
    let (folder, slides) = export::export(&run, kind, &context.progress)?;
    output::line(format_args!("{}: {slides} slides as {}", folder.display(), kind.name()))?;
    Ok(outcome)
}
