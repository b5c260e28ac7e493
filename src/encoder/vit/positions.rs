//! Positions of patches, and the same on another grid.
//!
//! Resampled as timm's `resample_abs_pos_embed`: bicubic with antialiasing, each axis by itself. Output i of n from m: scale =
//! m / n, reach = max(scale, 1), centre = (i + ½) scale; taps from ⌊centre − 2 reach + ½⌋ to below ⌊centre + 2 reach + ½⌋, inside
//! the axis, weighted by the cubic (a = −½) of (tap + ½ − centre) / reach and divided by the weights' sum. In f64.

/// For which tokens positions are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Positions {
    /// Class token, registers and patches: timm's default.
    All,
    /// Patches: timm's `no_embed_class`.
    Patches,
    /// Class token and patches: DINOv2, whose registers have none.
    ClsPatches,
}

impl Positions {
    /// Positions stored before those of the patches.
    pub const fn before_patches(self, registers: usize) -> usize {
        match self {
            Positions::All => 1 + registers,
            Positions::Patches => 0,
            Positions::ClsPatches => 1,
        }
    }
}

/// Vectors on a `from` grid (rows, columns) to those on a `to` grid, row by row.
pub fn resample(values: &[f64], from: [usize; 2], to: [usize; 2]) -> Vec<f64> {
    let width = values.len() / (from[0] * from[1]).max(1);
    let (rows, columns) = (taps(from[0], to[0]), taps(from[1], to[1]));
    let mut out = vec![0.0; to[0] * to[1] * width];
    for (y, (top, row_weights)) in rows.iter().enumerate() {
        for (x, (left, column_weights)) in columns.iter().enumerate() {
            let sum = &mut out[(y * to[1] + x) * width..][..width];
            for (i, row_weight) in row_weights.iter().enumerate() {
                for (j, column_weight) in column_weights.iter().enumerate() {
                    let vector = &values[((top + i) * from[1] + left + j) * width..][..width];
                    sum.iter_mut().zip(vector).for_each(|(s, v)| *s += row_weight * column_weight * v);
                }
            }
        }
    }
    out
}

/// For each output along an axis the first input it reads, and the weights of that and the following ones.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let taps_of = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - 2.0 * reach + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * reach + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end).map(|tap| cubic((tap as f64 + 0.5 - centre) / reach)).collect();
        let sum: f64 = weights.iter().sum();
        (first, weights.into_iter().map(|w| w / sum).collect())
    };
    (0..to).map(taps_of).collect()
}

/// Keys' cubic convolution with a = −½.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_grid_and_constants_stay() {
        let values: Vec<f64> = (0..3 * 4 * 2).map(f64::from).collect();
        assert_eq!(resample(&values, [3, 4], [3, 4]), values);
        for to in [[1, 1], [2, 9], [7, 5]] {
            let flat = resample(&[2.5; 3 * 4 * 2], [3, 4], to);
            assert!(flat.len() == to[0] * to[1] * 2 && flat.iter().all(|v| (v - 2.5).abs() < 1e-12));
        }
    }
}
