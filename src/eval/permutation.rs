//! p-values by permutation: targets change places between the patients of a project that were tested together, while
//! predictions stay, and the correlation is counted again.
//!
//! Student's t with n - 2 degrees of freedom is no null for held-out predictions: a fold's training mean is low where its
//! held-out mean is high, so a useless predictor's pooled correlation lies below zero. Within project and fold, exchange
//! keeps those offsets, and the differences between projects and folds, in the null as they are in the statistic.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    lanes::{Block, LANES, Lane},
    layout::Design,
    stats::LEAST_FOR_CORRELATION,
};
use crate::random::{Philox, fnv1a};

/// How the null distribution is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permutations {
    pub draws: usize,
    pub seed: u64,
}

impl Default for Permutations {
    fn default() -> Permutations {
        Permutations { draws: 10_000, seed: 0 }
    }
}

/// A permuted correlation this much below the observed one is a tie that rounding broke.
const TIE: f64 = 1e-12;
/// Permutations that one thread draws at a time.
const DRAWS_AT_ONCE: usize = 250;

/// p-values `(1 + hits) / (1 + draws)` of a statistic among its permuted values: of one at least as high, and of one at least
/// as far from zero.
pub fn p_values(observed: f64, permuted: &[f64]) -> (f64, f64) {
    let p = |hit: &dyn Fn(f64) -> bool| {
        (1 + permuted.iter().filter(|r| hit(**r)).count()) as f64 / (1 + permuted.len()) as f64
    };
    (p(&|r| r >= observed - TIE), p(&|r| r.abs() >= observed.abs() - TIE))
}

/// One-sided p-values of a gene: of the mean over folds, of every cell, and last of the cells pooled.
pub(super) struct NullHits {
    pub mean: u32,
    /// As [`Block::cells`].
    pub cells: Vec<u32>,
}

impl NullHits {
    fn zero(cells: usize) -> [NullHits; LANES] {
        std::array::from_fn(|_| NullHits { mean: 0, cells: vec![0; cells] })
    }
}

/// What the permutation `draw` is: the observation from which each observation takes its targets.
fn source(design: &Design, settings: Permutations, draw: usize) -> Vec<u32> {
    let mut source: Vec<u32> = (0..design.members.len() as u32).collect();
    let mut words = Words::new(Philox::new(settings.seed, fnv1a(b"permutation").wrapping_add(draw as u64)));
    for set in &design.exchangeable {
        for i in (1..set.len()).rev() {
            let j = words.below(i + 1);
            source.swap(set[i] as usize, set[j] as usize);
        }
    }
    source
}

/// How often each block's statistics, permuted, come up to the observed ones.
pub(super) fn hits(design: &Design, blocks: &[Block], settings: Permutations) -> Vec<[NullHits; LANES]> {
    let cells = design.cells.len() + 1;
    let identity: Vec<u32> = (0..design.members.len() as u32).collect();
    let observed: Vec<Statistics> = blocks.iter().map(|block| Statistics::of(block, &identity)).collect();
    let none = || blocks.iter().map(|_| NullHits::zero(cells)).collect::<Vec<_>>();
    (0..settings.draws.div_ceil(DRAWS_AT_ONCE))
        .into_par_iter()
        .map(|chunk| {
            let draws = chunk * DRAWS_AT_ONCE..((chunk + 1) * DRAWS_AT_ONCE).min(settings.draws);
            let sources: Vec<Vec<u32>> = draws.map(|draw| source(design, settings, draw)).collect();
            let mut hits = none();
            for ((block, observed), hits) in blocks.iter().zip(&observed).zip(&mut hits) {
                for source in &sources {
                    observed.count(&Statistics::of(block, source), hits);
                }
            }
            hits
        })
        .reduce(none, |mut sum, more| {
            for (sum, more) in sum.iter_mut().flatten().zip(more.into_iter().flatten()) {
                sum.mean += more.mean;
                sum.cells.iter_mut().zip(more.cells).for_each(|(s, m)| *s += m);
            }
            sum
        })
}

/// The correlations of a block under one permutation.
struct Statistics {
    mean: Lane,
    cells: Vec<Lane>,
}

impl Statistics {
    fn of(block: &Block, source: &[u32]) -> Statistics {
        let cells: Vec<Lane> = block.cells.iter().map(|cell| block.permuted(cell, source)).collect();
        let (mut sum, mut count) = ([0.0; LANES], [0.0; LANES]);
        for (cell, values) in block.cells.iter().zip(&cells).take(cells.len() - 1) {
            if cell.members().len() < LEAST_FOR_CORRELATION {
                continue;
            }
            for l in 0..LANES {
                if values[l].is_finite() {
                    sum[l] += values[l];
                    count[l] += 1.0;
                }
            }
        }
        Statistics { mean: std::array::from_fn(|l| sum[l] / count[l]), cells }
    }

    fn count(&self, permuted: &Statistics, hits: &mut [NullHits; LANES]) {
        for (l, hits) in hits.iter_mut().enumerate() {
            hits.mean += u32::from(permuted.mean[l] >= self.mean[l] - TIE);
            for ((hits, of), observed) in hits.cells.iter_mut().zip(&permuted.cells).zip(&self.cells) {
                *hits += u32::from(of[l] >= observed[l] - TIE);
            }
        }
    }
}

/// Whether any exchange moves one of these observations; without one there is no null to compare with.
pub(super) fn moves(design: &Design, members: &[u32]) -> bool {
    let large = |set: &&Vec<u32>| set.len() > 1;
    design.exchangeable.iter().filter(large).flatten().any(|i| members.binary_search(i).is_ok())
}

/// The words of a stream one after another, four to a block.
struct Words {
    random: Philox,
    position: u64,
    block: [u32; 4],
    used: usize,
}

impl Words {
    fn new(random: Philox) -> Words {
        Words { random, position: 0, block: [0; 4], used: 4 }
    }

    /// A number below `bound`: multiply-shift on 32 bits, bias below bound · 2⁻³².
    fn below(&mut self, bound: usize) -> usize {
        if self.used == 4 {
            self.block = self.random.block(self.position);
            self.position += 1;
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        ((u64::from(word) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for draw in 0..24_000u64 {
            let mut words = Words::new(Philox::new(3, draw));
            let mut order = [0, 1, 2, 3];
            (1..4).rev().for_each(|i| order.swap(i, words.below(i + 1)));
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        // A count of 1000 has a standard deviation of 31.
        assert!(counts.values().all(|c| (850..1150).contains(c)), "{counts:?}");
    }
}
