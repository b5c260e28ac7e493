//! Otsu's tissue fraction: the share of a patch that is darker than the threshold between tissue and glass.
//!
//! The threshold is the grey level that separates two classes best (Otsu 1979): it maximises `w1 w2 (m1 - m2)^2`, with `w` the
//! sizes and `m` the mean levels of the pixels up to the threshold and above it. Arithmetic and ties are those of scikit-image's
//! `threshold_otsu` on 8-bit images (counts and their sums in f32, means in f64, the first of equal maxima), so thresholds are
//! equal. Tissue is `grey <= threshold`. An image of one level is its own threshold, and all of it counts as tissue.
//!
//! [`OtsuOver::Slide`], the default, takes one threshold for a slide, from its thumbnail, as HE2RNA does to leave out glass. [`OtsuOver::Patch`]
//! takes each patch's own: what the paper's figure 2 shows of textureless patches, whose noise is split into two classes too.

use serde::{Deserialize, Serialize};

use super::{
    Threshold,
    grey::GreyImage,
    kernels::shannon::batch,
    response::Response,
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{device::Device, error::Result, image::RgbImage, slide::Slide};

/// Longer side of the thumbnail that a slide's threshold is taken from; a smaller slide is taken whole.
pub const THUMBNAIL_PX: usize = 2048;

/// A patch is kept where no other threshold is given if at least this share of it is tissue.
pub const DEFAULT_LEAST_TISSUE: f64 = 0.5;

/// What the threshold is taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtsuOver {
    /// The whole slide's thumbnail.
    #[default]
    Slide,
    /// Each patch alone.
    Patch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otsu {
    pub over: OtsuOver,
}

/// The threshold of an image: the highest level of the darker class. 0 for an image without pixels.
pub fn threshold(grey: &GreyImage) -> u8 {
    threshold_of(&grey.histogram())
}

/// As [`threshold`], from the counts of the 256 levels.
pub fn threshold_of(histogram: &[u64; 256]) -> u8 {
    let Some(first) = histogram.iter().position(|&count| count > 0) else { return 0 };
    let last = histogram.iter().rposition(|&count| count > 0).unwrap_or(first);
    let counts: Vec<f32> = histogram[first..=last].iter().map(|&count| count as f32).collect();
    let moments: Vec<f64> =
        counts.iter().enumerate().map(|(i, &count)| f64::from(count) * (first + i) as f64).collect();
    let forward = running(counts.iter().zip(&moments));
    let mut backward = running(counts.iter().zip(&moments).rev());
    backward.reverse();
    let mut best = (f64::NEG_INFINITY, first);
    for (i, (&(weight1, mean1), &(weight2, mean2))) in forward.iter().zip(&backward[1..]).enumerate() {
        let variance = f64::from(weight1 * weight2) * ((mean1 - mean2) * (mean1 - mean2));
        if variance > best.0 {
            best = (variance, first + i);
        }
    }
    best.1 as u8
}

/// Weight and mean level of everything up to each place.
fn running<'a>(levels: impl Iterator<Item = (&'a f32, &'a f64)>) -> Vec<(f32, f64)> {
    let (mut weight, mut moment) = (0.0f32, 0.0f64);
    let step = |(count, of_level): (&f32, &f64)| {
        weight += count;
        moment += of_level;
        (weight, moment / f64::from(weight))
    };
    levels.map(step).collect()
}

/// Share of the pixels that are tissue under a threshold.
pub fn tissue_fraction(grey: &GreyImage, threshold: u8) -> f64 {
    let dark: u64 =
        grey.values.chunks(4096).map(|part| part.iter().map(|&v| u64::from(v <= threshold)).sum::<u64>()).sum();
    dark as f64 / grey.values.len().max(1) as f64
}

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "otsu",
    title: "Otsu",
    unit: "share of tissue",
    counts_bits: false,
    flags: &[Flag {
        long: "otsu-over",
        key: "over",
        value_name: Some("slide|patch"),
        help: "What otsu takes its threshold from [default: slide]",
    }],
    short_keys: &[],
    with: |parameters| selector::with::<Otsu>("otsu", parameters),
};

impl Selector for Otsu {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        match self.over {
            OtsuOver::Slide => "otsu slide".to_string(),
            OtsuOver::Patch => "otsu patch".to_string(),
        }
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    /// A share of tissue has a scale of its own: at least half.
    fn default_threshold(&self) -> Threshold {
        Threshold::Min(DEFAULT_LEAST_TISSUE)
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(OtsuScore { over: self.over, device: selector::accelerator(device) }))
    }
}

struct OtsuScore {
    over: OtsuOver,
    device: Option<Device>,
}

impl Score for OtsuScore {
    fn slide_threshold(&self, slide: &Slide) -> Result<Option<u8>> {
        match self.over {
            OtsuOver::Slide => Ok(Some(threshold(&overview(slide)?))),
            OtsuOver::Patch => Ok(None),
        }
    }

    fn work(&self, tissue: Option<u8>) -> Work<'_> {
        match &self.device {
            None => Work::Each(Box::new(move |image| {
                let grey = GreyImage::of(image);
                tissue_fraction(&grey, tissue.unwrap_or_else(|| threshold(&grey)))
            })),
            Some(device) => Work::Queued(Box::new(move |images| {
                let pixels = selector::pixels_each(images);
                let histograms = batch(images, device)?.grey_histogram()?;
                let fraction = move |counts: &[i32; 256]| {
                    let counts = counts.map(|count| u64::from(count.cast_unsigned()));
                    let threshold = tissue.unwrap_or_else(|| threshold_of(&counts));
                    counts[..=usize::from(threshold)].iter().sum::<u64>() as f64 / pixels
                };
                Ok(Box::new(move || {
                    let counts = histograms.to_vec::<i32>()?;
                    Ok(counts.as_chunks().0.iter().map(fraction).collect())
                }))
            })),
        }
    }

    fn response(&self, image: &RgbImage, tissue: Option<u8>) -> Result<Response> {
        let grey = GreyImage::of(image);
        let threshold = tissue.unwrap_or_else(|| threshold(&grey));
        Ok(Response::of(image, grey.values.iter().map(|&v| f32::from(u8::from(v <= threshold))).collect()))
    }
}

/// The slide in grey, whole where it is small enough.
fn overview(slide: &Slide) -> Result<GreyImage> {
    let (width, height) = slide.levels().first().map_or((0, 0), |level| (level.width_px, level.height_px));
    let image = if width.max(height) <= THUMBNAIL_PX as u64 {
        slide.read_region(0, 0, 0, width as usize, height as usize)?
    } else {
        slide.thumbnail(THUMBNAIL_PX)?
    };
    Ok(GreyImage::of(&image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_levels_are_split_between_them() {
        let mut histogram = [0; 256];
        (histogram[40], histogram[200]) = (3, 9);
        assert_eq!(threshold_of(&histogram), 40);
        assert_eq!(threshold_of(&[0; 256]), 0);
        let mut flat = [0; 256];
        flat[77] = 5;
        assert_eq!(threshold_of(&flat), 77);
    }

    #[test]
    fn the_fraction_counts_dark_pixels() {
        let grey = GreyImage { width_px: 4, height_px: 1, values: vec![10, 20, 30, 40] };
        assert_eq!(tissue_fraction(&grey, 20), 0.5);
        assert_eq!(tissue_fraction(&grey, 0), 0.0);
        assert_eq!(tissue_fraction(&GreyImage { width_px: 0, height_px: 0, values: vec![] }, 9), 0.0);
    }
}
