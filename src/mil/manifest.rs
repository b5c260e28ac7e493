//! `model.json`: which networks a cross-validation left in its folder, and what they are for.
//!
//! The file is a table of contents. It is believed only as far as the networks themselves say the same: their genes, sizes
//! and tasks are in their own files, and their checksums are in this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    io::{checksum::Digest, sealed},
    mil::{bags::Origin, config::TrainConfig, features::FeatureDims, tasks::Task, training::MODEL_FILE},
};

const MANIFEST_FILE: &str = "model.json";
const MANIFEST_FORMAT: &str = "isg-cross-validation-2";
/// The folder of a network's tuned copies.
pub(crate) const TASKS: &str = "tasks";

/// What a run's folder holds, for whoever predicts with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub(crate) format: String,
    pub genes: Vec<String>,
    /// Of the features that its networks read.
    pub dims: FeatureDims,
    pub folds: usize,
    pub members: usize,
    pub tasks: Vec<Task>,
    pub config: TrainConfig,
    /// What the features came from; absent in a file written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Checksum of every network by its path in the folder; a fold without a slide of a task's project has none of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeMap<String, Digest>>,
}

/// Where one network of a run lives.
pub(crate) fn member_dir(dir: &Path, fold: usize, member: usize) -> PathBuf {
    dir.join(format!("fold-{fold}")).join(format!("member-{member}"))
}

/// Where one tuned copy lives.
pub(crate) fn task_dir(member_dir: &Path, task: &Task) -> PathBuf {
    member_dir.join(TASKS).join(&task.name)
}

/// A model's name in [`Manifest::models`].
pub(crate) fn model_name(dir: &Path, model: &Path) -> String {
    let parts = model.strip_prefix(dir).unwrap_or(model).components();
    parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>().join("/")
}

impl Manifest {
    pub(crate) fn new(
        genes: Vec<String>,
        dims: FeatureDims,
        folds: usize,
        tasks: Vec<Task>,
        config: &TrainConfig,
        origin: Origin,
        models: BTreeMap<String, Digest>,
    ) -> Manifest {
        let (format, members, config) = (MANIFEST_FORMAT.to_string(), config.members, config.clone());
        let (origin, models) = (Some(origin), Some(models));
        Manifest { format, genes, dims, folds, members, tasks, config, origin, models }
    }

    /// Reads the manifest of a folder and holds it against what the folder holds.
    ///
    /// # Errors
    /// `Input` where it is no manifest, contradicts itself, or names other networks than there are.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST_FILE);
        let bad = |what: String| Error::input(&path, what, "run the command that trained the networks again");
        if !path.is_file() {
            return Err(Error::input(
                &path,
                "is not there",
                "name the directory of a finished `isg run` or `isg train`",
            ));
        }
        let (manifest, _) = sealed::read_json_unsealed::<Manifest>(&path)?;
        manifest.contradiction().map_or(Ok(()), |what| Err(bad(what)))?;
        manifest.missing(dir)?.map_or(Ok(()), |what| Err(bad(what)))?;
        Ok(manifest)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        sealed::write_json(dir.join(MANIFEST_FILE), self)
    }

    /// What of the manifest cannot be, by itself.
    fn contradiction(&self) -> Option<String> {
        if self.format != MANIFEST_FORMAT {
            return Some(format!("is of format {:?}, not {MANIFEST_FORMAT}", self.format));
        }
        for (name, value) in [("folds", self.folds), ("members", self.members)] {
            if value == 0 {
                return Some(format!("says {name} = 0"));
            }
        }
        if self.members != self.config.members {
            return Some(format!("says {} members, and {} in its configuration", self.members, self.config.members));
        }
        if self.genes.is_empty() {
            return Some("names no gene".into());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.genes.iter().find(|gene| !seen.insert(gene.as_str())) {
            return Some(format!("names the gene {twice} twice"));
        }
        let mut names = BTreeSet::new();
        for Task { name, genes, .. } in &self.tasks {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ' | '%' | '~');
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Some(format!("names a task {name:?}, which is no folder of a run"));
            }
            if !names.insert(name.as_str()) {
                return Some(format!("names the task {name} twice"));
            }
            if let Some(gene) = genes.iter().find(|&&gene| gene >= self.genes.len()) {
                return Some(format!("task {name} is for gene number {gene} of {}", self.genes.len()));
            }
            let mut seen = BTreeSet::new();
            if genes.is_empty() || !genes.iter().all(|gene| seen.insert(gene)) {
                return Some(format!("task {name} is for no gene, or for one twice"));
            }
        }
        if let Err(error) = self.config.validate() {
            return Some(format!("holds a configuration that cannot be ({error})"));
        }
        None
    }

    /// How the folders differ from what the manifest says, if they do.
    fn missing(&self, dir: &Path) -> Result<Option<String>> {
        let folds = numbered(dir, "fold-")?;
        if !folds.iter().copied().eq(0..self.folds) {
            return Ok(Some(format!("says {} folds, and the folder holds {}", self.folds, folds.len())));
        }
        for fold in 0..self.folds {
            let members = numbered(&dir.join(format!("fold-{fold}")), "member-")?;
            if !members.iter().copied().eq(0..self.members) {
                let found = members.len();
                return Ok(Some(format!("says {} members, and fold {fold} holds {found}", self.members)));
            }
            for member in 0..self.members {
                let member_dir = member_dir(dir, fold, member);
                let tuned: BTreeSet<String> = folders(&member_dir.join(TASKS))?.into_iter().collect();
                let expected: BTreeSet<String> = (self.tasks.iter())
                    .filter(|task| {
                        let name = model_name(dir, &task_dir(&member_dir, task).join(MODEL_FILE));
                        self.models.as_ref().is_none_or(|models| models.contains_key(&name))
                    })
                    .map(|task| task.name.clone())
                    .collect();
                let place = format!("fold {fold}, member {member}");
                if let Some(task) = expected.difference(&tuned).next() {
                    return Ok(Some(format!("names the task {task}, and {place} has no folder of it")));
                }
                if let Some(task) = tuned.difference(&expected).next() {
                    return Ok(Some(format!("does not name the task {task}, which {place} holds")));
                }
            }
        }
        Ok(None)
    }

    /// Removes the networks that an earlier run with more folds, members or tasks left in the folder.
    pub(crate) fn remove_others(&self, dir: &Path) -> Result<()> {
        let remove = |path: PathBuf| std::fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e));
        for fold in numbered(dir, "fold-")? {
            let fold_dir = dir.join(format!("fold-{fold}"));
            if fold >= self.folds {
                remove(fold_dir)?;
                continue;
            }
            for member in numbered(&fold_dir, "member-")? {
                let member_dir = member_dir(dir, fold, member);
                if member >= self.members {
                    remove(member_dir)?;
                    continue;
                }
                for name in folders(&member_dir.join(TASKS))? {
                    let task_dir = member_dir.join(TASKS).join(&name);
                    let model = model_name(dir, &task_dir.join(MODEL_FILE));
                    if self.models.as_ref().is_some_and(|models| !models.contains_key(&model)) {
                        remove(task_dir)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The folders in `dir`; none where there is no such folder.
fn folders(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    Ok(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The numbers of the folders `PREFIXn`.
fn numbered(dir: &Path, prefix: &str) -> Result<BTreeSet<usize>> {
    let number = |name: String| {
        let digits = name.strip_prefix(prefix)?;
        digits.parse().ok().filter(|n: &usize| n.to_string() == digits)
    };
    Ok(folders(dir)?.into_iter().filter_map(number).collect())
}
