//! Seventeen statistics of a patch's stains: what any encoder has to be better than, and every comparison prints.
//!
//! Optical density of each channel, `−ln((v + 1) / 256)`: mean and standard deviation (6). Haematoxylin and eosin by the
//! pseudo-inverse of one fixed pair of stains, Macenko et al. 2009: mean and standard deviation of each (4), share of pixels with
//! more than 1 of haematoxylin (1), and its quantiles .5, .75, .9, .95, .99 (5). Share of tissue: pixels whose density is 0.15 or
//! more in every channel (1).

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, registry};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::checksum::Digest,
    nn::precision::ComputePrecision,
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "colour",
    title: "colour statistics",
    cites: "stains after Macenko et al. 2009",
    with: |parameters| registry::with::<Colour>(SPEC.name, parameters),
    cases: || vec![Arc::new(Colour::default())],
};

/// Numbers a patch.
pub const WIDTH: usize = 17;

/// Optical densities of red, green and blue of one unit of haematoxylin and of eosin.
const STAINS: [[f64; 3]; 2] = [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]];
const TISSUE_DENSITY: f64 = 0.15;
const QUANTILES: [f64; 5] = [0.5, 0.75, 0.9, 0.95, 0.99];

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colour {}

impl Encoder for Colour {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn digest(&self, _: Site) -> Result<Digest> {
        Ok((self as &dyn Encoder).digest_of_settings(&[], &[], ComputePrecision::F32))
    }

    fn load(&self, site: Site, _: &Device) -> Result<Box<dyn PatchEncoder>> {
        Ok(Box::new(Statistics { digest: self.digest(site)? }))
    }
}

struct Statistics {
    digest: Digest,
}

impl PatchEncoder for Statistics {
    fn d(&self) -> usize {
        WIDTH
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        of_images(images)
    }
}

/// The statistics of images, `[images, 17]`.
///
/// # Errors
/// An image without pixels.
pub fn of_images(images: &[RgbImage]) -> Result<Vec<f32>> {
    let unmix = unmixing();
    let rows: Vec<[f32; WIDTH]> = images.par_iter().map(|image| statistics(image, &unmix)).collect::<Result<_>>()?;
    Ok(rows.concat())
}

/// Rows that give haematoxylin and eosin of an optical density: `(S Sᵀ)⁻¹ S`.
fn unmixing() -> [[f64; 3]; 2] {
    let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let [h, e] = STAINS;
    let (hh, he, ee) = (dot(h, h), dot(h, e), dot(e, e));
    let determinant = hh * ee - he * he;
    let row = |a: f64, b: f64| std::array::from_fn(|c| (a * h[c] + b * e[c]) / determinant);
    [row(ee, -he), row(-he, hh)]
}

fn statistics(image: &RgbImage, unmix: &[[f64; 3]; 2]) -> Result<[f32; WIDTH]> {
    let (pixels, _) = image.pixels.as_chunks::<3>();
    if pixels.is_empty() {
        return Err(Error::shape("colour", format!("an image of {}x{} px", image.width_px, image.height_px)));
    }
    let densities: [f64; 256] = std::array::from_fn(|byte| -((byte as f64 + 1.0) / 256.0).ln());
    // Sums and sums of squares of red, green, blue, haematoxylin, eosin.
    let mut sums = [[0.0; 2]; 5];
    let (mut tissue, mut dense) = (0usize, 0usize);
    let mut haematoxylin = Vec::with_capacity(pixels.len());
    for pixel in pixels {
        let density = pixel.map(|byte| densities[usize::from(byte)]);
        let stains = unmix.map(|row| row.iter().zip(density).map(|(a, b)| a * b).sum::<f64>());
        for (sum, value) in sums.iter_mut().zip(density.into_iter().chain(stains)) {
            *sum = [sum[0] + value, sum[1] + value * value];
        }
        tissue += usize::from(density.iter().all(|&d| d >= TISSUE_DENSITY));
        dense += usize::from(stains[0] > 1.0);
        haematoxylin.push(stains[0]);
    }
    haematoxylin.sort_unstable_by(f64::total_cmp);
    let n = pixels.len() as f64;
    let moments = sums.iter().flat_map(|[sum, squares]| {
        let mean = sum / n;
        [mean, (squares / n - mean * mean).max(0.0).sqrt()]
    });
    let quantiles = QUANTILES.iter().map(|q| quantile(&haematoxylin, *q));
    let all = moments.chain([dense as f64 / n]).chain(quantiles).chain([tissue as f64 / n]);
    let mut row = [0.0; WIDTH];
    row.iter_mut().zip(all).for_each(|(to, value)| *to = value as f32);
    Ok(row)
}

/// Linear between order statistics, of values in ascending order.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at as usize], sorted[(at.ceil() as usize).min(sorted.len() - 1)]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of pure stain unmixes to what it was made of.
    #[test]
    fn stains_are_found_again() -> Result<()> {
        let unmix = unmixing();
        for amounts in [[1.2, 0.0], [0.0, 0.8], [0.7, 0.4]] {
            let byte = |c: usize| {
                let density = STAINS[0][c] * amounts[0] + STAINS[1][c] * amounts[1];
                ((-density).exp() * 256.0 - 1.0).round() as u8
            };
            let row = statistics(&RgbImage::filled(5, 3, [byte(0), byte(1), byte(2)]), &unmix)?;
            assert!((f64::from(row[6]) - amounts[0]).abs() < 0.03, "{row:?}");
            assert!((f64::from(row[8]) - amounts[1]).abs() < 0.03, "{row:?}");
            assert_eq!(row[10], f32::from(u8::from(amounts[0] > 1.0)));
            assert_eq!(row[16], 1.0);
        }
        let glass = statistics(&RgbImage::filled(4, 4, [255; 3]), &unmix)?;
        assert!(glass.iter().all(|v| v.abs() < 1e-6), "{glass:?}");
        Ok(())
    }

    #[test]
    fn quantiles_lie_between_order_statistics() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }
}
