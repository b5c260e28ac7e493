//! `isg methods`: what a run can train and compare, and what turns patches into vectors for it.

use serde_json::json;

use super::output;
use crate::{
    encoder::ENCODERS,
    error::Result,
    mil::{
        METHODS,
        features::{FeatureDims, Reads},
        method::{Fit, MethodSpec},
    },
    preset::Preset,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg methods          the methods, then the encoders
  isg methods --json   with their keys in both presets

`train.method = \"NAME\"` in a run's configuration trains one, its keys are in [train.NAME]; every [[compare]] with a key method
puts another beside it, on the same folds and features. `encoder.kind = \"NAME\"` chooses an encoder.")]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.json {
        let methods: Vec<_> = METHODS.iter().map(|spec| described(spec)).collect();
        let encoders: Vec<_> = (ENCODERS.iter())
            .map(|spec| json!({ "name": spec.name, "title": spec.title, "cites": spec.cites }))
            .collect();
        return output::json(&json!({ "methods": methods, "encoders": encoders }));
    }
    let names = METHODS.iter().map(|spec| spec.name).chain(ENCODERS.iter().map(|spec| spec.name));
    let width = names.map(str::len).max().unwrap_or(0);
    output::line("methods: what each reads of a patch")?;
    for spec in METHODS {
        output::line(format_args!("{:<width$}  {:<17}  {}", spec.name, words(reads(spec)), spec.title))?;
        if !spec.cites.is_empty() {
            output::line(format_args!("{:<width$}  {}", "", spec.cites))?;
        }
    }
    output::line("\nencoders")?;
    for spec in ENCODERS {
        output::line(format_args!("{:<width$}  {:<17}  {}", spec.name, "", spec.title))?;
        output::line(format_args!("{:<width$}  {}", "", spec.cites))?;
    }
    Ok(())
}

/// What a method reads by default, where everything is at hand.
fn reads(spec: &MethodSpec) -> Reads {
    (spec.preset)(Preset::Paper).reads(FeatureDims { global: 1, cell: 1, grid: 1 })
}

fn words(reads: Reads) -> String {
    let parts = [("global", reads.global), ("cube", reads.cube), ("coords", reads.coords)];
    parts.iter().filter(|(_, read)| *read).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn described(spec: &MethodSpec) -> serde_json::Value {
    let [paper, small] = Preset::ALL.map(|preset| (spec.preset)(preset).parameters());
    let closed = matches!((spec.preset)(Preset::Paper).fit(), Fit::Closed(_));
    json!({
        "name": spec.name,
        "title": spec.title,
        "reads": reads(spec),
        "fit": if closed { "closed form" } else { "gradient" },
        "cites": spec.cites,
        "keys": { "paper": paper, "small": small },
    })
}
