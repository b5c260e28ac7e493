//! The commands by which many processes do one run: `isg scan`, `isg features` and `isg train`, each of which also does its whole
//! stage alone.

use super::{Context, Outcome, output};
use crate::{
    device::DeviceId,
    error::Result,
    pipeline::{
        Access, Run, Stage,
        shards::{self, Done, Shard},
    },
    progress::Progress,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg scan cohort/isg.toml                all slides
  isg scan cohort/isg.toml --shard 2/8    as the second of eight processes, here or on other machines")]
pub struct Scan {
    #[command(flatten)]
    run: super::run::Args,
    /// Work beside others: begin with part i of n, then take what nobody works on.
    #[arg(long, value_name = "I/N", conflicts_with = "dry_run")]
    shard: Option<Shard>,
}

pub fn scan(args: Scan, context: &Context) -> Result<Outcome> {
    match args.shard {
        None => super::run::run(args.run, Stage::Scan, context),
        Some(shard) => part(&args.run, &format!("scan {shard}"), context, |run, device, progress| {
            shards::scan(run, shard, device, progress)
        }),
    }
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg train cohort/isg.toml             all networks, and what they predict of held-out slides
  isg train cohort/isg.toml --fold 3    the networks of one fold, beside other processes; `isg run` gathers them")]
pub struct Train {
    #[command(flatten)]
    run: super::run::Args,
    /// Train the networks of this fold alone, beside others; counted from 0.
    #[arg(long, value_name = "K", conflicts_with = "dry_run")]
    fold: Option<usize>,
    /// Of this repeat of the cross-validation alone, counted from 0 [default: of each].
    #[arg(long, value_name = "R", requires = "fold")]
    repeat: Option<usize>,
}

pub fn train(args: Train, context: &Context) -> Result<Outcome> {
    let Train { run, fold, repeat } = args;
    match fold {
        None => super::run::run(run, Stage::Training, context),
        Some(fold) => part(&run, &format!("train fold {fold}"), context, |run, device, progress| {
            shards::train(run, fold, repeat, device, progress)
        }),
    }
}

/// Does a part of a run's work, `work` in words, beside other processes.
pub(super) fn part(
    args: &super::run::Args,
    work: &str,
    context: &Context,
    does: impl FnOnce(&Run, DeviceId, &dyn Progress) -> Result<Done>,
) -> Result<Outcome> {
    let device = context.device_id()?;
    let run = Run::open_for(work, Access::Shared, args.config()?, &context.progress)?;
    let done = does(&run, device, &context.progress)?;
    if args.json() {
        output::json(&done)?;
    } else {
        output::line(format_args!("{}: {work}: {done}", run.config.out.display()))?;
    }
    Ok(Outcome::Done)
}
