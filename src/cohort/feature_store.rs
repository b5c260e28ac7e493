//! What was extracted from each slide, on disk: one safetensors file per slide and an index.
//!
//! `SLIDE.safetensors` holds `global` `[n, d]` f32, `local` `[n, g, g, d]` f16 or f32, `coords` `[n, 2]` i64 (x, y of each
//! patch's upper left corner in level-0 pixels) and, where the selector gives them, `scores` `[n]` f64. Its metadata
//! holds the settings it was made with ([`FeatureKey`]) and the slide's fingerprint, so that nothing is computed twice and
//! a changed setting or slide is noticed. Files are written whole or not at all and read through a map, on demand.
//! `index.json` lists them for people and scripts; it is rebuilt from the files and never trusted over them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    io::{
        array::{ArrayView, ElementType, NamedArray},
        atomic,
        safetensors::{self, SafetensorsFile},
    },
    random::fnv1a,
};

const FORMAT: &str = "isg-features-1";

/// How local features are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalPrecision {
    /// Half the size; features of magnitude 1 lose 0.05 %.
    #[default]
    F16,
    F32,
}

/// The settings that decide a slide's features. Two keys that differ in any field give different features.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FeatureKey {
    /// Side of a patch (the paper's p) in level-0 pixels.
    pub patch_px: u32,
    /// Side of a fine patch (the paper's q) in level-0 pixels; the grid is `patch_px / fine_px`.
    pub fine_px: u32,
    /// Micrometres per pixel that the slide was taken to have; `None` where it has none.
    pub mpp: Option<f64>,
    /// Hash of the extractor's weights and configuration.
    pub extractor: String,
    /// As `shannon:lz`.
    pub selector: String,
    /// As `sigma 1` or `bits 1.6e6`.
    pub threshold: String,
    pub local_precision: LocalPrecision,
}

/// Tells whether a slide's file is the one that was read: its size, its time, and a hash of its beginning, its end and
/// fourteen places between (all of it up to 1 MiB). A file of equal size and hash is the same file copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlideFingerprint {
    pub size_bytes: u64,
    /// Nanoseconds since 1970; 0 where the file system does not say.
    pub modified_ns: u64,
    /// FNV-1a in hexadecimal.
    pub hash: String,
}

impl SlideFingerprint {
    pub fn of(path: impl AsRef<Path>) -> Result<SlideFingerprint> {
        let path = path.as_ref();
        let (size_bytes, modified_ns) = SlideFingerprint::size_and_time(path)?;
        let io = |e| Error::io(path, e);
        let mut file = File::open(path).map_err(io)?;
        const PIECE: u64 = 64 << 10;
        const PIECES: u64 = 16;
        let mut bytes = Vec::new();
        if size_bytes <= PIECE * PIECES {
            file.take(PIECE * PIECES).read_to_end(&mut bytes).map_err(io)?;
        } else {
            for piece in 0..PIECES {
                let at = (size_bytes - PIECE) / (PIECES - 1) * piece;
                let at = if piece == PIECES - 1 { size_bytes - PIECE } else { at };
                file.seek(SeekFrom::Start(at)).map_err(io)?;
                file.by_ref().take(PIECE).read_to_end(&mut bytes).map_err(io)?;
            }
        }
        Ok(SlideFingerprint { size_bytes, modified_ns, hash: format!("{:016x}", fnv1a(&bytes)) })
    }

    fn size_and_time(path: &Path) -> Result<(u64, u64)> {
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok((meta.len(), modified.map_or(0, |d| d.as_nanos() as u64)))
    }

    /// Whether the file at `path` is still the one of this fingerprint; hashes only where size agrees and time does not.
    pub fn still_fits(&self, path: &Path) -> Result<bool> {
        let (size, modified) = SlideFingerprint::size_and_time(path)?;
        if size != self.size_bytes {
            return Ok(false);
        }
        if modified == self.modified_ns && modified != 0 {
            return Ok(true);
        }
        Ok(SlideFingerprint::of(path)?.hash == self.hash)
    }
}

/// Features of one slide to be written. `n` patches, `d` numbers each, a grid of `g` by `g` fine patches.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SlideFeatures {
    pub d: usize,
    pub g: usize,
    /// `[n, d]`
    pub global: Vec<f32>,
    /// `[n, g, g, d]`
    pub local: Vec<f32>,
    /// Upper left corners in level-0 pixels.
    pub coords: Vec<[i64; 2]>,
    /// The selector's score of each patch, or nothing.
    pub scores: Vec<f64>,
}

/// Whether stored features can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    Current,
    Missing,
    /// Computed with another setting: which one.
    SettingChanged(String),
    SlideChanged,
    /// The file cannot be read.
    Damaged(String),
}

/// One line of the index.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct IndexEntry {
    pub slide: String,
    pub file: String,
    pub patches: usize,
    pub d: usize,
    pub g: usize,
    pub key: FeatureKey,
}

/// A file of the store that cannot be read.
#[derive(Clone, PartialEq, Debug)]
pub struct DamagedFile {
    pub path: PathBuf,
    pub problem: String,
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

    /// Where a slide's features lie. Characters that no file name may hold are escaped, so that no id leaves the folder.
    pub fn path_of(&self, slide: &str) -> PathBuf {
        let mut name = String::new();
        for c in slide.chars() {
            if c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ') {
                name.push(c);
            } else {
                name.push_str(&format!("%{:02x}", c as u32));
            }
        }
        self.folder.join(format!("{name}.safetensors"))
    }

    /// Writes a slide's features atomically. Errors where the arrays do not fit each other.
    pub fn write(
        &self,
        slide: &str,
        key: &FeatureKey,
        fingerprint: &SlideFingerprint,
        features: &SlideFeatures,
    ) -> Result<()> {
        let SlideFeatures { d, g, global, local, coords, scores } = features;
        let (n, d, g) = (coords.len(), *d, *g);
        if global.len() != n * d || local.len() != n * g * g * d || !(scores.is_empty() || scores.len() == n) {
            let message = format!(
                "{slide}: {n} coordinates, {} global and {} local numbers, {} scores, with d = {d}, g = {g}",
                global.len(),
                local.len(),
                scores.len()
            );
            return Err(Error::shape("feature store", message));
        }
        if let Some(bad) = global.iter().chain(local).position(|v| !v.is_finite()) {
            return Err(Error::shape("feature store", format!("{slide}: feature number {bad} is not finite")));
        }
        let local_shape = [n, g, g, d];
        let corners: Vec<i64> = coords.iter().flatten().copied().collect();
        let mut arrays = vec![
            NamedArray::from_f32("global", &[n, d], global)?,
            match key.local_precision {
                LocalPrecision::F16 => NamedArray::f16_from_f32("local", &local_shape, local)?,
                LocalPrecision::F32 => NamedArray::from_f32("local", &local_shape, local)?,
            },
            NamedArray::from_i64("coords", &[n, 2], &corners)?,
        ];
        if !scores.is_empty() {
            arrays.push(NamedArray::from_f64("scores", &[n], scores)?);
        }
        let text = |e: serde_json::Error| Error::Usage(format!("{slide}: {e}"));
        let metadata = BTreeMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("slide".to_string(), slide.to_string()),
            ("key".to_string(), serde_json::to_string(key).map_err(text)?),
            ("fingerprint".to_string(), serde_json::to_string(fingerprint).map_err(text)?),
        ]);
        let views: Vec<ArrayView> = arrays.iter().map(NamedArray::view).collect();
        safetensors::write(self.path_of(slide), &views, &metadata)
    }

    /// Opens a slide's features. Reads the header only; numbers are read from the map when asked for.
    pub fn read(&self, slide: &str) -> Result<StoredFeatures> {
        StoredFeatures::open(&self.path_of(slide))
    }

    /// Whether a slide's stored features were made with these settings from this file.
    pub fn freshness(&self, slide: &str, key: &FeatureKey, slide_path: &Path) -> Result<Freshness> {
        let path = self.path_of(slide);
        if !path.exists() {
            return Ok(Freshness::Missing);
        }
        let stored = match StoredFeatures::open(&path) {
            Ok(stored) => stored,
            Err(e) => return Ok(Freshness::Damaged(e.to_string())),
        };
        if let Some(change) = changed_setting(&stored.key, key) {
            return Ok(Freshness::SettingChanged(change));
        }
        let fits = stored.fingerprint.still_fits(slide_path)?;
        Ok(if fits { Freshness::Current } else { Freshness::SlideChanged })
    }

    /// Whether nothing needs computing for this slide.
    pub fn is_current(&self, slide: &str, key: &FeatureKey, slide_path: &Path) -> Result<bool> {
        Ok(self.freshness(slide, key, slide_path)? == Freshness::Current)
    }

    /// Writes `index.json` from the files that are there. Returns its lines, by slide, and the files that cannot be read.
    pub fn rebuild_index(&self) -> Result<(Vec<IndexEntry>, Vec<DamagedFile>)> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, e))? {
            let path = entry.map_err(|e| Error::io(&self.folder, e))?.path();
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if path.extension().is_some_and(|e| e == "safetensors") && !hidden {
                paths.push(path);
            }
        }
        paths.sort();
        let (mut slides, mut damaged) = (Vec::new(), Vec::new());
        for path in paths {
            match StoredFeatures::open(&path) {
                Ok(stored) => slides.push(IndexEntry {
                    slide: stored.slide.clone(),
                    file: path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                    patches: stored.n,
                    d: stored.d,
                    g: stored.g,
                    key: stored.key.clone(),
                }),
                Err(e) => damaged.push(DamagedFile { path, problem: e.to_string() }),
            }
        }
        slides.sort_by(|a, b| a.slide.cmp(&b.slide));
        let index = Index { format: FORMAT.to_string(), slides };
        let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::Usage(e.to_string()))?;
        atomic::write_bytes(self.folder.join("index.json"), &text)?;
        Ok((index.slides, damaged))
    }
}

/// The first field in which two keys differ, in words.
fn changed_setting(was: &FeatureKey, now: &FeatureKey) -> Option<String> {
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
    pub fingerprint: SlideFingerprint,
    /// Patches.
    pub n: usize,
    /// Numbers per vector.
    pub d: usize,
    /// Fine patches along a side.
    pub g: usize,
}

impl StoredFeatures {
    fn open(path: &Path) -> Result<StoredFeatures> {
        let file = SafetensorsFile::open(path)?;
        let not_ours =
            |problem: String| Error::input(path, problem, "delete it and extract the slide's features again");
        let value = |name: &str| {
            file.metadata_value(name).ok_or_else(|| not_ours(format!("is no feature file (it lacks {name})")))
        };
        if value("format")? != FORMAT {
            return Err(not_ours(format!("is of format {}, not {FORMAT}", value("format")?)));
        }
        let slide = value("slide")?.to_string();
        let bad = |e: serde_json::Error| not_ours(format!("has unreadable metadata ({e})"));
        let key: FeatureKey = serde_json::from_str(value("key")?).map_err(bad)?;
        let fingerprint = serde_json::from_str(value("fingerprint")?).map_err(bad)?;
        let (global, local, coords) = (file.get("global")?, file.get("local")?, file.get("coords")?);
        let (&[n, d], &[n_local, g, g_too, d_local], &[n_coords, 2]) = (global.shape, local.shape, coords.shape) else {
            return Err(not_ours("has arrays of the wrong rank".to_string()));
        };
        let types = global.element == ElementType::F32
            && matches!(local.element, ElementType::F16 | ElementType::F32)
            && coords.element == ElementType::I64;
        if n_local != n || n_coords != n || d_local != d || g_too != g || !types {
            return Err(not_ours("has arrays that do not fit each other".to_string()));
        }
        if file.contains("scores") {
            let scores = file.get("scores")?;
            if scores.shape != [n] || scores.element != ElementType::F64 {
                return Err(not_ours("has scores that do not fit its patches".to_string()));
            }
        }
        Ok(StoredFeatures { slide, key, fingerprint, n, d, g, file })
    }

    /// `[n, d]`, borrowed from the map where it lies aligned (as written by this crate, always).
    pub fn global(&self) -> Result<Cow<'_, [f32]>> {
        let view = self.file.get("global")?;
        Ok(match bytemuck::try_cast_slice(view.bytes) {
            Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
            _ => Cow::Owned(view.to_f32()),
        })
    }

    /// `[n, g, g, d]`, all of it as f32: n g² d · 4 bytes.
    pub fn local(&self) -> Result<Vec<f32>> {
        Ok(self.file.get("local")?.to_f32())
    }

    /// `[g, g, d]` of one patch, read from the file alone.
    pub fn local_patch(&self, patch: usize) -> Result<Vec<f32>> {
        let view = self.file.get("local")?;
        let size = self.g * self.g * self.d;
        let bytes = size * view.element.bytes();
        let bytes = view
            .bytes
            .get(patch * bytes..(patch + 1) * bytes)
            .ok_or_else(|| Error::shape("feature store", format!("{}: patch {patch} of {}", self.slide, self.n)))?;
        Ok(ArrayView { bytes, shape: &[size], ..view }.to_f32())
    }

    /// Mean of each patch's local features over its g x g cells, `[n, d]`: what the paper feeds its transformer with
    /// when no updating has happened.
    pub fn local_means(&self) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(self.n * self.d);
        for patch in 0..self.n {
            let cells = self.local_patch(patch)?;
            let mut sum = vec![0.0f64; self.d];
            for cell in cells.chunks_exact(self.d.max(1)) {
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
