//! Whole images: the stream's header, its chunks in order, and the bounds that keep a broken stream harmless.

use std::path::Path;

use rayon::prelude::*;

use super::{
    chunk::{self, Coder},
    predict::ChunkGrid,
};
use crate::{error::Error, image::RgbImage};

pub const MAGIC: [u8; 4] = *b"ISLZ";
pub const VERSION: u8 = 2;
/// Magic, version, width, height, checksum.
pub const HEADER_BYTES: usize = 17;
/// Bytes of a chunk's entry in the table of sizes.
const SIZE_BYTES: usize = 2;
/// The most pixel bytes a stream may hold; a broken header cannot ask for more memory than this.
pub const MAX_PIXEL_BYTES: usize = 1 << 30;

/// Why bytes are not a stream, in words that follow "the stream cannot be decoded: ".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Corrupt(pub &'static str);

/// Length in bits of [`encode`]'s stream for `image`, without making it. An image without pixels has no stream: 0.
pub fn bits(image: &RgbImage) -> u64 {
    if image.width_px == 0 || image.height_px == 0 {
        return 0;
    }
    let grid = ChunkGrid::new(image.width_px, image.height_px);
    let mut coder = Coder::default();
    let payload: usize = (0..grid.len()).map(|i| SIZE_BYTES + coder.payload_bytes(image, grid.area(i))).sum();
    8 * (HEADER_BYTES + payload) as u64
}

/// The stream of an image.
///
/// # Errors
/// The image has no pixels, or more than [`MAX_PIXEL_BYTES`] of them.
pub fn encode(image: &RgbImage) -> Result<Vec<u8>, Corrupt> {
    check_size(image)?;
    let chunks = payloads(image);
    Ok(assemble(image, chunks.iter().map(Vec::as_slice)))
}

/// Refuses images that have no stream.
pub(crate) fn check_size(image: &RgbImage) -> Result<(), Corrupt> {
    match (u32::try_from(image.width_px), u32::try_from(image.height_px)) {
        (Ok(width_px), Ok(height_px)) => pixel_bytes(width_px, height_px).map(|_| ()),
        _ => Err(Corrupt("the image is too large")),
    }
}

/// The payloads of an image's chunks, in the order of the stream.
pub(crate) fn payloads(image: &RgbImage) -> Vec<Vec<u8>> {
    let grid = ChunkGrid::new(image.width_px, image.height_px);
    (0..grid.len()).into_par_iter().map_init(Coder::default, |c, i| c.payload(image, grid.area(i))).collect()
}

/// The stream of an image whose size has been checked, from the payloads of its chunks, wherever they were made.
pub(crate) fn assemble<'a>(image: &RgbImage, chunks: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let payload_bytes: usize = chunks.clone().map(|chunk| SIZE_BYTES + chunk.len()).sum();
    let mut stream = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    stream.extend_from_slice(&MAGIC);
    stream.push(VERSION);
    stream.extend_from_slice(&(image.width_px as u32).to_le_bytes());
    stream.extend_from_slice(&(image.height_px as u32).to_le_bytes());
    stream.extend_from_slice(&checksum(&image.pixels).to_le_bytes());
    chunks.clone().for_each(|chunk| stream.extend_from_slice(&(chunk.len() as u16).to_le_bytes()));
    chunks.for_each(|chunk| stream.extend_from_slice(chunk));
    stream
}

/// The image of a stream.
///
/// # Errors
/// The bytes are not a stream of this version, are damaged anywhere, or hold more than [`MAX_PIXEL_BYTES`] of pixels. Memory is
/// claimed for the pixels only after the table of sizes has been found to fit the bytes.
pub fn decode(stream: &[u8]) -> Result<RgbImage, Corrupt> {
    let Some((header, body)) = stream.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Corrupt("it is shorter than a header"));
    };
    if header[..4] != MAGIC {
        return Err(Corrupt("it does not begin with ISLZ"));
    }
    if header[4] != VERSION {
        return Err(Corrupt("it has another version"));
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (width_px, height_px, wanted_checksum) = (number(5), number(9), number(13));
    let pixel_bytes = pixel_bytes(width_px, height_px)?;
    let (width_px, height_px) = (width_px as usize, height_px as usize);
    let grid = ChunkGrid::new(width_px, height_px);
    if body.len() / SIZE_BYTES < grid.len() {
        return Err(Corrupt("it ends within the table of chunk sizes"));
    }
    let (sizes, mut payloads) = body.split_at(SIZE_BYTES * grid.len());
    let mut chunks = Vec::with_capacity(grid.len());
    for (index, size) in sizes.chunks_exact(SIZE_BYTES).enumerate() {
        let (area, size) = (grid.area(index), usize::from(u16::from_le_bytes([size[0], size[1]])));
        if size > area.bytes() {
            return Err(Corrupt("a chunk is larger than its pixels"));
        }
        let Some((payload, rest)) = payloads.split_at_checked(size) else {
            return Err(Corrupt("it ends within a chunk"));
        };
        chunks.push((area, payload));
        payloads = rest;
    }
    if !payloads.is_empty() {
        return Err(Corrupt("bytes follow its last chunk"));
    }

    let mut pixels = vec![0; pixel_bytes];
    // Chunks of one row of the grid fill whole lines of the image, so rows are decoded side by side.
    let mut rows = Vec::with_capacity(grid.rows);
    let mut rest = &mut pixels[..];
    for row in chunks.chunks(grid.columns) {
        let (lines, after) = rest.split_at_mut(3 * width_px * row[0].0.height_px);
        rows.push((row, lines));
        rest = after;
    }
    rows.into_par_iter().try_for_each(|(row, lines)| {
        let mut plain = Vec::new();
        for &(area, payload) in row {
            plain.resize(area.bytes(), 0);
            chunk::decode(payload, area, &mut plain).map_err(Corrupt)?;
            for (line, pixels) in lines.chunks_exact_mut(3 * width_px).zip(plain.chunks_exact(3 * area.width_px)) {
                line[3 * area.x_px..][..pixels.len()].copy_from_slice(pixels);
            }
        }
        Ok(())
    })?;
    if checksum(&pixels) != wanted_checksum {
        return Err(Corrupt("its pixels do not have the checksum in its header"));
    }
    Ok(RgbImage { width_px, height_px, pixels })
}

fn pixel_bytes(width_px: u32, height_px: u32) -> Result<usize, Corrupt> {
    if width_px == 0 || height_px == 0 {
        return Err(Corrupt("the image has no pixels"));
    }
    let bytes = u64::from(width_px).checked_mul(u64::from(height_px)).and_then(|pixels| pixels.checked_mul(3));
    match bytes {
        Some(bytes) if bytes <= MAX_PIXEL_BYTES as u64 => Ok(bytes as usize),
        _ => Err(Corrupt("the image is too large")),
    }
}

fn checksum(pixels: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(pixels);
    crc.sum()
}

/// Reads an `.islz` file.
///
/// # Errors
/// The file cannot be read, or is no sound stream.
pub fn read(path: impl AsRef<Path>) -> Result<RgbImage, Error> {
    let path = path.as_ref();
    let damaged = |why: Corrupt| Error::input(path, format!("cannot be decoded: {why}"), "encode the image again");
    let length = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    // No chunk is longer than its pixels and the entry of its size.
    if length > 2 * MAX_PIXEL_BYTES as u64 {
        return Err(damaged(Corrupt("it is longer than any stream")));
    }
    decode(&std::fs::read(path).map_err(|e| Error::io(path, e))?).map_err(damaged)
}
