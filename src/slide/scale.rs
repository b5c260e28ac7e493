//! Physical scale: µm per pixel, and where it came from.
//!
//! Scanners state it in their own fields; OME-XML states it; a TIFF resolution is trusted only if it can be that of a
//! microscope. Photo software writes 72, 96 or 300 dpi into every file, which is 353, 265 and 85 µm per pixel.

use std::fmt;

use crate::error::{Error, Result};

/// Coarsest and finest scale a slide level 0 can have: a 1x overview is about 10 µm/px, a 100x oil scan 0.1.
const PLAUSIBLE_MPP: std::ops::RangeInclusive<f64> = 0.01..=20.0;

/// Pixels whose sides differ by less are square: scanners calibrate both axes apart.
const SQUARE: f64 = 0.02;

/// A finite number as scanners write it, in some countries with a decimal comma.
pub fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let number = if text.contains('.') { text.parse() } else { text.replacen(',', ".", 1).parse::<f64>() };
    number.ok().filter(|v| v.is_finite())
}

/// Who said how large a pixel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MppSource {
    /// The caller: `--mpp`, [`super::SlideOptions::mpp`] or a table.
    Override,
    /// The scanner's own field.
    Vendor,
    OmeXml,
    TiffResolution,
}

impl fmt::Display for MppSource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            MppSource::Override => "override",
            MppSource::Vendor => "vendor",
            MppSource::OmeXml => "ome-xml",
            MppSource::TiffResolution => "tiff-resolution",
        })
    }
}

/// µm per level-0 pixel across and down.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale {
    pub x_mpp: f64,
    pub y_mpp: f64,
    pub source: MppSource,
}

impl Scale {
    /// `None` unless both values can be those of a slide.
    pub fn plausible(x_mpp: f64, y_mpp: f64, source: MppSource) -> Option<Scale> {
        let good = |v: &f64| PLAUSIBLE_MPP.contains(v);
        (good(&x_mpp) && good(&y_mpp)).then_some(Scale { x_mpp, y_mpp, source })
    }

    /// From a resolution in pixels per `unit_um` µm.
    pub fn from_resolution(x_per_unit: f64, y_per_unit: f64, unit_um: f64) -> Option<Scale> {
        Scale::plausible(unit_um / x_per_unit, unit_um / y_per_unit, MppSource::TiffResolution)
    }

    /// The mean of both directions, in µm per pixel.
    pub fn mpp(&self) -> f64 {
        (self.x_mpp + self.y_mpp) / 2.0
    }

    /// By how much the longer side of a pixel exceeds the shorter one: 0 for square pixels, 1 where it is twice as long.
    pub fn anisotropy(&self) -> f64 {
        self.x_mpp.max(self.y_mpp) / self.x_mpp.min(self.y_mpp) - 1.0
    }

    /// What there is to say of pixels that are not square; [`SQUARE`] is the tolerance.
    pub fn remark(&self) -> Option<String> {
        (self.anisotropy() > SQUARE).then(|| {
            let (x, y, percent) = (self.x_mpp, self.y_mpp, 100.0 * self.anisotropy());
            format!("pixels are not square: {x} x {y} µm, {percent:.0} % apart; the mean is used as the scale")
        })
    }
}

/// Checks a scale that a person typed.
pub fn check_override(mpp: f64) -> Result<f64> {
    if PLAUSIBLE_MPP.contains(&mpp) {
        return Ok(mpp);
    }
    Err(Error::Usage(format!(
        "{mpp} is not a scale in µm per pixel; give a value between {} and {}, e.g. 0.25 for a 40x scan",
        PLAUSIBLE_MPP.start(),
        PLAUSIBLE_MPP.end()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photo_resolutions_are_no_scale() {
        for dpi in [72.0, 96.0, 150.0, 300.0, 600.0, 1200.0] {
            assert_eq!(Scale::from_resolution(dpi, dpi, 25_400.0), None, "{dpi} dpi");
        }
        let scale = Scale::from_resolution(44_034.0, 44_034.0, 10_000.0).expect("0.2271 µm/px is a scanner's");
        assert!((scale.mpp() - 0.2271).abs() < 1e-4);
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Scale::from_resolution(odd, odd, 10_000.0), None, "{odd}");
        }
    }
}
