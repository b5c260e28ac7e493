//! One slide's vectors as other programs write them, and where its patches lie.
//!
//! | file | vectors | places |
//! |---|---|---|
//! | `.h5`: TRIDENT, CLAM | `features` `[n, d]` or `[1, n, d]` | `coords` `[n, 2]`, level-0 pixels; its attributes say how large patches are |
//! | `.h5`: STAMP | `feats` `[n, d]` | `coords` `[n, 2]`, µm (attribute `unit`) |
//! | `.h5`: SEQUOIA | `cluster_features` `[k, d]` | none: clusters lie nowhere |
//! | `.safetensors`, `.npz`, and this program's own | `features` or `global` | `coords` `[n, 2]`, level-0 pixels |
//! | `.pt`: CLAM, STAMP | one tensor, or `features` | none, or `coords` |
//! | `.npy`: HE2RNA | `[n, 3 + d]` behind level, x and y of Deep Zoom tiles of 224 px | those tiles |
//!
//! What a file says of its patches and its slide is held against the slide it is named after.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    io::{
        NamedArray,
        checksum::Digest,
        hdf5::{Attribute, Hdf5File},
        npz,
        pytorch::TorchFile,
        safetensors::SafetensorsFile,
    },
    select::{PatchList, SlideFrame},
};

/// Endings of files that are read, in the order in which a slide's is looked for.
pub(super) const ENDINGS: [&str; 7] = ["h5", "hdf5", "safetensors", "npz", "npy", "pt", "pth"];
const VECTORS: [&str; 5] = ["features", "feats", "global", "tensor", "cluster_features"];
const PLACES: [&str; 2] = ["coords", "coordinates"];
/// Patches of a file may be this share larger or smaller than the run's: scanners' scales are rounded.
const SIDE_TOLERANCE: f64 = 0.05;
/// Side of HE2RNA's tiles at their level.
const TILE_PX: f64 = 224.0;
/// Levels of a Deep Zoom pyramid, whose sides fit 32 bits.
const MAX_DEEP_ZOOM_LEVEL: f64 = 32.0;

/// Where a file's patches lie.
enum Places {
    Unknown,
    /// Upper left corners in level-0 pixels.
    Pixels(Vec<[i64; 2]>),
    /// The same in µm.
    Micrometres(Vec<[f64; 2]>),
    /// Tiles of a Deep Zoom pyramid, all of one level: columns and rows.
    DeepZoom {
        level: u32,
        tiles: Vec<[i64; 2]>,
    },
}

pub(super) struct FeatureFile {
    path: PathBuf,
    digest: Digest,
    pub d: usize,
    /// `[n, d]`
    pub values: Vec<f32>,
    places: Places,
    /// What the file says of its patches' side: level-0 pixels, or µm.
    side_px: Option<f64>,
    side_um: Option<f64>,
    /// What it says of the slide's size in level-0 pixels.
    slide_px: Option<[u64; 2]>,
}

impl FeatureFile {
    /// # Errors
    /// A file that cannot be read, without vectors, or whose vectors and places do not fit each other.
    pub fn read(path: &Path) -> Result<FeatureFile> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let (arrays, attributes) = match ending.as_str() {
            "h5" | "hdf5" => hdf5(path)?,
            "npz" => (npz::read(path)?, Vec::new()),
            "npy" => (vec![npz::read_npy(path)?], Vec::new()),
            "pt" | "pth" => (TorchFile::open(path)?.read_all()?, Vec::new()),
            _ => (SafetensorsFile::open(path)?.read_all()?, Vec::new()),
        };
        let find = |names: &[&str]| names.iter().find_map(|name| arrays.iter().find(|array| array.name == *name));
        let vectors = if ending == "npy" { arrays.first() } else { find(&VECTORS) };
        let vectors = vectors.ok_or_else(|| unusable(path, "has no `features`"))?;
        let (&[n, width] | &[1, n, width]) = &vectors.shape[..] else {
            return Err(unusable(path, format!("has {} of shape {:?}", vectors.name, vectors.shape)));
        };
        let mut values = vectors.to_f32();
        let mut places = match find(&PLACES) {
            Some(coords) => places(path, coords, n, &attributes)?,
            None => Places::Unknown,
        };
        let mut d = width;
        if ending == "npy"
            && let Some(tiles) = deep_zoom(&values, width)
        {
            (places, d) = (tiles, width - 3);
            values = values.chunks_exact(width).flat_map(|row| &row[3..]).copied().collect();
        }
        if d == 0 || values.iter().any(|v| !v.is_finite()) {
            return Err(unusable(path, format!("has {} {:?} that are empty, NaN or infinite", vectors.name, [n, d])));
        }
        let number = |name: &str| attributes.iter().find(|a| a.name == name).and_then(Attribute::number);
        let positive = |name: &str| number(name).filter(|v| *v > 0.0 && v.is_finite());
        let side_px = positive("patch_size_level0").or_else(|| {
            let patch_size = positive("patch_size")?;
            match (number("patch_level"), positive("level0_magnification"), positive("target_magnification")) {
                (Some(0.0), ..) => Some(patch_size),
                (None, Some(full), Some(target)) => Some(patch_size * full / target),
                _ => None,
            }
        });
        let slide_px = positive("level0_width").zip(positive("level0_height")).map(|(w, h)| [w as u64, h as u64]);
        let side_um = positive("tile_size_um");
        let digest = Digest::of_file(path)?;
        Ok(FeatureFile { path: path.to_path_buf(), digest, d, values, places, side_px, side_um, slide_px })
    }

    /// The corner of every vector in level-0 pixels.
    ///
    /// # Errors
    /// Places that are not in the file, not on the slide, or of patches of another size than the run's.
    pub fn corners(&self, frame: &SlideFrame) -> Result<Vec<[i64; 2]>> {
        let [width, height] = frame.size_px;
        if let Some([w, h]) = self.slide_px.filter(|size| *size != frame.size_px) {
            let problem = format!("was made of a slide of {w} x {h} px, this one has {width} x {height} px");
            return Err(Error::input(&self.path, problem, "make the features of this slide, or name the right one"));
        }
        let mpp = |what: &str| {
            let problem = format!("has {what} in µm, and the slide does not say how large its pixels are");
            let remedy = "give the slide's µm per pixel in a table with the columns slide and mpp";
            frame.mpp.ok_or_else(|| Error::input(&self.path, problem, remedy))
        };
        let (corners, tile_px) = match &self.places {
            Places::Unknown => {
                let problem = "says nowhere where its patches lie (it has no `coords`)";
                let remedy = "name a folder of files with places, such as TRIDENT's or CLAM's .h5 beside the .pt";
                return Err(Error::input(&self.path, problem, remedy));
            }
            Places::Pixels(corners) => (corners.clone(), None),
            Places::Micrometres(corners) => {
                let mpp = mpp("its corners")?;
                (corners.iter().map(|corner| corner.map(|um| (um / mpp).round() as i64)).collect(), None)
            }
            Places::DeepZoom { level, tiles } => {
                // Each level halves the one above, down to a single pixel.
                let levels = width.max(height).max(1).next_power_of_two().ilog2();
                let Some(above) = levels.checked_sub(*level) else {
                    let problem = format!("has tiles of Deep Zoom level {level}, the slide has {levels} levels");
                    return Err(Error::input(&self.path, problem, "make the features of this slide"));
                };
                let side = TILE_PX * 2f64.powi(above as i32);
                (tiles.iter().map(|tile| tile.map(|at| (at as f64 * side) as i64)).collect(), Some(side))
            }
        };
        let stated = self.side_px.or(tile_px);
        let side = match self.side_um.filter(|_| stated.is_none()) {
            Some(um) => Some(um / mpp("its patches' side")?),
            None => stated,
        };
        let [across, down] = frame.patch_px;
        let differs = |side: f64, run: u64| (side / run.max(1) as f64 - 1.0).abs() > SIDE_TOLERANCE;
        if let Some(side) = side.filter(|&side| differs(side, across) || differs(side, down)) {
            let problem =
                format!("has patches of {side:.0} level-0 pixels a side, the run cuts patches of {across} x {down}");
            let remedy = "set select.patch_px, and select.mpp where slides differ, to those of the features";
            return Err(Error::input(&self.path, problem, remedy));
        }
        // Patches may hang over an edge.
        let beyond = |at: i64, side: u64, size: u64| at >= size as i64 || at.saturating_add_unsigned(side) <= 0;
        let outside = |&&[x, y]: &&[i64; 2]| beyond(x, across, width) || beyond(y, down, height);
        if let Some([x, y]) = corners.iter().find(outside) {
            let problem = format!("has a patch at {x}, {y}, beyond the slide's {width} x {height} px");
            return Err(Error::input(&self.path, problem, "make the features of this slide, or name the right one"));
        }
        Ok(corners)
    }
}

impl PatchList for FeatureFile {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn corners(&self, frame: &SlideFrame) -> Result<Vec<[u64; 2]>> {
        let corners = FeatureFile::corners(self, frame)?;
        if let Some([x, y]) = corners.iter().find(|corner| corner.iter().any(|at| *at < 0)) {
            let problem = format!("has a patch at {x}, {y}, which begins outside the slide");
            return Err(Error::input(&self.path, problem, "leave such patches out"));
        }
        let mut corners: Vec<[u64; 2]> = corners.into_iter().map(|corner| corner.map(i64::unsigned_abs)).collect();
        // Rows from the top, each from the left, as a grid's are.
        corners.sort_by_key(|&[x, y]| [y, x]);
        corners.dedup();
        Ok(corners)
    }
}

fn unusable(path: &Path, problem: impl Into<String>) -> Error {
    let remedy = "write `features` [n, d] and `coords` [n, 2], the corners in level-0 pixels";
    Error::input(path, problem, remedy)
}

/// The arrays of an HDF5 file that matter here, with the attributes of its root and of its corners.
fn hdf5(path: &Path) -> Result<(Vec<NamedArray>, Vec<Attribute>)> {
    let file = Hdf5File::open(path)?;
    let mut attributes = file.attributes("")?;
    let mut arrays = Vec::new();
    for name in VECTORS.iter().chain(&PLACES) {
        if let Some(dataset) = file.dataset(name)? {
            if PLACES.contains(name) {
                // The corners' own come first: they are looked for from the front.
                attributes.splice(0..0, dataset.attributes().iter().cloned());
            }
            arrays.push(dataset.read()?);
        }
    }
    Ok((arrays, attributes))
}

fn places(path: &Path, coords: &NamedArray, n: usize, attributes: &[Attribute]) -> Result<Places> {
    let (&[corners, 2] | &[1, corners, 2]) = &coords.shape[..] else {
        return Err(unusable(path, format!("has {} of shape {:?}", coords.name, coords.shape)));
    };
    if corners != n {
        return Err(unusable(path, format!("has {n} vectors of {corners} corners")));
    }
    let unit = attributes.iter().find(|a| a.name == "unit").and_then(Attribute::text);
    match unit {
        Some("um" | "µm" | "micron" | "microns") => {
            let values = coords.to_f64();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(unusable(path, "has corners that are NaN or infinite"));
            }
            Ok(Places::Micrometres(values.as_chunks::<2>().0.to_vec()))
        }
        None | Some("px" | "pixel" | "pixels") => {
            let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 2f64.powi(53)).then_some(v as i64);
            let values = coords.view().to_i64().or_else(|| coords.to_f64().into_iter().map(whole).collect());
            let values = values.ok_or_else(|| unusable(path, "has corners that are no whole numbers"))?;
            Ok(Places::Pixels(values.as_chunks::<2>().0.to_vec()))
        }
        Some(unit) => Err(unusable(path, format!("has corners in {unit}"))),
    }
}

/// The tiles that an array's first three columns name: one level for all, whole columns and rows.
fn deep_zoom(values: &[f32], width: usize) -> Option<Places> {
    let level = *values.first().filter(|_| width > 3)?;
    let whole = |v: f32| v >= 0.0 && v.fract() == 0.0 && v < 16_777_216.0;
    let rows = || values.chunks_exact(width);
    let right = |row: &[f32]| row[0] == level && row[..3].iter().all(|&v| whole(v));
    if f64::from(level) > MAX_DEEP_ZOOM_LEVEL || !rows().all(right) {
        return None;
    }
    Some(Places::DeepZoom { level: level as u32, tiles: rows().map(|row| [row[1] as i64, row[2] as i64]).collect() })
}
