//! Convolution of NHWC images on the CPU, its input gradient and its weight gradient, by im2col and GEMM.
//!
//! The im2col matrix is made a cache-sized block of pixels and taps (a K-slice) at a time and never stored whole. With a
//! stride, the input gradient falls apart into one dense problem per sub-pixel phase, so nothing is multiplied by inserted
//! zeros. A 1×1 convolution needs no im2col. Tasks are cut by shape alone and the weight gradient's partial sums are added in a
//! fixed order: bit-identical at any thread count.

use rayon::prelude::*;

use super::gemm::{Matrix, MatrixMut, Threads, gemm};
use crate::{
    conv2d::{Conv2d, Geometry},
    device::host::Real,
};

/// Elements of one im2col block: an L2 cache holds it together with the weights it is multiplied by.
const BLOCK_ELEMS: usize = 192 << 10;
/// Elements of an im2col row: longer ones are split by taps.
const DEPTH: usize = 1024;
/// Tasks below this many let all threads share each GEMM instead.
const FEW_TASKS: usize = 4;

/// The tap table of one axis: where each tap reads, relative to the position's origin, in ascending order.
struct Taps(Vec<Tap>);

#[derive(Clone, Copy)]
struct Tap {
    offset: isize,
    /// Its index in the weight.
    index: usize,
}

impl Taps {
    /// Of the forward map: position `i` reads `i·stride + offset`.
    fn forward(conv: &Conv2d, taps: usize) -> Taps {
        let offset = |index| (index * conv.dilation) as isize - conv.padding as isize;
        Taps((0..taps).map(|index| Tap { offset: offset(index), index }).collect())
    }

    /// Of the input gradient: the pixel `i·stride + phase` receives from the positions `i + offset`.
    fn transposed(conv: &Conv2d, taps: usize, phase: usize) -> Taps {
        let stride = conv.stride as isize;
        let reach = |index: usize| (phase + conv.padding) as isize - (index * conv.dilation) as isize;
        let hits = (0..taps).rev().filter(|&index| reach(index).rem_euclid(stride) == 0);
        Taps(hits.map(|index| Tap { offset: reach(index).div_euclid(stride), index }).collect())
    }
}

/// The image a block is taken from, and the channels taken of it.
#[derive(Clone, Copy)]
struct Source<'a, T> {
    data: &'a [T],
    h: usize,
    w: usize,
    /// Channels of a pixel; of them `first .. first + count` are taken.
    c: usize,
    first: usize,
    count: usize,
    /// Pixels between neighbouring positions.
    stride: usize,
}

/// A block's pixels: `cols` positions per row, numbered over the rows `rows` of all images.
#[derive(Clone, Copy)]
struct Positions {
    rows: usize,
    cols: usize,
}

impl<T: Real> Source<'_, T> {
    /// Row `i` of `block` becomes what the taps `(y, x)` see from position `first + i`: `[y, x, channel]`.
    fn im2col(&self, positions: Positions, first: usize, ys: &[Tap], xs: &[Tap], block: &mut [T]) {
        let depth = ys.len() * xs.len() * self.count;
        let (mut col, mut row) = (first % positions.cols, first / positions.cols);
        // Neighbouring taps that read neighbouring whole pixels are one copy.
        let solid = self.count == self.c && xs.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1);
        for out in block.chunks_exact_mut(depth) {
            let (image, y0, x0) = (row / positions.rows, row % positions.rows * self.stride, col * self.stride);
            for (tap, out) in ys.iter().zip(out.chunks_exact_mut(xs.len() * self.count)) {
                let y = y0 as isize + tap.offset;
                if y < 0 || y >= self.h as isize {
                    out.fill(T::zero());
                    continue;
                }
                let line = (image * self.h + y as usize) * self.w;
                if solid {
                    let x = x0 as isize + xs[0].offset;
                    let skip = (-x).clamp(0, xs.len() as isize) as usize;
                    let take = (self.w as isize - x).clamp(skip as isize, xs.len() as isize) as usize - skip;
                    let (before, rest) = out.split_at_mut(skip * self.c);
                    let (inside, after) = rest.split_at_mut(take * self.c);
                    before.fill(T::zero());
                    after.fill(T::zero());
                    if take > 0 {
                        let from = (line + (x + skip as isize) as usize) * self.c;
                        inside.copy_from_slice(&self.data[from..from + inside.len()]);
                    }
                    continue;
                }
                for (tap, out) in xs.iter().zip(out.chunks_exact_mut(self.count)) {
                    let x = x0 as isize + tap.offset;
                    if x < 0 || x >= self.w as isize {
                        out.fill(T::zero());
                    } else {
                        let from = (line + x as usize) * self.c + self.first;
                        out.copy_from_slice(&self.data[from..from + self.count]);
                    }
                }
            }
            col += 1;
            if col == positions.cols {
                (col, row) = (0, row + 1);
            }
        }
    }
}

/// Taps whose im2col rows are short enough: a slice of K.
struct KSlice<'a> {
    ys: &'a [Tap],
    xs: &'a [Tap],
    /// Its first row in the weight panel.
    first: usize,
}

/// Cuts all taps, rows of taps where possible, into slices of about [`DEPTH`] elements.
fn k_slices<'a>(ys: &'a [Tap], xs: &'a [Tap], count: usize) -> Vec<KSlice<'a>> {
    let line = xs.len() * count;
    if line <= DEPTH {
        let step = (DEPTH / line).max(1);
        let cut = |(i, ys)| KSlice { ys, xs, first: i * step * line };
        return ys.chunks(step).enumerate().map(cut).collect();
    }
    let step = (DEPTH / count).max(1);
    let cut = |(i, y)| xs.chunks(step).enumerate().map(move |(j, xs)| (i, y, j, xs));
    let slice = |(i, y, j, xs): (usize, &'a Tap, usize, &'a [Tap])| KSlice {
        ys: std::slice::from_ref(y),
        xs,
        first: i * line + j * step * count,
    };
    ys.iter().enumerate().flat_map(cut).map(slice).collect()
}

/// Positions at a time: as the shapes ask, never as the threads do.
fn block_rows(total: usize, k_slices: &[KSlice], count: usize) -> usize {
    let depth = k_slices.iter().map(|s| s.ys.len() * s.xs.len() * count).max().unwrap_or(1);
    (BLOCK_ELEMS / depth.max(1)).clamp(64, 1024).min(total.div_ceil(8).max(64)).next_multiple_of(8)
}

/// Lends this thread's scratch memory, of unspecified content.
fn with_scratch<T: Real, R>(elems: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local!(static SCRATCH: std::cell::Cell<Vec<u64>> = const { std::cell::Cell::new(Vec::new()) });
    // Taken, not borrowed: while this thread waits for others it may be handed a task that wants scratch, too.
    let mut words = SCRATCH.take();
    let needed = (elems * size_of::<T>()).div_ceil(size_of::<u64>());
    if words.len() < needed {
        words.resize(needed, 0);
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut words)[..elems]);
    SCRATCH.set(words);
    result
}

/// The weights of every group as matrices from im2col columns to output channels.
struct WeightPanels<'a, T: Real> {
    data: std::borrow::Cow<'a, [T]>,
    row: usize,
    col: usize,
    group: usize,
}

impl<'a, T: Real> WeightPanels<'a, T> {
    /// `[k, (r, s, c)]` as it is, read transposed: best where it is used once.
    fn transposed(w: &'a [T], depth: usize, k_group: usize) -> WeightPanels<'a, T> {
        WeightPanels { data: w.into(), row: 1, col: depth, group: depth * k_group }
    }

    /// `[(r, s, c), k]` in memory: best where many blocks use it.
    fn packed(w: &[T], depth: usize, k_group: usize) -> WeightPanels<'a, T> {
        const TILE: usize = 16;
        let mut data = vec![T::zero(); w.len()];
        let bands = data.par_chunks_mut(depth * k_group).zip(w.par_chunks(depth * k_group));
        let transpose_band = |first: usize, band: &mut [T], w: &[T]| {
            for k0 in (0..k_group).step_by(TILE) {
                for (row, out) in band.chunks_exact_mut(k_group).enumerate() {
                    let out = &mut out[k0..(k0 + TILE).min(k_group)];
                    out.iter_mut().enumerate().for_each(|(k, out)| *out = w[(k0 + k) * depth + first + row]);
                }
            }
        };
        bands.for_each(|(group, w)| {
            let band = TILE * 4;
            group.par_chunks_mut(band * k_group).enumerate().for_each(|(i, out)| transpose_band(i * band, out, w));
        });
        WeightPanels { data: data.into(), row: k_group, col: 1, group: depth * k_group }
    }

    /// `[(tap, k), c]` for the taps `(y, x)`: the weights of the transposed map.
    fn of_transposed_map(g: &Geometry, w: &[T], ys: &[Tap], xs: &[Tap]) -> WeightPanels<'a, T> {
        let (c, k, taps) = (g.c_group(), g.k_group(), ys.len() * xs.len());
        let mut data = vec![T::zero(); g.conv.groups * taps * k * c];
        let tap = |(i, out): (usize, &mut [T])| {
            let (group, y, x) = (i / taps, ys[i % taps / xs.len()].index, xs[i % xs.len()].index);
            for (k_at, out) in out.chunks_exact_mut(c).enumerate() {
                let from = (((group * k + k_at) * g.r + y) * g.s + x) * c;
                out.copy_from_slice(&w[from..from + c]);
            }
        };
        if k * c > 0 {
            data.par_chunks_mut(k * c).enumerate().for_each(tap);
        }
        WeightPanels { data: data.into(), row: c, col: 1, group: taps * k * c }
    }

    fn at(&self, group: usize, first_row: usize) -> Matrix<'_, T> {
        Matrix { data: &self.data[group * self.group + first_row * self.row..], row: self.row, col: self.col }
    }
}

/// A dense im2col and GEMM: what the forward map is, and the input gradient per phase.
struct Correlation<'a, T: Real> {
    source: Source<'a, T>,
    positions: Positions,
    groups: usize,
    ys: &'a [Tap],
    xs: &'a [Tap],
    weights: WeightPanels<'a, T>,
    /// Output channels of a group.
    out: usize,
    /// Whether `y` already holds what the sums are added to.
    accumulate: bool,
}

impl<T: Real> Correlation<'_, T> {
    /// Writes the positions `first ..` that `y`, `[position, channel]`, has room for.
    fn compute(&self, first: usize, y: &mut [T], block: usize, threads: Threads) {
        let (out, count) = (self.groups * self.out, self.source.count);
        let k_slices = k_slices(self.ys, self.xs, count);
        let deepest = k_slices.iter().map(|s| s.ys.len() * s.xs.len() * count).max().unwrap_or(0);
        with_scratch(block * deepest, |scratch: &mut [T]| {
            for (i, y) in y.chunks_mut(block * out).enumerate() {
                let rows = y.len() / out;
                for group in 0..self.groups {
                    let source = Source { first: group * count, ..self.source };
                    for (j, slice) in k_slices.iter().enumerate() {
                        let depth = slice.ys.len() * slice.xs.len() * count;
                        let columns = &mut scratch[..rows * depth];
                        source.im2col(self.positions, first + i * block, slice.ys, slice.xs, columns);
                        let y = MatrixMut { data: &mut y[group * self.out..], row: out };
                        let accumulate = j > 0 || self.accumulate;
                        let panel = self.weights.at(group, slice.first);
                        gemm([rows, self.out, depth], Matrix::rows(columns, depth), panel, y, accumulate, threads);
                    }
                }
            }
        });
    }

    fn compute_all(&self, y: &mut [T]) {
        let out = self.groups * self.out;
        let block = block_rows(y.len() / out, &k_slices(self.ys, self.xs, self.source.count), self.source.count);
        if y.len() < FEW_TASKS * block * out {
            return self.compute(0, y, block, Threads::All);
        }
        let tasks = y.par_chunks_mut(block * out).enumerate();
        tasks.for_each(|(i, y)| self.compute(i * block, y, block, Threads::One));
    }
}

/// `y = conv(x, w)`, or `y += conv(x, w)` with `accumulate`.
pub fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], y: &mut [T], accumulate: bool) {
    let (c, k, depth) = (g.c_group(), g.k_group(), g.depth());
    if y.is_empty() {
        return;
    }
    if x.is_empty() || depth == 0 {
        if !accumulate {
            y.fill(T::zero());
        }
        return;
    }
    if g.is_pointwise() {
        for group in 0..g.conv.groups {
            let (x, w) = (Matrix::rows(&x[group * c..], g.c), Matrix::transposed(&w[group * k * c..], c));
            let y = MatrixMut { data: &mut y[group * k..], row: g.k };
            gemm([g.pixels(), k, c], x, w, y, accumulate, Threads::All);
        }
        return;
    }
    let (ys, xs) = (Taps::forward(&g.conv, g.r).0, Taps::forward(&g.conv, g.s).0);
    let once = g.pixels() < 256;
    Correlation {
        source: Source { data: x, h: g.h, w: g.w, c: g.c, first: 0, count: c, stride: g.conv.stride },
        positions: Positions { rows: g.oh, cols: g.ow },
        groups: g.conv.groups,
        ys: &ys,
        xs: &xs,
        weights: if once { WeightPanels::transposed(w, depth, k) } else { WeightPanels::packed(w, depth, k) },
        out: k,
        accumulate,
    }
    .compute_all(y);
}

pub fn input_gradient<T: Real>(g: &Geometry, dy: &[T], w: &[T], dx: &mut [T]) {
    let (c, k, stride) = (g.c_group(), g.k_group(), g.conv.stride);
    if dx.is_empty() {
        return;
    }
    if dy.is_empty() || w.is_empty() {
        return dx.fill(T::zero());
    }
    if g.is_pointwise() {
        for group in 0..g.conv.groups {
            let (dy, w) = (Matrix::rows(&dy[group * k..], g.k), Matrix::rows(&w[group * k * c..], c));
            let dx = MatrixMut { data: &mut dx[group * c..], row: g.c };
            gemm([g.pixels(), c, k], dy, w, dx, false, Threads::All);
        }
        return;
    }
    let axis = |taps: usize, extent: usize| {
        let phase = |phase| (Taps::transposed(&g.conv, taps, phase).0, (extent - phase).div_ceil(stride));
        (0..stride.min(extent)).map(phase).collect::<Vec<_>>()
    };
    let (rows, cols) = (axis(g.r, g.h), axis(g.s, g.w));
    let mut phases = Vec::new();
    for (y_phase, (ys, rows)) in rows.iter().enumerate() {
        for (x_phase, (xs, cols)) in cols.iter().enumerate() {
            let correlation = Correlation {
                source: Source { data: dy, h: g.oh, w: g.ow, c: g.k, first: 0, count: k, stride: 1 },
                positions: Positions { rows: *rows, cols: *cols },
                groups: g.conv.groups,
                ys,
                xs,
                weights: WeightPanels::of_transposed_map(g, w, ys, xs),
                out: c,
                accumulate: false,
            };
            phases.push(Phase { correlation, y: y_phase, x: x_phase, stride });
        }
    }
    if stride == 1 {
        return phases.iter().for_each(|phase| phase.correlation.compute_all(dx));
    }
    // A task is a band of rows of one image, a multiple of the stride high, or several small images.
    let (image, line) = (g.h * g.w * g.c, g.w * g.c);
    let band_pixels = (BLOCK_ELEMS / k.clamp(32, 256) * stride * stride).min((g.n * g.h * g.w).div_ceil(8).max(512));
    let band = (band_pixels / g.w).next_multiple_of(stride).max(stride);
    if band < g.h {
        dx.par_chunks_mut(image).enumerate().for_each(|(i, dx)| {
            dx.par_chunks_mut(band * line).enumerate().for_each(|(j, dx)| {
                phases.iter().for_each(|phase| phase.scatter(i, j * band, dx.len() / line, g, dx, Threads::One));
            });
        });
        return;
    }
    let images = (band_pixels / (g.h * g.w)).max(1);
    let several = |(i, dx): (usize, &mut [T]), threads| {
        phases.iter().for_each(|phase| phase.scatter(i * images, 0, g.h, g, dx, threads));
    };
    if g.n < FEW_TASKS * images {
        dx.chunks_mut(images * image).enumerate().for_each(|task| several(task, Threads::All));
    } else {
        dx.par_chunks_mut(images * image).enumerate().for_each(|task| several(task, Threads::One));
    }
}

/// The pixels of an input gradient whose coordinates leave the remainders `y` and `x` when divided by the stride.
struct Phase<'a, T: Real> {
    correlation: Correlation<'a, T>,
    y: usize,
    x: usize,
    stride: usize,
}

impl<T: Real> Phase<'_, T> {
    /// Writes this phase's pixels of `dx`, `height` rows from row `top` of one image or whole images from `image` on.
    fn scatter(&self, image: usize, top: usize, height: usize, g: &Geometry, dx: &mut [T], threads: Threads) {
        let (Positions { rows, cols }, c) = (self.correlation.positions, g.c);
        if self.y >= height {
            return;
        }
        let (lines, images) = ((height - self.y).div_ceil(self.stride), dx.len() / (height * g.w * c));
        let count = images * lines * cols;
        let mut dense = vec![T::zero(); count * c];
        if !self.correlation.ys.is_empty() && !self.correlation.xs.is_empty() {
            let first = (image * rows + top / self.stride) * cols;
            let taps = k_slices(self.correlation.ys, self.correlation.xs, self.correlation.source.count);
            let block = block_rows(count, &taps, self.correlation.source.count);
            self.correlation.compute(first, &mut dense, block, threads);
        }
        for (i, line) in dense.chunks_exact(cols * c).enumerate() {
            let y = i / lines * height + i % lines * self.stride + self.y;
            for (j, pixel) in line.chunks_exact(c).enumerate() {
                let to = (y * g.w + j * self.stride + self.x) * c;
                dx[to..to + c].copy_from_slice(pixel);
            }
        }
    }
}

/// Partial sums of the weight gradient: at most so many elements together.
const PARTIAL_ELEMS: usize = 1 << 20;

pub fn weight_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let (c, k, groups) = (g.c_group(), g.k_group(), g.conv.groups);
    if dw.is_empty() || dy.is_empty() {
        return dw.fill(T::zero());
    }
    let (ys, xs) = (Taps::forward(&g.conv, g.r).0, Taps::forward(&g.conv, g.s).0);
    let k_slices = k_slices(&ys, &xs, c);
    let source = Source { data: x, h: g.h, w: g.w, c: g.c, first: 0, count: c, stride: g.conv.stride };
    let positions = Positions { rows: g.oh, cols: g.ow };
    let block = if g.is_pointwise() { 1024 } else { block_rows(g.pixels(), &k_slices, c) };
    // Pixels are cut into parts, each with sums of its own, until there are enough tasks.
    let parts = 16usize
        .div_ceil(groups * k_slices.len())
        .min(g.pixels().div_ceil(block.max(256)))
        .min((PARTIAL_ELEMS / dw.len()).max(1));
    let part_rows = g.pixels().div_ceil(parts).next_multiple_of(block);
    let parts = g.pixels().div_ceil(part_rows);
    let tasks = groups * k_slices.len() * parts;
    let threads = if tasks < FEW_TASKS { Threads::All } else { Threads::One };

    let partial = |task: usize| {
        let (group, slice, part) =
            (task / (k_slices.len() * parts), &k_slices[task / parts % k_slices.len()], task % parts);
        let source = Source { first: group * c, ..source };
        let depth = slice.ys.len() * slice.xs.len() * c;
        let mut sum = vec![T::zero(); k * depth];
        let end = ((part + 1) * part_rows).min(g.pixels());
        with_scratch(if g.is_pointwise() { 0 } else { block * depth }, |scratch: &mut [T]| {
            for first in (part * part_rows..end).step_by(block) {
                let rows = block.min(end - first);
                let seen = if g.is_pointwise() {
                    Matrix::rows(&x[first * g.c + group * c..], g.c)
                } else {
                    let columns = &mut scratch[..rows * depth];
                    source.im2col(positions, first, slice.ys, slice.xs, columns);
                    Matrix::rows(columns, depth)
                };
                let dy = Matrix::transposed(&dy[first * g.k + group * k..], g.k);
                let accumulate = first > part * part_rows;
                gemm([k, depth, rows], dy, seen, MatrixMut { data: &mut sum, row: depth }, accumulate, threads);
            }
        });
        sum
    };
    let sums: Vec<Vec<T>> = if threads == Threads::All {
        (0..tasks).map(partial).collect()
    } else {
        (0..tasks).into_par_iter().map(partial).collect()
    };

    let depth = g.depth();
    let collect = |(i, row): (usize, &mut [T])| {
        let (group, k_at) = (i / k, i % k);
        for (j, slice) in k_slices.iter().enumerate() {
            let length = slice.ys.len() * slice.xs.len() * c;
            let row = &mut row[slice.first..slice.first + length];
            for part in 0..parts {
                let sum = &sums[(group * k_slices.len() + j) * parts + part][k_at * length..][..length];
                if part == 0 {
                    row.copy_from_slice(sum);
                } else {
                    row.iter_mut().zip(sum).for_each(|(row, &sum)| *row += sum);
                }
            }
        }
    };
    if dw.len() < 32 << 10 {
        dw.chunks_exact_mut(depth).enumerate().for_each(collect);
    } else {
        dw.par_chunks_exact_mut(depth).enumerate().with_min_len(16).for_each(collect);
    }
}
