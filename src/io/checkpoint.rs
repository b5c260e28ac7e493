//! Checkpoints of a training run: `step-000123/` with one safetensors file per group of tensors and `state.json`.
//!
//! A checkpoint is written under a temporary name, flushed, and renamed: a folder named `step-*` is always whole. `latest`
//! names the newest; were it lost, the highest step counts. Floats keep every bit, so training resumes exactly.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    device::{Device, host::HostBuffer},
    error::{Error, Result},
    io::{
        array::{ArrayView, ElementType},
        atomic,
        safetensors::{self, SafetensorsFile},
    },
    shape::Shape,
    tensor::Tensor,
};

const FORMAT: &str = "isg-checkpoint-1";
const LATEST: &str = "latest";
const STATE: &str = "state.json";

/// Where one run keeps its checkpoints.
pub struct Checkpoints {
    root: PathBuf,
    /// Older ones are deleted once a newer one is whole.
    keep: usize,
}

/// One checkpoint on disk.
pub struct Checkpoint {
    path: PathBuf,
    step: u64,
    state: serde_json::Value,
}

/// One file of a checkpoint: its stem, and its tensors by name.
pub type Group<'a> = (&'a str, Vec<(String, Tensor)>);

impl Checkpoints {
    pub fn new(root: impl AsRef<Path>, keep: usize) -> Checkpoints {
        Checkpoints { root: root.as_ref().to_path_buf(), keep: keep.max(1) }
    }

    /// Writes `step-<step>` and makes it the latest. `state` is whatever else the run needs to go on.
    pub fn save(&self, step: u64, groups: &[Group], state: &impl Serialize) -> Result<PathBuf> {
        fs::create_dir_all(&self.root).map_err(|e| Error::io(&self.root, e))?;
        let name = format!("step-{step:06}");
        let temporary = self.root.join(format!("tmp-{name}"));
        remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).map_err(|e| Error::io(&temporary, e))?;
        for (stem, tensors) in groups {
            write_tensors(&temporary.join(format!("{stem}.safetensors")), tensors, &BTreeMap::new())?;
        }
        let state = serde_json::json!({ "format": FORMAT, "step": step, "state": state });
        atomic::write_bytes(temporary.join(STATE), format!("{state:#}\n").as_bytes())?;
        let path = self.root.join(&name);
        remove_folder(&path)?;
        fs::rename(&temporary, &path).map_err(|e| Error::io(&path, e))?;
        atomic::write_bytes(self.root.join(LATEST), format!("{name}\n").as_bytes())?;
        for (_, old) in self.all()?.into_iter().filter(|(at, _)| *at < step).rev().skip(self.keep - 1) {
            remove_folder(&old)?;
        }
        Ok(path)
    }

    /// The newest checkpoint, or `None` before the first.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let named = fs::read_to_string(self.root.join(LATEST)).ok();
        let named = named.and_then(|name| self.all().ok()?.into_iter().find(|(_, path)| path.ends_with(name.trim())));
        match named.or(self.all()?.pop()) {
            Some((step, path)) => Checkpoint::open(path, step).map(Some),
            None => Ok(None),
        }
    }

    /// Every whole checkpoint, oldest first.
    fn all(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.root, e)),
        };
        let step_of = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
        let paths = entries.flatten().map(|entry| entry.path());
        let mut found: Vec<_> = paths.filter_map(|path| Some((step_of(&path)?, path))).collect();
        found.sort();
        Ok(found)
    }
}

impl Checkpoint {
    fn open(path: PathBuf, step: u64) -> Result<Checkpoint> {
        let file = path.join(STATE);
        let damaged =
            |what: String| Error::input(&file, what, "delete this checkpoint folder to go on from an older one");
        let text = fs::read_to_string(&file).map_err(|e| damaged(format!("cannot be read ({e})")))?;
        let mut json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| damaged(format!("is not whole JSON ({e})")))?;
        match json.get("format").and_then(|f| f.as_str()) {
            Some(FORMAT) => {}
            other => return Err(damaged(format!("is of format {other:?}, not {FORMAT}"))),
        }
        Ok(Checkpoint { state: json["state"].take(), path, step })
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was given to [`Checkpoints::save`].
    pub fn state<S: DeserializeOwned>(&self) -> Result<S> {
        serde_json::from_value(self.state.clone()).map_err(|e| {
            Error::input(self.path.join(STATE), format!("does not fit this version ({e})"), "train in a new folder")
        })
    }

    /// The file of one group.
    pub fn file(&self, stem: &str) -> PathBuf {
        self.path.join(format!("{stem}.safetensors"))
    }

    /// The tensors of one group by name.
    pub fn tensors(&self, stem: &str, device: &Device) -> Result<HashMap<String, Tensor>> {
        read_tensors(&self.file(stem), device)
    }
}

/// Writes tensors as one safetensors file, whole or not at all.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    let host = tensors.iter().map(|(_, tensor)| tensor.to_buffer()).collect::<Result<Vec<HostBuffer>>>()?;
    let shapes: Vec<Shape> = tensors.iter().map(|(_, tensor)| tensor.shape()).collect();
    let views: Vec<ArrayView> = (tensors.iter().zip(&host).zip(&shapes))
        .map(|(((name, _), buffer), shape)| ArrayView {
            name,
            shape,
            element: ElementType::from(buffer.dtype()),
            bytes: buffer.bytes(),
        })
        .collect();
    safetensors::write(path, &views, metadata)
}

/// Every tensor of a safetensors file, at its stored type.
pub fn read_tensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let file = SafetensorsFile::open(path)?;
    let read = |name: &String| {
        let view = file.get(name)?;
        let unusable = |what: String| Error::input(path, format!("{name}: {what}"), "give weights this program wrote");
        let shape = Shape::try_new(view.shape).ok_or_else(|| unusable(format!("shape {:?}", view.shape)))?;
        let dtype = view.element.dtype().ok_or_else(|| unusable(format!("element type {}", view.element)))?;
        let buffer = match dtype {
            crate::DType::F32 => HostBuffer::F32(view.to_f32()),
            _ => HostBuffer::F64(view.to_f64()).cast(dtype),
        };
        Ok((name.clone(), Tensor::from_buffer(buffer, shape, device)?))
    };
    file.names().iter().map(read).collect()
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(of: &HashMap<String, Tensor>, name: &str) -> Vec<f32> {
        of[name].to_vec::<f32>().expect("a tensor on the CPU")
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_old_ones_go() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = Device::cpu();
        let store = Checkpoints::new(folder.path(), 2);
        assert!(store.latest()?.is_none());
        for step in [1u64, 2, 10] {
            let x = Tensor::from_vec(vec![step as f32 + 0.1], [1], &device)?;
            store.save(step, &[("model", vec![("x".to_string(), x)])], &step)?;
        }
        // A crash while writing leaves only a folder under a temporary name.
        fs::create_dir(folder.path().join("tmp-step-000011")).expect("writable");
        let latest = store.latest()?.expect("three were saved");
        assert_eq!((latest.step(), latest.state::<u64>()?), (10, 10));
        assert_eq!(value(&latest.tensors("model", &device)?, "x"), [10.1]);
        assert_eq!(store.all()?.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 10]);
        fs::remove_file(folder.path().join(LATEST)).expect("it was there");
        assert_eq!(store.latest()?.map(|c| c.step()), Some(10));
        Ok(())
    }

    #[test]
    fn a_damaged_checkpoint_is_named() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Checkpoints::new(folder.path(), 1);
        store.save(3, &[], &())?;
        fs::write(folder.path().join("step-000003").join(STATE), "{\"format\": 1").expect("writable");
        let message = store.latest().map(|_| ()).expect_err("half a file").to_string();
        assert!(message.contains("step-000003") && message.contains("delete"), "{message}");
        Ok(())
    }
}
