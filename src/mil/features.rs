//! The features of a slide's patches as methods read them, and their scale.
//!
//! Features are read when needed, so that a cohort need not fit into memory; [`HostFeatures`] keeps them in it. Whatever a
//! method does not read is neither loaded nor scaled nor uploaded.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    image::RgbImage,
    mil::bags::BagSet,
};

/// What a method reads of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reads {
    /// The vector of the whole patch.
    pub global: bool,
    /// The vectors of its fine patches.
    pub cube: bool,
    /// Where it lies on the slide.
    pub coords: bool,
}

impl Reads {
    pub const ALL: Reads = Reads { global: true, cube: true, coords: true };
    pub const GLOBAL: Reads = Reads { global: true, cube: false, coords: false };
    pub const CUBE: Reads = Reads { global: false, cube: true, coords: false };
}

/// Sizes of a patch's features; zeros where there is no vector or no cube.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FeatureDims {
    /// Numbers of a global vector.
    pub global: usize,
    /// Numbers of a cell of the cube.
    pub cell: usize,
    /// p/q: cells along a side of the cube.
    pub grid: usize,
}

impl FeatureDims {
    /// Numbers of a whole cube.
    pub fn cube(&self) -> usize {
        self.grid * self.grid * self.cell
    }

    /// What of `reads` these features lack, in words.
    pub fn lack(&self, reads: Reads) -> Option<&'static str> {
        match reads {
            Reads { global: true, .. } if self.global == 0 => Some("global vectors"),
            Reads { cube: true, .. } if self.cube() == 0 => Some("local cubes"),
            _ => None,
        }
    }
}

/// Features of patches, one patch after another; what was not asked for stays empty.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PatchValues {
    /// `[n, global]`
    pub global: Vec<f32>,
    /// `[n, grid, grid, cell]`
    pub cube: Vec<f32>,
    /// Upper left corners (x, y) on the slide, in sides of a patch: level-0 pixels divided by those of a patch's side.
    pub coords: Vec<[f64; 2]>,
}

/// The patch features of one slide.
pub trait PatchFeatures: Send + Sync {
    fn patches(&self) -> usize;

    /// Appends what `reads` names of these patches, in this order.
    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()>;

    /// The whole slide as a square image of this side, in the middle of white where it is not square.
    ///
    /// # Errors
    /// `Usage` where features are at hand without their slide; a slide that cannot be read.
    fn image(&self, side_px: usize) -> Result<RgbImage> {
        let _ = side_px;
        Err(Error::Usage("these features come without their slides, whose images the method reads".into()))
    }

    /// The patches themselves, in this order.
    ///
    /// # Errors
    /// As [`PatchFeatures::image`].
    fn pixels(&self, patches: &[usize]) -> Result<Vec<RgbImage>> {
        let _ = patches;
        Err(Error::Usage("these features come without their slides, whose patches the method reads".into()))
    }
}

/// Features in host memory.
pub struct HostFeatures {
    pub patches: usize,
    /// Of every patch. What is empty is not there.
    pub values: PatchValues,
}

impl PatchFeatures for HostFeatures {
    fn patches(&self) -> usize {
        self.patches
    }

    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()> {
        let PatchValues { global, cube, coords } = &self.values;
        if reads.global {
            append(&mut to.global, global, self.patches, patches)?;
        }
        if reads.cube {
            append(&mut to.cube, cube, self.patches, patches)?;
        }
        if reads.coords {
            append(&mut to.coords, coords, self.patches, patches)?;
        }
        Ok(())
    }
}

fn append<T: Copy>(to: &mut Vec<T>, values: &[T], count: usize, patches: &[usize]) -> Result<()> {
    let each = values.len() / count.max(1);
    for &patch in patches {
        let row = values.get(patch * each..(patch + 1) * each).filter(|row| !row.is_empty());
        to.extend_from_slice(row.ok_or_else(|| Error::shape("features", format!("patch {patch} of {count}")))?);
    }
    Ok(())
}

/// Patches read at a time where a whole slide is passed over.
pub const READ_PATCHES: usize = 64;

/// Mean and standard deviation of every feature over training slides.
#[derive(Clone, PartialEq, Debug)]
pub struct Moments {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Moments {
    /// Leaves features as they are.
    pub fn identity(width: usize) -> Moments {
        Moments { mean: vec![0.0; width], std: vec![1.0; width] }
    }

    /// Of mean and mean square.
    fn of(moments: &[[f64; 2]]) -> Moments {
        let one = |&[mean, square]: &[f64; 2]| {
            let std = (square - mean * mean).max(0.0).sqrt();
            // A feature that never changes says nothing, whatever its rounding noise is divided by.
            (mean as f32, if std > 1e-6 * mean.abs().max(1e-6) { std as f32 } else { 1.0 })
        };
        let (mean, std) = moments.iter().map(one).unzip();
        Moments { mean, std }
    }

    /// `(value - mean) / std`, row by row.
    pub fn standardise(&self, values: &mut [f32]) {
        for row in values.chunks_exact_mut(self.mean.len().max(1)) {
            for (v, (m, s)) in row.iter_mut().zip(self.mean.iter().zip(&self.std)) {
                *v = (*v - m) / s;
            }
        }
    }
}

/// The scale of what a method reads, stored with the model.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FeatureScale {
    pub global: Option<Moments>,
    /// Of the cells of a cube.
    pub cube: Option<Moments>,
}

impl FeatureScale {
    /// Leaves features as they are.
    pub fn identity(dims: FeatureDims, reads: Reads) -> FeatureScale {
        FeatureScale {
            global: reads.global.then(|| Moments::identity(dims.global)),
            cube: reads.cube.then(|| Moments::identity(dims.cell)),
        }
    }

    /// Fits on these slides, each counting the same, by at most `READ_PATCHES` patches of each spread over the slide.
    ///
    /// # Errors
    /// `Usage` where a feature is not finite.
    pub fn fit(set: &BagSet, slides: &[usize], reads: Reads) -> Result<FeatureScale> {
        let reads = Reads { coords: false, ..reads };
        let mut moments = [vec![[0.0f64; 2]; set.dims.global], vec![[0.0f64; 2]; set.dims.cell]];
        for &slide in slides {
            let features = &set.bags[slide].features;
            let n = features.patches();
            let some: Vec<usize> = (0..n.min(READ_PATCHES)).map(|i| i * n / n.min(READ_PATCHES)).collect();
            let mut values = PatchValues::default();
            features.read(&some, reads, &mut values)?;
            for (moments, values) in moments.iter_mut().zip([&values.global, &values.cube]) {
                let width = moments.len().max(1);
                let weight = 1.0 / ((values.len() / width).max(1) * slides.len()) as f64;
                for row in values.chunks_exact(width) {
                    for (m, &v) in moments.iter_mut().zip(row) {
                        let v = f64::from(v);
                        *m = [m[0] + v * weight, m[1] + v * v * weight];
                    }
                }
            }
        }
        let [global, cube] = moments.map(|moments| Moments::of(&moments));
        let scale = FeatureScale { global: reads.global.then_some(global), cube: reads.cube.then_some(cube) };
        let all = scale.global.iter().chain(&scale.cube).flat_map(|m| m.mean.iter().chain(&m.std));
        if all.into_iter().any(|v| !v.is_finite()) {
            return Err(Error::Usage(
                "the features of a training slide hold NaN or infinite values; train the extractor again".into(),
            ));
        }
        Ok(scale)
    }

    /// Scales what was read.
    pub fn apply(&self, values: &mut PatchValues) {
        self.global.iter().for_each(|moments| moments.standardise(&mut values.global));
        self.cube.iter().for_each(|moments| moments.standardise(&mut values.cube));
    }
}
