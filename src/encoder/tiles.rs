//! Images as networks are fed with them: one side, each channel shifted and scaled.

use rayon::prelude::*;

use crate::{
    device::{Device, host::HostBuffer},
    dtype::DType,
    error::{Error, Result},
    image::RgbImage,
    tensor::Tensor,
};

/// `(v / 255 − mean) / sd` for each of red, green and blue.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub sd: [f64; 3],
}

/// Of torchvision's and timm's ImageNet models.
pub const IMAGENET: Normalisation = Normalisation { mean: [0.485, 0.456, 0.406], sd: [0.229, 0.224, 0.225] };

impl Normalisation {
    /// What each byte of each channel becomes.
    fn table(&self) -> [[f32; 256]; 3] {
        let value = |channel: usize, byte: usize| (byte as f64 / 255.0 - self.mean[channel]) / self.sd[channel];
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte) as f32))
    }
}

/// The image at `tile_px` squared, by a triangle filter as wide as the scale demands.
///
/// # Errors
/// It has no pixels.
pub fn resized(image: &RgbImage, tile_px: usize) -> Result<RgbImage> {
    if image.width_px == 0 || image.height_px == 0 || image.pixels.len() != image.width_px * image.height_px * 3 {
        return Err(Error::shape("encoder", format!("an image of {}x{} px", image.width_px, image.height_px)));
    }
    Ok(image.resize_bilinear(tile_px, tile_px))
}

/// `[n, tile_px, tile_px, 3]`.
pub fn batch(
    images: &[RgbImage],
    tile_px: usize,
    prepare: impl Fn(&mut RgbImage) + Sync,
    normalisation: &Normalisation,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let table = normalisation.table();
    let row = |image: &RgbImage| -> Result<Vec<f32>> {
        let mut tile = resized(image, tile_px)?;
        prepare(&mut tile);
        Ok(tile.pixels.iter().enumerate().map(|(i, &byte)| table[i % 3][usize::from(byte)]).collect())
    };
    let rows: Vec<Vec<f32>> = images.par_iter().map(row).collect::<Result<_>>()?;
    let values = HostBuffer::F32(rows.concat()).cast(dtype);
    Tensor::from_buffer(values, [images.len(), tile_px, tile_px, 3], device)
}

/// Spreads each channel's values over 0 to 255.
pub fn stretch(image: &mut RgbImage) {
    for channel in 0..3 {
        let values = image.pixels.iter().skip(channel).step_by(3);
        let (low, high) = values.fold((u8::MAX, u8::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        if high > low {
            let scale = 255.0 / f32::from(high - low);
            let spread = |v: &mut u8| *v = (f32::from(*v - low) * scale).round() as u8;
            image.pixels.iter_mut().skip(channel).step_by(3).for_each(spread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_standardised_each_by_itself() -> Result<()> {
        let image = RgbImage { width_px: 1, height_px: 1, pixels: vec![255, 0, 51] };
        let tiles = batch(&[image], 2, |_| {}, &IMAGENET, DType::F32, &Device::cpu())?;
        let values = tiles.to_vec::<f32>()?;
        let wanted = [(1.0 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225];
        for pixel in values.chunks(3) {
            pixel.iter().zip(wanted).for_each(|(v, w)| assert!((f64::from(*v) - w).abs() < 1e-6, "{v} {w}"));
        }
        Ok(())
    }

    #[test]
    fn a_stretched_image_uses_all_values_and_a_flat_one_stays() {
        let mut image = RgbImage { width_px: 3, height_px: 1, pixels: vec![10, 7, 0, 20, 7, 128, 30, 7, 255] };
        stretch(&mut image);
        assert_eq!(image.pixels, [0, 7, 0, 128, 7, 128, 255, 7, 255]);
    }
}
