//! The slides of a training step: patches drawn anew, standardised, augmented; targets with what each counts.
//!
//! Every draw is a function of the seed, the step and the slide.

use crate::{
    cohort::targets::TargetScaler,
    device::{Device, host::HostBuffer},
    error::Result,
    mil::{
        bags::BagSet,
        config::TrainConfig,
        features::{FeatureScale, PatchValues},
        network::{Input, Patches},
    },
    nn::vit::Sequences,
    random::Philox,
    tensor::Tensor,
};

/// Where a step's slides come from.
pub(super) struct Draw<'a> {
    pub set: &'a BagSet,
    pub config: &'a TrainConfig,
    pub input: Input,
    pub features: &'a FeatureScale,
    pub targets: &'a TargetScaler,
    /// Genes whose error counts.
    pub genes: &'a [usize],
    /// What positives count, per target ([`Loss::positive_weights`](super::loss::Loss::positive_weights)).
    pub positives: &'a [f64],
    pub seed: u64,
}

impl Draw<'_> {
    /// These slides at a step.
    pub fn values(&self, slides: &[usize], step: u64) -> Result<BatchValues> {
        let Draw { set, config, seed, .. } = *self;
        let mut batch = BatchValues::default();
        for &slide in slides {
            let features = &set.bags[slide].features;
            let random = Philox::named(seed, &format!("patches {step} {slide}"));
            let most = if set.whole { 0 } else { config.max_patches };
            let some = subset(features.patches(), most, random);
            let first = [batch.patches.global.len(), batch.patches.cube.len()];
            features.read(&some, self.input.reads, &mut batch.patches)?;
            let PatchValues { global, cube, .. } = &mut batch.patches;
            let (global, cube) = (&mut global[first[0]..], &mut cube[first[1]..]);
            self.features.global.iter().for_each(|moments| moments.standardise(global));
            self.features.cube.iter().for_each(|moments| moments.standardise(cube));
            self.augment(global, cube, step, slide);
            batch.lengths.push(some.len());
            let mut row = set.targets[slide].clone();
            self.targets.transform(&mut row);
            for (gene, value) in row.into_iter().enumerate() {
                let counts = value.is_finite() && self.genes.contains(&gene);
                batch.targets.push(if counts { value as f32 } else { 0.0 });
                let weight = if value > 0.5 { self.positives[gene] } else { 1.0 };
                batch.weights.push(if counts { weight as f32 } else { 0.0 });
            }
        }
        let counted = batch.weights.iter().map(|w| f64::from(*w)).sum::<f64>().max(f64::MIN_POSITIVE);
        batch.weights.iter_mut().for_each(|w| *w = (f64::from(*w) / counted) as f32);
        Ok(batch)
    }

    fn augment(&self, global: &mut [f32], cube: &mut [f32], step: u64, slide: usize) {
        let config = self.config;
        let name = |what: &str| Philox::named(self.seed, &format!("{what} {step} {slide}"));
        let dims = self.set.dims;
        if config.augment_cubes && !self.set.whole && !cube.is_empty() {
            let random = name("turns");
            let cubes = cube.chunks_exact_mut(dims.cube());
            cubes.enumerate().for_each(|(i, cube)| dihedral(cube, dims.grid, random.below(i as u64, 8) as u32));
        }
        if config.slide_noise > 0.0 {
            let shift: Vec<f32> = name("slide noise")
                .normals(dims.global + dims.cell)
                .iter()
                .map(|v| (v * config.slide_noise) as f32)
                .collect();
            for (values, shift) in [(&mut *global, &shift[..dims.global]), (&mut *cube, &shift[dims.global..])] {
                let rows = values.chunks_exact_mut(shift.len().max(1));
                rows.for_each(|row| row.iter_mut().zip(shift).for_each(|(v, s)| *v += s));
            }
        }
        if config.feature_noise > 0.0 {
            add_noise(global, config.feature_noise, name("global noise"));
            add_noise(cube, config.feature_noise, name("local noise"));
        }
    }
}

fn add_noise(values: &mut [f32], std: f64, random: Philox) {
    for (i, four) in values.chunks_mut(4).enumerate() {
        four.iter_mut().zip(random.normal4(i as u64)).for_each(|(v, noise)| *v += (std * noise) as f32);
    }
}

/// One step's input in host memory.
#[derive(Default)]
pub(super) struct BatchValues {
    patches: PatchValues,
    targets: Vec<f32>,
    weights: Vec<f32>,
    lengths: Vec<usize>,
}

impl BatchValues {
    /// Patches and slides.
    pub fn shape(&self) -> [usize; 2] {
        [self.lengths.iter().sum(), self.lengths.len()]
    }

    pub fn upload(self, draw: &Draw, device: &Device) -> Result<Batch> {
        let [n, slides] = self.shape();
        let targets = [slides, draw.set.genes.len()];
        Ok(Batch {
            patches: Patches::upload(self.patches, n, &draw.input, draw.set.dims, device)?,
            targets: Tensor::from_vec(self.targets, targets, device)?,
            weights: Tensor::from_vec(self.weights, targets, device)?,
            slides: Sequences::new(&self.lengths, device)?,
        })
    }
}

/// One step's input.
pub(super) struct Batch {
    pub patches: Patches,
    pub slides: Sequences,
    /// `[slides, genes]`
    pub targets: Tensor,
    /// What each error counts: zero where nothing was measured, summing to one.
    pub weights: Tensor,
}

impl Batch {
    /// Other values in the same memory.
    pub fn overwrite(&mut self, values: BatchValues, draw: &Draw) -> Result<()> {
        self.patches.overwrite(values.patches, &draw.input)?;
        self.targets.overwrite(HostBuffer::F32(values.targets))?;
        self.weights.overwrite(HostBuffer::F32(values.weights))?;
        self.slides.overwrite(&values.lengths)
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
