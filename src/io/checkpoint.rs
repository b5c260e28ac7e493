//! Checkpoints of a training run: `step-000123/` with one safetensors file per group of tensors and `state.json`.
//!
//! A checkpoint is written under a temporary name, flushed, and renamed: a folder named `step-*` is whole, unless it was
//! damaged later. Every file carries its checksum and `state.json` those of the others; a damaged checkpoint is passed over
//! with a remark and an older one taken. Floats keep every bit, so training resumes exactly.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    device::{Device, host::HostBuffer},
    error::{Error, Fault, Result},
    io::{
        array::{ArrayView, ElementType},
        checksum::Digest,
        safetensors::{self, SafetensorsFile},
        sealed,
    },
    progress::Progress,
    shape::Shape,
    tensor::Tensor,
};

const FORMAT: &str = "isg-checkpoint-2";
const STATE: &str = "state.json";
/// Folders of checkpoints that are being written.
const UNFINISHED: &str = "tmp-step-";

/// Where one run keeps its checkpoints.
pub struct Checkpoints {
    root: PathBuf,
    /// Older ones are deleted once a newer one is whole.
    keep: usize,
}

/// One checkpoint on disk, found whole.
pub struct Checkpoint {
    path: PathBuf,
    step: u64,
    state: serde_json::Value,
}

/// What `state.json` holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: String,
    step: u64,
    /// Checksums of the tensor files by stem.
    groups: BTreeMap<String, Digest>,
    state: serde_json::Value,
}

/// One file of a checkpoint: its stem, and its tensors by name.
pub type Group<'a> = (&'a str, Vec<(String, Tensor)>);

impl Checkpoints {
    pub fn new(root: impl AsRef<Path>, keep: usize) -> Checkpoints {
        Checkpoints { root: root.as_ref().to_path_buf(), keep: keep.max(1) }
    }

    /// Writes `step-<step>`. `state` is whatever else the run needs to resume.
    pub fn save(&self, step: u64, groups: &[Group], state: &impl Serialize) -> Result<PathBuf> {
        fs::create_dir_all(&self.root).map_err(|e| Error::io(&self.root, e))?;
        let temporary = self.root.join(format!("{UNFINISHED}{step:06}"));
        remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).map_err(|e| Error::io(&temporary, e))?;
        let mut checksums = BTreeMap::new();
        for (stem, tensors) in groups {
            let checksum = write_tensors(&temporary.join(format!("{stem}.safetensors")), tensors, &BTreeMap::new())?;
            checksums.insert(stem.to_string(), checksum);
        }
        let state = serde_json::to_value(state).map_err(|e| Error::io(&temporary, e.into()))?;
        let stored = Stored { format: FORMAT.to_string(), step, groups: checksums, state };
        sealed::write_json(temporary.join(STATE), &stored)?;
        let path = self.root.join(format!("step-{step:06}"));
        remove_folder(&path)?;
        fs::rename(&temporary, &path).map_err(|e| Error::io(&path, e))?;
        for (_, old) in self.all()?.into_iter().filter(|(at, _)| *at < step).rev().skip(self.keep - 1) {
            remove_folder(&old)?;
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole and `fits`, or `None`. What is damaged (said once), does not fit or was left
    /// unfinished is deleted: the run goes on from the one that is returned.
    pub fn resume(&self, progress: &dyn Progress, fits: impl Fn(&Checkpoint) -> bool) -> Result<Option<Checkpoint>> {
        self.remove_unfinished()?;
        for (step, path) in self.all()?.into_iter().rev() {
            match Checkpoint::open(&path, step) {
                Ok(checkpoint) if fits(&checkpoint) => return Ok(Some(checkpoint)),
                Ok(_) => {}
                Err(error) if error.fault() == Fault::Input => {
                    progress.note(&format!("{error}; going on from an older checkpoint or from the beginning"));
                }
                Err(error) => return Err(error),
            }
            remove_folder(&path)?;
        }
        Ok(None)
    }

    /// The newest checkpoint whether it is whole or not, to say what is in a folder without changing it.
    pub fn newest(&self) -> Result<Option<Checkpoint>> {
        let Some((step, path)) = self.all()?.pop() else { return Ok(None) };
        Checkpoint::open(&path, step).map(Some)
    }

    /// Removes what a killed process was writing.
    pub fn remove_unfinished(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Ok(()) };
        let unfinished = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(UNFINISHED));
        unfinished.map(|entry| entry.path()).try_for_each(|path| remove_folder(&path))
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
    /// Reads the state and checks every file.
    fn open(path: &Path, step: u64) -> Result<Checkpoint> {
        let file = path.join(STATE);
        let damaged = |what: String| Error::input(&file, what, "it is not used");
        let stored: Stored = sealed::read_json(&file)?;
        if stored.format != FORMAT || stored.step != step {
            return Err(damaged(format!("is of step {} and format {}, not {FORMAT}", stored.step, stored.format)));
        }
        let checkpoint = Checkpoint { path: path.to_path_buf(), step, state: stored.state };
        for (stem, checksum) in &stored.groups {
            if SafetensorsFile::open_own(checkpoint.file(stem))?.checksum() != Some(*checksum) {
                return Err(damaged(format!("was written with another {stem}.safetensors")));
            }
        }
        Ok(checkpoint)
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

/// Writes tensors as one safetensors file, whole or not at all. Returns its checksum.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<Digest> {
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

/// Every tensor of a safetensors file that this program wrote, at its stored type.
pub fn read_tensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    tensors_of(&SafetensorsFile::open_own(path)?, device)
}

/// Every tensor of an open file.
pub fn tensors_of(file: &SafetensorsFile, device: &Device) -> Result<HashMap<String, Tensor>> {
    let path = file.path();
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

/// The first tensor, by name, that holds a NaN or infinite value.
pub fn not_finite(tensors: &HashMap<String, Tensor>) -> Result<Option<&str>> {
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    for name in names {
        if tensors[name].to_vec::<f64>()?.iter().any(|v| !v.is_finite()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
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
    use crate::progress::Silent;

    fn value(of: &HashMap<String, Tensor>, name: &str) -> Vec<f32> {
        of[name].to_vec::<f32>().expect("a tensor on the CPU")
    }

    fn saved(store: &Checkpoints, step: u64, device: &Device) -> Result<()> {
        let x = Tensor::from_vec(vec![step as f32 + 0.1], [1], device)?;
        store.save(step, &[("model", vec![("x".to_string(), x)])], &step).map(drop)
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_old_ones_go() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = Device::cpu();
        let store = Checkpoints::new(folder.path(), 2);
        assert!(store.resume(&Silent, |_| true)?.is_none());
        for step in [1, 2, 10] {
            saved(&store, step, &device)?;
        }
        // A crash while writing leaves only a folder under a temporary name, which goes.
        fs::create_dir(folder.path().join("tmp-step-000011")).expect("writable");
        let latest = store.resume(&Silent, |_| true)?.expect("three were saved");
        assert_eq!((latest.step(), latest.state::<u64>()?), (10, 10));
        assert_eq!(value(&latest.tensors("model", &device)?, "x"), [10.1]);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
        assert_eq!(store.all()?.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 10]);
        let earlier = store.resume(&Silent, |checkpoint| checkpoint.step() < 5)?;
        assert_eq!(earlier.map(|c| c.step()), Some(2));
        assert_eq!(store.all()?.len(), 1, "one that does not fit is not kept");
        Ok(())
    }

    #[test]
    fn whatever_bit_of_a_checkpoint_flips_an_older_one_is_taken() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = Device::cpu();
        let store = Checkpoints::new(folder.path(), 2);
        for file in ["state.json", "model.safetensors"] {
            saved(&store, 3, &device)?;
            saved(&store, 4, &device)?;
            let path = folder.path().join("step-000004").join(file);
            let whole = fs::read(&path).expect("it was written");
            for bit in (0..whole.len() * 8).step_by(37) {
                saved(&store, 4, &device)?;
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &bytes).expect("writable");
                let taken = store.resume(&Silent, |_| true)?.expect("an older one is whole");
                // White space in JSON may change without harm.
                let held = value(&taken.tensors("model", &device)?, "x");
                assert_eq!(held, [taken.step() as f32 + 0.1], "bit {bit} of {file}");
                assert!(taken.step() == 3 || file == "state.json", "bit {bit} of {file} went unseen");
            }
        }
        Ok(())
    }

    #[test]
    fn files_of_two_checkpoints_are_not_mixed() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (device, store) = (Device::cpu(), Checkpoints::new(folder.path(), 3));
        for step in [5, 6] {
            saved(&store, step, &device)?;
        }
        let file = |step: u64| folder.path().join(format!("step-{step:06}/model.safetensors"));
        fs::copy(file(5), file(6)).expect("writable");
        assert_eq!(store.resume(&Silent, |_| true)?.map(|c| c.step()), Some(5));
        Ok(())
    }
}
