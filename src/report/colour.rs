//! Colours that carry meaning: a perceptually even scale for values, distinct hues for groups.
//!
//! The scale runs from dark violet over blue and green to pale yellow with lightness rising evenly, so that it keeps its
//! order in grey print and for colour-blind readers. It is computed in Oklab (Björn Ottosson, "A perceptual color space
//! for image processing", 2020); chroma is lowered where sRGB cannot show a colour.

use std::sync::OnceLock;

/// Linear light to the sRGB byte.
fn to_srgb(linear: f64) -> u8 {
    let v = linear.clamp(0.0, 1.0);
    let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    (v * 255.0).round() as u8
}

/// Linear sRGB of an Oklab colour given by lightness, chroma and hue in degrees.
fn oklch_to_linear(lightness: f64, chroma: f64, hue_degrees: f64) -> [f64; 3] {
    let (a, b) = (chroma * hue_degrees.to_radians().cos(), chroma * hue_degrees.to_radians().sin());
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701 * s,
    ]
}

fn table() -> &'static [[u8; 3]; 256] {
    static TABLE: OnceLock<[[u8; 3]; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        std::array::from_fn(|i| {
            let t = i as f64 / 255.0;
            let (lightness, hue) = (0.27 + 0.65 * t, 303.0 - 198.0 * t.powf(0.85));
            let mut chroma = 0.165;
            let shown = |rgb: [f64; 3]| rgb.iter().all(|v| (-0.0005..=1.0005).contains(v));
            while chroma > 0.0 && !shown(oklch_to_linear(lightness, chroma, hue)) {
                chroma -= 0.002;
            }
            oklch_to_linear(lightness, chroma, hue).map(to_srgb)
        })
    })
}

/// The colour of a value between 0 and 1; values outside take the ends, NaN takes the low end.
pub fn scale(value: f64) -> [u8; 3] {
    table()[(value.clamp(0.0, 1.0) * 255.0).round() as usize]
}

/// `#rrggbb`
pub fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// How many groups have a hue of their own; further groups begin again.
pub const GROUPS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_brightens_evenly() {
        let luminance = |[r, g, b]: [u8; 3]| {
            let linear = |v: u8| {
                let v = f64::from(v) / 255.0;
                if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        for i in 1..=64 {
            let (before, here) = (f64::from(i - 1) / 64.0, f64::from(i) / 64.0);
            assert!(luminance(scale(here)) > luminance(scale(before)), "at {here}");
        }
        assert!(luminance(scale(0.0)) < 0.03 && luminance(scale(1.0)) > 0.75);
        assert_eq!(scale(f64::NAN), scale(0.0));
    }
}
