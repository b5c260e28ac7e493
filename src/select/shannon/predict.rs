//! From pixels to residuals and back: how an image is cut into chunks, what a sample is predicted from, and how busy the
//! neighbourhood of a sample is.

use super::simd::vectorised;
use crate::image::RgbImage;

/// Pixels a chunk has at most: 48 KiB of samples.
pub const CHUNK_PIXELS: usize = 16384;
/// Samples (bytes) a chunk has at most.
pub const CHUNK_BYTES: usize = 3 * CHUNK_PIXELS;
/// Side of a chunk in an image at least this wide and high.
const CHUNK_SIDE_PX: usize = 128;

/// A rectangle of an image that is coded by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkArea {
    pub x_px: usize,
    pub y_px: usize,
    pub width_px: usize,
    pub height_px: usize,
}

impl ChunkArea {
    pub fn bytes(&self) -> usize {
        3 * self.width_px * self.height_px
    }
}

/// How an image of `width_px` x `height_px` (both at least 1) is cut: a grid of areas of nearly equal size, none larger than
/// [`CHUNK_PIXELS`]. Thin images get longer chunks, so that a line of pixels is not cut into crumbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkGrid {
    width_px: usize,
    height_px: usize,
    pub columns: usize,
    pub rows: usize,
}

impl ChunkGrid {
    pub fn new(width_px: usize, height_px: usize) -> ChunkGrid {
        let longest = |other_px: usize| CHUNK_PIXELS / other_px.clamp(1, CHUNK_SIDE_PX);
        let columns = width_px.div_ceil(longest(height_px));
        let rows = height_px.div_ceil(longest(width_px));
        ChunkGrid { width_px, height_px, columns, rows }
    }

    pub fn len(&self) -> usize {
        self.columns * self.rows
    }

    /// Chunk `index` in rows from the top, each from the left.
    pub fn area(&self, index: usize) -> ChunkArea {
        let (column, row) = (index % self.columns, index / self.columns);
        let cut = |i: usize, parts: usize, length_px: usize| i * length_px / parts;
        let (x_px, y_px) = (cut(column, self.columns, self.width_px), cut(row, self.rows, self.height_px));
        ChunkArea {
            x_px,
            y_px,
            width_px: cut(column + 1, self.columns, self.width_px) - x_px,
            height_px: cut(row + 1, self.rows, self.height_px) - y_px,
        }
    }
}

/// The median edge detector of LOCO-I: where up-left is not between left and up, there is an edge, and the one of them
/// farther from it is taken; elsewhere the plane left + up - up-left. Every step fits a byte.
#[inline(always)]
fn median_edge(left: u8, up: u8, up_left: u8) -> u8 {
    let (least, most) = (left.min(up), left.max(up));
    most.wrapping_sub(up_left.clamp(least, most) - least)
}

/// Signed residual to unsigned: 0, -1, 1, -2, 2 ... become 0, 1, 2, 3, 4 ...
#[inline(always)]
fn fold(residual: u8) -> u8 {
    (residual << 1) ^ ((residual as i8) >> 7) as u8
}

#[inline(always)]
fn unfold(folded: u8) -> u8 {
    (folded >> 1) ^ 0u8.wrapping_sub(folded & 1)
}

vectorised! {
    /// Folded residuals of a row's samples behind the first pixel. All slices start at that row's (column's) pixel 0.
    fn predict_row(samples: &[u8], above: &[u8], residuals: &mut [u8]) {
        let n = samples.len() - 3;
        let (x, left, residuals) = (&samples[3..], &samples[..n], &mut residuals[3..][..n]);
        let (up, up_left) = (&above[3..][..n], &above[..n]);
        for i in 0..n {
            residuals[i] = fold(x[i].wrapping_sub(median_edge(left[i], up[i], up_left[i])));
        }
    }
}

vectorised! {
    /// Folded differences to the pixel on the left: the first row, where nothing lies above.
    fn predict_first_row(samples: &[u8], residuals: &mut [u8]) {
        let n = samples.len() - 3;
        let (x, left, residuals) = (&samples[3..], &samples[..n], &mut residuals[3..][..n]);
        for i in 0..n {
            residuals[i] = fold(x[i].wrapping_sub(left[i]));
        }
    }
}

/// Folded residuals of a chunk, rows from the top, interleaved channels. The first pixel is predicted as 0, the first row
/// from the left, the first column from above, everything else by the median edge detector, all within the chunk and the
/// channel, modulo 256.
pub fn residuals(image: &RgbImage, area: ChunkArea, residuals: &mut [u8]) {
    let stride = 3 * area.width_px;
    let row_of = |y: usize| &image.pixels[3 * ((area.y_px + y) * image.width_px + area.x_px)..][..stride];
    for (y, out) in residuals[..area.bytes()].chunks_exact_mut(stride).enumerate() {
        let samples = row_of(y);
        if y == 0 {
            (0..3).for_each(|c| out[c] = fold(samples[c]));
            predict_first_row(samples, out);
        } else {
            let above = row_of(y - 1);
            (0..3).for_each(|c| out[c] = fold(samples[c].wrapping_sub(above[c])));
            predict_row(samples, above, out);
        }
    }
}

/// Pixels of a chunk from its folded residuals: the inverse of [`residuals`].
pub fn restore(residuals: &[u8], area: ChunkArea, pixels: &mut [u8]) {
    let stride = 3 * area.width_px;
    for i in 0..area.bytes() {
        let (x, y) = (i % stride, i / stride);
        let predicted = match (x < 3, y == 0) {
            (true, true) => 0,
            (false, true) => pixels[i - 3],
            (true, false) => pixels[i - stride],
            (false, false) => median_edge(pixels[i - 3], pixels[i - stride], pixels[i - stride - 3]),
        };
        pixels[i] = predicted.wrapping_add(unfold(residuals[i]));
    }
}

/// Contexts a residual is coded in.
pub const CONTEXTS: usize = 8;
/// A residual whose neighbours' sizes add up to at least `ACTIVITY[k]` is in context `k + 1` or higher.
const ACTIVITY: [u8; CONTEXTS - 1] = [2, 5, 9, 15, 24, 36, 56];

/// Distances, in samples back, of the three neighbours that set a context: the same channel on the left, above and above
/// right. The row before the first and the pixels outside are the samples that come there in reading order (0 before
/// the first), so no edge needs a rule; in a chunk one pixel wide "above right" would be the sample itself, and is the pixel above.
pub fn neighbours(width_px: usize) -> [usize; 3] {
    let stride = 3 * width_px;
    [3, stride, (stride - 3).max(3)]
}

/// Size of a folded residual, 0 to 128.
#[inline(always)]
fn size(folded: u8) -> u8 {
    (folded >> 1) + (folded & 1)
}

/// The context of a sample from its three neighbours' folded residuals.
#[inline(always)]
pub fn context(left: u8, up: u8, up_right: u8) -> u8 {
    let activity = size(left).saturating_add(size(up)).saturating_add(size(up_right));
    let mut context = 0;
    for least in ACTIVITY {
        context += u8::from(activity >= least);
    }
    context
}

/// A residual in its context: `context << 8 | folded residual`.
pub type Symbol = u16;

pub fn context_of(symbol: Symbol) -> usize {
    usize::from(symbol >> 8) % CONTEXTS
}

pub fn residual_of(symbol: Symbol) -> usize {
    usize::from(symbol & 255)
}

vectorised! {
    /// Symbols of `symbols.len()` samples; `padded` holds their residuals behind as many zeros as a row has samples.
    pub fn symbols(padded: &[u8], width_px: usize, symbols: &mut [Symbol]) {
        let n = symbols.len();
        let [left, up, up_right] = neighbours(width_px);
        let before = |distance: usize| &padded[up - distance..][..n];
        let (left, up, up_right, here) = (before(left), before(up), before(up_right), before(0));
        for i in 0..n {
            symbols[i] = Symbol::from(context(left[i], up[i], up_right[i])) << 8 | Symbol::from(here[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_is_reversible_and_ordered_by_size() {
        for residual in 0..=255u8 {
            assert_eq!(unfold(fold(residual)), residual);
            assert_eq!(size(fold(residual)), (residual as i8).unsigned_abs());
        }
        assert_eq!([0u8, 255, 1, 254, 2].map(fold), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn chunks_tile_the_image() {
        for (width_px, height_px) in
            [(1, 1), (1, 40000), (40000, 1), (3, 5), (130, 129), (257, 511), (1024, 1024), (17000, 2)]
        {
            let grid = ChunkGrid::new(width_px, height_px);
            let mut covered = 0;
            for index in 0..grid.len() {
                let area = grid.area(index);
                assert!(area.width_px >= 1 && area.height_px >= 1 && area.bytes() <= CHUNK_BYTES, "{area:?}");
                assert!(area.x_px + area.width_px <= width_px && area.y_px + area.height_px <= height_px);
                covered += area.width_px * area.height_px;
            }
            assert_eq!(covered, width_px * height_px);
        }
        assert_eq!(ChunkGrid::new(1024, 1024).len(), 64);
        assert_eq!(ChunkGrid::new(1, 16384).len(), 1);
    }

    #[test]
    fn the_predictor_is_the_median_of_its_neighbours_and_their_plane() {
        for left in (0..=255u8).step_by(5) {
            for up in (0..=255u8).step_by(3) {
                for up_left in (0..=255u8).step_by(5) {
                    let plane = i32::from(left) + i32::from(up) - i32::from(up_left);
                    let mut three = [i32::from(left), i32::from(up), plane];
                    three.sort_unstable();
                    assert_eq!(i32::from(median_edge(left, up, up_left)), three[1], "{left} {up} {up_left}");
                }
            }
        }
    }

    #[test]
    fn residuals_are_undone() {
        let mut image = RgbImage::filled(37, 23, [0; 3]);
        let mut state = 1u32;
        for (i, sample) in image.pixels.iter_mut().enumerate() {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            *sample = (i as u32 / 7 + (state >> 28)) as u8;
        }
        for area in [
            ChunkArea { x_px: 0, y_px: 0, width_px: 37, height_px: 23 },
            ChunkArea { x_px: 5, y_px: 3, width_px: 1, height_px: 9 },
            ChunkArea { x_px: 36, y_px: 22, width_px: 1, height_px: 1 },
        ] {
            let (mut folded, mut pixels) = (vec![0; area.bytes()], vec![0; area.bytes()]);
            residuals(&image, area, &mut folded);
            restore(&folded, area, &mut pixels);
            assert_eq!(pixels, image.crop(area.x_px, area.y_px, area.width_px, area.height_px).pixels);
        }
    }
}
