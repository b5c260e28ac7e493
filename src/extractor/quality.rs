//! Whether a pair learns anything: its reconstructions beside two that need no training, and how much its codes differ.
//!
//! A mean absolute difference alone says little: a pair that gives one image for every input has one too. So patches are drawn from
//! the source once, without augmentation. Three quarters of them fit the two references: one colour for all pixels (each channel's
//! median, the best constant), and, where the patches suffice, the principal components with as many numbers as the code has. On
//! the last quarter these and the pair are measured. Of the pair's codes there:
//!
//! - **common share**: `|mean code|² / mean |code|²`. Near 1, all images have one code.
//! - **dimensions**: `(Σ λ)² / Σ λ²` over the eigenvalues λ of the codes' covariance, the participation ratio.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Autoencoder,
    config::ExtractorConfig,
    patches::{PatchSource, scaled, squared},
};
use crate::{device::Device, error::Result, random::Philox, tensor::Tensor};

/// Patches drawn, per number of the code, within bounds.
const PATCHES_A_NUMBER: usize = 4;
const FEWEST_PATCHES: usize = 64;
const MOST_PATCHES: usize = 512;
/// Principal components are taken of at least so many patches each, and of at most so many numbers in all.
const PATCHES_A_COMPONENT: usize = 2;
const MOST_PCA_VALUES: usize = 1 << 25;
/// Rounds of orthogonal iteration: the reference's L1 changes in its third digit.
const ROUNDS: usize = 25;
/// Fewer patches than this say nothing about how codes differ.
const FEWEST_CODES: usize = 8;
/// Above this share of energy common to all codes, they say nothing about images.
const MOST_COMMON: f64 = 0.99;

/// What a pair is worth after some step.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quality {
    /// Mean absolute difference of reconstructions, images in [-1, 1].
    pub l1: f64,
    /// The same of one colour for all pixels of all images.
    pub constant_l1: f64,
    /// The same of principal components, as many as the code has numbers; absent where there are too few patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pca_l1: Option<f64>,
    pub common_share: f64,
    pub dimensions: f64,
    /// Patches that this was measured on.
    pub patches: usize,
}

impl Quality {
    /// What is wrong with the pair, in one sentence.
    pub fn warning(&self) -> Option<String> {
        let Quality { l1, constant_l1, common_share, patches, .. } = *self;
        if patches < FEWEST_CODES {
            return None;
        }
        if l1 > constant_l1 {
            return Some(format!(
                "the extractor reconstructs worse (L1 {l1:.3}) than one constant colour ({constant_l1:.3}): its vectors say \
                 little; train more steps, or lower loss.adversarial"
            ));
        }
        (common_share > MOST_COMMON).then(|| {
            format!(
                "{:.1} % of the extractor's code is the same for all images: it tells them hardly apart; train more steps, or set \
                 encoder.code_norm = \"batch\"",
                100.0 * common_share
            )
        })
    }

    /// `l1 0.102 (constant 0.310, PCA 0.121)  common 4 %  dimensions 17.3`.
    pub fn remark(&self) -> String {
        let pca = self.pca_l1.map_or(String::new(), |l1| format!(", PCA {l1:.3}"));
        let Quality { l1, constant_l1, common_share, dimensions, .. } = self;
        format!(
            "l1 {l1:.3} (constant {constant_l1:.3}{pca})  common {:.0} %  dimensions {dimensions:.1}",
            100.0 * common_share
        )
    }
}

/// Patches that pairs are measured on, and what needs no training reaches there.
pub(super) struct Yardstick {
    px: usize,
    /// `[patches, px, px, 3]` in [-1, 1].
    images: Vec<f32>,
    constant_l1: f64,
    pca_l1: Option<f64>,
}

impl Yardstick {
    pub fn new(source: &dyn PatchSource, config: &ExtractorConfig) -> Result<Yardstick> {
        let px = config.image_px;
        let mut drawn = Philox::named(config.seed, "extractor.yardstick").permutation(source.len());
        drawn.truncate((PATCHES_A_NUMBER * config.d).clamp(FEWEST_PATCHES, MOST_PATCHES));
        let pixels = |&index: &usize| Ok(squared(&source.load(index)?, px)?.pixels);
        let images: Vec<Vec<u8>> = drawn.par_iter().map(pixels).collect::<Result<_>>()?;
        let (fitted, measured) = images.split_at(images.len() * 3 / 4);
        let values = |images: &[Vec<u8>]| images.iter().flatten().map(|&p| scaled(f32::from(p))).collect::<Vec<f32>>();
        // A single patch is its own reference.
        let colour = medians(if fitted.is_empty() { measured } else { fitted });
        let images = values(measured);
        let constant = |i: usize| f64::from(scaled(f32::from(colour[i % 3])));
        let constant_l1 = mean_difference(&images, constant);
        let length = px * px * 3;
        let enough = fitted.len() >= PATCHES_A_COMPONENT * config.d && fitted.len() * length <= MOST_PCA_VALUES;
        let pca_l1 = enough.then(|| pca_l1(&values(fitted), &images, length, config.d));
        Ok(Yardstick { px, images, constant_l1, pca_l1 })
    }

    /// Measures a pair as it is.
    pub fn measure(&self, model: &Autoencoder, batch: usize, device: &Device) -> Result<Quality> {
        let length = self.px * self.px * 3;
        let (mut codes, mut difference) = (Vec::new(), 0.0);
        for images in self.images.chunks(batch.max(16) * length) {
            let shape = [images.len() / length, self.px, self.px, 3];
            let code = model.encoder.forward(&Tensor::from_vec(images.to_vec(), shape, device)?)?;
            let back = model.generator.forward(&code)?.to_vec::<f32>()?;
            difference += mean_difference(images, |i| f64::from(back[i])) * images.len() as f64;
            codes.extend(code.to_vec::<f32>()?);
        }
        let patches = self.images.len() / length;
        let (common_share, dimensions) = spread(&codes, codes.len() / patches.max(1));
        let Yardstick { constant_l1, pca_l1, .. } = *self;
        Ok(Quality {
            l1: difference / self.images.len() as f64,
            constant_l1,
            pca_l1,
            common_share,
            dimensions,
            patches,
        })
    }
}

fn mean_difference(images: &[f32], of: impl Fn(usize) -> f64) -> f64 {
    images.iter().enumerate().map(|(i, &v)| (f64::from(v) - of(i)).abs()).sum::<f64>() / images.len().max(1) as f64
}

/// Of each channel over all pixels.
fn medians(images: &[Vec<u8>]) -> [u8; 3] {
    let mut counts = [[0u64; 256]; 3];
    images.iter().for_each(|image| image.iter().enumerate().for_each(|(i, &p)| counts[i % 3][usize::from(p)] += 1));
    counts.map(|counts| {
        let half = counts.iter().sum::<u64>().div_ceil(2);
        let mut seen = 0;
        let median = counts.iter().position(|&n| {
            seen += n;
            seen >= half
        });
        median.unwrap_or(0) as u8
    })
}

/// Share of the codes' energy in their mean, and the participation ratio of their covariance.
fn spread(codes: &[f32], d: usize) -> (f64, f64) {
    let n = codes.len() / d.max(1);
    let rows: Vec<Vec<f64>> =
        codes.chunks_exact(d.max(1)).map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect();
    let mut mean = vec![0.0; d];
    rows.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / n as f64));
    let energy: f64 = rows.iter().flatten().map(|v| v * v).sum::<f64>() / n as f64;
    let common: f64 = mean.iter().map(|m| m * m).sum();
    // The covariance and the Gram matrix of centred rows have the same eigenvalues.
    let centred: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().zip(&mean).map(|(v, m)| v - m).collect()).collect();
    let gram = |i: usize, j: usize| dot(&centred[i], &centred[j]);
    let trace: f64 = (0..n).map(|i| gram(i, i)).sum();
    let squares: f64 = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| gram(i, j).powi(2)).sum();
    // What rounding leaves of codes that are all one has no dimension.
    let varies = trace > 1e-12 * n as f64 * energy;
    let share = if energy > 0.0 { (common / energy).min(1.0) } else { 1.0 };
    (share, if varies { trace * trace / squares } else { 0.0 })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean absolute difference of `images` from their projections on the first `d` principal components of `fitted`, both rows of
/// `length` numbers. The components are found by orthogonal iteration on the Gram matrix of the fitted rows.
fn pca_l1(fitted: &[f32], images: &[f32], length: usize, d: usize) -> f64 {
    let n = fitted.len() / length;
    let mut mean = vec![0.0f64; length];
    fitted
        .chunks_exact(length)
        .for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64));
    let centred = |row: &[f32]| row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect::<Vec<f64>>();
    let rows: Vec<Vec<f64>> = fitted.par_chunks_exact(length).map(centred).collect();
    let gram: Vec<Vec<f64>> = rows.par_iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect();
    let start = Philox::named(0, "extractor.pca");
    let mut basis: Vec<Vec<f64>> = start.normals(d * n).chunks_exact(n).map(<[f64]>::to_vec).collect();
    for _ in 0..ROUNDS {
        basis = basis.par_iter().map(|v| gram.iter().map(|row| dot(row, v)).collect()).collect();
        orthonormalise(&mut basis);
    }
    // Components among pixels: the rows combined, made orthonormal again.
    let combine = |v: &Vec<f64>| {
        let mut sum = vec![0.0; length];
        rows.iter().zip(v).for_each(|(row, w)| sum.iter_mut().zip(row).for_each(|(s, x)| *s += w * x));
        sum
    };
    let mut components: Vec<Vec<f64>> = basis.par_iter().map(combine).collect();
    orthonormalise(&mut components);
    let off = |image: &[f32]| {
        let image = centred(image);
        let mut rest = image.clone();
        for component in &components {
            let along = dot(component, &image);
            rest.iter_mut().zip(component).for_each(|(r, c)| *r -= along * c);
        }
        rest.iter().map(|r| r.abs()).sum::<f64>()
    };
    let each: Vec<f64> = images.par_chunks_exact(length).map(off).collect();
    each.iter().sum::<f64>() / images.len() as f64
}

/// Gram and Schmidt's procedure, twice: once loses orthogonality where vectors are nearly parallel.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let vector = &mut rest[0];
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(vector, other);
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let norm = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|v| *v = if norm > 1e-12 { *v / norm } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_are_one_are_seen() {
        let same: Vec<f32> = [3.0, 4.0].repeat(9);
        assert_eq!(spread(&same, 2), (1.0, 0.0));
        // Two orthogonal directions of equal weight, no mean.
        let (share, dimensions) = spread(&[1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0], 2);
        assert!(share == 0.0 && (dimensions - 2.0).abs() < 1e-12, "{share} {dimensions}");
        let quality = |l1, common_share| Quality {
            l1,
            constant_l1: 0.3,
            pca_l1: None,
            common_share,
            dimensions: 1.0,
            patches: 16,
        };
        assert!(quality(0.31, 0.1).warning().is_some_and(|w| w.contains("worse (L1 0.310)")));
        assert!(quality(0.2, 0.995).warning().is_some_and(|w| w.contains("99.5 %")));
        assert_eq!(quality(0.2, 0.9).warning(), None);
    }

    #[test]
    fn components_reconstruct_what_they_span() {
        let (length, d) = (48, 3);
        let random = Philox::named(4, "pca");
        let directions = random.normals(d * length);
        let image = |at: u64| -> Vec<f32> {
            let weights = random.normal4(1000 + at);
            (0..length).map(|i| (0..d).map(|k| weights[k] * directions[k * length + i]).sum::<f64>() as f32).collect()
        };
        let images = |range: std::ops::Range<u64>| range.flat_map(image).collect::<Vec<f32>>();
        let (fitted, others) = (images(0..40), images(40..50));
        assert!(pca_l1(&fitted, &others, length, d) < 1e-5);
        assert!(pca_l1(&fitted, &others, length, d - 1) > 0.05);
    }

    #[test]
    fn medians_are_each_channels_own() {
        assert_eq!(medians(&[vec![1, 9, 200], vec![3, 9, 100, 2, 8, 0]]), [2, 9, 100]);
    }
}
