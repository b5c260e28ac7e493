//! Intervals by the percentile bootstrap: patients of a project are drawn with replacement, as many as there are, with all
//! that is of them. They say how sure the correlation of these predictions is, not how another training would have gone.

use rayon::prelude::*;

use super::{
    lanes::{Block, LANES, Lane},
    layout::Design,
    stats::{self, Bootstrap, Interval, LEAST_FOR_CORRELATION, LEAST_FOR_INTERVAL},
};
use crate::random::{Philox, fnv1a};

/// Intervals of one gene.
#[derive(Clone, Default)]
pub(super) struct Intervals {
    pub mean: Option<Interval>,
    /// As [`Block::cells`].
    pub cells: Vec<Option<Interval>>,
}

/// Of every block's genes: of the mean over folds and of the pool by patients drawn within project, of every fold by patients
/// drawn within project and fold.
pub(super) fn intervals(design: &Design, blocks: &[Block], settings: Bootstrap) -> Vec<[Intervals; LANES]> {
    let all = Resamples::draw(design, &design.by_project, settings);
    let by_fold: Vec<Resamples> = match design.cells.len() {
        // One cell that is everything needs no draws of its own.
        0 | 1 => Vec::new(),
        _ => design.by_fold.iter().map(|sets| Resamples::draw(design, sets, settings)).collect(),
    };
    blocks.par_iter().map(|block| of_block(design, block, &all, &by_fold, settings)).collect()
}

fn of_block(
    design: &Design,
    block: &Block,
    all: &Resamples,
    by_fold: &[Resamples],
    settings: Bootstrap,
) -> [Intervals; LANES] {
    let pool = block.cells.len() - 1;
    let counts = |cell: usize| patients(design, block.cells[cell].members());
    let counting: Vec<usize> =
        (0..pool).filter(|&cell| block.cells[cell].members().len() >= LEAST_FOR_CORRELATION).collect();
    let wide_enough = counting.iter().all(|&cell| counts(cell) >= LEAST_FOR_INTERVAL);
    let pooled = all.correlations(design, block, pool);
    let of_fold = |cell: usize| all.correlations(design, block, cell);
    let mean: Vec<Lane> = match counting.as_slice() {
        [] => Vec::new(),
        _ if !wide_enough => Vec::new(),
        cells => mean_defined(&cells.iter().map(|&cell| of_fold(cell)).collect::<Vec<_>>()),
    };
    let folds: Vec<Vec<Lane>> = (0..pool)
        .map(|cell| match by_fold.get(design.cells[cell].repeat) {
            _ if counts(cell) < LEAST_FOR_INTERVAL => Vec::new(),
            Some(resamples) => resamples.correlations(design, block, cell),
            None => pooled.clone(),
        })
        .collect();
    let pooled = if counts(pool) < LEAST_FOR_INTERVAL { Vec::new() } else { pooled };
    std::array::from_fn(|lane| Intervals {
        mean: percentiles(&mean, lane, settings),
        cells: folds.iter().chain([&pooled]).map(|draws| percentiles(draws, lane, settings)).collect(),
    })
}

/// How many patients these observations, in ascending order, are of.
pub(super) fn patients(design: &Design, members: &[u32]) -> usize {
    let mut patients: Vec<u32> = members.iter().map(|&i| design.patient[i as usize]).collect();
    patients.dedup();
    patients.len()
}

/// Draw by draw, the mean over the cells that have a correlation in it.
fn mean_defined(cells: &[Vec<Lane>]) -> Vec<Lane> {
    let draws = cells.first().map_or(0, Vec::len);
    let mean = |draw: usize, lane: usize| super::layout::mean_finite(cells.iter().map(|cell| cell[draw][lane]));
    (0..draws).map(|draw| std::array::from_fn(|lane| mean(draw, lane))).collect()
}

/// `None` where more than half of the draws have no correlation.
fn percentiles(draws: &[Lane], lane: usize, settings: Bootstrap) -> Option<Interval> {
    stats::percentile_interval(draws.iter().map(|draw| draw[lane]).collect(), settings)
}

/// How often each observation is drawn, resample by resample.
pub(super) struct Resamples {
    pub weights: Vec<Vec<u16>>,
}

impl Resamples {
    /// Draws the patients of each set.
    pub fn draw(design: &Design, sets: &[Vec<u32>], settings: Bootstrap) -> Resamples {
        let sets: Vec<Vec<&[u32]>> = (sets.iter())
            .map(|set| set.chunk_by(|&a, &b| design.patient[a as usize] == design.patient[b as usize]).collect())
            .collect();
        let first = fnv1a(b"bootstrap");
        let one = |resample: usize| {
            let random = Philox::new(settings.seed, first.wrapping_add(resample as u64));
            let mut weights = vec![0u16; design.members.len()];
            let mut position = 0;
            for patients in &sets {
                for _ in 0..patients.len() {
                    let drawn = patients[random.below(position, patients.len())];
                    drawn.iter().for_each(|&i| weights[i as usize] = weights[i as usize].saturating_add(1));
                    position += 1;
                }
            }
            weights
        };
        Resamples { weights: (0..settings.resamples).into_par_iter().map(one).collect() }
    }

    /// A cell's correlations in every resample; NaN where fewer than three of its patients were drawn.
    fn correlations(&self, design: &Design, block: &Block, cell: usize) -> Vec<Lane> {
        let cell = &block.cells[cell];
        let enough = |weights: &[u16]| {
            let mut last = None;
            let drawn =
                cell.members().iter().filter(|&&i| weights[i as usize] > 0).map(|&i| design.patient[i as usize]);
            drawn.filter(|&p| last.replace(p) != Some(p)).take(LEAST_FOR_CORRELATION).count() == LEAST_FOR_CORRELATION
        };
        let one = |weights: &Vec<u16>| if enough(weights) { cell.weighted(weights) } else { [f64::NAN; LANES] };
        self.weights.par_iter().map(one).collect()
    }
}
