//! A case file: inputs, expected results, attributes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use isg::{DType, device::host::HostBuffer};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// An array of the file, in f64.
#[derive(Clone)]
pub struct Reference {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Reference {
    /// ‖ours − reference‖₂ / ‖reference‖₂; where every reference value is below 1e-10 the divisor is √count.
    pub fn relative_error(&self, ours: &[f64]) -> f64 {
        let difference = self.values.iter().zip(ours).map(|(r, o)| (o - r).powi(2)).sum::<f64>().sqrt();
        let norm = if self.values.iter().all(|v| v.abs() < 1e-10) {
            (self.values.len() as f64).sqrt()
        } else {
            self.values.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        difference / norm
    }
}

#[derive(Clone)]
pub struct CaseFile {
    pub path: PathBuf,
    pub op: String,
    pub attrs: Value,
    pub inputs: BTreeMap<String, Reference>,
    pub cotangents: BTreeMap<String, Reference>,
    /// `out.NAME` and `grad.NAME`.
    pub expected: BTreeMap<String, Reference>,
}

impl CaseFile {
    pub fn read(path: &Path) -> Result<CaseFile> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).with_context(|| path.display().to_string())?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let entry = |key: &str| metadata.get(key).with_context(|| format!("{}: no `{key}`", path.display()));
        ensure!(entry("format")? == "isg-conformance-1", "{}: unknown format", path.display());
        let mut case = CaseFile {
            path: path.to_path_buf(),
            op: entry("op")?.clone(),
            attrs: serde_json::from_str(entry("attrs")?).context("attrs")?,
            inputs: BTreeMap::new(),
            cotangents: BTreeMap::new(),
            expected: BTreeMap::new(),
        };
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            let values: Vec<f64> = match view.dtype() {
                Dtype::F32 => {
                    let word = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    view.data().chunks_exact(4).map(word).collect()
                }
                Dtype::F64 => {
                    let word = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                    view.data().chunks_exact(8).map(word).collect()
                }
                other => bail!("{}: {name} is {other:?}, not f32 or f64", path.display()),
            };
            let value = Reference { shape: view.shape().to_vec(), values };
            match name.split_once('.') {
                Some(("in", name)) => case.inputs.insert(name.to_string(), value),
                Some(("cotangent", name)) => case.cotangents.insert(name.to_string(), value),
                _ => case.expected.insert(name.to_string(), value),
            };
        }
        Ok(case)
    }

    pub fn argument(&self, name: &str) -> Result<&Reference> {
        self.inputs.get(name).with_context(|| format!("no argument {name}"))
    }

    /// Whether an argument is never rounded: offsets, indices, labels, coordinates.
    pub fn is_exact(&self, name: &str) -> bool {
        self.attrs["exact"].as_array().is_some_and(|names| names.iter().any(|exact| exact == name))
    }

    /// The accepted error of one result where the case has its own.
    pub fn limit(&self, name: &str) -> Option<f64> {
        self.attrs["limits"][name].as_f64()
    }

    /// The same case with cotangents and all arguments but exact ones rounded to a 16-bit type.
    pub fn rounded(&self, dtype: DType) -> CaseFile {
        let mut case = self.clone();
        let inputs = case.inputs.iter_mut().filter(|(name, _)| !self.is_exact(name)).map(|(_, value)| value);
        for value in inputs.chain(case.cotangents.values_mut()) {
            if let HostBuffer::F64(rounded) = HostBuffer::F64(value.values.clone()).cast(dtype).cast(DType::F64) {
                value.values = rounded;
            }
        }
        case
    }

    pub fn int(&self, key: &str) -> Result<usize> {
        let value = self.attrs[key].as_u64().with_context(|| format!("attribute {key}"))?;
        Ok(usize::try_from(value)?)
    }

    pub fn float(&self, key: &str) -> Result<f64> {
        self.attrs[key].as_f64().with_context(|| format!("attribute {key}"))
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        self.attrs[key].as_bool().with_context(|| format!("attribute {key}"))
    }

    pub fn text(&self, key: &str) -> Result<&str> {
        self.attrs[key].as_str().with_context(|| format!("attribute {key}"))
    }

    pub fn floats(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.attrs[key].as_array().with_context(|| format!("attribute {key}"))?;
        list.iter().map(|v| v.as_f64().with_context(|| format!("attribute {key}"))).collect()
    }
}
