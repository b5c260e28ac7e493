//! `cargo tool conformance`: every operation against numeric cases that PyTorch computed in f64.
//!
//! A case is a safetensors file of inputs, expected outputs and expected gradients. One line a case; an operation the
//! runner does not know is a failure, and so are a NaN, a wrong shape and a tensor that is missing.

mod case;
mod models;
mod ops;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use isg::{DType, Device, Tape, Tensor, device::host::HostBuffer};
use serde_json::json;

use case::{CaseFile, Reference};

#[derive(clap::Parser)]
#[command(
    name = "cargo tool conformance",
    about = "Check every operation against numeric cases computed by PyTorch in f64"
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

/// An operation ready to run: the tensors it differentiates by name, and its results by name.
pub struct Prepared {
    pub leaves: HashMap<String, Tensor>,
    pub run: Box<dyn FnOnce() -> isg::Result<HashMap<String, Tensor>>>,
}

/// What the tolerances depend on.
#[derive(Clone, Copy)]
struct Precision {
    dtype: DType,
    tf32: bool,
    outputs: f64,
    gradients: f64,
}

impl Precision {
    fn parse(name: &str) -> Result<Precision> {
        let (dtype, outputs, gradients) = match name {
            "f64" => (DType::F64, 1e-12, 1e-11),
            "f32" => (DType::F32, 2e-5, 1e-4),
            "f16" => (DType::F16, 5e-3, 2e-2),
            "bf16" => (DType::Bf16, 3e-2, 8e-2),
            "tf32" => (DType::F32, 3e-3, 1e-2),
            _ => bail!("unknown dtype `{name}`; use f64, f32, tf32, bf16 or f16"),
        };
        Ok(Precision { dtype, tf32: name == "tf32", outputs, gradients })
    }

    fn is_narrow(self) -> bool {
        matches!(self.dtype, DType::F16 | DType::Bf16)
    }
}

/// The largest error of a case and where it occurred.
struct Verdict {
    error: f64,
    tensor: String,
    passed: bool,
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
    let device = Device::named(&args.device)?;
    if precision.tf32 {
        if args.device == "cpu" {
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

/// Runs one case and compares every expected output and gradient.
fn check(case: &CaseFile, precision: Precision, device: &Device) -> Result<Verdict> {
    if precision.is_narrow() && ["adam_step", "pearson", "roc_auc"].contains(&case.op.as_str()) {
        // Defined for f32 and f64 only; a narrow run has nothing to say about them.
        return Ok(Verdict { error: 0.0, tensor: "-".into(), passed: true });
    }
    let got = evaluate(case, precision.dtype, device)?;
    let judge;
    let expected = if precision.is_narrow() {
        // The error measured is the kernel's, not that of rounding the inputs: the f64 result on the rounded inputs.
        judge = evaluate(&case.rounded(precision.dtype), DType::F64, &Device::cpu())?;
        let value = |name: &String| -> Result<Reference> {
            let tensor = judge.get(name).with_context(|| format!("no result {name}"))?;
            Ok(Reference { shape: tensor.shape().to_vec(), values: tensor.to_vec()? })
        };
        case.expected.keys().map(|name| Ok((name.clone(), value(name)?))).collect::<Result<_>>()?
    } else {
        case.expected.clone()
    };
    let kinks = if precision.is_narrow() && ["lpips", "r1_penalty"].contains(&case.op.as_str()) { 2.0 } else { 1.0 };
    let mut worst = Verdict { error: 0.0, tensor: "-".into(), passed: true };
    let mut worst_ratio = -1.0;
    for (name, reference) in &expected {
        let tensor = got.get(name).with_context(|| format!("no result {name}"))?;
        // PyTorch's scalars and our one-element tensors are the same thing.
        if tensor.shape().elems() != reference.values.len()
            || (reference.values.len() > 1 && tensor.shape()[..] != reference.shape[..])
        {
            bail!("{name} is {}, expected {:?}", tensor.shape(), reference.shape);
        }
        let error = reference.relative_error(&tensor.to_vec::<f64>()?);
        let limit = if name.starts_with("grad.") { precision.gradients * kinks } else { precision.outputs };
        let passed = error <= limit; // false for NaN
        let ratio = if error.is_nan() { f64::INFINITY } else { error / limit };
        if ratio > worst_ratio {
            worst_ratio = ratio;
            worst.error = error;
            worst.tensor = name.clone();
        }
        worst.passed &= passed;
    }
    Ok(worst)
}

/// All results of a case by their names in the file: `out.NAME`, `grad.NAME`.
fn evaluate(case: &CaseFile, dtype: DType, device: &Device) -> Result<HashMap<String, Tensor>> {
    let inputs = (case.inputs.iter())
        .map(|(name, value)| {
            let buffer = HostBuffer::F64(value.values.clone()).cast(dtype);
            Ok((name.clone(), Tensor::from_buffer(buffer, &value.shape[..], device)?))
        })
        .collect::<Result<HashMap<String, Tensor>>>()?;
    let prepared = match models::prepare(case, &inputs, dtype, device)? {
        Some(prepared) => prepared,
        None => ops::prepare(case, inputs)?,
    };
    let wanted: Vec<String> =
        case.expected.keys().filter_map(|name| name.strip_prefix("grad.").map(str::to_string)).collect();
    let leaf = |name: &String| prepared.leaves.get(name).with_context(|| format!("no argument {name}"));
    let leaves = wanted.iter().map(|name| Ok((name.clone(), leaf(name)?.clone()))).collect::<Result<Vec<_>>>()?;
    let mut results = HashMap::new();
    let outputs;
    if leaves.is_empty() {
        outputs = (prepared.run)()?; // optimiser steps update in place, which no tape may watch
    } else {
        let tape = Tape::start();
        tape.watch(leaves.iter().map(|(_, tensor)| tensor));
        outputs = (prepared.run)()?;
        let mut seeds = Vec::new();
        for (name, cotangent) in &case.cotangents {
            let y = outputs.get(name).with_context(|| format!("no result {name}"))?;
            let buffer = HostBuffer::F64(cotangent.values.clone()).cast(y.dtype());
            seeds.push((y, Tensor::from_buffer(buffer, y.shape(), device)?));
        }
        let grads = tape.backward_from(&seeds)?;
        for (name, tensor) in &leaves {
            let grad = grads.get(tensor).cloned().map_or_else(|| tensor.zeros_like(), Ok)?;
            results.insert(format!("grad.{name}"), grad);
        }
    }
    results.extend(outputs.into_iter().map(|(name, tensor)| (format!("out.{name}"), tensor)));
    Ok(results)
}

/// The file's name, for errors of models that load their weights from a case.
fn origin(path: &Path) -> String {
    path.display().to_string()
}
