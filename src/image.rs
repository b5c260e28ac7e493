//! An 8-bit RGB image in memory: the one pixel type that slides produce, selectors score and reports draw.

use std::path::Path;

use crate::{
    atomic,
    error::{Error, Result},
};

/// Interleaved RGB, rows from top to bottom: `pixels[(y * width_px + x) * 3 + channel]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RgbImage {
    pub width_px: usize,
    pub height_px: usize,
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// All pixels of one colour.
    pub fn filled(width_px: usize, height_px: usize, rgb: [u8; 3]) -> RgbImage {
        let pixels = rgb.iter().copied().cycle().take(width_px * height_px * 3).collect();
        RgbImage { width_px, height_px, pixels }
    }

    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width_px + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    pub fn put(&mut self, x: usize, y: usize, rgb: [u8; 3]) {
        let at = (y * self.width_px + x) * 3;
        self.pixels[at..at + 3].copy_from_slice(&rgb);
    }

    /// The part of the image inside the given rectangle, clipped to the image.
    pub fn crop(&self, x: usize, y: usize, width_px: usize, height_px: usize) -> RgbImage {
        let (x, y) = (x.min(self.width_px), y.min(self.height_px));
        let (width_px, height_px) = (width_px.min(self.width_px - x), height_px.min(self.height_px - y));
        let mut pixels = Vec::with_capacity(width_px * height_px * 3);
        for row in y..y + height_px {
            let start = (row * self.width_px + x) * 3;
            pixels.extend_from_slice(&self.pixels[start..start + width_px * 3]);
        }
        RgbImage { width_px, height_px, pixels }
    }

    /// In the middle of a square of one colour; what stands out of the square is cut off.
    pub fn letterboxed(&self, side_px: usize, rgb: [u8; 3]) -> RgbImage {
        let mut square = RgbImage::filled(side_px, side_px, rgb);
        let [left, top] = [self.width_px, self.height_px].map(|extent| side_px.saturating_sub(extent) / 2);
        for y in 0..self.height_px.min(side_px - top) {
            for x in 0..self.width_px.min(side_px - left) {
                square.put(left + x, top + y, self.pixel(x, y));
            }
        }
        square
    }

    /// Mean over the source area of every target pixel: the right filter for making images smaller.
    pub fn resize_area(&self, width_px: usize, height_px: usize) -> RgbImage {
        let mut out = RgbImage::filled(width_px, height_px, [0; 3]);
        let spans = |from: usize, to: usize| -> Vec<(f64, f64)> {
            let step = from as f64 / to as f64;
            (0..to).map(|i| (i as f64 * step, (i + 1) as f64 * step)).collect()
        };
        let (columns, rows) = (spans(self.width_px, width_px), spans(self.height_px, height_px));
        let cover = |i: usize, (from, to): (f64, f64)| ((i + 1) as f64).min(to) - (i as f64).max(from);
        for (oy, &(y0, y1)) in rows.iter().enumerate() {
            for (ox, &(x0, x1)) in columns.iter().enumerate() {
                let (mut sum, mut weight) = ([0.0; 3], 0.0);
                for y in y0 as usize..(y1.ceil() as usize).min(self.height_px) {
                    for x in x0 as usize..(x1.ceil() as usize).min(self.width_px) {
                        let w = cover(y, (y0, y1)) * cover(x, (x0, x1));
                        let rgb = self.pixel(x, y);
                        (0..3).for_each(|c| sum[c] += w * f64::from(rgb[c]));
                        weight += w;
                    }
                }
                out.put(ox, oy, sum.map(|s| (s / weight).round().clamp(0.0, 255.0) as u8));
            }
        }
        out
    }

    /// Resized by a triangle filter as wide as the scale demands: bilinear when enlarging, antialiased when shrinking.
    /// The image has at least one pixel.
    pub fn resize_bilinear(&self, width_px: usize, height_px: usize) -> RgbImage {
        if (width_px, height_px) == (self.width_px, self.height_px) {
            return self.clone();
        }
        let (columns, rows) = (triangle_taps(self.width_px, width_px), triangle_taps(self.height_px, height_px));
        let mut narrowed = Vec::with_capacity(self.height_px * width_px * 3);
        for row in self.pixels.chunks_exact(self.width_px * 3) {
            for (start, taps) in &columns {
                let mut sum = [0.0f32; 3];
                for (rgb, weight) in row[start * 3..].chunks_exact(3).zip(taps) {
                    (0..3).for_each(|c| sum[c] += weight * f32::from(rgb[c]));
                }
                narrowed.extend_from_slice(&sum);
            }
        }
        let mut pixels = Vec::with_capacity(width_px * height_px * 3);
        let mut sum = vec![0.0f32; width_px * 3];
        for (start, taps) in &rows {
            sum.fill(0.0);
            for (row, weight) in narrowed[start * width_px * 3..].chunks_exact(width_px * 3).zip(taps) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
            pixels.extend(sum.iter().map(|value| value.round().clamp(0.0, 255.0) as u8));
        }
        RgbImage { width_px, height_px, pixels }
    }

    /// The image as a PNG file in memory.
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width_px as u32, self.height_px as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().expect("a Vec accepts every write");
        writer.write_image_data(&self.pixels).expect("the pixel count matches the header");
        drop(writer);
        bytes
    }

    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        if self.width_px == 0 || self.height_px == 0 {
            return Err(Error::internal(format_args!(
                "{}: an image without pixels cannot be a PNG",
                path.as_ref().display()
            )));
        }
        atomic::write_bytes(path, &self.to_png())
    }
}

/// For every target position, the first source position it reads and the weights from there on, which sum to one.
fn triangle_taps(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let radius = scale.max(1.0);
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - radius).max(0.0) as usize;
        let last = ((centre + radius).ceil() as usize).min(from);
        let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / radius).abs()).max(0.0);
        let total: f64 = (first..last).map(weight).sum();
        (first, (first..last).map(|at| (weight(at) / total) as f32).collect())
    };
    (0..to).map(taps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bilinear_keeps_flat_images_means_and_ramps() {
        let flat = RgbImage::filled(37, 21, [9, 128, 250]);
        for (w, h) in [(8, 8), (37, 5), (64, 50), (1, 1)] {
            assert_eq!(flat.resize_bilinear(w, h), RgbImage::filled(w, h, [9, 128, 250]));
        }
        let mut ramp = RgbImage::filled(64, 4, [0; 3]);
        (0..64).for_each(|x| (0..4).for_each(|y| ramp.put(x, y, [4 * x as u8; 3])));
        let small = ramp.resize_bilinear(16, 4);
        // Inside, a shrunken ramp is a ramp: pixel i covers source pixels 4i to 4i + 3, whose mean is 16i + 6.
        (1..15).for_each(|x| assert_eq!(small.pixel(x, 2), [16 * x as u8 + 6; 3]));
        let large = small.resize_bilinear(32, 8);
        (4..28).for_each(|x| assert!(large.pixel(x, 3)[0].abs_diff(8 * x as u8 + 2) <= 1, "{:?}", large.pixel(x, 3)));
    }

    #[test]
    fn letterboxes_are_square_and_centred() {
        let wide = RgbImage::filled(4, 2, [7; 3]).letterboxed(5, [255; 3]);
        let rows: Vec<usize> = (0..5).map(|y| (0..5).filter(|&x| wide.pixel(x, y) == [7; 3]).count()).collect();
        assert_eq!((wide.width_px, wide.height_px, rows), (5, 5, vec![0, 4, 4, 0, 0]));
        assert_eq!(RgbImage::filled(9, 1, [7; 3]).letterboxed(3, [0; 3]).pixel(2, 1), [7; 3]);
    }
}
