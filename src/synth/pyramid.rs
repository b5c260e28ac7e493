//! Writes an image as a pyramidal, tiled, JPEG-compressed TIFF with its scale, the common denominator of slide readers.
//!
//! Classic little-endian TIFF 6.0 with Technical Note 2 JPEG (compression 7): every tile is a complete JPEG stream, so no
//! JPEGTables tag. Level 0 comes first; each further level, half the size, is a further directory with
//! NewSubfileType = 1. The scale is in XResolution/YResolution per centimetre, and in the description as `MPP = `.
//! Limit: files below 4 GiB (classic offsets); larger ones are refused.

use std::io::Write;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// How a pyramid is written.
#[derive(Clone, Debug)]
pub struct PyramidOptions {
    /// Tile side in pixels, a multiple of 16.
    pub tile_px: usize,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
    /// Scale of level 0 in micrometres per pixel.
    pub mpp: f64,
    /// Levels are added until the longer side is at most this.
    pub smallest_level_px: usize,
    pub description: String,
}

const SHORT: u16 = 3;
const LONG: u16 = 4;
const RATIONAL: u16 = 5;
const ASCII: u16 = 2;

/// A tag and its value, already little-endian.
struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    value: Vec<u8>,
}

impl Entry {
    fn shorts(tag: u16, values: &[u16]) -> Entry {
        let value = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Entry { tag, kind: SHORT, count: values.len() as u32, value }
    }

    fn longs(tag: u16, values: &[u32]) -> Entry {
        let value = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Entry { tag, kind: LONG, count: values.len() as u32, value }
    }

    fn rational(tag: u16, numerator: u32, denominator: u32) -> Entry {
        let value = [numerator.to_le_bytes(), denominator.to_le_bytes()].concat();
        Entry { tag, kind: RATIONAL, count: 1, value }
    }

    fn ascii(tag: u16, text: &str) -> Entry {
        let mut value: Vec<u8> = text.bytes().filter(|b| *b != 0).collect();
        value.push(0);
        Entry { tag, kind: ASCII, count: value.len() as u32, value }
    }
}

/// Writes `image` and its reduced levels to `out`.
pub fn write(image: &RgbImage, options: &PyramidOptions, out: &mut dyn Write) -> Result<()> {
    if options.tile_px == 0 || !options.tile_px.is_multiple_of(16) || options.tile_px > 4096 {
        return Err(Error::internal(format_args!(
            "a TIFF tile side of {} px, which is no multiple of 16 up to 4096",
            options.tile_px
        )));
    }
    if image.width_px == 0 || image.height_px == 0 {
        return Err(Error::internal("an image without pixels cannot be a slide"));
    }
    let mut levels = vec![];
    let mut current = image.clone();
    loop {
        let longer = current.width_px.max(current.height_px);
        let next = (longer > options.smallest_level_px && longer > 1).then(|| halve(&current));
        levels.push(current);
        match next {
            Some(smaller) => current = smaller,
            None => break,
        }
    }

    let mut file = vec![b'I', b'I', 42, 0, 0, 0, 0, 0];
    let mut next_directory_field = 4;
    for (number, level) in levels.iter().enumerate() {
        let (offsets, lengths) = append_tiles(&mut file, level, options)?;
        pad_to_word(&mut file);
        let at = offset(file.len())?;
        file[next_directory_field..next_directory_field + 4].copy_from_slice(&at.to_le_bytes());
        let scale = options.mpp * image.width_px as f64 / level.width_px as f64;
        next_directory_field =
            append_directory(&mut file, directory(number, level, options, scale, &offsets, &lengths))?;
    }
    offset(file.len())?;
    out.write_all(&file).map_err(|e| Error::io("slide", e))
}

fn offset(position: usize) -> Result<u32> {
    u32::try_from(position).map_err(|_| Error::Usage("this slide needs more than 4 GiB; draw it smaller".into()))
}

fn pad_to_word(file: &mut Vec<u8>) {
    if file.len() % 2 == 1 {
        file.push(0);
    }
}

/// Encodes the tiles of one level in raster order; partial tiles repeat their last column and row, so that the padding
/// does not ring into the image.
fn append_tiles(file: &mut Vec<u8>, level: &RgbImage, options: &PyramidOptions) -> Result<(Vec<u32>, Vec<u32>)> {
    let side = options.tile_px;
    let (mut offsets, mut lengths) = (vec![], vec![]);
    let mut tile = Vec::with_capacity(side * side * 3);
    for top in (0..level.height_px).step_by(side) {
        for left in (0..level.width_px).step_by(side) {
            tile.clear();
            for y in top..top + side {
                let row = y.min(level.height_px - 1) * level.width_px;
                for x in left..left + side {
                    let at = (row + x.min(level.width_px - 1)) * 3;
                    tile.extend_from_slice(&level.pixels[at..at + 3]);
                }
            }
            let start = file.len();
            let mut encoder = Encoder::new(&mut *file, options.quality);
            encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
            encoder
                .encode(&tile, side as u16, side as u16, ColorType::Rgb)
                .map_err(|e| Error::internal(format_args!("a tile could not be encoded as JPEG: {e}")))?;
            offsets.push(offset(start)?);
            lengths.push(offset(file.len() - start)?);
            pad_to_word(file);
        }
    }
    Ok((offsets, lengths))
}

fn directory(
    number: usize,
    level: &RgbImage,
    options: &PyramidOptions,
    scale_mpp: f64,
    offsets: &[u32],
    lengths: &[u32],
) -> Vec<Entry> {
    // Pixels per centimetre, to a thousandth.
    let resolution = (1e4 / scale_mpp * 1000.0).round() as u32;
    let mut entries = vec![
        Entry::longs(254, &[u32::from(number > 0)]),  // NewSubfileType: reduced image
        Entry::longs(256, &[level.width_px as u32]),  // ImageWidth
        Entry::longs(257, &[level.height_px as u32]), // ImageLength
        Entry::shorts(258, &[8, 8, 8]),               // BitsPerSample
        Entry::shorts(259, &[7]),                     // Compression: JPEG
        Entry::shorts(262, &[6]),                     // PhotometricInterpretation: YCbCr
    ];
    if number == 0 {
        entries.push(Entry::ascii(270, &options.description)); // ImageDescription
    }
    entries.extend([
        Entry::shorts(277, &[3]),                                      // SamplesPerPixel
        Entry::rational(282, resolution, 1000),                        // XResolution
        Entry::rational(283, resolution, 1000),                        // YResolution
        Entry::shorts(284, &[1]),                                      // PlanarConfiguration: chunky
        Entry::shorts(296, &[3]),                                      // ResolutionUnit: centimetre
        Entry::ascii(305, concat!("isg ", env!("CARGO_PKG_VERSION"))), // Software
        Entry::longs(322, &[options.tile_px as u32]),                  // TileWidth
        Entry::longs(323, &[options.tile_px as u32]),                  // TileLength
        Entry::longs(324, offsets),                                    // TileOffsets
        Entry::longs(325, lengths),                                    // TileByteCounts
        Entry::shorts(530, &[2, 2]),                                   // YCbCrSubSampling
    ]);
    entries
}

/// Appends a directory and the values that do not fit into it; returns where the offset of the next one belongs.
fn append_directory(file: &mut Vec<u8>, entries: Vec<Entry>) -> Result<usize> {
    let start = file.len();
    let next_field = start + 2 + entries.len() * 12;
    let mut outside = next_field + 4;
    let mut values = vec![];
    file.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    for entry in entries {
        file.extend_from_slice(&entry.tag.to_le_bytes());
        file.extend_from_slice(&entry.kind.to_le_bytes());
        file.extend_from_slice(&entry.count.to_le_bytes());
        if entry.value.len() <= 4 {
            let mut inline = entry.value;
            inline.resize(4, 0);
            file.extend_from_slice(&inline);
        } else {
            file.extend_from_slice(&offset(outside)?.to_le_bytes());
            outside += entry.value.len() + entry.value.len() % 2;
            values.extend(entry.value);
            pad_to_word(&mut values);
        }
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    file.extend(values);
    Ok(next_field)
}

/// Half the size, each pixel the mean of up to four.
fn halve(image: &RgbImage) -> RgbImage {
    let (width_px, height_px) = (image.width_px.div_ceil(2), image.height_px.div_ceil(2));
    let mut pixels = Vec::with_capacity(width_px * height_px * 3);
    for y in 0..height_px {
        let rows = [2 * y, (2 * y + 1).min(image.height_px - 1)].map(|y| y * image.width_px);
        for x in 0..width_px {
            let columns = [2 * x, (2 * x + 1).min(image.width_px - 1)];
            for channel in 0..3 {
                let mut sum = 2u32;
                for row in rows {
                    for column in columns {
                        sum += u32::from(image.pixels[(row + column) * 3 + channel]);
                    }
                }
                pixels.push((sum / 4) as u8);
            }
        }
    }
    RgbImage { width_px, height_px, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_keeps_the_mean_and_odd_edges() {
        let mut image = RgbImage::filled(3, 3, [10, 20, 30]);
        image.put(0, 0, [50, 60, 70]);
        let half = halve(&image);
        assert_eq!((half.width_px, half.height_px), (2, 2));
        assert_eq!(half.pixel(0, 0), [20, 30, 40]);
        assert_eq!(half.pixel(1, 1), [10, 20, 30]);
    }

    #[test]
    fn a_tile_side_that_tiff_forbids_is_refused() {
        let options =
            PyramidOptions { tile_px: 100, quality: 85, mpp: 0.5, smallest_level_px: 64, description: String::new() };
        assert!(write(&RgbImage::filled(8, 8, [0; 3]), &options, &mut Vec::new()).is_err());
    }
}
