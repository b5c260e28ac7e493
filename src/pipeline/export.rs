//! A run's features for other programs: one file a slide, in the layout that TRIDENT writes and most programs read, as NumPy
//! arrays, or as a table.

use std::path::{Path, PathBuf};

use super::{
    Run,
    scan::{Outcome, SlideState, state_path},
};
use crate::{
    cohort::feature_store::{FeatureStore, StoredFeatures},
    error::{Error, Result},
    io::{
        NamedArray, atomic, file_name,
        hdf5::{self, Attribute, Value, Written},
        npz, sealed,
    },
    progress::Progress,
};

/// Magnifications that objectives have.
const MAGNIFICATIONS: [i64; 7] = [80, 60, 40, 20, 10, 5, 2];
/// µm per pixel of a slide times its magnification, as scanners have it.
const MPP_TIMES_MAGNIFICATION: f64 = 10.0;

/// What features are written as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TRIDENT's: `features` `[n, d]` and `coords` `[n, 2]`, attributes about patches and slide.
    H5,
    /// `features` and `coords`.
    Npz,
    /// `x,y,v0,v1,…`, one line a patch.
    Csv,
}

impl Kind {
    pub const NAMES: [&str; 3] = ["h5", "npz", "csv"];

    pub fn name(self) -> &'static str {
        Kind::NAMES[self as usize]
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let kinds = [Kind::H5, Kind::Npz, Kind::Csv];
        let found = kinds.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("h5, npz or csv is wanted, not {name}"))
    }
}

/// Writes `SLIDE.KIND` into `RUN/export` for every slide that has features; gives the folder and how many were written.
///
/// # Errors
/// A run without features, a file that is damaged or cannot be written, the user's interruption.
pub fn export(run: &Run, kind: Kind, progress: &dyn Progress) -> Result<(PathBuf, usize)> {
    let folder = run.path("export");
    let store = FeatureStore::open(run.path("features"))?;
    let slides = store.slides()?;
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    progress.begin("export", slides.len() as u64, "slides");
    for slide in &slides {
        progress.check()?;
        let stored = store.read(slide)?;
        let path = folder.join(format!("{}.{}", file_name::escaped(slide), kind.name()));
        match kind {
            Kind::H5 => write_h5(run, &stored, &path)?,
            Kind::Npz => npz::write(&path, &[features(&stored)?, coords(&stored)?])?,
            Kind::Csv => atomic::write_bytes(&path, &csv(&stored)?)?,
        }
        progress.advance(1);
    }
    progress.end();
    Ok((folder, slides.len()))
}

fn features(stored: &StoredFeatures) -> Result<NamedArray> {
    NamedArray::from_f32("features", &[stored.n, stored.d], &stored.global()?)
}

fn coords(stored: &StoredFeatures) -> Result<NamedArray> {
    NamedArray::from_i64("coords", &[stored.n, 2], stored.coords()?.as_flattened())
}

fn write_h5(run: &Run, stored: &StoredFeatures, path: &Path) -> Result<()> {
    let state: SlideState = sealed::read_json(state_path(&run.config.out, &stored.slide))?;
    let Outcome::Scored(scored) = state.outcome else {
        return Err(Error::internal(format_args!("{} has features and no patches", stored.slide)));
    };
    let text = |name: &str, value: &str| Attribute { name: name.into(), value: Value::Text(vec![value.to_string()]) };
    let number = |name: &str, value: i64| -> Result<Attribute> {
        Ok(Attribute { name: name.into(), value: Value::Numbers(NamedArray::from_i64(name, &[], &[value])?) })
    };
    let mut of_coords = vec![
        number("patch_size", i64::from(stored.key.patch_px))?,
        number("patch_size_level0", scored.extent_px[0] as i64)?,
        number("overlap", 0)?,
        number("level0_width", scored.width_px as i64)?,
        number("level0_height", scored.height_px as i64)?,
        text("name", &stored.slide),
    ];
    if let Some(full) = scored.mpp {
        let target = run.config.select.mpp.unwrap_or(full);
        of_coords.push(number("level0_magnification", magnification(full))?);
        of_coords.push(number("target_magnification", magnification(target))?);
    }
    let of_features = [text("name", &stored.slide), text("encoder", run.config.encoder.encoder.name())];
    let (features, coords) = (features(stored)?, coords(stored)?);
    let arrays = [
        Written { array: features.view(), attributes: &of_features },
        Written { array: coords.view(), attributes: &of_coords },
    ];
    hdf5::write(path, &arrays, &[])
}

/// The objective whose pixels are nearest to these, by ratio.
fn magnification(mpp: f64) -> i64 {
    let off = |of: i64| (MPP_TIMES_MAGNIFICATION / mpp / of as f64).ln().abs();
    MAGNIFICATIONS.into_iter().min_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap_or_default()
}

fn csv(stored: &StoredFeatures) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let head = ["x".to_string(), "y".to_string()].into_iter().chain((0..stored.d).map(|i| format!("v{i}")));
    table.write_record(head).map_err(Error::internal)?;
    let values = stored.global()?;
    for (corner, vector) in stored.coords()?.iter().zip(values.chunks_exact(stored.d.max(1))) {
        let row = corner.iter().map(i64::to_string).chain(vector.iter().map(f32::to_string));
        table.write_record(row).map_err(Error::internal)?;
    }
    table.into_inner().map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_of_the_nearest_objective() {
        let of = [(0.2521, 40), (0.23, 40), (0.5, 20), (0.46, 20), (1.0, 10), (0.125, 80), (0.1667, 60)];
        assert!(of.into_iter().all(|(mpp, wanted)| magnification(mpp) == wanted));
    }
}
