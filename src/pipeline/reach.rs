//! How far a prediction of a new slide may be trusted: whether the slide's features lie among those that were trained on, and an
//! interval from what the run missed on slides it had held out.
//!
//! **Features.** A slide is the mean of its patches' vectors. Its distance is the mean over features of the squared deviation from
//! the training slides' mean, in their standard deviations; a training slide's own distance is taken without it. A slide that is
//! farther than every training slide is outside; of slides like those, one in n + 1 would be called so by chance.
//!
//! **Intervals.** Split conformal (Vovk et al. 2005; Lei et al. 2018): the absolute errors of the n held-out slides, sorted; the
//! ⌈(n + 1) level⌉-th is the half width. Valid for slides drawn as the cohort's were. A run's networks see more slides together than
//! each fold's saw, so intervals err on the wide side.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    eval::{predictions, tables},
    io::sealed,
    mil::{
        bags::{BagSet, Origin, mean_features},
        features::{FeatureDims, PatchFeatures, Reads},
    },
};

pub const RANGE_FILE: &str = "feature_range.json";

/// Where the training slides' features lie.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FeatureRange {
    /// What the features came from.
    origin: Origin,
    mean: Vec<f64>,
    std: Vec<f64>,
    /// Of every training slide, ascending.
    distances: Vec<f64>,
}

/// Where one slide lies among them.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Place {
    pub distance: f64,
    /// The farthest training slide's.
    pub farthest: f64,
    pub outside: bool,
}

/// A slide's mean features: of its patches' vectors, or of their cells' where there are none.
fn means(features: &dyn PatchFeatures, dims: FeatureDims) -> Result<Vec<f64>> {
    mean_features(features, dims, if dims.global > 0 { Reads::GLOBAL } else { Reads::CUBE })
}

impl FeatureRange {
    /// Of a run's slides.
    ///
    /// # Errors
    /// Features that cannot be read.
    pub fn of(set: &BagSet) -> Result<FeatureRange> {
        let slides = set.bags.iter().map(|bag| means(&*bag.features, set.dims)).collect::<Result<Vec<_>>>()?;
        Ok(FeatureRange::of_means(set.origin, &slides))
    }

    fn of_means(origin: Origin, slides: &[Vec<f64>]) -> FeatureRange {
        let width = slides.first().map_or(0, Vec::len);
        let mut sums = vec![[0.0f64; 2]; width];
        for slide in slides {
            sums.iter_mut().zip(slide).for_each(|(s, v)| *s = [s[0] + v, s[1] + v * v]);
        }
        let moments = |n: f64, without: Option<&Vec<f64>>| -> (Vec<f64>, Vec<f64>) {
            let one = |(i, s): (usize, &[f64; 2])| {
                let own = without.map_or(0.0, |slide| slide[i]);
                let mean = (s[0] - own) / n;
                (mean, ((s[1] - own * own) / n - mean * mean).max(0.0).sqrt())
            };
            sums.iter().enumerate().map(one).unzip()
        };
        let n = slides.len() as f64;
        let (mean, std) = moments(n, None);
        let mut distances: Vec<f64> = (slides.iter())
            .filter(|_| n > 2.0)
            .map(|slide| {
                let (mean, std) = moments(n - 1.0, Some(slide));
                distance(slide, &mean, &std)
            })
            .collect();
        distances.sort_unstable_by(f64::total_cmp);
        FeatureRange { origin, mean, std, distances }
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        sealed::write_json(dir.join(RANGE_FILE), self)
    }

    /// Of a run directory; `None` where there is none, or one of other features.
    ///
    /// # Errors
    /// A damaged file.
    pub fn read(dir: &Path, origin: Origin) -> Result<Option<FeatureRange>> {
        let path = dir.join(RANGE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let range: FeatureRange = sealed::read_json(path)?;
        Ok(Some(range).filter(|range| range.origin == origin))
    }

    /// Where a slide lies; `None` where too few slides were trained on.
    ///
    /// # Errors
    /// Features that cannot be read.
    pub fn place(&self, features: &dyn PatchFeatures, dims: FeatureDims) -> Result<Option<Place>> {
        Ok(self.place_of(&means(features, dims)?))
    }

    fn place_of(&self, means: &[f64]) -> Option<Place> {
        let farthest = *self.distances.last()?;
        let distance = distance(means, &self.mean, &self.std);
        Some(Place { distance, farthest, outside: distance > farthest })
    }
}

/// Mean over features of the squared standardised deviation; features that never varied are left out.
fn distance(slide: &[f64], mean: &[f64], std: &[f64]) -> f64 {
    let each = slide.iter().zip(mean.iter().zip(std)).filter(|(_, (m, s))| **s > 1e-6 * m.abs().max(1e-6));
    let (sum, n) = each.fold((0.0, 0usize), |(sum, n), (v, (m, s))| (sum + ((v - m) / s).powi(2), n + 1));
    sum / n.max(1) as f64
}

/// Half widths of a run's intervals, gene by gene.
pub struct Intervals {
    pub level: f64,
    /// `None` where too few slides were held out for the level.
    pub half_widths: Vec<Option<f64>>,
}

impl Intervals {
    /// From the held-out predictions in a run directory, for these genes; `None` where it holds none.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub fn read(dir: &Path, genes: &[String], level: f64) -> Result<Option<Intervals>> {
        let path = dir.join(tables::PREDICTIONS_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let Some((_, table)) = predictions::read_methods(&path)?.into_iter().next() else { return Ok(None) };
        let of_gene = |gene: &String| {
            let column = table.genes.iter().position(|name| name == gene)?;
            let errors = table.predictions.iter().map(|p| (p.predicted[column] - p.truth[column]).abs());
            half_width(errors.filter(|e| e.is_finite()).collect(), level)
        };
        Ok(Some(Intervals { level, half_widths: genes.iter().map(of_gene).collect() }))
    }
}

/// The ⌈(n + 1) level⌉-th smallest error, where there are as many.
fn half_width(mut errors: Vec<f64>, level: f64) -> Option<f64> {
    errors.sort_unstable_by(f64::total_cmp);
    let rank = ((errors.len() + 1) as f64 * level - 1e-9).ceil() as usize;
    errors.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    /// Coverage of intervals of exchangeable errors is at least the level, and hardly more.
    #[test]
    fn intervals_cover_what_they_say() {
        let (n, trials, level) = (39usize, 4000u64, 0.9);
        let mut covered = 0;
        for trial in 0..trials {
            let errors = Philox::named(trial, "errors").normals(n + 1);
            let half = half_width(errors[..n].iter().map(|e| e.abs()).collect(), level).expect("enough errors");
            covered += u32::from(errors[n].abs() <= half);
        }
        // 36 of 40 ranks: 0.9 exactly, three standard errors of 4000 draws on either side.
        let share = f64::from(covered) / trials as f64;
        assert!((share - 0.9).abs() < 0.0143, "{share}");
        assert_eq!(half_width(vec![1.0; 8], 0.9), None, "9 errors are the fewest for a level of 0.9");
        assert_eq!(half_width((1..=9).map(f64::from).collect(), 0.9), Some(9.0));
    }

    #[test]
    fn a_slide_of_another_kind_is_outside_and_one_of_the_same_seldom() {
        let slide = |i: u64| Philox::named(i, "slide").normals(20);
        let slides: Vec<Vec<f64>> = (0..60).map(slide).collect();
        let range = FeatureRange::of_means(Origin::default(), &slides);
        let outside = |slide: &[f64]| range.place_of(slide).expect("enough slides").outside;
        let alike = (100..300).filter(|&i| outside(&slide(i))).count();
        assert!(alike < 20, "{alike} of 200; one in 61 is expected");
        let shifted: Vec<f64> = slide(7).iter().map(|v| v + 3.0).collect();
        assert!(outside(&shifted));
        assert_eq!(FeatureRange::of_means(Origin::default(), &slides[..2]).place_of(&slides[0]), None);
    }
}
