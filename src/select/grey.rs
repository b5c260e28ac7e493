//! The grey image that every selector but Shannon's looks at.
//!
//! Luma in integers, exactly OpenCV's 8-bit `cvtColor(RGB2GRAY)`: `(9798 R + 19235 G + 3735 B + 2^14) >> 15`. A grey image
//! (R = G = B) keeps its values.

use crate::{image::RgbImage, vectorised};

/// Weights of red, green and blue; they sum to 2^15.
pub const LUMA: [u32; 3] = [9798, 19235, 3735];
pub const LUMA_SHIFT: u32 = 15;

/// One byte a pixel, rows from the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GreyImage {
    pub width_px: usize,
    pub height_px: usize,
    pub values: Vec<u8>,
}

impl GreyImage {
    pub fn of(image: &RgbImage) -> GreyImage {
        let mut values = vec![0; image.width_px * image.height_px];
        vectorised!({
            for (grey, rgb) in values.iter_mut().zip(image.pixels.chunks_exact(3)) {
                let sum = LUMA[0] * u32::from(rgb[0]) + LUMA[1] * u32::from(rgb[1]) + LUMA[2] * u32::from(rgb[2]);
                *grey = ((sum + (1 << (LUMA_SHIFT - 1))) >> LUMA_SHIFT) as u8;
            }
        });
        GreyImage { width_px: image.width_px, height_px: image.height_px, values }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn row(&self, y: usize) -> &[u8] {
        &self.values[y * self.width_px..][..self.width_px]
    }

    /// How often each grey level occurs.
    pub fn histogram(&self) -> [u64; 256] {
        // Four tables, so that equal neighbours do not wait for each other's count.
        let mut tables = [[0u32; 256]; 4];
        let mut total = [0u64; 256];
        // A table's counts fit into 32 bits for so many values.
        for part in self.values.chunks(1 << 30) {
            let mut fours = part.chunks_exact(4);
            for four in &mut fours {
                (0..4).for_each(|i| tables[i][usize::from(four[i])] += 1);
            }
            fours.remainder().iter().for_each(|&value| tables[0][usize::from(value)] += 1);
            for table in &mut tables {
                total
                    .iter_mut()
                    .zip(table.iter_mut())
                    .for_each(|(sum, count)| *sum += u64::from(std::mem::take(count)));
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_stays_grey_and_weights_round() {
        for level in 0..=255u8 {
            assert_eq!(GreyImage::of(&RgbImage::filled(1, 1, [level; 3])).values, [level]);
        }
        let of = |rgb| GreyImage::of(&RgbImage::filled(1, 1, rgb)).values[0];
        assert_eq!((of([255, 0, 0]), of([0, 255, 0]), of([0, 0, 255])), (76, 150, 29));
    }

    #[test]
    fn histograms_count_every_pixel() {
        let image = GreyImage { width_px: 7, height_px: 3, values: (0..21).map(|i| i % 5).collect() };
        let histogram = image.histogram();
        assert_eq!(&histogram[..6], &[5, 4, 4, 4, 4, 0]);
    }
}
