//! One TIFF image: where its tiles or strips lie and how their bytes become samples. Everything that depends on the
//! file is checked here, once, so that decoding works with numbers that agree with each other.
//!
//! Limits: one tile or strip decodes to at most [`MAX_CHUNK_PX`] pixels, and no more is read of it than such a tile can
//! need; an image has at most [`MAX_CHUNKS`] of them; uncompressed strips larger than a band are
//! read in bands, so that a single-strip file of any size works.

use super::container::{Container, Directory, tag};
use crate::error::{Error, Result};

/// The most pixels one tile or strip may decode to.
pub const MAX_CHUNK_PX: u64 = 1 << 26;
/// The most tiles or strips of one image: a slide of 300,000 px squared in tiles of 128 px has a third of it.
pub const MAX_CHUNKS: u64 = 1 << 24;
/// Uncompressed strips are cut into bands of about this many bytes.
const BAND_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    None,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
    /// Aperio 33003: JPEG 2000 holding YCbCr.
    Jp2kYcbcr,
    /// Aperio 33005: JPEG 2000 holding RGB.
    Jp2kRgb,
    /// 34712: JPEG 2000, colours as the photometric tag says.
    Jp2k,
    Unsupported(u64),
}

impl Compression {
    fn from_tag(value: u64) -> Compression {
        match value {
            1 => Compression::None,
            5 => Compression::Lzw,
            7 => Compression::Jpeg,
            8 | 32946 => Compression::Deflate,
            32773 => Compression::PackBits,
            33003 => Compression::Jp2kYcbcr,
            33005 => Compression::Jp2kRgb,
            34712 => Compression::Jp2k,
            other => Compression::Unsupported(other),
        }
    }

    /// The name users know it by.
    pub fn name(self) -> String {
        match self {
            Compression::None => "none".into(),
            Compression::Lzw => "lzw".into(),
            Compression::Jpeg => "jpeg".into(),
            Compression::Deflate => "deflate".into(),
            Compression::PackBits => "packbits".into(),
            Compression::Jp2kYcbcr | Compression::Jp2kRgb | Compression::Jp2k => "jpeg2000".into(),
            Compression::Unsupported(code) => match code {
                2..=4 => format!("CCITT fax ({code})"),
                6 => "old-style JPEG (6)".into(),
                34676 | 34677 => format!("SGI LogLuv ({code})"),
                34887 => "LERC (34887)".into(),
                50000 => "Zstandard (50000)".into(),
                50001 => "WebP (50001)".into(),
                50002 => "JPEG XL (50002)".into(),
                _ => code.to_string(),
            },
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    /// Colour table as `[red, green, blue]` per index, high bytes.
    Palette(Vec<[u8; 3]>),
    Cmyk,
    YCbCr,
}

/// How the samples behind the colour ones are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alpha {
    None,
    Associated,
    Unassociated,
}

/// The validated layout of one image.
#[derive(Clone, Debug)]
pub struct Page {
    pub width_px: u64,
    pub height_px: u64,
    pub tiled: bool,
    /// Size of a full chunk: a tile, or a strip of the image's width.
    pub chunk_width_px: u64,
    pub chunk_height_px: u64,
    pub chunks_across: u64,
    pub chunks_down: u64,
    pub compression: Compression,
    pub photometric: Photometric,
    pub alpha: Alpha,
    pub bits: u32,
    /// Samples per pixel in the file, alpha and other extra samples included.
    pub samples: usize,
    /// Each sample in chunks of its own: chunk `k` of sample `s` is entry `s * chunks_across * chunks_down + k`.
    pub planar: bool,
    pub horizontal_predictor: bool,
    pub lsb_first: bool,
    pub big_endian: bool,
    pub jpeg_tables: Option<Vec<u8>>,
    offsets: Vec<u64>,
    byte_counts: Vec<u64>,
}

/// Sizes that need no pixel support: what a directory says of itself before anyone asks for its pixels.
pub struct Outline {
    pub width_px: u64,
    pub height_px: u64,
    pub tiled: bool,
    /// NewSubfileType, or its old form.
    pub reduced: bool,
    /// A transparency mask: not an image of the slide.
    pub mask: bool,
    /// Samples per pixel.
    pub samples: u64,
}

impl Outline {
    pub fn read(container: &Container, directory: &Directory) -> Result<Outline> {
        let size = |tag, name: &str| match container.uint(directory, tag)? {
            Some(v) if (1..=u64::from(u32::MAX)).contains(&v) => Ok(v),
            Some(v) => Err(damaged(container, format!("has an image {name} of {v}"))),
            None => Err(damaged(container, format!("has an image directory without {name}"))),
        };
        let subfile = container.uint(directory, tag::NEW_SUBFILE_TYPE)?.unwrap_or(0);
        let old = container.uint(directory, tag::OLD_SUBFILE_TYPE)?.unwrap_or(1);
        Ok(Outline {
            width_px: size(tag::IMAGE_WIDTH, "width")?,
            height_px: size(tag::IMAGE_LENGTH, "height")?,
            tiled: directory.has(tag::TILE_WIDTH) || directory.has(tag::TILE_OFFSETS),
            reduced: subfile & 1 != 0 || old == 2,
            mask: subfile & 4 != 0,
            samples: container.uint(directory, tag::SAMPLES_PER_PIXEL)?.unwrap_or(1),
        })
    }
}

fn is_jp2k(compression: Compression) -> bool {
    matches!(compression, Compression::Jp2k | Compression::Jp2kYcbcr | Compression::Jp2kRgb)
}

fn damaged(container: &Container, problem: impl Into<String>) -> Error {
    Error::input(container.file.path(), problem, "the file is damaged, copy it again")
}

fn unsupported(container: &Container, problem: impl Into<String>) -> Error {
    Error::input(
        container.file.path(),
        problem,
        "convert the slide to a tiled TIFF with JPEG, JPEG 2000, LZW or deflate compression and 8 or 16 bits",
    )
}

impl Page {
    pub fn read(container: &Container, directory: &Directory) -> Result<Page> {
        let outline = Outline::read(container, directory)?;
        let (width_px, height_px, tiled) = (outline.width_px, outline.height_px, outline.tiled);
        let uint = |tag, default: u64| Ok::<u64, Error>(container.uint(directory, tag)?.unwrap_or(default));

        let compression = Compression::from_tag(uint(tag::COMPRESSION, 1)?);
        if let Compression::Unsupported(_) = compression {
            return Err(unsupported(container, format!("uses TIFF compression {}", compression.name())));
        }
        let samples = uint(tag::SAMPLES_PER_PIXEL, 1)?;
        if !(1..=64).contains(&samples) {
            return Err(unsupported(container, format!("has {samples} samples per pixel")));
        }
        let samples = samples as usize;
        let bits = read_bits(container, directory, samples)?;
        let photometric = read_photometric(container, directory, samples, bits, compression)?;
        let alpha = read_alpha(container, directory, &photometric, samples)?;
        let planar = match uint(tag::PLANAR_CONFIGURATION, 1)? {
            1 => false,
            2 => samples > 1,
            other => return Err(damaged(container, format!("has planar configuration {other}"))),
        };
        let horizontal_predictor = match uint(tag::PREDICTOR, 1)? {
            // Image codecs predict by themselves. The others do not say that they never use it, and some writers do.
            _ if matches!(compression, Compression::Jpeg) || is_jp2k(compression) => false,
            1 => false,
            2 if bits == 8 || bits == 16 => true,
            2 => return Err(unsupported(container, format!("uses a predictor on {bits}-bit samples"))),
            3 => return Err(unsupported(container, "uses the floating-point predictor")),
            other => return Err(unsupported(container, format!("uses predictor {other}"))),
        };
        if photometric == Photometric::YCbCr && compression != Compression::Jpeg {
            let subsampling = container.first_uints(directory, tag::YCBCR_SUBSAMPLING, 2)?.unwrap_or(vec![2, 2]);
            if !is_jp2k(compression) && subsampling != [1, 1] {
                return Err(unsupported(container, "stores subsampled YCbCr without JPEG"));
            }
        }

        let (chunk_width_px, chunk_height_px) = if tiled {
            (uint(tag::TILE_WIDTH, 0)?, uint(tag::TILE_LENGTH, 0)?)
        } else {
            (width_px, uint(tag::ROWS_PER_STRIP, height_px)?.min(height_px))
        };
        if chunk_width_px == 0 || chunk_height_px == 0 {
            return Err(damaged(container, format!("has tiles of {chunk_width_px} x {chunk_height_px} px")));
        }
        let mut page = Page {
            width_px,
            height_px,
            tiled,
            chunk_width_px,
            chunk_height_px,
            chunks_across: width_px.div_ceil(chunk_width_px),
            chunks_down: height_px.div_ceil(chunk_height_px),
            compression,
            photometric,
            alpha,
            bits,
            samples,
            planar,
            horizontal_predictor,
            lsb_first: uint(tag::FILL_ORDER, 1)? == 2,
            big_endian: container.big_endian,
            jpeg_tables: match compression {
                Compression::Jpeg => container.bytes(directory, tag::JPEG_TABLES)?,
                _ => None,
            },
            offsets: Vec::new(),
            byte_counts: Vec::new(),
        };
        page.read_chunk_table(container, directory)?;
        page.cut_into_bands();
        let chunk_px = page.chunk_width_px.saturating_mul(page.chunk_height_px);
        let decoded_bytes = chunk_px.saturating_mul(page.samples as u64).saturating_mul(u64::from(bits.div_ceil(8)));
        if chunk_px > MAX_CHUNK_PX || decoded_bytes > 4 * MAX_CHUNK_PX {
            let what = if tiled { "tiles" } else { "strips" };
            return Err(unsupported(
                container,
                format!("has {what} of {} x {} px, too large to decode", page.chunk_width_px, page.chunk_height_px),
            ));
        }
        page.refuse_truncation(container)?;
        Ok(page)
    }

    fn read_chunk_table(&mut self, container: &Container, directory: &Directory) -> Result<()> {
        let (offsets_tag, counts_tag, what) = if self.tiled {
            (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS, "tile")
        } else {
            (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS, "strip")
        };
        let planes = if self.planar { self.samples as u64 } else { 1 };
        // At least one byte of offset table per chunk: more chunks than bytes cannot be.
        let wanted = self.chunks_across.checked_mul(self.chunks_down).and_then(|n| n.checked_mul(planes));
        let wanted = match wanted {
            Some(n) if n <= container.file.len_bytes().min(MAX_CHUNKS) => n as usize,
            Some(n) if n <= container.file.len_bytes() => {
                return Err(unsupported(container, format!("has {n} {what}s; more than {MAX_CHUNKS} are not read")));
            }
            _ => return Err(damaged(container, format!("claims more {what}s than the file has bytes"))),
        };
        // Some writers put strips under the tile tags or the reverse.
        let swapped = if self.tiled { tag::STRIP_OFFSETS } else { tag::TILE_OFFSETS };
        let offsets = match container.first_uints(directory, offsets_tag, wanted as u64)? {
            Some(offsets) => offsets,
            None => match container.first_uints(directory, swapped, wanted as u64)? {
                Some(offsets) if self.tiled => offsets,
                _ => return Err(damaged(container, format!("has an image without {what} offsets"))),
            },
        };
        if offsets.len() < wanted {
            return Err(damaged(
                container,
                format!("has {} {what} offsets where the image needs {wanted}", offsets.len()),
            ));
        }
        self.offsets = offsets;
        self.offsets.truncate(wanted);
        let counts = match container.first_uints(directory, counts_tag, wanted as u64)? {
            None if self.tiled => container.first_uints(directory, tag::STRIP_BYTE_COUNTS, wanted as u64)?,
            counts => counts,
        };
        self.byte_counts = match counts {
            Some(counts) if counts.len() >= wanted => counts,
            Some(counts) => {
                return Err(damaged(
                    container,
                    format!("has {} {what} byte counts where the image needs {wanted}", counts.len()),
                ));
            }
            // Byte counts may be left out where they follow from the layout.
            None if self.compression == Compression::None => {
                (0..wanted as u64).map(|k| self.plain_rows(k) * self.row_bytes()).collect()
            }
            None if wanted == 1 => vec![container.file.len_bytes().saturating_sub(self.offsets[0])],
            None => return Err(damaged(container, format!("has an image without {what} byte counts"))),
        };
        self.byte_counts.truncate(wanted);
        if !self.tiled {
            // A last strip whose count overshoots the file is common and harmless: what is there is enough or not.
            for (count, offset) in self.byte_counts.iter_mut().zip(&self.offsets) {
                let left = container.file.len_bytes().saturating_sub(*offset);
                if left > 0 {
                    *count = (*count).min(left);
                }
            }
        }
        Ok(())
    }

    fn plain_rows(&self, entry: u64) -> u64 {
        if self.tiled { self.chunk_height_px } else { self.valid_size(entry % self.chunks()).1 }
    }

    /// Bytes of one row of one chunk before compression.
    pub fn row_bytes(&self) -> u64 {
        let samples = if self.planar { 1 } else { self.samples as u64 };
        self.chunk_width_px.saturating_mul(samples).saturating_mul(u64::from(self.bits)).div_ceil(8)
    }

    /// Large uncompressed strips become bands, each with an offset of its own.
    fn cut_into_bands(&mut self) {
        let row_bytes = self.row_bytes().max(1);
        let band_px = (BAND_BYTES / row_bytes).max(16);
        if self.tiled || self.compression != Compression::None || self.chunk_height_px <= 2 * band_px {
            return;
        }
        let (strips_down, strip_px) = (self.chunks_down, self.chunk_height_px);
        // Bands must not straddle strips, so only whole divisions of a strip are taken unless there is one strip.
        let band_px = if strips_down == 1 {
            band_px
        } else {
            match (1..=band_px).rev().find(|b| strip_px.is_multiple_of(*b)) {
                Some(band) if band >= 16 => band,
                _ => return,
            }
        };
        let rows_of = |strip: usize| strip_px.min(self.height_px - strip as u64 % strips_down * strip_px);
        if self.byte_counts.iter().enumerate().any(|(strip, &count)| count < rows_of(strip) * row_bytes) {
            return;
        }
        let (mut offsets, mut counts) = (Vec::new(), Vec::new());
        for (strip, &offset) in self.offsets.iter().enumerate() {
            let rows = rows_of(strip);
            for top in (0..rows).step_by(band_px as usize) {
                let (from, to) = (top * row_bytes, (top + band_px).min(rows) * row_bytes);
                offsets.push(offset.saturating_add(from));
                counts.push(to - from);
            }
        }
        let planes = if self.planar { self.samples } else { 1 };
        let bands = self.height_px.div_ceil(band_px);
        if offsets.len() as u64 == bands * planes as u64 {
            (self.offsets, self.byte_counts) = (offsets, counts);
            (self.chunk_height_px, self.chunks_down) = (band_px, bands);
        }
    }

    fn refuse_truncation(&self, container: &Container) -> Result<()> {
        let len = container.file.len_bytes();
        let reaches_past = |(&offset, &count): (&u64, &u64)| {
            count > 0 && (offset >= len || offset.checked_add(count).is_none_or(|end| end > len))
        };
        let past = self.offsets.iter().zip(&self.byte_counts).position(reaches_past);
        match past {
            Some(entry) => Err(Error::input(
                container.file.path(),
                format!(
                    "{} {entry} of {} ends at byte {} of a file of {len} bytes",
                    if self.tiled { "tile" } else { "strip" },
                    self.offsets.len(),
                    self.offsets[entry].saturating_add(self.byte_counts[entry]),
                ),
                "the file is truncated, copy it again",
            )),
            None => Ok(()),
        }
    }

    /// The same layout with 8-bit samples and without chunk tables: what is left once a codec has decoded.
    pub fn with_byte_samples(&self) -> Page {
        Page {
            bits: 8,
            offsets: Vec::new(),
            byte_counts: Vec::new(),
            jpeg_tables: None,
            photometric: self.photometric.clone(),
            ..*self
        }
    }

    /// Chunks of one plane.
    pub fn chunks(&self) -> u64 {
        self.chunks_across * self.chunks_down
    }

    /// The part of a chunk that lies inside the image: width and height in pixels.
    pub fn valid_size(&self, chunk: u64) -> (u64, u64) {
        let (column, row) = (chunk % self.chunks_across, chunk / self.chunks_across);
        (
            self.chunk_width_px.min(self.width_px - column * self.chunk_width_px),
            self.chunk_height_px.min(self.height_px - row * self.chunk_height_px),
        )
    }

    /// Where plane `plane` of a chunk lies: offset and byte count. A count of zero means the chunk was never written; one
    /// far beyond what its pixels can need is cut, because no codec reads so far.
    pub fn chunk_range(&self, chunk: u64, plane: usize) -> (u64, u64) {
        let entry = (plane as u64 * self.chunks() + chunk) as usize;
        let most = self.row_bytes().saturating_mul(self.chunk_height_px).saturating_mul(2).saturating_add(1 << 20);
        (self.offsets[entry], self.byte_counts[entry].min(most))
    }

    /// Compressed bytes per chunk, planes added up.
    pub fn chunk_byte_counts(&self) -> Vec<u64> {
        let chunks = self.chunks() as usize;
        (0..chunks).map(|k| self.byte_counts.iter().skip(k).step_by(chunks).sum()).collect()
    }
}

fn read_bits(container: &Container, directory: &Directory, samples: usize) -> Result<u32> {
    let bits = container.first_uints(directory, tag::BITS_PER_SAMPLE, samples as u64)?.unwrap_or(vec![1]);
    let first = bits.first().copied().unwrap_or(1);
    if bits.iter().take(samples).any(|&b| b != first) {
        return Err(unsupported(container, "has samples of different bit depths"));
    }
    let format = container.uint(directory, tag::SAMPLE_FORMAT)?.unwrap_or(1);
    let kind = match format {
        1 | 4 => "unsigned",
        2 => "signed integer",
        3 => "floating-point",
        _ => "complex",
    };
    if kind != "unsigned" || !(1..=16).contains(&first) {
        return Err(unsupported(container, format!("has {first}-bit {kind} samples")));
    }
    Ok(first as u32)
}

fn read_photometric(
    container: &Container,
    directory: &Directory,
    samples: usize,
    bits: u32,
    compression: Compression,
) -> Result<Photometric> {
    let value = match container.uint(directory, tag::PHOTOMETRIC)? {
        Some(value) => value,
        None if samples >= 3 => 2,
        None => 1,
    };
    let (photometric, needed) = match value {
        // A JPEG 2000 codestream knows its own components; a grey photometric over three of them is a known slip.
        0 | 1 if is_jp2k(compression) && samples >= 3 => (Photometric::Rgb, 3),
        0 => (Photometric::WhiteIsZero, 1),
        1 => (Photometric::BlackIsZero, 1),
        2 => (Photometric::Rgb, 3),
        3 => {
            let map = container.first_uints(directory, tag::COLOR_MAP, 3 << bits.min(16))?.unwrap_or_default();
            let entries = 1_usize << bits.min(16);
            if bits > 8 || map.len() < 3 * entries {
                return Err(damaged(container, format!("has a palette of {} values for {bits}-bit pixels", map.len())));
            }
            // The map is 16-bit; some writers filled it with 8-bit values.
            let shift = if map.iter().all(|&v| v < 256) { 0 } else { 8 };
            let at = |i: usize| (map[i] >> shift) as u8;
            let colours = (0..entries).map(|i| [at(i), at(entries + i), at(2 * entries + i)]).collect();
            (Photometric::Palette(colours), 1)
        }
        5 => {
            if container.uint(directory, tag::INK_SET)?.unwrap_or(1) != 1 {
                return Err(unsupported(container, "is separated into inks other than CMYK"));
            }
            (Photometric::Cmyk, 4)
        }
        6 => (Photometric::YCbCr, 3),
        4 => return Err(unsupported(container, "is a transparency mask, not an image")),
        8..=10 => return Err(unsupported(container, "stores CIE L*a*b* colours")),
        32844 | 32845 => return Err(unsupported(container, "stores LogLuv colours")),
        other => return Err(unsupported(container, format!("has photometric interpretation {other}"))),
    };
    if samples < needed {
        return Err(damaged(container, format!("has {samples} samples per pixel where its colours need {needed}")));
    }
    Ok(photometric)
}

fn read_alpha(
    container: &Container,
    directory: &Directory,
    photometric: &Photometric,
    samples: usize,
) -> Result<Alpha> {
    let colours = match photometric {
        Photometric::Rgb | Photometric::YCbCr => 3,
        Photometric::Cmyk => 4,
        _ => 1,
    };
    if samples <= colours {
        return Ok(Alpha::None);
    }
    Ok(match container.uint(directory, tag::EXTRA_SAMPLES)? {
        Some(1) => Alpha::Associated,
        Some(2) => Alpha::Unassociated,
        _ => Alpha::None,
    })
}
