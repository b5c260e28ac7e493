//! `isg reproduce`: the paper's tables on a cohort of one's own; `isg probe`: the one about encoders.

use std::path::PathBuf;

use super::{Context, Outcome, output};
use crate::{
    error::Result,
    pipeline::reproduce::{self, Options, REPORT_FILE, Reproduction},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg reproduce cohort/isg.toml --fast            every table once, as a first look: under half an hour for a small cohort on a CPU
  isg reproduce cohort/isg.toml --seeds 3         tables with the spread of three trainings
  isg reproduce cohort/isg.toml --tables 1,6      methods, and depths of the Dual Attention network
  isg reproduce cohort/isg.toml --tables 1 --arms isg,ridge,abmil --json

Table 1 compares methods, 2 patch selectors, 3 methods on labels (where the cohort has cohort.labels), 4 thresholds of Shannon
selection, 5 encoders, 6 depths of ISG's network. Every arm is an ordinary run under OUT/arms, resumed when the command is given
again; scores, encoders and features are made once for all arms whose settings agree. Below each table stands what the data
allow to say of the paper's order: it holds, it does not, or it is undecided at this n.

[[reproduce.encoders]] in the configuration adds encoders to table 5, with the keys of [encoder].")]
pub struct Args {
    /// A run's configuration.
    config: PathBuf,
    /// Numbers of the paper's tables, separated by commas.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,3,4,5,6", value_parser = clap::value_parser!(u8).range(1..=6))]
    tables: Vec<u8>,
    /// Trainings of every arm, on the same folds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    seeds: u8,
    /// Arms to run, separated by commas; each table's reference is always among them.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    arms: Vec<String>,
    /// Three folds, one network each, few epochs and patches: a look, not a result.
    #[arg(long)]
    fast: bool,
    /// Folder of all arms [default: RUN-reproduction beside the configuration's run directory RUN].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print everything found as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg probe cohort/isg.toml                       isg, untrained, colour and texture-words
  isg probe cohort/isg.toml --seeds 3 --json

A two-layer MLP, the same for every encoder, learns expression from the mean of a slide's vectors (the paper's table 5).
Encoders that need a file are named in the configuration:
  [[reproduce.encoders]]
  kind = \"resnet50\"
  weights = \"resnet50-0676ba61.pth\"")]
pub struct ProbeArgs {
    /// A run's configuration.
    config: PathBuf,
    /// Trainings of every probe, on the same folds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    seeds: u8,
    /// Three folds, one network each, few epochs: a look, not a result.
    #[arg(long)]
    fast: bool,
    /// Folder of all arms [default: RUN-reproduction beside the configuration's run directory RUN].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print everything found as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let Args { config, mut tables, seeds, arms, fast, out, json } = args;
    tables.sort_unstable();
    tables.dedup();
    let options = Options { tables, seeds: usize::from(seeds), fast, arms, out };
    finish(&reproduce::reproduce(&config, &options, context.device_id()?, &context.progress)?, json)
}

pub fn probe(args: ProbeArgs, context: &Context) -> Result<Outcome> {
    let ProbeArgs { config, seeds, fast, out, json } = args;
    let options = Options { tables: vec![5], seeds: usize::from(seeds), fast, arms: Vec::new(), out };
    finish(&reproduce::reproduce(&config, &options, context.device_id()?, &context.progress)?, json)
}

fn finish(found: &Reproduction, json: bool) -> Result<Outcome> {
    if json {
        output::json(found)?;
    } else {
        output::line(format_args!("{} slides of {} patients, {} folds", found.slides, found.patients, found.folds))?;
        for table in &found.tables {
            output::line(format_args!("\n{}", reproduce::text(table).trim_end()))?;
        }
        for of in &found.efficiency {
            let (cold, warm) = (of.cold.total(), of.warm.total());
            output::line(format_args!("{}: {cold:.2} s a slide, {warm:.2} s with its file in the cache", of.title))?;
        }
        output::line(format_args!("\nreport: {}", found.out.join(REPORT_FILE).display()))?;
    }
    let skipped = found.tables.iter().flat_map(|table| &table.rows).any(|row| row.skipped.is_some());
    Ok(if skipped { Outcome::Partial } else { Outcome::Done })
}
