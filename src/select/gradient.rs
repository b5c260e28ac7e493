//! Mean image gradient, and the Sobel derivatives that it shares with Canny's detector.
//!
//! `|∇I| = sqrt(dx² + dy²) / 8` with the 3 x 3 Sobel kernels on 8-bit grey, the border pixel repeated outside: a slope of one grey level a
//! pixel has gradient 1. The score is its mean over the patch, summed in steps of 1/2048 grey level so that the sum is an integer and
//! the same in every order. scikit-image's `sobel` of the same image in [0, 1] is this divided by 255/√2.

use serde::{Deserialize, Serialize};

use super::{
    grey::GreyImage,
    kernels::shannon::batch,
    response::Response,
    selector::{self, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{device::Device, error::Result, image::RgbImage, vectorised};

/// Steps of the summed root: 1/256 of `sqrt(dx² + dy²)`.
pub const STEPS: f32 = 256.0;
/// From summed steps to grey levels a pixel.
pub const STEP_LEVELS: f64 = 1.0 / (8.0 * 256.0);

/// Mean gradient in grey levels a pixel; 0 for an image without pixels.
pub fn score(grey: &GreyImage) -> f64 {
    steps(grey) as f64 * STEP_LEVELS / grey.values.len().max(1) as f64
}

/// The sum over all pixels, in steps of [`STEP_LEVELS`].
pub fn steps(grey: &GreyImage) -> u64 {
    let mut steps = 0u64;
    for_each_row(grey, |_, dx, dy| {
        vectorised!({
            // The steps of 64 pixels fit into 32 bits: at most 64 * 1443 * 256.
            for (dx, dy) in dx.chunks(64).zip(dy.chunks(64)) {
                let mut part = 0i32;
                for (&dx, &dy) in dx.iter().zip(dy) {
                    part += steps_of(dx, dy);
                }
                steps += part as u64;
            }
        });
    });
    steps
}

/// Gradient of every pixel, in grey levels a pixel.
pub fn response(grey: &GreyImage) -> Vec<f32> {
    let mut out = Vec::with_capacity(grey.values.len());
    for_each_row(grey, |_, dx, dy| out.extend(dx.iter().zip(dy).map(|(&dx, &dy)| root(dx, dy) / 8.0)));
    out
}

/// `sqrt(dx² + dy²)` in steps, rounded to nearest: the root and its product with a power of two are the same on every machine.
#[inline(always)]
fn steps_of(dx: i16, dy: i16) -> i32 {
    // Adding and taking away 1.5 * 2^23 rounds to an integer, ties to even, which the low bits then hold.
    const ROUNDER: f32 = 12_582_912.0;
    (STEPS * root(dx, dy) + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32
}

#[inline(always)]
fn root(dx: i16, dy: i16) -> f32 {
    let (dx, dy) = (i32::from(dx), i32::from(dy));
    // At most 2 * 1020²: exact in f32, and the root is correctly rounded.
    ((dx * dx + dy * dy) as f32).sqrt()
}

fn for_each_row(grey: &GreyImage, mut visit: impl FnMut(usize, &[i16], &[i16])) {
    let mut sobel = Sobel::new(grey, Aperture::Three);
    let (mut dx, mut dy) = (vec![0; grey.width_px], vec![0; grey.width_px]);
    for y in 0..grey.height_px {
        sobel.row(y, &mut dx, &mut dy);
        visit(y, &dx, &dy);
    }
}

/// Side of the Sobel kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aperture {
    Three,
    Five,
    /// Derivatives divided by 16 and rounded, ties to even, as OpenCV's detector takes them.
    Seven,
}

/// Rows of Sobel derivatives, the border pixel repeated outside.
pub struct Sobel<'a> {
    grey: &'a GreyImage,
    aperture: Aperture,
    /// Smoothed and differentiated down the columns, with `radius` columns repeated on both sides.
    smooth: Vec<i32>,
    slope: Vec<i32>,
}

impl<'a> Sobel<'a> {
    pub fn new(grey: &'a GreyImage, aperture: Aperture) -> Sobel<'a> {
        let padded = grey.width_px + 6;
        Sobel { grey, aperture, smooth: vec![0; padded], slope: vec![0; padded] }
    }

    /// Derivatives of row `y` to the right and downwards.
    pub fn row(&mut self, y: usize, dx: &mut [i16], dy: &mut [i16]) {
        match self.aperture {
            Aperture::Three => self.taps(y, dx, dy, [1, 2, 1], [-1, 0, 1], |v| v as i16),
            Aperture::Five => self.taps(y, dx, dy, [1, 4, 6, 4, 1], [-1, -2, 0, 2, 1], |v| v as i16),
            Aperture::Seven => {
                let sixteenth = |v: i32| ((v + 7 + ((v >> 4) & 1)) >> 4) as i16;
                self.taps(y, dx, dy, [1, 6, 15, 20, 15, 6, 1], [-1, -4, -5, 0, 5, 4, 1], sixteenth);
            }
        }
    }

    fn taps<const N: usize>(
        &mut self,
        y: usize,
        dx: &mut [i16],
        dy: &mut [i16],
        smooth: [i32; N],
        slope: [i32; N],
        narrow: impl Fn(i32) -> i16 + Copy,
    ) {
        let (grey, radius, width) = (self.grey, N / 2, self.grey.width_px);
        if width == 0 {
            return;
        }
        let rows: [&[u8]; N] =
            std::array::from_fn(|i| grey.row((y + i).saturating_sub(radius).min(grey.height_px - 1)));
        let (smooth_down, slope_down) = (&mut self.smooth[..width + 2 * radius], &mut self.slope[..width + 2 * radius]);
        vectorised!({
            let inside = radius..radius + width;
            let (out_smooth, out_slope) = (&mut smooth_down[inside.clone()], &mut slope_down[inside]);
            for x in 0..width {
                let (mut a, mut b) = (0, 0);
                for i in 0..N {
                    let value = i32::from(rows[i][x]);
                    a += smooth[i] * value;
                    b += slope[i] * value;
                }
                (out_smooth[x], out_slope[x]) = (a, b);
            }
        });
        for padded in [&mut *smooth_down, &mut *slope_down] {
            let (first, last) = (padded[radius], padded[radius + width - 1]);
            padded[..radius].fill(first);
            padded[radius + width..].fill(last);
        }
        let (smooth_down, slope_down) = (&*smooth_down, &*slope_down);
        let (dx, dy) = (&mut dx[..width], &mut dy[..width]);
        vectorised!([narrow], {
            for x in 0..width {
                let (mut a, mut b) = (0, 0);
                for i in 0..N {
                    a += slope[i] * smooth_down[x + i];
                    b += smooth[i] * slope_down[x + i];
                }
                (dx[x], dy[x]) = (narrow(a), narrow(b));
            }
        });
    }
}

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "gradient",
    title: "Gradient",
    unit: "grey levels per pixel",
    counts_bits: false,
    flags: &[],
    short_keys: &[],
    with: |parameters| selector::with::<Gradient>("gradient", parameters),
};

/// Mean image gradient; it has no parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gradient {}

impl Selector for Gradient {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        "gradient".to_string()
    }

    fn parameters(&self) -> Parameters {
        Parameters::new()
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(GradientScore { device: selector::accelerator(device) }))
    }
}

struct GradientScore {
    device: Option<Device>,
}

impl Score for GradientScore {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        match &self.device {
            None => Work::Each(Box::new(|image| score(&GreyImage::of(image)))),
            Some(device) => Work::Queued(Box::new(|images| {
                let pixels = selector::pixels_each(images);
                let steps = batch(images, device)?.gradient_steps()?;
                let level = move |steps: u64| steps as f64 * STEP_LEVELS / pixels;
                Ok(Box::new(move || Ok(steps.to_scores()?.into_iter().map(level).collect())))
            })),
        }
    }

    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        Ok(Response::of(image, response(&GreyImage::of(image))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_its_slope_and_flat_images_none() {
        let ramp = GreyImage { width_px: 9, height_px: 5, values: (0..45).map(|i| 3 * (i % 9) as u8 + 10).collect() };
        let found = response(&ramp);
        (0..5).for_each(|y| (1..8).for_each(|x| assert_eq!(found[y * 9 + x], 3.0)));
        assert_eq!(found[0], 1.5, "half the slope at the border, where the pixel is repeated");
        assert_eq!(score(&ramp), (7.0 * 3.0 + 2.0 * 1.5) / 9.0);
        for (width_px, height_px) in [(0, 0), (1, 1), (1, 9), (9, 1)] {
            let flat = GreyImage { width_px, height_px, values: vec![7; width_px * height_px] };
            assert_eq!(score(&flat), 0.0);
        }
    }
}
