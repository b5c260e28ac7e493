//! What a case is prepared from: its arguments as tensors of a type on a device.

use std::collections::HashMap;

use anyhow::{Context, Result};
use isg::{
    DType, Device, Tensor,
    device::host::HostBuffer,
    nn::{Builder, Params},
};

use crate::case::CaseFile;

/// The results of a run by name.
pub type Outputs = HashMap<String, Tensor>;

/// One result by name.
pub fn one(name: &str, tensor: Tensor) -> Outputs {
    HashMap::from([(name.to_string(), tensor)])
}

pub struct Subject<'a> {
    pub case: &'a CaseFile,
    /// Every argument by name: of `dtype`, or as the file has it where it is exact.
    pub inputs: HashMap<String, Tensor>,
    pub dtype: DType,
    pub device: &'a Device,
}

impl Subject<'_> {
    pub fn new<'a>(case: &'a CaseFile, dtype: DType, device: &'a Device) -> Result<Subject<'a>> {
        // All exact arguments are whole numbers below 2²⁴, or f32 in the file.
        let exact = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let inputs = (case.inputs.iter())
            .map(|(name, value)| {
                let dtype = if case.is_exact(name) { exact } else { dtype };
                let buffer = HostBuffer::F64(value.values.clone()).cast(dtype);
                Ok((name.clone(), Tensor::from_buffer(buffer, &value.shape[..], device)?))
            })
            .collect::<Result<_>>()?;
        Ok(Subject { case, inputs, dtype, device })
    }

    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.inputs.get(name).cloned().with_context(|| format!("no argument {name}"))
    }

    /// An exact argument's whole numbers.
    pub fn integers(&self, name: &str) -> Result<Vec<i32>> {
        Ok(self.case.argument(name)?.values.iter().map(|&v| v as i32).collect())
    }

    pub fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = self.input(name)?.shape();
        shape.get(axis).copied().with_context(|| format!("{name} has no axis {axis}"))
    }

    /// Every argument but those named.
    pub fn parameters(&self, but: &[&str]) -> HashMap<String, Tensor> {
        let kept = self.inputs.iter().filter(|(name, _)| !but.contains(&name.as_str()));
        kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    /// A builder over every argument but those named, which are the model's inputs.
    pub fn weights(&self, but: &[&str]) -> Builder {
        Builder::load(self.parameters(but), &self.case.path.display().to_string(), self.dtype, self.device)
    }

    /// The model's own tensors by name, with its inputs.
    pub fn leaves(&self, params: &Params, inputs: &[&str]) -> Result<HashMap<String, Tensor>> {
        let mut leaves: HashMap<String, Tensor> =
            params.named().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        for name in inputs {
            leaves.insert((*name).to_string(), self.input(name)?);
        }
        Ok(leaves)
    }
}
