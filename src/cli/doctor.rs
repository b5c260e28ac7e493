//! `isg doctor`: what this machine offers, one sentence each.

use serde_json::json;

use super::{Context, Outcome, output};
use crate::{
    Device, Result,
    device::{cuda::Cuda, driver::Driver, modules, nvtx},
    slide::openslide,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  isg doctor\n  isg doctor --json")]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

type Finding = (&'static str, Result<String, String>);

pub fn run(args: &Args, _: &Context) -> Result<Outcome> {
    let findings = [cpu(), kernels(), cuda(), emulator(), profiler(), slides()];
    if args.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|(name, found)| match found {
                Ok(what) => json!({ "name": name, "usable": true, "what": what }),
                Err(why) => json!({ "name": name, "usable": false, "what": why }),
            })
            .collect();
        output::json(&json!({ "version": env!("CARGO_PKG_VERSION"), "devices": rows }))?;
    } else {
        output::line(format_args!("isg {}", env!("CARGO_PKG_VERSION")))?;
        for (name, found) in findings {
            match found {
                Ok(what) => output::line(format_args!("  ok       {name}: {what}"))?,
                Err(why) => output::line(format_args!("  missing  {name}: {why}"))?,
            }
        }
    }
    Ok(Outcome::Done)
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ("cpu", Ok(format!("{cores} cores, {}", vector_width())))
}

fn kernels() -> Finding {
    let count = || {
        let (mut entries, mut bytes) = (0, 0);
        for module in modules::ALL {
            entries += module.entries()?.len();
            bytes += module.text()?.len();
        }
        let files = modules::ALL.len();
        Ok(format!("{entries} in {files} files, {} kB of PTX for compute capability 8.0 and newer", bytes / 1000))
    };
    ("kernels", count().map_err(|error: crate::Error| error.to_string()))
}

/// Opens the GPU and has its driver compile a kernel: whatever is missing for that is the answer.
fn cuda() -> Finding {
    let sentence = |error: crate::Error| match error {
        crate::Error::Device(why) => why.strip_prefix("cuda: ").unwrap_or(&why).to_string(),
        other => other.to_string(),
    };
    let opened = Cuda::open(0).and_then(|cuda| {
        let version = cuda.cuda_version()?;
        let (module, entry) = (modules::ALL[0], &modules::ALL[0].entries()?[0]);
        cuda.entry(module, entry)?;
        let (major, minor) = cuda.props().capability;
        let gib = cuda.memory().total_bytes as f64 / (1u64 << 30) as f64;
        let name = cuda.name();
        Ok(format!(
            "{name}, compute capability {major}.{minor}, {gib:.0} GiB, driver for CUDA {version}, kernels compile"
        ))
    });
    ("cuda", opened.map_err(sentence))
}

fn emulator() -> Finding {
    let tried =
        Device::named("emulator").map(|device| format!("{device}: runs the same kernels here, every access checked"));
    ("emulator", tried.map_err(|error| error.to_string()))
}

fn profiler() -> Finding {
    let attached = match nvtx::is_attached() {
        true => "one is attached and gets named ranges",
        false => "none is attached; started under nsys or ncu, ranges are named after ops",
    };
    ("profiler", Ok(attached.to_string()))
}

fn slides() -> Finding {
    let found = openslide::version();
    let found = found.map(|version| format!("OpenSlide {version} reads other vendors' slides"));
    ("openslide", found.map_err(|why| format!("{why}; other vendors' slides are refused: {}", openslide::INSTALL)))
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
