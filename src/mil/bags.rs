//! What the regressor learns from: per slide a bag of patches, each with its global vector and its local cube, and one
//! expression value per gene.
//!
//! Features are read when needed, so that a cohort need not fit into memory; [`HostFeatures`] keeps them in it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        splits::{Fold, Splits},
        targets::{Scaling, TargetScaler},
    },
    error::{Error, Result},
    io::checksum::Digest,
    random::Philox,
};

/// The patch features of one slide.
pub trait PatchFeatures: Send + Sync {
    fn patches(&self) -> usize;

    /// Appends the global vectors `[d]` and local cubes `[g, g, d]` of these patches, in this order.
    fn read(&self, patches: &[usize], globals: &mut Vec<f32>, locals: &mut Vec<f32>) -> Result<()>;
}

/// Features in host memory.
pub struct HostFeatures {
    pub patches: usize,
    /// `[patches, d]`
    pub globals: Vec<f32>,
    /// `[patches, g, g, d]`
    pub locals: Vec<f32>,
}

impl PatchFeatures for HostFeatures {
    fn patches(&self) -> usize {
        self.patches
    }

    fn read(&self, patches: &[usize], globals: &mut Vec<f32>, locals: &mut Vec<f32>) -> Result<()> {
        let (d, cube) = (self.globals.len() / self.patches.max(1), self.locals.len() / self.patches.max(1));
        for &p in patches {
            let rows = self.globals.get(p * d..(p + 1) * d).zip(self.locals.get(p * cube..(p + 1) * cube));
            let (global, local) =
                rows.ok_or_else(|| Error::shape("features", format!("patch {p} of {}", self.patches)))?;
            globals.extend_from_slice(global);
            locals.extend_from_slice(local);
        }
        Ok(())
    }
}

/// One slide.
pub struct Bag {
    pub slide: String,
    pub patient: String,
    pub project: String,
    /// Of the features: what is learned from them depends on it.
    pub digest: Digest,
    pub features: Box<dyn PatchFeatures>,
}

/// What turned slides into features. A network predicts only from features of the same origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    pub global_extractor: Digest,
    pub local_extractor: Digest,
    /// Of the rule by which patches of a new slide are chosen.
    pub selection: Digest,
}

/// A cohort's slides with their targets.
pub struct BagSet {
    /// d: features of a patch.
    pub width: usize,
    /// p/q: cells per side of a cube.
    pub grid: usize,
    pub genes: Vec<String>,
    pub origin: Origin,
    pub bags: Vec<Bag>,
    /// Per slide one value per gene, such as log10(1 + x); NaN where it was not measured.
    pub targets: Vec<Vec<f64>>,
}

/// One fold as indices into [`BagSet::bags`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FoldSlides {
    pub train: Vec<usize>,
    pub valid: Vec<usize>,
    pub test: Vec<usize>,
}

impl BagSet {
    /// Errors that name the slide whose data do not fit the others.
    pub fn validate(&self) -> Result<()> {
        let wrong = |slide: &str, what: String| {
            Err(Error::Usage(format!("slide {slide}: {what}; compute its features again with this run's settings")))
        };
        if self.targets.len() != self.bags.len() {
            let message = format!("{} rows of targets for {} slides", self.targets.len(), self.bags.len());
            return Err(Error::shape("bags", message));
        }
        let cube = self.grid * self.grid * self.width;
        for (bag, targets) in self.bags.iter().zip(&self.targets) {
            if bag.features.patches() == 0 {
                return wrong(&bag.slide, "has no patches".into());
            }
            if targets.len() != self.genes.len() {
                let message = format!("{}: {} targets for {} genes", bag.slide, targets.len(), self.genes.len());
                return Err(Error::shape("bags", message));
            }
            let (mut globals, mut locals) = (Vec::new(), Vec::new());
            bag.features.read(&[0], &mut globals, &mut locals)?;
            if globals.len() != self.width || locals.len() != cube {
                let what = format!("a patch has {} and {} features, not {}", globals.len(), locals.len(), self.width);
                return wrong(&bag.slide, format!("{what} and {cube}"));
            }
        }
        Ok(())
    }

    /// The folds by slide. Slides of patients that a fold does not mention are in none of its sets.
    pub fn fold_slides(&self, splits: &Splits) -> Vec<FoldSlides> {
        let mut of_patient: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, bag) in self.bags.iter().enumerate() {
            of_patient.entry(&bag.patient).or_default().push(i);
        }
        let slides = |patients: &[String]| {
            let mut found: Vec<usize> =
                patients.iter().filter_map(|p| of_patient.get(p.as_str())).flatten().copied().collect();
            found.sort_unstable();
            found
        };
        let fold = |f: &Fold| FoldSlides { train: slides(&f.train), valid: slides(&f.valid), test: slides(&f.test) };
        splits.folds.iter().map(fold).collect()
    }

    /// Fits the targets' scale on these slides, gene by gene, over the values that were measured.
    pub fn fit_targets(&self, scaling: Scaling, slides: &[usize]) -> Result<TargetScaler> {
        let mut scaler = TargetScaler { scaling, offset: Vec::new(), span: Vec::new() };
        for gene in 0..self.genes.len() {
            let values: Vec<[f64; 1]> =
                slides.iter().map(|&s| [self.targets[s][gene]]).filter(|[v]| v.is_finite()).collect();
            if values.is_empty() {
                let name = &self.genes[gene];
                return Err(Error::Usage(format!("gene {name}: no training slide has a value; leave the gene out")));
            }
            let one = TargetScaler::fit(scaling, values.iter().map(|v| &v[..]))?;
            scaler.offset.extend(one.offset);
            scaler.span.extend(one.span);
        }
        Ok(scaler)
    }

    /// Means over a slide's patches of the global vectors and of the cubes' cells, `[2 d]`: what the baseline sees.
    pub fn mean_features(&self, slide: usize) -> Result<Vec<f64>> {
        let features = &self.bags[slide].features;
        let (d, n) = (self.width, features.patches());
        let mut mean = vec![0.0; 2 * d];
        for chunk in (0..n).collect::<Vec<_>>().chunks(READ_PATCHES) {
            let (mut globals, mut locals) = (Vec::new(), Vec::new());
            features.read(chunk, &mut globals, &mut locals)?;
            let (of_global, of_local) = mean.split_at_mut(d);
            for row in globals.chunks_exact(d) {
                of_global.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
            }
            let cells = (n * self.grid * self.grid) as f64;
            for row in locals.chunks_exact(d) {
                of_local.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / cells);
            }
        }
        Ok(mean)
    }
}

/// Patches read at a time where a whole slide is passed over.
pub const READ_PATCHES: usize = 64;

/// Mean and deviation of every feature over training slides, stored with the model.
#[derive(Clone, PartialEq, Debug)]
pub struct FeatureScale {
    pub global_mean: Vec<f32>,
    pub global_span: Vec<f32>,
    pub local_mean: Vec<f32>,
    pub local_span: Vec<f32>,
}

impl FeatureScale {
    /// Leaves features as they are.
    pub fn identity(width: usize) -> FeatureScale {
        let (zeros, ones) = (vec![0.0; width], vec![1.0; width]);
        FeatureScale { global_mean: zeros.clone(), global_span: ones.clone(), local_mean: zeros, local_span: ones }
    }

    /// Fits on these slides, each counting the same, by at most `READ_PATCHES` patches of each spread over the slide.
    pub fn fit(set: &BagSet, slides: &[usize]) -> Result<FeatureScale> {
        let d = set.width;
        let mut moments = [vec![[0.0f64; 2]; d], vec![[0.0f64; 2]; d]];
        for &slide in slides {
            let features = &set.bags[slide].features;
            let n = features.patches();
            let some: Vec<usize> = (0..n.min(READ_PATCHES)).map(|i| i * n / n.min(READ_PATCHES)).collect();
            let (mut globals, mut locals) = (Vec::new(), Vec::new());
            features.read(&some, &mut globals, &mut locals)?;
            for (moments, values) in moments.iter_mut().zip([&globals, &locals]) {
                let weight = 1.0 / ((values.len() / d).max(1) * slides.len()) as f64;
                for row in values.chunks_exact(d) {
                    for (m, &v) in moments.iter_mut().zip(row) {
                        let v = f64::from(v);
                        *m = [m[0] + v * weight, m[1] + v * v * weight];
                    }
                }
            }
        }
        let scale = |moments: &[[f64; 2]]| -> (Vec<f32>, Vec<f32>) {
            let one = |&[mean, square]: &[f64; 2]| {
                let span = (square - mean * mean).max(0.0).sqrt();
                // A feature that never changes says nothing, whatever its rounding noise is divided by.
                (mean as f32, if span > 1e-6 * mean.abs().max(1e-6) { span as f32 } else { 1.0 })
            };
            moments.iter().map(one).unzip()
        };
        let ((global_mean, global_span), (local_mean, local_span)) = (scale(&moments[0]), scale(&moments[1]));
        let scale = FeatureScale { global_mean, global_span, local_mean, local_span };
        if scale.global_mean.iter().chain(&scale.local_mean).any(|v| !v.is_finite()) {
            return Err(Error::Usage(
                "the features of a training slide hold NaN or infinite values; train the extractor again".into(),
            ));
        }
        Ok(scale)
    }

    pub fn global(&self, values: &mut [f32]) {
        standardise(values, &self.global_mean, &self.global_span);
    }

    pub fn local(&self, values: &mut [f32]) {
        standardise(values, &self.local_mean, &self.local_span);
    }
}

fn standardise(values: &mut [f32], mean: &[f32], span: &[f32]) {
    for row in values.chunks_exact_mut(mean.len().max(1)) {
        for (v, (m, s)) in row.iter_mut().zip(mean.iter().zip(span)) {
            *v = (*v - m) / s;
        }
    }
}

/// Applies one of the eight symmetries of the square (the dihedral group D4) to a cube `[g, g, d]`: tissue has no upright.
pub fn dihedral(cube: &mut [f32], grid: usize, symmetry: u32) {
    if symmetry == 0 || grid < 2 {
        return;
    }
    let d = cube.len() / (grid * grid);
    let source = cube.to_vec();
    for y in 0..grid {
        for x in 0..grid {
            let (mut from_y, mut from_x) = if symmetry & 4 != 0 { (x, y) } else { (y, x) };
            if symmetry & 1 != 0 {
                from_x = grid - 1 - from_x;
            }
            if symmetry & 2 != 0 {
                from_y = grid - 1 - from_y;
            }
            let (to, from) = ((y * grid + x) * d, (from_y * grid + from_x) * d);
            cube[to..to + d].copy_from_slice(&source[from..from + d]);
        }
    }
}

/// A random subset of `0..count`, in ascending order; all of them where `limit` is zero or not smaller.
pub fn subset(count: usize, limit: usize, random: Philox) -> Vec<usize> {
    if limit == 0 || count <= limit {
        return (0..count).collect();
    }
    let mut some = random.permutation(count);
    some.truncate(limit);
    some.sort_unstable();
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cube_has_eight_symmetries() {
        let cube: Vec<f32> = (0..9).map(|v| v as f32).collect();
        let mut seen: Vec<Vec<f32>> = Vec::new();
        for symmetry in 0..8 {
            let mut turned = cube.clone();
            dihedral(&mut turned, 3, symmetry);
            assert_eq!(turned[4], 4.0, "the centre stays");
            assert!(!seen.contains(&turned), "symmetry {symmetry} repeats another");
            seen.push(turned);
        }
    }

    #[test]
    fn subsets_are_ascending_and_of_the_asked_size() {
        let some = subset(50, 7, Philox::named(1, "subset"));
        assert!(some.len() == 7 && some.windows(2).all(|w| w[0] < w[1]) && some[6] < 50);
        assert_eq!(subset(5, 7, Philox::named(1, "subset")), [0, 1, 2, 3, 4]);
    }
}
