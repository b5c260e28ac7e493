//! What a selector sees in an image, as an image and as a file of numbers.

use crate::image::RgbImage;

/// One number a pixel, more where the selector finds more.
#[derive(Clone, PartialEq, Debug)]
pub struct Response {
    pub width_px: usize,
    pub height_px: usize,
    pub values: Vec<f32>,
}

impl Response {
    /// A value for every pixel of `image`.
    pub fn of(image: &RgbImage, values: Vec<f32>) -> Response {
        Response { width_px: image.width_px, height_px: image.height_px, values }
    }

    /// Its largest value; 0 where there is none.
    pub fn largest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }

    /// Black at 0, white from `white` on.
    pub fn image(&self, white: f32) -> RgbImage {
        let scale = if white > 0.0 { 255.0 / white } else { 0.0 };
        let grey = |v: &f32| [(v * scale).round().clamp(0.0, 255.0) as u8; 3];
        let pixels = self.values.iter().flat_map(grey).collect();
        RgbImage { width_px: self.width_px, height_px: self.height_px, pixels }
    }

    /// As a file that NumPy loads: f32, `(height, width)`.
    pub fn to_npy(&self) -> Vec<u8> {
        let shape = format!("({}, {})", self.height_px, self.width_px);
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        // Magic, version and length take 10 bytes; data begin at a multiple of 64, behind a line break.
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        self.values.iter().for_each(|v| file.extend(v.to_le_bytes()));
        file
    }
}
