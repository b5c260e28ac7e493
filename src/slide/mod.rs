//! Whole-slide images: immutable, shareable between threads, decoded in parallel. Knows nothing of tensors.
//!
//! [`Slide::open`] reads metadata only; [`Slide::read_region`] decodes the tiles it needs through a cache bounded in
//! bytes. There is no cursor: every read names its level and place, and any number of threads read at once.
//!
//! Formats: Aperio SVS; tiled and striped TIFF and BigTIFF of either byte order with JPEG, JPEG 2000, LZW, deflate,
//! PackBits or no compression; OME-TIFF; PNG and JPEG files as slides of one level. Other vendors' files are recognised,
//! and read through OpenSlide where it is on the machine ([`mod@openslide`]), else refused by name. Layers: [`mod@file`]
//! (positioned reads), [`container`] (directories and tags), [`page`] (one image's layout), [`mod@format`] (whose file it is and
//! what its directories mean), `decode_*` (codecs), [`tiles`] (chunks to pixels), [`cache`].
//!
//! What is damaged beside the slide (a label, a coarser level, a SubIFD) is left out and named by [`Slide::remarks`].
//!
//! Pixels follow OpenSlide and tifffile: the decoders are exact, samples of more than 8 bits keep their high byte, alpha
//! is composed over white, everything outside the slide is white. Colour profiles are not applied.

pub mod cache;
pub mod colour;
pub mod container;
pub mod decode_jp2k;
pub mod decode_jpeg;
pub mod decode_plain;
pub mod failure;
pub mod file;
pub mod file_name;
pub mod format;
mod jp2k_blocks;
mod jp2k_codestream;
mod jp2k_packets;
mod jp2k_wavelet;
mod jpeg_entropy;
mod jpeg_idct;
mod jpeg_upsample;
pub mod mpp_table;
pub mod openslide;
pub mod page;
mod plane;
pub mod scale;
mod shrink;
pub mod tiles;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

pub use mpp_table::MppTable;
pub use plane::{Plane, PlaneRule};
pub use scale::{MppSource, Scale};
pub use tiles::{Tile, TileGrid};

use self::{
    cache::TileCache,
    format::{Associated, Opened, Source},
    page::{Outline, Page},
};
use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// The most bytes one region may take in memory.
pub const MAX_REGION_BYTES: usize = 8 << 30;
const WHITE: [u8; 3] = [255; 3];

/// How a slide is opened.
#[derive(Clone, Debug)]
pub struct SlideOptions {
    /// µm per level-0 pixel, over whatever the file says.
    pub mpp: Option<f64>,
    /// Limit of the decoded-tile cache.
    pub cache_bytes: usize,
}

impl Default for SlideOptions {
    fn default() -> SlideOptions {
        SlideOptions { mpp: None, cache_bytes: 128 << 20 }
    }
}

/// One resolution of a slide.
#[derive(Clone, PartialEq, Debug)]
pub struct Level {
    pub width_px: u64,
    pub height_px: u64,
    /// Level-0 pixels per pixel of this level, the mean of both directions.
    pub downsample: f64,
    /// The unit in which pixels are stored and decoded: a tile, a strip, or the whole image.
    pub tile_width_px: u64,
    pub tile_height_px: u64,
    pub compression: String,
}

/// An open slide. Cloning shares the file and the cache.
///
/// ```
/// use isg::{image::RgbImage, slide::Slide};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("pink.png"); // or an SVS, a TIFF, an OME-TIFF
/// RgbImage::filled(300, 200, [230, 180, 210]).write_png(&path)?;
///
/// let slide = Slide::open(&path)?;
/// assert_eq!((slide.levels()[0].width_px, slide.levels()[0].height_px), (300, 200));
/// let region = slide.read_region(0, 290, 0, 20, 4)?;
/// assert_eq!([region.pixel(0, 0), region.pixel(19, 3)], [[230, 180, 210], [255; 3]]); // outside is white
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Slide {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    vendor: &'static str,
    source: Source,
    levels: Vec<Level>,
    scale: Option<Scale>,
    magnification: Option<f64>,
    properties: Vec<(String, String)>,
    remarks: Vec<String>,
    cache: TileCache,
}

impl std::fmt::Debug for Slide {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let inner = &*self.inner;
        f.debug_struct("Slide").field("path", &inner.path).field("levels", &inner.levels).finish_non_exhaustive()
    }
}

impl Slide {
    /// Opens a slide with default options.
    pub fn open(path: impl AsRef<Path>) -> Result<Slide> {
        Slide::open_with(path, &SlideOptions::default())
    }

    /// Reads the metadata of a slide; a file that is truncated or of a kind not read is refused here.
    pub fn open_with(path: impl AsRef<Path>, options: &SlideOptions) -> Result<Slide> {
        let path = path.as_ref();
        Slide::of(path, options, format::open(path)?)
    }

    /// Opens a slide through OpenSlide, also one of a format that is read without it.
    ///
    /// # Errors
    /// No library of OpenSlide on the machine; a file that it does not open.
    pub fn open_through_openslide(path: impl AsRef<Path>, options: &SlideOptions) -> Result<Slide> {
        let path = path.as_ref();
        Slide::of(path, options, format::open_through_openslide(path)?)
    }

    fn of(path: &Path, options: &SlideOptions, opened: Opened) -> Result<Slide> {
        let forced = options.mpp.map(scale::check_override).transpose()?;
        let forced = forced.map(|mpp| Scale { x_mpp: mpp, y_mpp: mpp, source: MppSource::Override });
        let Opened { vendor, source, scale, magnification, properties, mut remarks } = opened;
        let levels = match &source {
            Source::Tiff { pages, .. } => levels(pages),
            Source::OpenSlide(slide) => slide.levels.clone(),
            Source::Image(image) => vec![Level {
                width_px: image.width_px as u64,
                height_px: image.height_px as u64,
                downsample: 1.0,
                tile_width_px: image.width_px as u64,
                tile_height_px: image.height_px as u64,
                compression: vendor.to_string(),
            }],
        };
        let scale = forced.or(scale);
        remarks.extend(scale.and_then(|scale| scale.remark()));
        let inner = Inner {
            path: path.to_path_buf(),
            vendor,
            source,
            levels,
            scale,
            magnification,
            properties,
            remarks,
            cache: TileCache::new(options.cache_bytes),
        };
        Ok(Slide { inner: Arc::new(inner) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// `aperio`, `ome-tiff`, `generic-tiff`, `png` or `jpeg`; what OpenSlide calls a vendor whose slides it reads.
    pub fn vendor(&self) -> &'static str {
        self.inner.vendor
    }

    /// Level 0 first. Never empty.
    pub fn levels(&self) -> &[Level] {
        &self.inner.levels
    }

    /// µm per level-0 pixel, the mean of both directions; `None` if nothing trustworthy says.
    pub fn mpp(&self) -> Option<f64> {
        self.inner.scale.map(|scale| scale.mpp())
    }

    /// The scale of both directions and where it came from.
    pub fn scale(&self) -> Option<Scale> {
        self.inner.scale
    }

    pub fn mpp_source(&self) -> Option<MppSource> {
        self.inner.scale.map(|scale| scale.source)
    }

    /// µm per level-0 pixel, or an error that tells the user how to state it.
    pub fn require_mpp(&self) -> Result<f64> {
        self.mpp().ok_or_else(|| {
            Error::input(
                &self.inner.path,
                "does not say how large its pixels are",
                "give the µm per pixel with --mpp, or a CSV with the columns slide and mpp",
            )
        })
    }

    /// The objective's magnification as the scanner states it.
    pub fn magnification(&self) -> Option<f64> {
        self.inner.magnification
    }

    /// Everything else the file says of itself, in file order: `tiff.*`, `aperio.*`, `ome.*`.
    pub fn properties(&self) -> &[(String, String)] {
        &self.inner.properties
    }

    /// What of the file is damaged or of a kind not read and therefore left out, and what is odd about the rest
    /// (pixels that are not square): one clause each.
    pub fn remarks(&self) -> &[String] {
        &self.inner.remarks
    }

    /// Names and sizes of the images beside the slide: thumbnail, label, macro.
    pub fn associated_images(&self) -> Vec<(String, u64, u64)> {
        let (container, associated) = match &self.inner.source {
            Source::Tiff { container, associated, .. } => (container, associated),
            Source::OpenSlide(slide) => return slide.associated.clone(),
            Source::Image(_) => return Vec::new(),
        };
        let outline = |a: &Associated| {
            let outline = Outline::read(container, &a.directory).ok()?;
            Some((a.name.clone(), outline.width_px, outline.height_px))
        };
        associated.iter().filter_map(outline).collect()
    }

    /// Decodes one of the images beside the slide.
    pub fn associated_image(&self, name: &str) -> Result<RgbImage> {
        let (container, associated) = match &self.inner.source {
            Source::Tiff { container, associated, .. } => (container, associated),
            Source::OpenSlide(slide) => {
                let found = slide.associated.iter().find(|image| image.0 == name);
                let found = found.ok_or_else(|| self.no_such_image(name))?;
                self.check_fits(found.1, found.2)?;
                return slide.associated_image(&self.inner.path, found);
            }
            Source::Image(_) => return Err(self.no_such_image(name)),
        };
        let found = associated.iter().find(|a| a.name == name).ok_or_else(|| self.no_such_image(name))?;
        let page = Page::read(container, &found.directory)?;
        let mut image = self.white(page.width_px, page.height_px)?;
        for chunk in 0..page.chunks() {
            if let Some(part) = tiles::decode_chunk(container, &page, chunk)? {
                let x = chunk % page.chunks_across * page.chunk_width_px;
                let y = chunk / page.chunks_across * page.chunk_height_px;
                paste(&part, &mut image.pixels, page.width_px as usize * 3, x as usize, y as usize);
            }
        }
        Ok(image)
    }

    fn no_such_image(&self, name: &str) -> Error {
        let names: Vec<String> = self.associated_images().into_iter().map(|(name, ..)| name).collect();
        let remedy = if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
        Error::input(&self.inner.path, format!("has no associated image '{name}'"), remedy)
    }

    /// The coarsest level with at least the resolution of `downsample` (1.0 is level 0).
    pub fn level_for_downsample(&self, downsample: f64) -> usize {
        // Pyramids round their sizes: 2.0005 serves 2.
        self.levels().iter().rposition(|level| level.downsample <= downsample * 1.01).unwrap_or(0)
    }

    /// Rectangles of `tile_px` a side covering a level row by row, cut at the right and bottom edge.
    pub fn tiles(&self, level: usize, tile_px: u64) -> Result<TileGrid> {
        let found = self.level(level)?;
        Ok(TileGrid::new(level, (found.width_px, found.height_px), (tile_px, tile_px)))
    }

    /// The level's own tiles or strips, in storage order: the cheapest way through a whole level.
    pub fn native_tiles(&self, level: usize) -> Result<TileGrid> {
        let found = self.level(level)?;
        let size = (found.width_px, found.height_px);
        Ok(TileGrid::new(level, size, (found.tile_width_px, found.tile_height_px)))
    }

    /// Compressed bytes of every native tile of a level, in the order of [`Slide::native_tiles`], without decoding.
    /// `None` for PNG and JPEG files, which have no tiles, and for what OpenSlide reads.
    pub fn tile_byte_counts(&self, level: usize) -> Result<Option<Vec<u64>>> {
        self.level(level)?;
        Ok(match &self.inner.source {
            Source::Tiff { pages, .. } => Some(pages[level].chunk_byte_counts()),
            Source::Image(_) | Source::OpenSlide(_) => None,
        })
    }

    /// The pixels of one rectangle of a grid.
    pub fn read_tile(&self, tile: Tile) -> Result<RgbImage> {
        let (width_px, height_px) = (tile.width_px as usize, tile.height_px as usize);
        self.read_region(tile.level, tile.x_px as i64, tile.y_px as i64, width_px, height_px)
    }

    /// The pixels of a rectangle in the level's own pixels. What lies outside the slide is white.
    ///
    /// Fails if the level does not exist, if the region would not fit in memory, or if a tile in it is damaged.
    pub fn read_region(&self, level: usize, x: i64, y: i64, width_px: usize, height_px: usize) -> Result<RgbImage> {
        let found = self.level(level)?;
        let mut image = self.white(width_px as u64, height_px as u64)?;
        // The part inside the slide, in level pixels.
        let inside = |at: i64, size: usize, limit: u64| {
            let end = at.saturating_add_unsigned(size as u64).clamp(0, limit as i64) as u64;
            (at.clamp(0, limit as i64) as u64, end)
        };
        let (left, right) = inside(x, width_px, found.width_px);
        let (top, bottom) = inside(y, height_px, found.height_px);
        if left >= right || top >= bottom {
            return Ok(image);
        }
        let (across, down) = (found.tile_width_px, found.tile_height_px);
        let (columns, rows) = (left / across..(right - 1) / across + 1, top / down..(bottom - 1) / down + 1);
        // Every row of tiles has a band of the image to itself, so rows are filled in parallel.
        let mut bands = Vec::with_capacity((rows.end - rows.start) as usize);
        let stride = width_px * 3;
        let mut rest = &mut image.pixels[(top as i64).saturating_sub(y) as usize * stride..];
        for row in rows {
            let (from, to) = ((row * down).max(top), ((row + 1) * down).min(bottom));
            let (band, after) = rest.split_at_mut((to - from) as usize * stride);
            bands.push((row, from, band));
            rest = after;
        }
        let fill = |(row, from, band): &mut (u64, u64, &mut [u8])| -> Result<()> {
            let tiles: Vec<Result<Arc<RgbImage>>> =
                columns.clone().into_par_iter().map(|column| self.tile(level, column, *row)).collect();
            for (column, tile) in columns.clone().zip(tiles) {
                let tile = tile?;
                let (x0, x1) = ((column * across).max(left), ((column + 1) * across).min(right));
                let skip = ((x0 - column * across) as usize, (*from - *row * down) as usize);
                let to = (x0 as i64).saturating_sub(x) as usize * 3;
                let count = (x1 - x0) as usize * 3;
                for (out, tile_y) in band.chunks_exact_mut(stride).zip(skip.1..) {
                    let start = (tile_y * tile.width_px + skip.0) * 3;
                    out[to..to + count].copy_from_slice(&tile.pixels[start..start + count]);
                }
            }
            Ok(())
        };
        if bands.len() == 1 && columns.end - columns.start == 1 {
            // One tile: no task to hand out.
            fill(&mut bands[0])?;
        } else {
            let results: Vec<Result<()>> = bands.par_iter_mut().map(fill).collect();
            results.into_iter().collect::<Result<()>>()?;
        }
        Ok(image)
    }

    /// The whole slide, its longer side at most `max_side_px`, by averaging over areas. Never upsampled.
    pub fn thumbnail(&self, max_side_px: usize) -> Result<RgbImage> {
        if max_side_px == 0 {
            return Err(Error::Usage("a thumbnail needs a side of at least 1 px".into()));
        }
        let full = &self.levels()[0];
        let longer = full.width_px.max(full.height_px);
        let factor = (longer as f64 / max_side_px as f64).max(1.0);
        let size = |px: u64| ((px as f64 / factor).round() as usize).max(1);
        let (width_px, height_px) = (size(full.width_px), size(full.height_px));
        let fits = |level: &Level| level.width_px >= width_px as u64 && level.height_px >= height_px as u64;
        let level = self.levels().iter().rposition(fits).unwrap_or(0);
        shrink::level(self, level, width_px, height_px)
    }

    fn level(&self, level: usize) -> Result<&Level> {
        self.levels().get(level).ok_or_else(|| {
            Error::input(
                &self.inner.path,
                format!("has no level {level}"),
                format!("it has levels 0 to {}", self.levels().len() - 1),
            )
        })
    }

    fn white(&self, width_px: u64, height_px: u64) -> Result<RgbImage> {
        self.check_fits(width_px, height_px)?;
        let (width_px, height_px) = (width_px as usize, height_px as usize);
        Ok(RgbImage { width_px, height_px, pixels: vec![WHITE[0]; width_px * height_px * 3] })
    }

    fn check_fits(&self, width_px: u64, height_px: u64) -> Result<()> {
        let bytes = width_px.checked_mul(height_px).and_then(|px| px.checked_mul(3));
        if bytes.is_none_or(|bytes| bytes > MAX_REGION_BYTES as u64) {
            return Err(Error::input(
                &self.inner.path,
                format!("a region of {width_px} x {height_px} px does not fit in memory"),
                "read it in parts, or from a coarser level",
            ));
        }
        Ok(())
    }

    /// One decoded native tile, from the cache if it is there.
    fn tile(&self, level: usize, column: u64, row: u64) -> Result<Arc<RgbImage>> {
        let (container, page) = match &self.inner.source {
            Source::Tiff { container, pages, .. } => (container, &pages[level]),
            Source::Image(image) => return Ok(image.clone()),
            Source::OpenSlide(slide) => {
                let found = self.level(level)?;
                let key = (level, row * found.width_px.div_ceil(found.tile_width_px) + column);
                if let Some(tile) = self.inner.cache.get(key) {
                    return Ok(tile);
                }
                let tile = Arc::new(slide.tile(&self.inner.path, level, column, row)?);
                self.inner.cache.put(key, &tile);
                return Ok(tile);
            }
        };
        let chunk = row * page.chunks_across + column;
        if let Some(tile) = self.inner.cache.get((level, chunk)) {
            return Ok(tile);
        }
        let tile = Arc::new(match tiles::decode_chunk(container, page, chunk)? {
            Some(tile) => tile,
            None => self.missing_tile(level, page, chunk)?,
        });
        self.inner.cache.put((level, chunk), &tile);
        Ok(tile)
    }

    /// A tile that was never written: shrunk from the finer level, as scanners that leave tiles out intend; on level 0
    /// there is nothing, which is white.
    fn missing_tile(&self, level: usize, page: &Page, chunk: u64) -> Result<RgbImage> {
        let (width_px, height_px) = page.valid_size(chunk);
        if level == 0 {
            return self.white(width_px, height_px);
        }
        let finer = &self.levels()[level - 1];
        let scale = |at: u64, finer: u64, own: u64| (at as f64 * finer as f64 / own as f64).round() as u64;
        let x = chunk % page.chunks_across * page.chunk_width_px;
        let y = chunk / page.chunks_across * page.chunk_height_px;
        let (x0, x1) = (scale(x, finer.width_px, page.width_px), scale(x + width_px, finer.width_px, page.width_px));
        let (y0, y1) =
            (scale(y, finer.height_px, page.height_px), scale(y + height_px, finer.height_px, page.height_px));
        let region = self.read_region(level - 1, x0 as i64, y0 as i64, (x1 - x0) as usize, (y1 - y0) as usize)?;
        Ok(region.resize_area(width_px as usize, height_px as usize))
    }
}

fn levels(pages: &[Page]) -> Vec<Level> {
    pages
        .iter()
        .map(|page| Level {
            width_px: page.width_px,
            height_px: page.height_px,
            downsample: (pages[0].width_px as f64 / page.width_px as f64
                + pages[0].height_px as f64 / page.height_px as f64)
                / 2.0,
            tile_width_px: page.chunk_width_px,
            tile_height_px: page.chunk_height_px,
            compression: page.compression.name(),
        })
        .collect()
}

/// Copies an image into a larger one with rows `stride` bytes apart.
fn paste(part: &RgbImage, pixels: &mut [u8], stride: usize, x: usize, y: usize) {
    for (row, source) in part.pixels.chunks_exact(part.width_px * 3).enumerate() {
        let start = (y + row) * stride + x * 3;
        pixels[start..start + source.len()].copy_from_slice(source);
    }
}
