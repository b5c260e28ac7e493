//! `isg doctor`: what this machine offers, one sentence each.

use serde_json::json;

use super::{Context, Outcome};
use crate::{Device, Result};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  isg doctor\n  isg doctor --json")]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, _: &Context) -> Result<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let findings = [
        ("cpu", Ok(format!("{cores} cores, {}", vector_width()))),
        ("cuda", Device::named("cuda").map(|d| d.to_string()).map_err(|e| e.to_string())),
        ("emulator", Device::named("emulator").map(|d| d.to_string()).map_err(|e| e.to_string())),
    ];
    if args.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|(name, found)| match found {
                Ok(what) => json!({ "name": name, "usable": true, "what": what }),
                Err(why) => json!({ "name": name, "usable": false, "what": why }),
            })
            .collect();
        println!("{}", json!({ "version": env!("CARGO_PKG_VERSION"), "devices": rows }));
    } else {
        println!("isg {}", env!("CARGO_PKG_VERSION"));
        for (name, found) in findings {
            match found {
                Ok(what) => println!("  ok       {name}: {what}"),
                Err(why) => println!("  missing  {why}",),
            }
            let _ = name;
        }
    }
    Ok(Outcome::Done)
}

fn vector_width() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("fma") {
            return "AVX2 and FMA";
        }
    }
    "baseline vector instructions"
}
