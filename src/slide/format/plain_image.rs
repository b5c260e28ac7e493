//! PNG and JPEG files as slides of one level: decoded whole when opened.
//!
//! Limits: [`MAX_PICTURE_PX`] pixels, [`MAX_PICTURE_BYTES`] bytes. 16-bit PNG keeps the high byte; alpha is composed over white. CMYK JPEG is refused.
//! Text and colour profiles inside a PNG, which may unpack to any size, are not read.

use std::sync::Arc;

use super::{Candidate, Format, Opened, Source};
use crate::{
    error::{Error, Result},
    image::RgbImage,
    slide::{
        decode_jpeg::{self, Colours},
        failure::Failure,
    },
};

/// The most pixels a PNG or JPEG may have: about 400 MB of RGB.
pub const MAX_PICTURE_PX: usize = 1 << 27;

/// As many pixels of 16 bits and four channels, stored.
pub const MAX_PICTURE_BYTES: u64 = 8 * MAX_PICTURE_PX as u64;

pub struct PlainImage;

impl Format for PlainImage {
    fn recognises(&self, candidate: &Candidate) -> bool {
        is_png(candidate.head()) || candidate.head().starts_with(&[0xff, 0xd8, 0xff])
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let vendor = if is_png(candidate.head()) { "png" } else { "jpeg" };
        let file = candidate.file()?;
        if file.len_bytes() > MAX_PICTURE_BYTES {
            let problem = format!("is a {vendor} file of more than {} MiB", MAX_PICTURE_BYTES >> 20);
            return Err(Error::input(file.path(), problem, "convert it to a tiled TIFF"));
        }
        let bytes = file.read(0, file.len_bytes())?;
        let image = match vendor {
            "png" => read_png(&bytes).map_err(Failure::from),
            _ => read_jpeg(&bytes),
        };
        let image =
            image.map_err(|failure| Error::input(file.path(), failure.clause().to_string(), failure.remedy()))?;
        Ok(Opened {
            vendor,
            source: Source::Image(Arc::new(image)),
            scale: None,
            magnification: None,
            properties: Vec::new(),
            remarks: Vec::new(),
        })
    }
}

fn is_png(head: &[u8]) -> bool {
    head.starts_with(b"\x89PNG\r\n\x1a\n")
}

fn read_jpeg(bytes: &[u8]) -> Result<RgbImage, Failure> {
    let decoded = decode_jpeg::decode(None, bytes, Colours::FromMarkers, MAX_PICTURE_PX)?;
    let pixels = match decoded.channels {
        1 => decoded.samples.iter().flat_map(|&v| [v; 3]).collect(),
        3 => decoded.samples,
        n => return Err(Failure::Unsupported(format!("is a JPEG with {n} components (CMYK)"))),
    };
    Ok(RgbImage { width_px: decoded.width_px, height_px: decoded.height_px, pixels })
}

fn read_png(bytes: &[u8]) -> Result<RgbImage, String> {
    let broken = |e: png::DecodingError| format!("is not a readable PNG ({e})");
    let mut decoder =
        png::Decoder::new_with_limits(std::io::Cursor::new(bytes), png::Limits { bytes: 4 * MAX_PICTURE_PX });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (width_px, height_px) = (reader.info().width as usize, reader.info().height as usize);
    if width_px.saturating_mul(height_px) > MAX_PICTURE_PX {
        return Err(format!("is a PNG of {width_px} x {height_px} px, too large to read whole"));
    }
    let channels = reader.output_color_type().0.samples();
    let mut pixels = Vec::new();
    let mut add = |row: &[u8]| match channels {
        1 => pixels.extend(row.iter().flat_map(|&v| [v; 3])),
        2 => pixels.extend(row.chunks_exact(2).flat_map(|p| [over_white(p[0], p[1]); 3])),
        4 => pixels.extend(row.chunks_exact(4).flat_map(|p| [0, 1, 2].map(|c| over_white(p[c], p[3])))),
        _ => pixels.extend_from_slice(row),
    };
    if reader.info().interlaced {
        // Interlaced rows arrive out of order, so the frame is decoded whole.
        let size = reader.output_buffer_size().ok_or("is a PNG too large to read whole")?;
        let mut frame = vec![0; size];
        reader.next_frame(&mut frame).map_err(broken)?;
        add(&frame);
    } else {
        while let Some(row) = reader.next_row().map_err(broken)? {
            add(row.data());
        }
    }
    if pixels.len() != width_px * height_px * 3 {
        return Err("is a PNG that ends before its last row".into());
    }
    Ok(RgbImage { width_px, height_px, pixels })
}

fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}
