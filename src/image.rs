//! An 8-bit RGB image in memory: the one pixel type that slides produce, selectors score and reports draw.

use std::path::Path;

use crate::{
    error::{Error, Result},
    io::atomic,
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
            return Err(Error::Usage(format!("{}: an image without pixels cannot be a PNG", path.as_ref().display())));
        }
        atomic::write_bytes(path, &self.to_png())
    }
}
