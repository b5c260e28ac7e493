//! The state of a run directory: whatever changed, was killed or was damaged before, a run ends with the bytes that a fresh
//! one would write, or says why not.

mod changes;
mod damage;
mod machine;
mod models;
mod plans;
mod reproduce;
mod shards;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use isg::{
    Result,
    device::DeviceId,
    pipeline::{self, Run, RunConfig, Stage, Summary},
    progress::{Progress, Silent},
    synth::{self, SynthOptions},
};

const SLIDES: usize = 8;

/// A cohort of a few small slides, and a finished run of it: drawn and run once for all tests, which copy it.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = TEMPLATE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cohort");
        let options = SynthOptions { slides: SLIDES, seed: 5, size_px: 256 };
        synth::generate(&path, &options, &Silent).expect("a cohort");
        let lab = Lab { path: path.clone(), _folder: None };
        fs::write(path.join("run.toml"), CONFIG).expect("writable");
        lab.finish(&lab.config(), &lab.path.join("run"));
        (folder, path)
    });
    path
}

/// The smallest networks that there can be.
const CONFIG: &str = r#"
preset = "small"
seed = 3
[cohort]
slides = "slides"
expression = "expression.tsv"
[select]
patch_px = 64
local_px = 32
sigma = -1.0
least_patches = 1
[extractor]
image_px = 8
d = 6
generator_channels = [4, 4]
batch = 2
steps = 4
checkpoint_every_steps = 2
[extractor.encoder]
channels = [4, 4]
head_pool_px = [1]
[extractor.discriminator]
channels = [4, 4]
[extractor.lpips]
weights = "none"
[train]
epochs = 2
members = 1
max_patches = 4
checkpoint_s = 0
[train.isg]
vit_width = 8
[train.fine_tune]
enabled = true
epochs = 1
[[train.fine_tune.tasks]]
genes = ["LYMPH1"]
[splits]
folds = 2
valid_fraction = 0.0
"#;

/// A cohort of one's own, with a finished run in `run`.
struct Lab {
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cohort");
        copy_folder(template(), &path);
        Lab { path, _folder: Some(folder) }
    }

    fn config(&self) -> RunConfig {
        RunConfig::read(&self.path.join("run.toml")).expect("a configuration")
    }

    fn slides(&self) -> Vec<PathBuf> {
        let mut slides: Vec<PathBuf> = files(&self.path.join("slides")).into_keys().collect();
        slides.sort();
        slides.into_iter().map(|name| self.path.join("slides").join(name)).collect()
    }

    fn finish(&self, config: &RunConfig, out: &Path) {
        run(config, out, Stage::Training, &Silent).expect("a run");
    }

    /// What a run into a fresh directory makes.
    fn fresh(&self, config: &RunConfig) -> BTreeMap<PathBuf, Vec<u8>> {
        let out = self.path.join("fresh");
        let _ = fs::remove_dir_all(&out);
        self.finish(config, &out);
        artefacts(&out)
    }
}

/// Everything random drawn anew.
fn reseeded(config: &RunConfig, seed: u64) -> RunConfig {
    let mut config = RunConfig { seed, ..config.clone() };
    (config.splits.seed, config.train.seed) = (seed, seed);
    (config.extractor.global.seed, config.extractor.local.seed) = (seed, seed);
    config
}

fn run(config: &RunConfig, out: &Path, until: Stage, progress: &dyn Progress) -> Result<Option<Summary>> {
    let run = Run::open(RunConfig { out: out.to_path_buf(), ..config.clone() }, progress)?;
    pipeline::execute(&run, until, DeviceId::Cpu, progress)
}

/// Everything that a run is done for: extractors, features of the slides in use, networks, predictions, folds.
fn artefacts(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let index: serde_json::Value = isg::io::sealed::read_json(out.join("features/index.json")).expect("an index");
    let used = index["slides"].as_array().expect("a list").iter().map(|line| line["file"].as_str().expect("a name"));
    let used: Vec<PathBuf> = used.map(|file| Path::new("features").join(file)).collect();
    let mut found = files(out);
    found.retain(|path, _| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let kept = ["extractor.safetensors", "model.safetensors", "model.json", "splits.json", "index.json"];
        let of_run = !path.components().any(|part| part.as_os_str() == "checkpoints");
        of_run && kept.contains(&name) || name.starts_with("predictions") || used.contains(path)
    });
    assert!(found.len() > 10 && !used.is_empty(), "a finished run has artefacts");
    found
}

fn differing(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names: std::collections::BTreeSet<&PathBuf> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

/// Every file below a folder by its path in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below it").to_path_buf();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn copy_folder(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
}

/// Ends a run as a kill does, after so many steps of work: nothing more is written.
struct KilledAfter(AtomicU64);

struct Killed;

impl KilledAfter {
    /// Runs until then; whether it was killed.
    fn run(steps: u64, config: &RunConfig, out: &Path) -> bool {
        let progress = KilledAfter(AtomicU64::new(steps));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(config, out, Stage::Training, &progress).expect("a run");
        }));
        outcome.is_err_and(|panic| panic.is::<Killed>())
    }
}

impl Progress for KilledAfter {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, by: u64) {
        if by > 0 && self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Keeps the remarks of a run.
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, _: &str) {}
    fn note(&self, line: &str) {
        self.0.lock().expect("a list").push(line.to_string());
    }
    fn end(&self) {}
}
