//! Which patches are kept, from their scores.
//!
//! The paper keeps patches of at least 1.6e6 bits and explains the number as about one standard deviation above the mean of the
//! patches' texture (section 4.3, table 4). Bits depend on the patch side, the compressor and the scanner, so the explanation carries
//! over where the number does not: mean + standard deviations is the default here, for Shannon selection and for the other
//! selectors alike, except Otsu's share of tissue, which has a scale of its own. Over which patches, and how many deviations,
//! is the business of [`super::choice`]; by itself a threshold looks at the patches of one slide.

use serde::{Deserialize, Serialize};

use super::score::PatchScore;
use crate::error::{Error, Result};

/// What a patch must have to be kept.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// At least so many bits.
    Bits(f64),
    /// At least this score; for Shannon selection, bits per pixel.
    Min(f64),
    /// At least the mean score over a group of patches plus so many of its standard deviations (of the population: divided
    /// by the number of patches).
    Sigma(f64),
    /// The so many highest scores of the group; of equal ones, the first.
    Top(usize),
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold::Sigma(1.0)
    }
}

impl Threshold {
    /// # Errors
    /// A number that cannot be a threshold: not finite, or negative where scores are not.
    pub fn check(self) -> Result<Threshold> {
        let usable = match self {
            Threshold::Bits(least) | Threshold::Min(least) => least.is_finite() && least >= 0.0,
            Threshold::Sigma(deviations) => deviations.is_finite(),
            Threshold::Top(_) => true,
        };
        if usable { Ok(self) } else { Err(Error::Usage(format!("{self} is no threshold; give a finite number"))) }
    }

    /// Marks the patches of a group that are kept; returns how many.
    pub fn mark<'a>(self, scores: impl IntoIterator<Item = &'a mut PatchScore>) -> usize {
        let mut scores: Vec<&mut PatchScore> = scores.into_iter().collect();
        match self {
            Threshold::Bits(least) => scores.iter_mut().for_each(|s| {
                s.kept = s.bits.is_some_and(|bits| bits as f64 >= least);
            }),
            Threshold::Min(least) => scores.iter_mut().for_each(|s| s.kept = s.score >= least),
            Threshold::Sigma(deviations) => {
                let least = least_score(scores.iter().map(|s| s.score), deviations);
                scores.iter_mut().for_each(|s| s.kept = s.score >= least);
            }
            Threshold::Top(n) => {
                let mut order: Vec<usize> = (0..scores.len()).collect();
                order.sort_by(|&a, &b| scores[b].score.total_cmp(&scores[a].score));
                scores.iter_mut().for_each(|s| s.kept = false);
                order.iter().take(n).for_each(|&i| scores[i].kept = true);
            }
        }
        scores.iter().filter(|s| s.kept).count()
    }
}

/// Mean + `deviations` standard deviations of the values, less a rounding error, so that equal values are all kept at 0.
pub(crate) fn least_score(values: impl Iterator<Item = f64> + Clone, deviations: f64) -> f64 {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    let variance = values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean + deviations * variance.sqrt()) * (1.0 - 1e-12)
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Threshold::Bits(bits) => write!(f, "at least {bits} bits"),
            Threshold::Min(least) => write!(f, "at least {least}"),
            Threshold::Sigma(deviations) => write!(f, "at least mean + {deviations} standard deviations"),
            Threshold::Top(n) => write!(f, "the {n} highest"),
        }
    }
}
