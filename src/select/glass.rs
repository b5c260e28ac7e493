//! Glass and tissue of a patch, from a mosaic of its mean colours that costs one pass over pixels already in memory.
//!
//! A patch is cut into [`CELLS`] x [`CELLS`] cells, fewer where they would be smaller than [`CELL_PX`]. Two things follow from them, whatever
//! selector scores the patch:
//!
//! - **Glass.** A cell is glass if all its mean colours are at least [`CLEAR`], which is an optical density below 0.15 over a
//!   white of 240 in every channel (Macenko et al. 2009 call such pixels transparent), or if it is blank: no two of its
//!   pixels differ by more than [`BLANK`] levels, as where a scanner filled in what it did not scan. A patch is glass if at
//!   least [`GLASS_SHARE`] of its cells are. A score cannot tell: the noise of a glass stored without loss takes 15 bits per
//!   pixel, more than tissue in a JPEG.
//! - **Tissue.** Otsu's threshold over the cells of a whole slide, as over its thumbnail, and the share of each patch's
//!   cells that are at most as bright.

use super::{
    grey::{GreyImage, LUMA, LUMA_SHIFT},
    otsu,
};
use crate::image::RgbImage;

/// The most cells along a side of a patch.
pub const CELLS: usize = 16;
/// The least pixels along a side of a cell: of fewer, chance makes some all alike.
pub const CELL_PX: usize = 8;
/// `240 exp(-0.15)`: the darkest that each channel of clear glass is.
pub const CLEAR: f64 = 206.0;
/// Levels within which a cell counts as one colour.
pub const BLANK: u8 = 2;
/// A patch of at least this share of glass is glass.
pub const GLASS_SHARE: f32 = 0.95;

/// What is known of a patch's cells.
#[derive(Clone, PartialEq, Debug)]
pub struct Cells {
    /// Mean grey level of every cell.
    grey: Vec<u8>,
    glass: usize,
}

impl Cells {
    pub fn of(image: &RgbImage) -> Cells {
        // None where there are no pixels.
        let along = |px: usize| (px / CELL_PX).clamp(px.min(1), CELLS);
        let (columns, rows) = (along(image.width_px), along(image.height_px));
        let mut cells = Cells { grey: Vec::with_capacity(columns * rows), glass: 0 };
        let edges = |cell: usize, cells: usize, length: usize| cell * length / cells..(cell + 1) * length / cells;
        for row in 0..rows {
            for column in 0..columns {
                let (x, y) = (edges(column, columns, image.width_px), edges(row, rows, image.height_px));
                cells.add(image, x, y);
            }
        }
        cells
    }

    fn add(&mut self, image: &RgbImage, x: std::ops::Range<usize>, y: std::ops::Range<usize>) {
        let pixels = (x.len() * y.len()).max(1) as f64;
        let (mut sums, mut low, mut high) = ([0u64; 3], [255u8; 3], [0u8; 3]);
        for y in y {
            let line = &image.pixels[3 * (y * image.width_px + x.start)..3 * (y * image.width_px + x.end)];
            // A line of a cell fits into 32 bits.
            let mut part = [0u32; 3];
            for rgb in line.chunks_exact(3) {
                for c in 0..3 {
                    part[c] += u32::from(rgb[c]);
                    low[c] = low[c].min(rgb[c]);
                    high[c] = high[c].max(rgb[c]);
                }
            }
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += u64::from(part));
        }
        let means = sums.map(|sum| sum as f64 / pixels);
        let clear = means.iter().all(|mean| *mean >= CLEAR);
        let blank = (0..3).all(|c| high[c].saturating_sub(low[c]) <= BLANK);
        self.glass += usize::from(clear || blank);
        let luma: f64 = means.iter().zip(LUMA).map(|(mean, weight)| mean * f64::from(weight)).sum();
        self.grey.push((luma / f64::from(1u32 << LUMA_SHIFT)).round() as u8);
    }

    /// The share of cells that are glass, 0 to 1.
    pub fn glass_share(&self) -> f32 {
        self.glass as f32 / self.grey.len().max(1) as f32
    }
}

/// The share of each patch that Otsu's threshold over all of them calls tissue.
pub fn tissue_shares(patches: &[Cells]) -> Vec<f32> {
    let mut histogram = [0u64; 256];
    patches.iter().flat_map(|cells| &cells.grey).for_each(|&level| histogram[usize::from(level)] += 1);
    let threshold = otsu::threshold_of(&histogram);
    let share = |cells: &Cells| {
        let grey = GreyImage { width_px: cells.grey.len(), height_px: 1, values: cells.grey.clone() };
        otsu::tissue_fraction(&grey, threshold) as f32
    };
    patches.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    /// Glass, tissue and noise of a scanner, at any size.
    fn noisy(size: usize, colour: [u8; 3], noise: f64) -> RgbImage {
        let normals = Philox::named(3, "noise").normals(3 * size * size);
        let pixels = normals.iter().enumerate().map(|(i, n)| (f64::from(colour[i % 3]) + noise * n).round() as u8);
        RgbImage { width_px: size, height_px: size, pixels: pixels.collect() }
    }

    #[test]
    fn glass_is_bright_or_blank_whatever_its_noise() {
        for size in [9, 16, 128, 250] {
            for glass in
                [noisy(size, [243, 241, 244], 0.0), noisy(size, [226, 222, 225], 6.0), noisy(size, [0; 3], 0.0)]
            {
                assert_eq!(Cells::of(&glass).glass_share(), 1.0, "{size} px");
            }
            // Stroma is pale in red alone.
            for tissue in [noisy(size, [214, 168, 196], 12.0), noisy(size, [235, 190, 214], 5.0)] {
                assert_eq!(Cells::of(&tissue).glass_share(), 0.0, "{size} px");
            }
        }
        assert_eq!(Cells::of(&RgbImage::filled(0, 3, [0; 3])).glass_share(), 0.0);
    }

    #[test]
    fn tissue_is_what_otsu_finds_over_all_patches() {
        let mut half = noisy(64, [240; 3], 2.0);
        let stroma = noisy(64, [200, 120, 170], 4.0);
        (0..64 * 32).for_each(|i| half.put(i % 64, i / 64, stroma.pixel(i % 64, i / 64)));
        let patches = [noisy(64, [240; 3], 2.0), half, stroma].map(|image| Cells::of(&image));
        assert_eq!(tissue_shares(&patches), [0.0, 0.5, 1.0]);
        assert_eq!(patches.map(|cells| cells.glass_share()), [1.0, 0.5, 0.0]);
        assert!(tissue_shares(&[]).is_empty());
    }
}
