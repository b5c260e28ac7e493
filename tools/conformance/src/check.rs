//! Runs a case and judges it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use isg::{DType, Device, Tape, Tensor, device::host::HostBuffer};

use crate::{
    case::{CaseFile, Reference},
    encoders, methods, models, ops, statistics,
    subject::Subject,
};

/// An operation ready to run: the tensors it differentiates by name, and its results by name.
pub struct Prepared {
    pub leaves: HashMap<String, Tensor>,
    pub run: Box<dyn FnOnce() -> isg::Result<HashMap<String, Tensor>>>,
}

/// What the tolerances depend on.
#[derive(Clone, Copy)]
pub struct Precision {
    pub dtype: DType,
    pub tf32: bool,
    outputs: f64,
    gradients: f64,
}

impl Precision {
    pub fn parse(name: &str) -> Result<Precision> {
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

    /// Of numbers that the host computes in f64 whatever was asked for.
    fn of_host() -> Result<Precision> {
        Precision::parse("f64")
    }

    fn is_narrow(self) -> bool {
        matches!(self.dtype, DType::F16 | DType::Bf16)
    }

    /// The accepted error of a result of a case.
    fn limit(self, case: &CaseFile, name: &str) -> f64 {
        // Their kinks and divisions amplify rounding.
        let amplifies = self.is_narrow() && ["lpips", "r1_penalty"].contains(&case.op.as_str());
        case.limit(name).unwrap_or(match name.starts_with("grad.") {
            true => self.gradients * if amplifies { 2.0 } else { 1.0 },
            false => self.outputs,
        })
    }
}

/// The largest error of a case, in units of what is accepted, and where it occurred.
pub struct Verdict {
    pub error: f64,
    pub tensor: String,
    pub passed: bool,
}

/// Results by their names in the file: `out.NAME`, `grad.NAME`.
pub type Results = BTreeMap<String, Reference>;

/// Runs one case and compares every expected output and gradient.
pub fn check(case: &CaseFile, precision: Precision, device: &Device) -> Result<Verdict> {
    let of_host = statistics::knows(&case.op);
    if precision.is_narrow() && (of_host || case.op == ops::ADAM_STEP) {
        // Defined for f32 and f64 only; a narrow run has nothing to say about them.
        return Ok(Verdict { error: 0.0, tensor: "-".into(), passed: true });
    }
    if of_host {
        return judge(case, statistics::results(case)?, case.expected.clone(), Precision::of_host()?);
    }
    let got = evaluate(case, precision.dtype, device)?;
    if !precision.is_narrow() {
        return judge(case, got, case.expected.clone(), precision);
    }
    // The error measured is the kernel's, not that of rounding the inputs: the f64 result on the rounded inputs.
    let expected = evaluate(&case.rounded(precision.dtype), DType::F64, &Device::cpu())?;
    let whole = ["method", "encoder", "dual_attention"].contains(&case.op.as_str());
    let [got, expected] = [got, expected].map(|results| named_in(case, results));
    let (got, expected) = (got?, expected?);
    match whole {
        true => judge(case, gradients_as_one(got), gradients_as_one(expected), precision),
        false => judge(case, got, expected, precision),
    }
}

/// The results that the file names.
fn named_in(case: &CaseFile, mut results: Results) -> Result<Results> {
    let one = |name: &String| Ok((name.clone(), results.remove(name).with_context(|| format!("no result {name}"))?));
    case.expected.keys().map(one).collect()
}

/// Through tens of layers a single bias's gradient is the small difference of large numbers: all are compared as one vector. Kernels
/// are as near to f64 as rounding what every op stores allows (`tests/precision.rs`), and that alone is 0.06 on single tensors in bf16.
fn gradients_as_one(results: Results) -> Results {
    let (gradients, mut rest): (Results, Results) =
        results.into_iter().partition(|(name, _)| name.starts_with("grad."));
    if !gradients.is_empty() {
        let values: Vec<f64> = gradients.into_values().flat_map(|gradient| gradient.values).collect();
        rest.insert("grad.*".to_string(), Reference { shape: vec![values.len()], values });
    }
    rest
}

fn judge(case: &CaseFile, got: Results, expected: Results, precision: Precision) -> Result<Verdict> {
    let mut worst = Verdict { error: 0.0, tensor: "-".into(), passed: true };
    let mut worst_ratio = -1.0;
    for (name, reference) in &expected {
        let ours = got.get(name).with_context(|| format!("no result {name}"))?;
        // PyTorch's scalars and our one-element tensors are the same thing.
        if ours.values.len() != reference.values.len() || (reference.values.len() > 1 && ours.shape != reference.shape)
        {
            bail!("{name} is {:?}, expected {:?}", ours.shape, reference.shape);
        }
        let (error, limit) = (reference.relative_error(&ours.values), precision.limit(case, name));
        let ratio = if error.is_nan() { f64::INFINITY } else { error / limit };
        if ratio > worst_ratio {
            (worst_ratio, worst.error, worst.tensor) = (ratio, error, name.clone());
        }
        worst.passed &= error <= limit; // false for NaN
    }
    Ok(worst)
}

/// All results of a case on a device.
fn evaluate(case: &CaseFile, dtype: DType, device: &Device) -> Result<Results> {
    let subject = Subject::new(case, dtype, device)?;
    let prepared = match case.op.as_str() {
        "method" => methods::prepare(&subject)?,
        "encoder" => encoders::prepare(&subject)?,
        _ => match models::prepare(&subject)? {
            Some(prepared) => prepared,
            None => ops::prepare(&subject)?,
        },
    };
    let wanted = case.expected.keys().filter_map(|name| name.strip_prefix("grad."));
    let leaf = |name: &str| prepared.leaves.get(name).with_context(|| format!("no argument {name}"));
    let leaves = wanted.map(|name| Ok((name, leaf(name)?.clone()))).collect::<Result<Vec<_>>>()?;
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
    let read = |(name, tensor): (String, Tensor)| {
        Ok((name, Reference { shape: tensor.shape().to_vec(), values: tensor.to_vec::<f64>()? }))
    };
    results.into_iter().map(read).collect()
}
