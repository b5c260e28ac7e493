//! The little HTML this project writes: escaping, images inside the page, numbers as people read them.
//!
//! Everything is also well-formed XML (void elements are closed, attributes quoted), so that a test can parse it.

use base64::encode;

use crate::image::RgbImage;

/// Text made safe for element content and attribute values. Control characters, which XML forbids, become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' | '\r' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An image stored in the page as PNG: exact, for small or flat images.
pub fn png_image(image: &RgbImage, alternative: &str) -> String {
    image_element("png", &image.to_png(), image, alternative)
}

/// An image stored in the page as JPEG: for photographs, a fifth of the size.
pub fn photograph(image: &RgbImage, alternative: &str) -> String {
    let mut bytes = vec![];
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 86);
    let size = (u16::try_from(image.width_px), u16::try_from(image.height_px));
    if let (Ok(width), Ok(height)) = size
        && encoder.encode(&image.pixels, width, height, jpeg_encoder::ColorType::Rgb).is_ok()
    {
        return image_element("jpeg", &bytes, image, alternative);
    }
    png_image(image, alternative)
}

fn image_element(kind: &str, bytes: &[u8], image: &RgbImage, alternative: &str) -> String {
    format!(
        "<img src=\"data:image/{kind};base64,{}\" width=\"{}\" height=\"{}\" alt=\"{}\" />",
        encode(bytes),
        image.width_px,
        image.height_px,
        escape(alternative)
    )
}

/// `-0.123`, or an en dash where there is none.
pub fn fixed(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(v) if v.is_finite() => format!("{v:.digits$}").replace('-', "\u{2212}"),
        _ => "\u{2013}".into(),
    }
}

/// Probabilities keep two significant digits; very small ones are a power of ten.
pub fn probability(value: Option<f64>) -> String {
    match value {
        Some(p) if !p.is_finite() => "\u{2013}".into(),
        Some(p) if p >= 0.1 => format!("{p:.2}"),
        Some(p) if p >= 0.001 => format!("{p:.4}").trim_end_matches('0').to_string(),
        Some(p) if p > 0.0 => {
            let text = format!("{p:.1e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{mantissa}\u{b7}10<sup>{}</sup>", exponent.replace('-', "\u{2212}"))
        }
        Some(_) => "&lt;10<sup>\u{2212}300</sup>".into(),
        None => "\u{2013}".into(),
    }
}

/// `3.2 s`, `4 min 05 s`, `2 h 03 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if !seconds.is_finite() => "\u{2013}".into(),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

mod base64 {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// RFC 4648 with padding.
    pub fn encode(bytes: &[u8]) -> String {
        let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for digit in 0..4 {
                let sextet = (word >> (18 - 6 * digit) & 63) as usize;
                out.push(if digit <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in known {
            assert_eq!(encode(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(fixed(Some(-0.1234), 2), "\u{2212}0.12");
        assert_eq!(fixed(Some(f64::NAN), 2), "\u{2013}");
        assert_eq!(probability(Some(0.25)), "0.25");
        assert_eq!(probability(Some(0.012)), "0.012");
        assert_eq!(probability(Some(3.2e-9)), "3.2\u{b7}10<sup>\u{2212}9</sup>");
        assert_eq!(duration(3723.0), "1 h 02 min");
        assert_eq!(duration(0.25), "0.2 s");
    }
}
