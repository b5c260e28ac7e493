//! The weights of one network from a file that may hold more than them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{
    device::Device,
    dtype::DType,
    error::{Error, Result},
    io::{array::NamedArray, checksum::Digest, weights::Weights},
    nn::builder::Builder,
    tensor::Tensor,
};

/// What stands in the place of a file where weights are drawn.
pub const RANDOM: &str = "random";

/// Tensors of a network by the names it gives them itself.
pub struct StateDict {
    origin: String,
    pub arrays: HashMap<String, NamedArray>,
}

impl StateDict {
    /// Reads a `.pth` or safetensors file. `anchor` is a tensor that every file of this kind of network holds: what stands
    /// before its name (`module.`, `state_dict.`, `model.`) is taken off all names, and tensors elsewhere are left out. So are
    /// those whose names begin as one of `ignored`, and counters of batches.
    ///
    /// # Errors
    /// The file cannot be read, or holds no `anchor`.
    pub fn read(path: &Path, anchors: &[&str], ignored: &[&str]) -> Result<StateDict> {
        let weights = Weights::read(path)?;
        let origin = path.display().to_string();
        StateDict::of(weights.arrays, &origin, anchors, ignored)
    }

    /// The same of arrays in memory; `origin` names them in errors.
    ///
    /// # Errors
    /// No `anchor` among them.
    pub fn of(arrays: Vec<NamedArray>, origin: &str, anchors: &[&str], ignored: &[&str]) -> Result<StateDict> {
        let before = |name: &str, anchor: &str| {
            name.strip_suffix(anchor).filter(|rest| rest.is_empty() || rest.ends_with('.')).map(str::to_string)
        };
        let prefix = anchors.iter().flat_map(|anchor| arrays.iter().filter_map(|a| before(&a.name, anchor)));
        let Some(prefix) = prefix.min_by_key(String::len) else {
            let shown: Vec<&str> = arrays.iter().take(6).map(|a| a.name.as_str()).collect();
            let problem =
                format!("holds no tensor `{}`, but {} such as {}", anchors[0], arrays.len(), shown.join(", "));
            return Err(Error::input(origin, problem, "name the weights of this encoder's network"));
        };
        let own = |mut array: NamedArray| {
            let name = array.name.strip_prefix(&prefix)?.to_string();
            let left_out = name.ends_with("num_batches_tracked") || ignored.iter().any(|start| name.starts_with(start));
            array.name.clone_from(&name);
            (!left_out).then_some((name, array))
        };
        Ok(StateDict { origin: origin.to_string(), arrays: arrays.into_iter().filter_map(own).collect() })
    }

    pub fn holds(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// Extents of a tensor.
    ///
    /// # Errors
    /// It is not there.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        let array = self.arrays.get(name);
        Ok(&array.ok_or_else(|| self.unusable(&format!("holds no tensor `{name}`")))?.shape)
    }

    /// A sentence about the file.
    pub fn unusable(&self, problem: &str) -> Error {
        Error::input(&*self.origin, problem, "name the weights of this encoder's network")
    }

    /// Hands the tensors out at `dtype`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn into_builder(self, dtype: DType, device: &Device) -> Result<Builder> {
        let tensor = |(name, array): (String, NamedArray)| {
            let values = array.to_f32();
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let problem = format!("tensor `{name}` holds {} at place {at}", values[at]);
                return Err(Error::input(&*self.origin, problem, "download the file again"));
            }
            Ok((name, Tensor::from_vec(values, &array.shape[..], device)?))
        };
        let tensors = self.arrays.into_iter().map(tensor).collect::<Result<HashMap<_, _>>>()?;
        Ok(Builder::load(tensors, &self.origin, dtype, device))
    }
}

/// Refuses a name that is no file and does not ask for drawn weights.
///
/// # Errors
/// One sentence that says which.
pub fn check(weights: &str) -> Result<()> {
    if weights.is_empty() {
        let message =
            "encoder.weights is missing: name a .pth or safetensors file, or write \"random\" for drawn weights";
        return Err(Error::Usage(message.into()));
    }
    Ok(())
}

/// Of the bytes of a file of weights; nothing where they are drawn.
///
/// # Errors
/// The file cannot be read.
pub fn digests(weights: &str) -> Result<Vec<Digest>> {
    if weights == RANDOM { Ok(Vec::new()) } else { Ok(vec![Digest::of_file(Path::new(weights))?]) }
}

/// A file of weights where `settle` says it lies; nothing where weights are drawn.
pub fn resolved(weights: &str, settle: &dyn Fn(&Path) -> PathBuf) -> Option<String> {
    (!weights.is_empty() && weights != RANDOM).then(|| settle(Path::new(weights)).to_string_lossy().into_owned())
}
