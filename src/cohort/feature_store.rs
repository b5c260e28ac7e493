//! What was extracted from each slide, on disk: one safetensors file per slide and an index.
//!
//! `SLIDE.safetensors` holds `global` `[n, d]` f32, where the encoder makes cubes `local` `[n, g, g, cell_d]` f16 or f32,
//! `coords` `[n, 2]` i64 (x, y of each patch's upper left corner in level-0 pixels) and, where the selector gives them,
//! `scores` `[n]` f64. Its metadata holds all that it was made from ([`FeatureKey`]), so that nothing is computed twice and a change is noticed. Files are
//! written whole or not at all, carry their checksum, and are read through a map, on demand. `index.json` lists those of a
//! run for people and scripts; it is written from the files and never trusted over them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Fault, Result},
    io::{
        array::{ArrayView, ElementType, NamedArray},
        checksum::Digest,
        file_name,
        safetensors::{self, SafetensorsFile},
        sealed,
    },
};

const FORMAT: &str = "isg-features-2";
const INDEX: &str = "index.json";

/// How local features are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalPrecision {
    /// Half the size; features of magnitude 1 lose 0.05 %.
    #[default]
    F16,
    F32,
}

/// Everything that decides a slide's features. Two keys that differ in any field give different features.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FeatureKey {
    /// Side of a patch (the paper's p) in pixels of the scale that patches are cut at.
    pub patch_px: u32,
    /// Side of a fine patch (the paper's q) in the same pixels; the grid is `patch_px / fine_px`.
    pub fine_px: u32,
    /// Of the slide's pixels: its file's bytes and the scale at which they are read.
    pub slide: Digest,
    /// Of the kept patches: their corners and scores.
    pub patches: Digest,
    /// Of the encoders of whole patches and of fine ones; zeros where there are no cubes.
    pub global_extractor: Digest,
    pub local_extractor: Digest,
    pub local_precision: LocalPrecision,
}

/// Features of one slide to be written: `n` patches, `d` numbers each, and a grid of `g` by `g` fine patches of `cell_d` numbers
/// each. Without cubes `g` and `cell_d` are 0.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SlideFeatures {
    pub d: usize,
    pub cell_d: usize,
    pub g: usize,
    /// `[n, d]`
    pub global: Vec<f32>,
    /// `[n, g, g, cell_d]`
    pub local: Vec<f32>,
    /// Upper left corners in level-0 pixels.
    pub coords: Vec<[i64; 2]>,
    /// The selector's score of each patch, or nothing.
    pub scores: Vec<f64>,
}

/// What the store has of a slide.
pub enum Held {
    /// What was asked for.
    Current(Box<StoredFeatures>),
    Missing,
    /// Made from something else: what differs.
    Changed(String),
    /// The file cannot be used, and why.
    Damaged(String),
}

/// One line of the index.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct IndexEntry {
    pub slide: String,
    pub file: String,
    pub patches: usize,
    pub d: usize,
    pub cell_d: usize,
    pub g: usize,
    pub key: FeatureKey,
}

#[derive(Serialize, Deserialize)]
struct Index {
    format: String,
    slides: Vec<IndexEntry>,
}

/// A folder of features.
#[derive(Clone, Debug)]
pub struct FeatureStore {
    folder: PathBuf,
}

impl FeatureStore {
    /// Opens a folder, made if it does not exist.
    pub fn open(folder: impl AsRef<Path>) -> Result<FeatureStore> {
        let folder = folder.as_ref().to_path_buf();
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(FeatureStore { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a slide's features lie; no id leaves the folder, and no two share a file.
    pub fn path_of(&self, slide: &str) -> PathBuf {
        self.folder.join(format!("{}.safetensors", file_name::escaped(slide)))
    }

    /// Writes a slide's features atomically. Errors where the arrays do not fit each other.
    pub fn write(&self, slide: &str, key: &FeatureKey, features: &SlideFeatures) -> Result<()> {
        let SlideFeatures { d, cell_d, g, global, local, coords, scores } = features;
        let (n, d, cell_d, g) = (coords.len(), *d, *cell_d, *g);
        if global.len() != n * d || local.len() != n * g * g * cell_d || !(scores.is_empty() || scores.len() == n) {
            let message = format!(
                "{slide}: {n} coordinates, {} global and {} local numbers, {} scores, with d = {d} and {cell_d}, g = {g}",
                global.len(),
                local.len(),
                scores.len()
            );
            return Err(Error::shape("feature store", message));
        }
        if let Some(bad) = global.iter().chain(local).position(|v| !v.is_finite()) {
            return Err(Error::shape("feature store", format!("{slide}: feature number {bad} is not finite")));
        }
        let corners: Vec<i64> = coords.iter().flatten().copied().collect();
        let mut arrays =
            vec![NamedArray::from_f32("global", &[n, d], global)?, NamedArray::from_i64("coords", &[n, 2], &corners)?];
        if g > 0 {
            let shape = [n, g, g, cell_d];
            arrays.push(match key.local_precision {
                LocalPrecision::F16 => NamedArray::f16_from_f32("local", &shape, local)?,
                LocalPrecision::F32 => NamedArray::from_f32("local", &shape, local)?,
            });
        }
        if !scores.is_empty() {
            arrays.push(NamedArray::from_f64("scores", &[n], scores)?);
        }
        let text = |e: serde_json::Error| Error::internal(format_args!("{slide}: {e}"));
        let metadata = BTreeMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("slide".to_string(), slide.to_string()),
            ("key".to_string(), serde_json::to_string(key).map_err(text)?),
        ]);
        let views: Vec<ArrayView> = arrays.iter().map(NamedArray::view).collect();
        safetensors::write(self.path_of(slide), &views, &metadata).map(drop)
    }

    /// Opens a slide's features and checks every byte; numbers are read from the map when asked for.
    pub fn read(&self, slide: &str) -> Result<StoredFeatures> {
        StoredFeatures::open(&self.path_of(slide), slide)
    }

    /// The slides that `index.json` lists, in order.
    ///
    /// # Errors
    /// No index, or a damaged one.
    pub fn slides(&self) -> Result<Vec<String>> {
        let path = self.folder.join(INDEX);
        if !path.is_file() {
            return Err(Error::input(&self.folder, "lists no features", "run `isg features` on the configuration"));
        }
        let index: Index = sealed::read_json(path)?;
        Ok(index.slides.into_iter().map(|entry| entry.slide).collect())
    }

    /// What is stored of a slide, seen by one who wants it made from `key`.
    ///
    /// # Errors
    /// Those of the machine; a damaged file is an answer.
    pub fn find(&self, slide: &str, key: &FeatureKey) -> Result<Held> {
        if !self.path_of(slide).exists() {
            return Ok(Held::Missing);
        }
        match self.read(slide) {
            Ok(stored) => Ok(match changed_field(&stored.key, key) {
                None => Held::Current(Box::new(stored)),
                Some(change) => Held::Changed(change),
            }),
            Err(error) if error.fault() == Fault::Input => Ok(Held::Damaged(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Whether the file of a slide says that it was made from `key`. Only its first bytes are read, so that asking about all the
    /// slides of a cohort costs little; whoever uses them reads the whole file ([`FeatureStore::find`]).
    pub fn claims(&self, slide: &str, key: &FeatureKey) -> bool {
        let Ok(metadata) = safetensors::unchecked_metadata(self.path_of(slide)) else { return false };
        let held = metadata.get("key").and_then(|text| serde_json::from_str::<FeatureKey>(text).ok());
        held.as_ref() == Some(key)
    }

    /// Writes `index.json`, which lists these.
    pub fn write_index<'a>(&self, stored: impl IntoIterator<Item = &'a StoredFeatures>) -> Result<()> {
        let line = |stored: &StoredFeatures| IndexEntry {
            slide: stored.slide.clone(),
            file: self.path_of(&stored.slide).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            patches: stored.n,
            d: stored.d,
            cell_d: stored.cell_d,
            g: stored.g,
            key: stored.key.clone(),
        };
        let mut slides: Vec<IndexEntry> = stored.into_iter().map(line).collect();
        slides.sort_by(|a, b| a.slide.cmp(&b.slide));
        sealed::write_json(self.folder.join(INDEX), &Index { format: FORMAT.to_string(), slides })
    }
}

/// The first field in which two keys differ, in words.
fn changed_field(was: &FeatureKey, now: &FeatureKey) -> Option<String> {
    let (was, now) = (serde_json::to_value(was).ok()?, serde_json::to_value(now).ok()?);
    let (was, now) = (was.as_object()?, now.as_object()?);
    now.iter().find_map(|(field, value)| {
        let before = was.get(field).unwrap_or(&serde_json::Value::Null);
        (before != value).then(|| format!("{field} was {before}, is {value}"))
    })
}

/// Features of one slide in a file.
pub struct StoredFeatures {
    file: SafetensorsFile,
    pub slide: String,
    pub key: FeatureKey,
    /// Of the whole file: what is computed from these features depends on it.
    pub checksum: Digest,
    /// Patches.
    pub n: usize,
    /// Numbers per vector of a whole patch.
    pub d: usize,
    /// Numbers per vector of a fine patch; 0 without cubes.
    pub cell_d: usize,
    /// Fine patches along a side; 0 without cubes.
    pub g: usize,
}

impl StoredFeatures {
    fn open(path: &Path, wanted: &str) -> Result<StoredFeatures> {
        let file = SafetensorsFile::open_own(path)?;
        let not_ours =
            |problem: String| Error::input(path, problem, "delete it and extract the slide's features again");
        let value = |name: &str| {
            file.metadata_value(name).ok_or_else(|| not_ours(format!("is no feature file (it lacks {name})")))
        };
        if value("format")? != FORMAT {
            return Err(not_ours(format!("is of format {}, not {FORMAT}", value("format")?)));
        }
        let slide = value("slide")?.to_string();
        if slide != wanted {
            return Err(not_ours(format!("holds features of {slide}, not of {wanted}")));
        }
        let bad = |e: serde_json::Error| not_ours(format!("has unreadable metadata ({e})"));
        let key: FeatureKey = serde_json::from_str(value("key")?).map_err(bad)?;
        let checksum = file.checksum().unwrap_or_default();
        let (global, coords) = (file.get("global")?, file.get("coords")?);
        let (&[n, d], &[n_coords, 2]) = (global.shape, coords.shape) else {
            return Err(not_ours("has arrays of the wrong rank".to_string()));
        };
        let (mut g, mut cell_d) = (0, 0);
        let mut fits = n_coords == n && global.element == ElementType::F32 && coords.element == ElementType::I64;
        if file.contains("local") {
            let local = file.get("local")?;
            let &[n_local, rows, columns, width] = local.shape else {
                return Err(not_ours("has arrays of the wrong rank".to_string()));
            };
            fits &= n_local == n && rows == columns && matches!(local.element, ElementType::F16 | ElementType::F32);
            (g, cell_d) = (rows, width);
        }
        if !fits {
            return Err(not_ours("has arrays that do not fit each other".to_string()));
        }
        if file.contains("scores") {
            let scores = file.get("scores")?;
            if scores.shape != [n] || scores.element != ElementType::F64 {
                return Err(not_ours("has scores that do not fit its patches".to_string()));
            }
        }
        Ok(StoredFeatures { slide, key, checksum, n, d, cell_d, g, file })
    }

    /// `[n, d]`, borrowed from the map where it lies aligned (as written by this crate, always).
    pub fn global(&self) -> Result<Cow<'_, [f32]>> {
        let view = self.file.get("global")?;
        Ok(match bytemuck::try_cast_slice(view.bytes) {
            Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
            _ => Cow::Owned(view.to_f32()),
        })
    }

    /// `[n, g, g, cell_d]`, all of it as f32: n g² cell_d · 4 bytes. Nothing without cubes.
    pub fn local(&self) -> Result<Vec<f32>> {
        if self.g == 0 { Ok(Vec::new()) } else { Ok(self.file.get("local")?.to_f32()) }
    }

    /// `[g, g, cell_d]` of one patch, read from the file alone.
    pub fn local_patch(&self, patch: usize) -> Result<Vec<f32>> {
        if self.g == 0 {
            return Ok(Vec::new());
        }
        let view = self.file.get("local")?;
        let size = self.g * self.g * self.cell_d;
        let bytes = size * view.element.bytes();
        let bytes = view
            .bytes
            .get(patch * bytes..(patch + 1) * bytes)
            .ok_or_else(|| Error::shape("feature store", format!("{}: patch {patch} of {}", self.slide, self.n)))?;
        Ok(ArrayView { bytes, shape: &[size], ..view }.to_f32())
    }

    /// Mean of each patch's local features over its g x g cells, `[n, cell_d]`: what the paper feeds its transformer with
    /// when no updating has happened.
    pub fn local_means(&self) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(self.n * self.cell_d);
        for patch in 0..self.n {
            let cells = self.local_patch(patch)?;
            let mut sum = vec![0.0f64; self.cell_d];
            for cell in cells.chunks_exact(self.cell_d.max(1)) {
                cell.iter().zip(&mut sum).for_each(|(v, s)| *s += f64::from(*v));
            }
            let cells = (self.g * self.g).max(1) as f64;
            out.extend(sum.into_iter().map(|s| (s / cells) as f32));
        }
        Ok(out)
    }

    /// Upper left corners of the patches in level-0 pixels.
    pub fn coords(&self) -> Result<Vec<[i64; 2]>> {
        let values = self.file.get("coords")?.to_i64().unwrap_or_default();
        Ok(values.as_chunks::<2>().0.to_vec())
    }

    /// The selector's scores; empty where none were kept.
    pub fn scores(&self) -> Result<Vec<f64>> {
        if !self.file.contains("scores") {
            return Ok(Vec::new());
        }
        Ok(self.file.get("scores")?.to_f64())
    }
}
