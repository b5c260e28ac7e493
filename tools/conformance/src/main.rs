//! `cargo tool conformance`: operations, methods, encoders and statistics against numeric cases that PyTorch computed in f64.
//!
//! A case is a safetensors file of inputs, expected outputs and expected gradients. One line a case; an operation the
//! runner does not know is a failure, and so are a NaN, a wrong shape and a tensor that is missing.
//!
//! [`case`] reads a file, [`mod@check`] runs and judges it. What is run: [`ops`] single operations, [`models`] blocks and whole
//! models by their weights, [`methods`] slide-level methods, [`encoders`] encoders of patches, [`statistics`] numbers of the host.

mod case;
mod check;
mod encoders;
mod methods;
mod models;
mod ops;
mod statistics;
mod subject;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use isg::device::DeviceId;
use serde_json::json;

use case::CaseFile;
use check::{Precision, Verdict, check};

#[derive(clap::Parser)]
#[command(
    name = "cargo tool conformance",
    about = "Check operations, methods, encoders and statistics against numeric cases computed by PyTorch in f64",
    after_help = "Examples:\n  cargo tool conformance --dtype f64 cases methods\n  \
        cargo tool conformance --device emulator --dtype bf16 cases/conv2d-00.safetensors"
)]
struct Args {
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f64, f32, tf32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Case files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo tool conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let precision = Precision::parse(&args.dtype)?;
    let id = DeviceId::parse(&args.device)?;
    let device = id.open()?;
    if precision.tf32 {
        if id == DeviceId::Cpu {
            bail!("tf32 is a mode of tensor cores; the cpu device multiplies in full f32");
        }
        device.set_precision(isg::device::Precision::TF32);
    }
    let files = case_files(&args.paths)?;
    let (mut passed, mut failed) = (0, 0);
    for file in &files {
        let (op, verdict) = match CaseFile::read(file) {
            Ok(case) => (case.op.clone(), check(&case, precision, &device)),
            Err(error) => ("?".to_string(), Err(error)),
        };
        let name = file.file_name().map_or_else(|| file.display().to_string(), |n| n.to_string_lossy().into_owned());
        let (verdict, problem) = match verdict {
            Ok(verdict) => (verdict, None),
            Err(error) => (Verdict { error: f64::NAN, tensor: "-".into(), passed: false }, Some(format!("{error:#}"))),
        };
        if verdict.passed {
            passed += 1
        } else {
            failed += 1
        }
        let word = if verdict.passed { "PASS" } else { "FAIL" };
        if args.json {
            let error = verdict.error.is_finite().then_some(verdict.error);
            println!(
                "{}",
                json!({ "file": name, "op": op, "device": args.device, "dtype": args.dtype, "error": error,
                        "tensor": verdict.tensor, "passed": verdict.passed, "problem": problem })
            );
        } else {
            let why = problem.map(|p| format!("  {p}")).unwrap_or_default();
            println!("{name} {op} {} {} {:.2e} {} {word}{why}", args.device, args.dtype, verdict.error, verdict.tensor);
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn case_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            let is_case = |p: &PathBuf| p.extension().is_some_and(|e| e == "safetensors");
            files.extend(entries.flatten().map(|entry| entry.path()).filter(is_case));
        } else if path.is_file() {
            files.push(path.clone());
        } else {
            bail!("{}: no such file or folder", path.display());
        }
    }
    if files.is_empty() {
        bail!("no case files in {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    files.sort();
    Ok(files)
}
