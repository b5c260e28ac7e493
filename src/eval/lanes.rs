//! Eight genes side by side: under a permutation or a resampling every gene reads the same rows, so that eight correlations
//! cost little more than one.

use super::layout::{Column, Design, mean_finite};

pub(super) const LANES: usize = 8;
pub(super) type Lane = [f64; LANES];

/// A sum of squares below this part of what it was taken from is rounding noise, not spread.
const NO_SPREAD: f64 = 1e-13;

/// Up to eight genes of one pattern.
pub(super) struct Block {
    /// Targets, centred over all observations.
    truth: Vec<Lane>,
    /// As the design's cells; the last is all observations pooled over the folds.
    pub cells: Vec<CellLanes>,
}

/// Targets and predictions of one cell, member by member.
pub(super) struct CellLanes {
    members: Vec<u32>,
    whole: bool,
    /// Centred, of unit length; zero where constant.
    truth: Vec<Lane>,
    predicted: Vec<Lane>,
    /// Length of the centred targets, on the scale of [`Block::truth`].
    length: Lane,
}

impl Block {
    pub fn new(design: &Design, genes: &[&Column]) -> Block {
        let lanes = |value: &dyn Fn(&Column, usize) -> f64| -> Vec<Lane> {
            let mut rows = vec![[0.0; LANES]; design.members.len()];
            for (lane, column) in genes.iter().enumerate() {
                rows.iter_mut().zip(&design.members).for_each(|(row, &o)| row[lane] = value(column, o));
            }
            rows
        };
        let mut truth = lanes(&|column, o| column.truth[o]);
        standardise(&mut truth);
        let cell = |members: Vec<u32>, whole: bool, predicted: Vec<Lane>| {
            let pick = |rows: &[Lane]| members.iter().map(|&i| rows[i as usize]).collect::<Vec<Lane>>();
            let (mut t, mut p) = (pick(&truth), pick(&predicted));
            let length = standardise(&mut t);
            standardise(&mut p);
            CellLanes { members, whole, truth: t, predicted: p, length }
        };
        let mut cells: Vec<CellLanes> = (design.cells.iter())
            .map(|c| cell(c.members.clone(), c.whole, lanes(&|column, o| column.predicted[c.repeat][o])))
            .collect();
        let all = (0..design.members.len() as u32).collect();
        cells.push(cell(all, true, lanes(&|column, o| mean_finite(column.predicted.iter().map(|of| of[o])))));
        Block { truth, cells }
    }

    /// Correlations of a cell's predictions with the targets as `source` deals them out; NaN where there is no spread.
    pub fn permuted(&self, cell: &CellLanes, source: &[u32]) -> Lane {
        let (mut dot, mut sum, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        if cell.whole {
            for (&i, p) in cell.members.iter().zip(&cell.predicted) {
                let t = &self.truth[source[i as usize] as usize];
                (0..LANES).for_each(|l| dot[l] += p[l] * t[l]);
            }
            return std::array::from_fn(|l| if cell.length[l] > 0.0 { dot[l] / cell.length[l] } else { f64::NAN });
        }
        for (&i, p) in cell.members.iter().zip(&cell.predicted) {
            let t = &self.truth[source[i as usize] as usize];
            for l in 0..LANES {
                dot[l] += p[l] * t[l];
                sum[l] += t[l];
                squares[l] += t[l] * t[l];
            }
        }
        let n = cell.members.len() as f64;
        std::array::from_fn(|l| {
            let spread = squares[l] - sum[l] * sum[l] / n;
            if spread > NO_SPREAD * squares[l] { dot[l] / spread.sqrt() } else { f64::NAN }
        })
    }
}

impl CellLanes {
    /// Correlations where each member counts `weights` times; NaN where nothing varies.
    pub fn weighted(&self, weights: &[u16]) -> Lane {
        let mut n = 0.0;
        let mut sums = [[0.0; LANES]; 5];
        for ((&i, t), p) in self.members.iter().zip(&self.truth).zip(&self.predicted) {
            let w = f64::from(weights[i as usize]);
            if w == 0.0 {
                continue;
            }
            n += w;
            for l in 0..LANES {
                let (wt, wp) = (w * t[l], w * p[l]);
                sums[0][l] += wt;
                sums[1][l] += wp;
                sums[2][l] += wt * t[l];
                sums[3][l] += wp * p[l];
                sums[4][l] += wt * p[l];
            }
        }
        let [t, p, tt, pp, tp] = sums;
        std::array::from_fn(|l| {
            let (of_truth, of_predicted) = (tt[l] - t[l] * t[l] / n, pp[l] - p[l] * p[l] / n);
            let varies = of_truth > NO_SPREAD * tt[l] && of_predicted > NO_SPREAD * pp[l];
            let r = (tp[l] - t[l] * p[l] / n) / (of_truth * of_predicted).sqrt();
            if varies { r.clamp(-1.0, 1.0) } else { f64::NAN }
        })
    }

    pub fn members(&self) -> &[u32] {
        &self.members
    }
}

/// Takes the mean off every lane and divides by the length, which is returned: zero where the lane is constant, whose values
/// become zero.
fn standardise(rows: &mut [Lane]) -> Lane {
    let mut lengths = [0.0; LANES];
    for (l, length) in lengths.iter_mut().enumerate() {
        let first = rows.first().map_or(0.0, |row| row[l]);
        if rows.iter().all(|row| row[l] == first) {
            rows.iter_mut().for_each(|row| row[l] = 0.0);
            continue;
        }
        let n = rows.len() as f64;
        let largest = rows.iter().fold(0.0f64, |m, row| m.max(row[l].abs()));
        let mean = rows.iter().map(|row| row[l] / largest).sum::<f64>() / n;
        rows.iter_mut().for_each(|row| row[l] = row[l] / largest - mean);
        // A second pass takes away what rounding left of the mean.
        let rest = rows.iter().map(|row| row[l]).sum::<f64>() / n;
        rows.iter_mut().for_each(|row| row[l] -= rest);
        let spread = rows.iter().map(|row| row[l] * row[l]).sum::<f64>().sqrt();
        if spread > 0.0 {
            rows.iter_mut().for_each(|row| row[l] /= spread);
            *length = spread * largest;
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_standardised_each_by_itself() {
        let mut rows: Vec<Lane> =
            (0..5).map(|i| [f64::from(i), 7.0, 1e200 * f64::from(i), 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
        let lengths = standardise(&mut rows);
        assert!((lengths[0] - 10f64.sqrt()).abs() < 1e-14 && lengths[1] == 0.0);
        assert!((rows[4][0] - 2.0 / 10f64.sqrt()).abs() < 1e-15 && (rows[4][2] - rows[4][0]).abs() < 1e-15);
        assert!(rows.iter().all(|row| row[1] == 0.0));
    }
}
