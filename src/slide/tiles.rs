//! From chunks to images: decoding one tile or strip, and the grid of rectangles that covers a level.

use super::{
    colour,
    container::Container,
    decode_jp2k,
    decode_jpeg::{self, Colours},
    decode_plain,
    failure::Failure,
    page::{Alpha, Compression, MAX_CHUNK_PX, Page, Photometric},
};
use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// A rectangle in the pixels of one level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    pub level: usize,
    pub x_px: u64,
    pub y_px: u64,
    pub width_px: u64,
    pub height_px: u64,
}

/// Rectangles of one size covering a level, row by row; those at the right and bottom edge are cut to the level.
#[derive(Clone, Debug)]
pub struct TileGrid {
    level: usize,
    level_size_px: (u64, u64),
    tile_size_px: (u64, u64),
    next: u64,
}

impl TileGrid {
    pub(super) fn new(level: usize, level_size_px: (u64, u64), tile_size_px: (u64, u64)) -> TileGrid {
        TileGrid { level, level_size_px, tile_size_px: (tile_size_px.0.max(1), tile_size_px.1.max(1)), next: 0 }
    }

    pub fn columns(&self) -> u64 {
        self.level_size_px.0.div_ceil(self.tile_size_px.0)
    }

    pub fn rows(&self) -> u64 {
        self.level_size_px.1.div_ceil(self.tile_size_px.1)
    }
}

impl Iterator for TileGrid {
    type Item = Tile;

    fn next(&mut self) -> Option<Tile> {
        let columns = self.columns();
        if self.next >= columns * self.rows() {
            return None;
        }
        let (x_px, y_px) = (self.next % columns * self.tile_size_px.0, self.next / columns * self.tile_size_px.1);
        self.next += 1;
        Some(Tile {
            level: self.level,
            x_px,
            y_px,
            width_px: self.tile_size_px.0.min(self.level_size_px.0 - x_px),
            height_px: self.tile_size_px.1.min(self.level_size_px.1 - y_px),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.columns() * self.rows()).saturating_sub(self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for TileGrid {}

/// Decodes the part of one chunk that lies inside the image. `None`: the chunk was never written.
pub fn decode_chunk(container: &Container, page: &Page, chunk: u64) -> Result<Option<RgbImage>> {
    let (width_px, height_px) = page.valid_size(chunk);
    let (width_px, height_px) = (width_px as usize, height_px as usize);
    let planes = if page.planar { page.samples } else { 1 };
    if (0..planes).all(|plane| page.chunk_range(chunk, plane).1 == 0) {
        return Ok(None);
    }
    let read = |plane| {
        let (offset, count) = page.chunk_range(chunk, plane);
        container.file.read(offset, count)
    };
    let failed = |failure: Failure| {
        let what = if page.tiled { "tile" } else { "strip" };
        let problem = format!("{what} {chunk} of {} {}", page.chunks(), failure.clause());
        Error::input(container.file.path(), problem, failure.remedy())
    };
    let damaged = |clause: String| failed(Failure::Damaged(clause));
    let pixels = match page.compression {
        Compression::Jpeg | Compression::Jp2k | Compression::Jp2kRgb | Compression::Jp2kYcbcr => {
            let mut parts = Vec::with_capacity(planes);
            for plane in 0..planes {
                let bytes = read(plane)?;
                let decoded = decode_codec(page, &bytes).map_err(failed)?;
                let wanted = if page.planar { 1 } else { page.samples };
                parts.push(decoded.fit(width_px, height_px, wanted, is_plain_rgb(page)).map_err(damaged)?);
            }
            match (parts.len(), is_plain_rgb(page)) {
                (1, true) => parts.swap_remove(0),
                _ => {
                    let row_bytes = width_px * if page.planar { 1 } else { page.samples };
                    // Codecs hand out bytes whatever the depth of the file's samples.
                    decode_plain::to_rgb(&page.with_byte_samples(), &parts, row_bytes, width_px, height_px)
                }
            }
        }
        _ => {
            let rows = if page.tiled { page.chunk_height_px } else { height_px as u64 };
            let mut parts = Vec::with_capacity(planes);
            for plane in 0..planes {
                parts.push(decode_plain::decompress(page, read(plane)?, rows).map_err(damaged)?);
            }
            decode_plain::to_rgb(page, &parts, page.row_bytes() as usize, width_px, height_px)
        }
    };
    Ok(Some(RgbImage { width_px, height_px, pixels }))
}

/// Three colour samples and nothing else: what an image codec hands out is already the pixel.
fn is_plain_rgb(page: &Page) -> bool {
    !page.planar && matches!(page.photometric, Photometric::Rgb | Photometric::YCbCr) && page.alpha == Alpha::None
}

/// What an image codec hands out, whichever it is.
struct Decoded {
    width_px: usize,
    height_px: usize,
    channels: usize,
    samples: Vec<u8>,
}

impl Decoded {
    /// Cut to the chunk's valid part with the channels the page needs.
    fn fit(self, width_px: usize, height_px: usize, channels: usize, plain_rgb: bool) -> Result<Vec<u8>, String> {
        if self.width_px < width_px || self.height_px < height_px {
            return Err(format!(
                "holds {} x {} px where {width_px} x {height_px} are needed",
                self.width_px, self.height_px
            ));
        }
        let wanted = if plain_rgb { 3 } else { channels };
        let grey_as_rgb = plain_rgb && self.channels == 1;
        if self.channels < wanted && !grey_as_rgb {
            return Err(format!("holds {} components where {wanted} are needed", self.channels));
        }
        if self.channels == wanted && self.width_px == width_px {
            let mut samples = self.samples;
            samples.truncate(width_px * height_px * wanted);
            return Ok(samples);
        }
        let mut out = Vec::with_capacity(width_px * height_px * wanted);
        for row in self.samples.chunks_exact(self.width_px * self.channels).take(height_px) {
            let row = &row[..width_px * self.channels];
            if self.channels == wanted {
                out.extend_from_slice(row);
            } else if grey_as_rgb {
                out.extend(row.iter().flat_map(|&v| [v; 3]));
            } else {
                out.extend(row.chunks_exact(self.channels).flat_map(|pixel| &pixel[..wanted]));
            }
        }
        Ok(out)
    }
}

fn decode_codec(page: &Page, bytes: &[u8]) -> Result<Decoded, Failure> {
    // A codec may hold more than its tile, by padding; what is far larger was made to fill memory.
    let chunk_px = page.chunk_width_px.saturating_mul(page.chunk_height_px);
    let max_px = (4 * chunk_px + (1 << 20)).min(MAX_CHUNK_PX) as usize;
    if page.compression == Compression::Jpeg {
        let colours = match page.photometric {
            _ if page.planar => Colours::Stored,
            Photometric::YCbCr => Colours::YCbCr,
            Photometric::Rgb => Colours::Rgb,
            _ => Colours::Stored,
        };
        let d = decode_jpeg::decode(page.jpeg_tables.as_deref(), bytes, colours, max_px)?;
        return Ok(Decoded { width_px: d.width_px, height_px: d.height_px, channels: d.channels, samples: d.samples });
    }
    let mut d = decode_jp2k::decode(bytes, max_px)?;
    // 33003 says that the codestream holds YCbCr (its chroma replicated); the others hold what the photometric tag says.
    let ycbcr = page.compression == Compression::Jp2kYcbcr
        || page.compression == Compression::Jp2k && page.photometric == Photometric::YCbCr;
    if ycbcr && d.channels == 3 {
        for pixel in d.samples.chunks_exact_mut(3) {
            let rgb = colour::ycbcr_to_rgb(pixel[0], pixel[1], pixel[2]);
            pixel.copy_from_slice(&rgb);
        }
    }
    Ok(Decoded { width_px: d.width_px, height_px: d.height_px, channels: d.channels, samples: d.samples })
}
