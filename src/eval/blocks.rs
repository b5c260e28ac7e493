//! Correlations of spots. Neighbouring spots are alike, so that intervals are counted by drawing square blocks of them, with
//! replacement, within each section; beside the correlation stands the partial one, given a covariate that predicts counts
//! without looking at the tissue.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::stats::{self, Bootstrap, Interval, percentile_interval};
use crate::random::{Philox, fnv1a};

/// A sum of squares below this part of what it was taken from is rounding noise, not spread.
const NO_SPREAD: f64 = 1e-12;

/// The block of each place: squares of `side` in array units, numbered from 0 in order of rows.
pub fn blocks(places: &[[f64; 2]], side: f64) -> Vec<usize> {
    let cell = |[x, y]: &[f64; 2]| ((y / side).floor() as i64, (x / side).floor() as i64);
    let mut numbers: BTreeMap<(i64, i64), usize> = places.iter().map(|place| (cell(place), 0)).collect();
    numbers.values_mut().enumerate().for_each(|(number, value)| *value = number);
    places.iter().map(|place| numbers[&cell(place)]).collect()
}

/// n, and sums of t, p, z, tt, pp, zz, tp, tz, pz: truth, prediction, covariate.
type Sums = [f64; 10];

/// One section's spots: per gene and block what its correlations are made of.
pub struct SectionSums {
    blocks: usize,
    /// `[genes][blocks]`
    sums: Vec<Vec<Sums>>,
    stream: u64,
}

/// Mean over genes of the correlation, and of the partial one.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize)]
pub struct Correlation {
    pub pearson: Option<f64>,
    pub partial: Option<f64>,
}

impl SectionSums {
    /// `truth` and `predicted` are `[genes][spots]`; `name` is of the section, whose draws depend on it alone.
    pub fn new(
        name: &str,
        block_of: &[usize],
        truth: &[Vec<f64>],
        predicted: &[Vec<f64>],
        covariate: &[f64],
    ) -> SectionSums {
        let blocks = block_of.iter().max().map_or(0, |b| b + 1);
        let covariate = centred(covariate);
        let of_gene = |(truth, predicted): (&Vec<f64>, &Vec<f64>)| {
            let (truth, predicted) = (centred(truth), centred(predicted));
            let mut sums = vec![[0.0; 10]; blocks];
            for (i, &block) in block_of.iter().enumerate() {
                let (t, p, z) = (truth[i], predicted[i], covariate[i]);
                let more = [1.0, t, p, z, t * t, p * p, z * z, t * p, t * z, p * z];
                sums[block].iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
            }
            sums
        };
        let sums = truth.par_iter().zip(predicted).map(of_gene).collect();
        SectionSums { blocks, sums, stream: fnv1a(format!("blocks {name}").as_bytes()) }
    }

    /// One gene's correlations on all spots.
    pub fn gene(&self, gene: usize) -> Correlation {
        correlation(&total(&self.sums[gene], &vec![1; self.blocks]))
    }

    /// The means over genes on all spots.
    pub fn mean(&self) -> Correlation {
        self.weighted(&vec![1; self.blocks])
    }

    fn weighted(&self, weights: &[u16]) -> Correlation {
        let genes: Vec<Correlation> = self.sums.iter().map(|blocks| correlation(&total(blocks, weights))).collect();
        Correlation {
            pearson: stats::mean_defined(genes.iter().map(|g| g.pearson)),
            partial: stats::mean_defined(genes.iter().map(|g| g.partial)),
        }
    }

    /// How often each block is drawn.
    fn draw(&self, seed: u64, resample: usize) -> Vec<u16> {
        let random = Philox::new(seed, self.stream.wrapping_add(resample as u64));
        let mut weights = vec![0; self.blocks];
        (0..self.blocks).for_each(|i| weights[random.below(i as u64, self.blocks)] += 1);
        weights
    }
}

/// The mean over sections, and every draw of it: the same draw of two predictors is of the same blocks.
pub struct OverSections {
    pub mean: Correlation,
    draws: Vec<Correlation>,
    bootstrap: Bootstrap,
}

impl OverSections {
    pub fn new(sections: &[SectionSums], bootstrap: Bootstrap) -> OverSections {
        let mean_of = |each: Vec<Correlation>| Correlation {
            pearson: stats::mean_defined(each.iter().map(|c| c.pearson)),
            partial: stats::mean_defined(each.iter().map(|c| c.partial)),
        };
        let drawn =
            |resample: usize| mean_of(sections.iter().map(|s| s.weighted(&s.draw(bootstrap.seed, resample))).collect());
        OverSections {
            mean: mean_of(sections.iter().map(SectionSums::mean).collect()),
            draws: (0..bootstrap.resamples).into_par_iter().map(drawn).collect(),
            bootstrap,
        }
    }

    pub fn interval(&self, value: fn(&Correlation) -> Option<f64>) -> Option<Interval> {
        let drawn = self.draws.iter().map(|c| value(c).unwrap_or(f64::NAN)).collect();
        value(&self.mean).and(percentile_interval(drawn, self.bootstrap))
    }

    /// How much higher this is than `other` on the same spots, with the interval of the difference.
    pub fn difference(
        &self,
        other: &OverSections,
        value: fn(&Correlation) -> Option<f64>,
    ) -> Option<(f64, Option<Interval>)> {
        let delta = value(&self.mean)? - value(&other.mean)?;
        let pairs = self.draws.iter().zip(&other.draws);
        let drawn = pairs.map(|(a, b)| value(a).zip(value(b)).map_or(f64::NAN, |(a, b)| a - b)).collect();
        Some((delta, percentile_interval(drawn, self.bootstrap)))
    }
}

fn centred(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.iter().map(|v| v - mean).collect()
}

fn total(blocks: &[Sums], weights: &[u16]) -> Sums {
    let mut sums = [0.0; 10];
    for (block, &weight) in blocks.iter().zip(weights).filter(|(_, w)| **w > 0) {
        sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += f64::from(weight) * value);
    }
    sums
}

fn correlation(&[n, t, p, z, tt, pp, zz, tp, tz, pz]: &Sums) -> Correlation {
    let r = |ab: f64, a: f64, b: f64, aa: f64, bb: f64| {
        let (of_a, of_b) = (aa - a * a / n, bb - b * b / n);
        let varies = of_a > NO_SPREAD * aa && of_b > NO_SPREAD * bb;
        varies.then(|| ((ab - a * b / n) / (of_a * of_b).sqrt()).clamp(-1.0, 1.0))
    };
    let (with_truth, of_truth, of_predicted) = (r(tp, t, p, tt, pp), r(tz, t, z, tt, zz), r(pz, p, z, pp, zz));
    let partial = |tp: f64, tz: f64, pz: f64| {
        let left = (1.0 - tz * tz) * (1.0 - pz * pz);
        (left > 1e-9).then(|| ((tp - tz * pz) / left.sqrt()).clamp(-1.0, 1.0))
    };
    Correlation {
        pearson: with_truth,
        partial: match (with_truth, of_truth, of_predicted) {
            (Some(tp), Some(tz), Some(pz)) => partial(tp, tz, pz),
            // A covariate that does not vary takes nothing away.
            (tp, _, _) if zz <= 0.0 => tp,
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn blocks_are_squares_of_the_array() {
        let places = [[0.0, 0.0], [3.0, 3.0], [4.0, 0.0], [0.0, 4.0], [-1.0, 0.0]];
        assert_eq!(blocks(&places, 4.0), [1, 1, 2, 3, 0]);
    }

    #[test]
    fn correlations_are_those_of_all_spots_and_of_residuals() {
        let n = 60;
        let draw = Philox::named(1, "spots").normals(3 * n);
        let z = draw[..n].to_vec();
        let t: Vec<f64> = (0..n).map(|i| draw[n + i] + 0.8 * z[i]).collect();
        let p: Vec<f64> = (0..n).map(|i| t[i] + draw[2 * n + i] - 0.3 * z[i] + 5.0).collect();
        let block_of: Vec<usize> = (0..n).map(|i| i / 6).collect();
        let section = SectionSums::new("A1", &block_of, &[t.clone(), vec![1.0; n]], &[p.clone(), p.clone()], &z);
        let r = |a: &[f64], b: &[f64]| stats::pearson(a, b).expect("they vary");
        let residual = |a: &[f64]| -> Vec<f64> {
            let (a, z) = (centred(a), centred(&z));
            let slope = a.iter().zip(&z).map(|(a, z)| a * z).sum::<f64>() / z.iter().map(|z| z * z).sum::<f64>();
            a.iter().zip(&z).map(|(a, z)| a - slope * z).collect()
        };
        let found = section.gene(0);
        assert!((found.pearson.expect("varies") - r(&t, &p)).abs() < 1e-12);
        assert!((found.partial.expect("varies") - r(&residual(&t), &residual(&p))).abs() < 1e-12);
        assert_eq!(section.gene(1).pearson, None, "a constant gene has no correlation");
        assert_eq!(section.mean().pearson, found.pearson);
    }

    /// Spots in runs of six equal ones: blocks know that there are ten of them, single spots would count sixty.
    #[test]
    fn intervals_of_blocks_are_as_wide_as_the_blocks_are_few() {
        let runs = 10;
        let draw = Philox::named(2, "runs").normals(2 * runs);
        let run = |i: usize| i / 6;
        let t: Vec<f64> = (0..60).map(|i| draw[run(i)]).collect();
        let p: Vec<f64> = (0..60).map(|i| draw[run(i)] + draw[runs + run(i)]).collect();
        let bootstrap = Bootstrap { resamples: 500, ..Bootstrap::default() };
        let width = |block_of: Vec<usize>| {
            let section = SectionSums::new("A1", &block_of, from_ref(&t), from_ref(&p), &[0.0; 60]);
            let over = OverSections::new(&[section], bootstrap);
            let interval = over.interval(|c| c.pearson).expect("enough draws");
            assert_eq!(over.mean.partial, over.mean.pearson);
            interval.high - interval.low
        };
        assert!(width((0..60).map(run).collect()) > 1.5 * width((0..60).collect()));
    }
}
