//! Linear maps on NHWC images that weigh a few neighbours per pixel: depthwise convolution, resampling filters,
//! pooling, resizing. Each axis is a table of what every position reads, so strides, inserted zeros, padding and cropping
//! are settled once, and the adjoint of a map is the transposed tables.

use std::ops::Range;

use rayon::prelude::*;

use super::vector::GRAIN;
use crate::{device::host::Real, vectorised};

/// What every position of one axis reads: pairs of a source position and the index of a tap.
pub struct Reads {
    starts: Vec<usize>,
    pairs: Vec<(usize, usize)>,
}

impl Reads {
    /// Position `i` of `positions` reads `source(i, tap)` through each of `taps`, where there is a source.
    pub fn new(positions: usize, taps: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Reads {
        Reads::listed((0..positions).map(|i| (0..taps).filter_map(|tap| Some((source(i, tap)?, tap))).collect()))
    }

    /// The pairs of every position as given.
    pub fn listed(positions: impl Iterator<Item = Vec<(usize, usize)>>) -> Reads {
        let mut reads = Reads { starts: vec![0], pairs: Vec::new() };
        for pairs in positions {
            reads.pairs.extend(pairs);
            reads.starts.push(reads.pairs.len());
        }
        reads
    }

    /// Position `i` reads `i · stride + tap − padding` where that is below `extent`: a convolution or a pooling window.
    pub fn windows(positions: usize, taps: usize, stride: usize, padding: usize, extent: usize) -> Reads {
        let source = |i: usize, tap: usize| (i * stride + tap).checked_sub(padding).filter(|&at| at < extent);
        Reads::new(positions, taps, source)
    }

    pub fn positions(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn at(&self, i: usize) -> &[(usize, usize)] {
        &self.pairs[self.starts[i]..self.starts[i + 1]]
    }

    /// The adjoint: which positions, through which taps, read each of the `extent` sources.
    pub fn transposed(&self, extent: usize) -> Reads {
        let mut starts = vec![0; extent + 1];
        self.pairs.iter().for_each(|&(source, _)| starts[source + 1] += 1);
        for i in 0..extent {
            starts[i + 1] += starts[i];
        }
        let (mut next, mut pairs) = (starts.clone(), vec![(0, 0); self.pairs.len()]);
        for i in 0..self.positions() {
            for &(source, tap) in self.at(i) {
                pairs[next[source]] = (i, tap);
                next[source] += 1;
            }
        }
        Reads { starts, pairs }
    }
}

/// Taps that are the same for all channels, or a vector of channels each.
pub trait Taps<T>: Sync {
    /// Adds `x`, the channels `first ..` of a pixel, as weighed by the tap `index`.
    fn add<const LANES: usize>(&self, sum: &mut [T; LANES], x: &[T; LANES], index: usize, first: usize);
}

/// One number a tap.
pub struct Uniform<'a, T>(pub &'a [T]);

impl<T: Real> Taps<T> for Uniform<'_, T> {
    #[inline(always)]
    fn add<const LANES: usize>(&self, sum: &mut [T; LANES], x: &[T; LANES], index: usize, _: usize) {
        let weight = self.0[index];
        for lane in 0..LANES {
            sum[lane] += weight * x[lane];
        }
    }
}

/// A number for each of `channels` a tap.
pub struct PerChannel<'a, T> {
    pub weights: &'a [T],
    pub channels: usize,
}

impl<T: Real> Taps<T> for PerChannel<'_, T> {
    #[inline(always)]
    fn add<const LANES: usize>(&self, sum: &mut [T; LANES], x: &[T; LANES], index: usize, first: usize) {
        let weights = lanes::<T, LANES>(self.weights, index * self.channels + first);
        for lane in 0..LANES {
            sum[lane] += weights[lane] * x[lane];
        }
    }
}

/// `LANES` elements from `first` on.
#[inline(always)]
pub fn lanes<T, const LANES: usize>(x: &[T], first: usize) -> &[T; LANES] {
    x[first..first + LANES].as_array().expect("a slice of LANES elements")
}

/// `y[n, i, j, c] = Σ taps[ty · columns + tx] · x[n, sy, sx, c]` over the `(sy, ty)` that `rows` holds for `i` and the
/// `(sx, tx)` that `cols` holds for `j`; `columns` is how many taps a row of taps has. `x` has extents `[h, w, c]`.
pub fn dense<T: Real>(
    x: &[T],
    [h, w, c]: [usize; 3],
    (rows, cols): (&Reads, &Reads),
    (taps, columns): (&impl Taps<T>, usize),
    y: &mut [T],
) {
    let row = |i: usize, y: &mut [T]| {
        let (x, reads) = (&x[i / rows.positions() * h * w * c..][..h * w * c], rows.at(i % rows.positions()));
        vectorised!(match c {
            32.. => dense_row::<T, 32>(x, [w, c], reads, cols, (taps, columns), y),
            8.. => dense_row::<T, 8>(x, [w, c], reads, cols, (taps, columns), y),
            _ => dense_row::<T, 1>(x, [w, c], reads, cols, (taps, columns), y),
        });
    };
    par_lines(y, cols.positions() * c, row);
}

/// One row of [`dense`], `LANES` channels at a time. Where they do not divide the channels, the last two groups overlap.
#[inline(always)]
fn dense_row<T: Real, const LANES: usize>(
    x: &[T],
    [w, c]: [usize; 2],
    rows: &[(usize, usize)],
    cols: &Reads,
    (taps, columns): (&impl Taps<T>, usize),
    y: &mut [T],
) {
    for group in 0..c.div_ceil(LANES) {
        let first = (group * LANES).min(c - LANES);
        for (j, y) in y.chunks_exact_mut(c).enumerate() {
            let mut sum = [T::zero(); LANES];
            for &(sy, ty) in rows {
                for &(sx, tx) in cols.at(j) {
                    taps.add(&mut sum, lanes(x, (sy * w + sx) * c + first), ty * columns + tx, first);
                }
            }
            y[first..first + LANES].copy_from_slice(&sum);
        }
    }
}

/// As [`dense`] with a separable kernel, one tap for the row times one for the column: first down the columns into one row of
/// the image, then along it.
pub fn separable<T: Real>(
    x: &[T],
    [h, w, c]: [usize; 3],
    (rows, row_taps): (&Reads, &[T]),
    (cols, col_taps): (&Reads, &[T]),
    y: &mut [T],
) {
    let task = |i: usize, y: &mut [T]| {
        let x = &x[i / rows.positions() * h * w * c..][..h * w * c];
        let mut line = vec![T::zero(); w * c];
        vectorised!({
            for &(sy, ty) in rows.at(i % rows.positions()) {
                let weight = row_taps[ty];
                for (sum, &x) in line.iter_mut().zip(&x[sy * w * c..]) {
                    *sum += weight * x;
                }
            }
            let (along, taps) = ([(0, 0)], (&Uniform(col_taps), 0));
            match c {
                32.. => dense_row::<T, 32>(&line, [w, c], &along, cols, taps, y),
                8.. => dense_row::<T, 8>(&line, [w, c], &along, cols, taps, y),
                _ => dense_row::<T, 1>(&line, [w, c], &along, cols, taps, y),
            }
        });
    };
    par_lines(y, cols.positions() * c, task);
}

/// `f(i, line)` for every line of `length` elements, on all threads where there are enough.
pub fn par_lines<T: Send>(y: &mut [T], length: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if length == 0 {
        return;
    }
    if y.len() <= GRAIN / 2 {
        return y.chunks_exact_mut(length).enumerate().for_each(|(i, y)| f(i, y));
    }
    let grain = (GRAIN / 2 / length).max(1);
    y.par_chunks_exact_mut(length).enumerate().with_min_len(grain).for_each(|(i, y)| f(i, y));
}

/// Sums over many rows of an image batch in a fixed order: `add(rows, sums)` adds a range of rows to `sums`, of `elems`
/// elements; the ranges are cut by their number alone.
pub fn sum_over_rows<T: Real>(rows: usize, elems: usize, add: impl Fn(Range<usize>, &mut [T]) + Sync) -> Vec<T> {
    const PARTS: usize = 16;
    let part_rows = rows.div_ceil(PARTS).max(1);
    let part = |i: usize| {
        let mut sums = vec![T::zero(); elems];
        add(i * part_rows..((i + 1) * part_rows).min(rows), &mut sums);
        sums
    };
    let parts = rows.div_ceil(part_rows);
    let mut sums: Vec<Vec<T>> = (0..parts).into_par_iter().map(part).collect();
    let Some(mut total) = sums.pop() else { return vec![T::zero(); elems] };
    for sums in sums.iter().rev() {
        total.iter_mut().zip(sums).for_each(|(total, &sum)| *total += sum);
    }
    total
}
