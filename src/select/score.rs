//! Scores of all patches of a slide.
//!
//! Patches are whole squares of `patch_px` from the top left corner of a level, without overlap; what is left over at the right
//! and the bottom is not scored, because a cut patch has fewer bits for no fault of its texture. A slide narrower or lower
//! than a patch is one patch across or down, scored at its real size, so a small image is one patch.
//!
//! **Pre-filter.** A slide whose tiles are JPEG already holds a score of its own: the compressed size of every tile, in the
//! file's directory. With [`ScoreOptions::prefilter`] only the given share of patches with the most compressed bytes is decoded and
//! scored. The others are left out of the result; what they would have scored is estimated in proportion to their
//! bytes, so that a threshold relative to the slide's mean still knows of them.
//!
//! Measured on the JPEG slides at hand, `lz`, threshold mean + 1 standard deviation; "lost" are patches that scoring
//! everything keeps and the pre-filter does not, "added" the reverse:
//!
//! | slide | patch | share decoded | patches | kept by all | lost | added |
//! |---|---|---|---|---|---|---|
//! | CMU-1-Small-Region.svs | 256 | 0.75 | 66 of 88 | 24 | 0 | 0 |
//! | CMU-1-Small-Region.svs | 256 | 0.5 | 44 of 88 | 24 | 0 | 0 |
//! | CMU-1-Small-Region.svs | 256 | 0.25 | 22 of 88 | 24 | 3 | 0 |
//! | CMU-1-Small-Region.svs | 512 | 0.75 | 15 of 20 | 4 | 0 | 0 |
//! | CMU-1-Small-Region.svs | 512 | 0.5 | 10 of 20 | 4 | 0 | 0 |
//! | CMU-1-Small-Region.svs | 512 | 0.25 | 5 of 20 | 4 | 0 | 0 |
//! | CropBreastSlide.tiff | 256 | 0.75 | 27 of 35 | 9 | 4 | 0 |
//! | CropBreastSlide.tiff | 256 | 0.5 | 18 of 35 | 9 | 0 | 0 |
//! | CropBreastSlide.tiff | 256 | 0.25 | 9 of 35 | 9 | 0 | 0 |
//! | CropBreastSlide.tiff | 512 | 0.75 | 5 of 6 | 1 | 1 | 0 |
//! | CropBreastSlide.tiff | 512 | 0.5 | 3 of 6 | 1 | 1 | 0 |
//! | CropBreastSlide.tiff | 512 | 0.25 | 2 of 6 | 1 | 1 | 0 |

use rayon::prelude::*;

use super::{
    Codec,
    selector::{Pending, Scorer, Selector, Work},
    threshold::{Threshold, least_score},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    progress::Progress,
    slide::Slide,
};

/// Side of a patch where none is given, in pixels of the scored level.
pub const DEFAULT_PATCH_PX: usize = 1024;
/// The largest patch: 3 GiB of pixels would be one patch of 32768.
const MAX_PATCH_PX: usize = 16384;

/// One patch and its score. `x` and `y` are its top left corner in pixels of the scored level.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PatchScore {
    pub x: u64,
    pub y: u64,
    /// What Shannon selection counts; other selectors count none.
    pub bits: Option<u64>,
    /// What patches are compared by: bits per pixel for Shannon selection.
    pub score: f64,
    pub kept: bool,
}

/// How a slide is scored.
#[derive(Clone, PartialEq, Debug)]
pub struct ScoreOptions {
    pub patch_px: usize,
    pub selector: Selector,
    pub level: usize,
    pub threshold: Threshold,
    /// Share of the patches, 0 to 1, that are decoded at all, by the compressed size of their tiles.
    pub prefilter: Option<f64>,
}

impl Default for ScoreOptions {
    fn default() -> ScoreOptions {
        ScoreOptions {
            patch_px: DEFAULT_PATCH_PX,
            selector: Selector::default(),
            level: 0,
            threshold: Threshold::default(),
            prefilter: None,
        }
    }
}

impl ScoreOptions {
    /// # Errors
    /// A patch side of 0 or beyond memory, a share outside 0 to 1, an unusable threshold.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_PATCH_PX).contains(&self.patch_px) {
            return Err(Error::Usage(format!(
                "a patch side of {} px cannot be; give 1 to {MAX_PATCH_PX}",
                self.patch_px
            )));
        }
        if self.prefilter.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(Error::Usage("the pre-filter's share must be above 0 and at most 1".to_string()));
        }
        if self.prefilter.is_some() && !matches!(self.selector, Selector::Shannon(_)) {
            let name = self.selector.name();
            return Err(Error::Usage(format!(
                "the pre-filter goes by compressed bytes, which say nothing of {name}; leave it out, or select by shannon"
            )));
        }
        self.selector.check()?;
        self.selector.accepts(self.threshold).map(drop)
    }
}

/// The scores of a slide.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SlideScores {
    /// Rows from the top, each from the left.
    pub patches: Vec<PatchScore>,
    /// Estimates for the patches that the pre-filter left out.
    pub left_out_bits_per_px: Vec<f64>,
    /// The grey level between tissue and glass that Otsu's selector found for the slide.
    pub tissue_threshold: Option<u8>,
}

impl SlideScores {
    /// Marks the patches of this slide that are kept; returns how many.
    pub fn mark(&mut self, threshold: Threshold) -> usize {
        mark_group(std::slice::from_mut(self), threshold)
    }
}

/// Marks the patches that are kept when several slides are one group, a cohort; returns how many.
pub fn mark_group(slides: &mut [SlideScores], threshold: Threshold) -> usize {
    let threshold = match threshold {
        Threshold::Sigma(deviations) => {
            let values = slides.iter().flat_map(|slide| {
                let scored = slide.patches.iter().map(|patch| patch.score);
                scored.chain(slide.left_out_bits_per_px.iter().copied())
            });
            Threshold::Min(least_score(values, deviations))
        }
        other => other,
    };
    threshold.mark(slides.iter_mut().flat_map(|slide| &mut slide.patches))
}

/// Where the patches of a level lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PatchGrid {
    pub columns: u64,
    pub rows: u64,
    /// Size of every patch; below the side asked for where the level is smaller than that.
    pub width_px: usize,
    pub height_px: usize,
}

impl PatchGrid {
    pub fn new(level_width_px: u64, level_height_px: u64, patch_px: usize) -> PatchGrid {
        let along = |length: u64| (length.min(patch_px as u64) as usize, (length / patch_px as u64).max(1));
        let ((width_px, columns), (height_px, rows)) = (along(level_width_px), along(level_height_px));
        PatchGrid { columns, rows, width_px, height_px }
    }

    pub fn len(&self) -> usize {
        (self.columns * self.rows) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Top left corner of a patch.
    fn corner(&self, index: usize) -> (u64, u64) {
        let (column, row) = (index as u64 % self.columns, index as u64 / self.columns);
        (column * self.width_px as u64, row * self.height_px as u64)
    }
}

/// Scores the patches of a slide in parallel and marks those kept under the slide's own threshold. At most a few patches per thread
/// are in memory at once.
///
/// # Errors
/// Options that cannot be, a level that the slide does not have, a tile that cannot be decoded, or the user's interruption.
pub fn score_slide(slide: &Slide, options: &ScoreOptions, progress: &dyn Progress) -> Result<SlideScores> {
    score_slide_with(slide, options, &Scorer::new(&options.selector, &Device::cpu())?, progress)
}

/// As [`score_slide`], with a selector that is loaded already, for many slides.
pub fn score_slide_with(
    slide: &Slide,
    options: &ScoreOptions,
    scorer: &Scorer,
    progress: &dyn Progress,
) -> Result<SlideScores> {
    options.check()?;
    let Some(level) = slide.levels().get(options.level) else {
        let have = slide.levels().len();
        return Err(Error::input(
            slide.path(),
            format!("has no level {}", options.level),
            format!("choose one of its {have}, 0 to {}", have.saturating_sub(1)),
        ));
    };
    let grid = PatchGrid::new(level.width_px, level.height_px, options.patch_px);
    let (candidates, compressed) = match options.prefilter {
        None => ((0..grid.len()).collect(), None),
        Some(share) => match compressed_bits_per_px(slide, options.level, &grid)? {
            Some(compressed) => (largest(&compressed, share), Some(compressed)),
            None => {
                progress.note(&format!(
                    "{}: has no JPEG tiles to pre-filter by; scoring all of it",
                    slide.path().display()
                ));
                ((0..grid.len()).collect(), None)
            }
        },
    };
    let read = |x: u64, y: u64| slide.read_region(options.level, x as i64, y as i64, grid.width_px, grid.height_px);
    let name = slide.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tissue_threshold = scorer.slide_threshold(slide)?;
    let measured = score_patches(&name, &grid, &candidates, &scorer.work(tissue_threshold), read, progress)?;
    let row = |(&index, value): (&usize, f64)| {
        let (x, y) = grid.corner(index);
        scorer.selector().patch_score([x, y], value, grid.width_px * grid.height_px)
    };
    let patches = candidates.iter().zip(measured).map(row).collect();
    let mut scores = SlideScores { patches, left_out_bits_per_px: Vec::new(), tissue_threshold };
    if let Some(compressed) = compressed {
        scores.left_out_bits_per_px = estimates(&compressed, &candidates, &scores.patches);
    }
    scores.mark(options.threshold);
    Ok(scores)
}

/// Scores every patch of a level by several selectors, reading each patch once. Nothing is marked as kept yet.
///
/// # Errors
/// As [`score_slide`].
pub fn score_slide_by_each(
    slide: &Slide,
    level: usize,
    patch_px: usize,
    scorers: &[&Scorer],
    progress: &dyn Progress,
) -> Result<Vec<SlideScores>> {
    let options = ScoreOptions { patch_px, level, ..ScoreOptions::default() };
    options.check()?;
    let Some(found) = slide.levels().get(level) else {
        return Err(Error::input(slide.path(), format!("has no level {level}"), "choose one that it has"));
    };
    let grid = PatchGrid::new(found.width_px, found.height_px, patch_px);
    let thresholds = scorers.iter().map(|scorer| scorer.slide_threshold(slide)).collect::<Result<Vec<_>>>()?;
    let mut all: Vec<SlideScores> = (thresholds.iter())
        .map(|&tissue_threshold| SlideScores { tissue_threshold, ..SlideScores::default() })
        .collect();
    progress.begin("selectors", grid.len() as u64, "patches");
    let patches: Vec<usize> = (0..grid.len()).collect();
    let pixels = grid.width_px * grid.height_px;
    for batch in patches.chunks(4 * rayon::current_num_threads()) {
        progress.check()?;
        let read = |&index: &usize| {
            let (x, y) = grid.corner(index);
            slide.read_region(level, x as i64, y as i64, grid.width_px, grid.height_px)
        };
        let images: Vec<RgbImage> = batch.par_iter().map(read).collect::<Result<_>>()?;
        for ((scorer, &tissue), scores) in scorers.iter().zip(&thresholds).zip(&mut all) {
            let values: Vec<f64> = match scorer.work(tissue) {
                Work::Each(score) => images.par_iter().map(&*score).collect(),
                Work::InTurn(score) => images.iter().map(score).collect::<Result<_>>()?,
                Work::Queued(start) => start(&images)?()?,
            };
            let row = |(&index, value): (&usize, f64)| {
                let (x, y) = grid.corner(index);
                scorer.selector().patch_score([x, y], value, pixels)
            };
            scores.patches.extend(batch.iter().zip(values).map(row));
        }
        progress.advance(batch.len() as u64);
    }
    progress.end();
    Ok(all)
}

/// Measures the given patches of a grid, in order, reading each through `read`.
fn score_patches(
    name: &str,
    grid: &PatchGrid,
    patches: &[usize],
    work: &Work,
    read: impl Fn(u64, u64) -> Result<RgbImage> + Sync,
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let image = |&index: &usize| {
        let (x, y) = grid.corner(index);
        read(x, y)
    };
    // A device counts one batch while the threads decode the next.
    let mut pending: Option<(Pending, usize)> = None;
    let finish = |pending: &mut Option<(Pending, usize)>| -> Result<Vec<f64>> {
        let Some((wait, patches)) = pending.take() else { return Ok(Vec::new()) };
        let values = wait()?;
        progress.advance(patches as u64);
        Ok(values)
    };
    let mut measure = |batch: &[usize]| -> Result<Vec<f64>> {
        match work {
            Work::Queued(start) => {
                let images: Vec<RgbImage> = batch.par_iter().map(image).collect::<Result<_>>()?;
                let started = start(&images)?;
                let before = finish(&mut pending)?;
                pending = Some((started, batch.len()));
                Ok(before)
            }
            Work::Each(score) => {
                let one = |index: &usize| {
                    let value = score(&image(index)?);
                    progress.advance(1);
                    Ok(value)
                };
                batch.par_iter().map(one).collect()
            }
            Work::InTurn(score) => {
                let images: Vec<RgbImage> = batch.par_iter().map(image).collect::<Result<_>>()?;
                let one = |image: &RgbImage| {
                    progress.check()?;
                    let value = score(image)?;
                    progress.advance(1);
                    Ok(value)
                };
                images.iter().map(one).collect()
            }
        }
    };
    progress.begin(&format!("score {name}"), patches.len() as u64, "patches");
    // A thread that waits for the tiles of its patch may start another one meanwhile; a batch bounds how many.
    let batch = 4 * rayon::current_num_threads();
    let mut values = Vec::with_capacity(patches.len());
    let mut result = Ok(());
    for batch in patches.chunks(batch) {
        result = progress.check().and_then(|()| measure(batch)).map(|measured| values.extend(measured));
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = finish(&mut pending).map(|measured| values.extend(measured));
    }
    progress.end();
    result.map(|()| values)
}

/// Compressed bits per pixel of every patch from the sizes of the tiles it touches, in proportion to the area it covers of
/// each. `None` where the level's tiles are not JPEG.
fn compressed_bits_per_px(slide: &Slide, level: usize, grid: &PatchGrid) -> Result<Option<Vec<f64>>> {
    let found = &slide.levels()[level];
    if !found.compression.to_ascii_lowercase().contains("jpeg") {
        return Ok(None);
    }
    let Some(bytes) = slide.tile_byte_counts(level)? else { return Ok(None) };
    let (tile_width_px, tile_height_px) = (found.tile_width_px.max(1), found.tile_height_px.max(1));
    let columns = found.width_px.div_ceil(tile_width_px);
    let per_px = |index: u64| {
        let bytes = bytes.get(index as usize).copied().unwrap_or(0);
        8.0 * bytes as f64 / (tile_width_px * tile_height_px) as f64
    };
    // Overlap of a patch with each tile along one axis: (tile, pixels).
    let overlaps = |start: u64, length: usize, tile_px: u64| {
        let end = start + length as u64;
        (start / tile_px..end.div_ceil(tile_px))
            .map(move |tile| (tile, (end.min((tile + 1) * tile_px) - start.max(tile * tile_px)) as f64))
    };
    let patch = |index: usize| {
        let (x, y) = grid.corner(index);
        let mut bits = 0.0;
        for (row, height) in overlaps(y, grid.height_px, tile_height_px) {
            for (column, width) in overlaps(x, grid.width_px, tile_width_px) {
                bits += per_px(row * columns + column) * width * height;
            }
        }
        bits / (grid.width_px * grid.height_px) as f64
    };
    Ok(Some((0..grid.len()).map(patch).collect()))
}

/// The patches with the highest values, at least one, in the order of the grid.
fn largest(values: &[f64], share: f64) -> Vec<usize> {
    let wanted = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(wanted);
    order.sort_unstable();
    order
}

/// What the patches that are not candidates would have scored, in proportion to their compressed size.
fn estimates(compressed: &[f64], candidates: &[usize], scored: &[PatchScore]) -> Vec<f64> {
    let seen: f64 = candidates.iter().map(|&index| compressed[index]).sum();
    let found: f64 = scored.iter().map(|patch| patch.score).sum();
    let factor = if seen > 0.0 { found / seen } else { 0.0 };
    let mut chosen = candidates.iter().peekable();
    let left_out = (0..compressed.len()).filter(|index| chosen.next_if_eq(&index).is_none());
    left_out.map(|index| factor * compressed[index]).collect()
}

/// Scores one image as one patch, whatever its size.
pub fn score_image(image: &RgbImage, codec: Codec) -> PatchScore {
    let selector = Selector::Shannon(codec);
    let score = selector.patch_score([0, 0], codec.bits(image) as f64, image.width_px * image.height_px);
    PatchScore { kept: true, ..score }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn only_whole_patches_but_at_least_one() {
        let grid = |w, h| PatchGrid::new(w, h, 1024);
        assert_eq!(grid(2220, 2967), PatchGrid { columns: 2, rows: 2, width_px: 1024, height_px: 1024 });
        assert_eq!(grid(1024, 1023), PatchGrid { columns: 1, rows: 1, width_px: 1024, height_px: 1023 });
        assert_eq!(grid(5000, 10), PatchGrid { columns: 4, rows: 1, width_px: 1024, height_px: 10 });
        assert_eq!(grid(1, 1), PatchGrid { columns: 1, rows: 1, width_px: 1, height_px: 1 });
        assert_eq!(grid(5000, 2048).corner(5), (1024, 1024));
    }

    #[test]
    fn patches_are_scored_in_order_and_errors_stop_the_job() {
        let grid = PatchGrid::new(40, 30, 10);
        let read = |x: u64, y: u64| Ok(RgbImage::filled(10, 10, [x as u8, y as u8, 0]));
        let wanted: Vec<usize> = (0..grid.len()).collect();
        let colour = |image: &RgbImage| f64::from(image.pixels[0]) + 100.0 * f64::from(image.pixels[1]);
        for work in [Work::Each(Box::new(colour)), Work::InTurn(Box::new(|image| Ok(colour(image))))] {
            let values = score_patches("slide", &grid, &wanted, &work, read, &Silent).unwrap();
            assert_eq!(values.len(), 12);
            assert!(values.iter().zip(0..).all(|(v, i)| *v == f64::from(i % 4 * 10 + 100 * (i / 4 * 10))));
        }
        let work = Work::Each(Box::new(colour));
        let broken = |x: u64, y: u64| if y == 20 { Err(Error::Usage("broken".into())) } else { read(x, y) };
        assert!(score_patches("slide", &grid, &wanted, &work, broken, &Silent).is_err());
    }

    #[test]
    fn the_pre_filter_takes_the_largest_and_estimates_the_rest() {
        let compressed = [1.0, 4.0, 2.0, 8.0];
        let candidates = largest(&compressed, 0.5);
        assert_eq!(candidates, [1, 3]);
        let patch = |score| PatchScore { x: 0, y: 0, bits: Some(1), score, kept: false };
        assert_eq!(estimates(&compressed, &candidates, &[patch(8.0), patch(16.0)]), [2.0, 4.0]);
        assert_eq!(largest(&compressed, 0.01), [3]);
    }

    #[test]
    fn a_cohort_is_one_group() {
        let slide = |values: &[f64]| SlideScores {
            patches: values
                .iter()
                .map(|&v| PatchScore { x: 0, y: 0, bits: Some(v as u64), score: v, kept: true })
                .collect(),
            ..SlideScores::default()
        };
        let kept = |slide: &SlideScores| slide.patches.iter().map(|p| p.kept).collect::<Vec<_>>();
        let mut slides = [slide(&[1.0, 1.0, 2.0]), slide(&[10.0, 9.0])];
        assert_eq!(mark_group(&mut slides, Threshold::Sigma(0.0)), 2);
        assert_eq!(kept(&slides[0]), [false, false, false]);
        // Mean 4/3, deviation 0.47: the slide by itself keeps its best patch.
        assert_eq!(slides[0].mark(Threshold::Sigma(1.0)), 1);
        assert_eq!(kept(&slides[0]), [false, false, true]);
        assert_eq!(mark_group(&mut slides, Threshold::Top(3)), 3);
        assert_eq!(kept(&slides[0]), [false, false, true]);
        assert_eq!(slide(&[3.0; 5]).mark(Threshold::Sigma(0.0)), 5);
        assert_eq!(slide(&[3.0; 5]).mark(Threshold::Bits(3.5)), 0);
        // Estimates of patches left out pull the mean down.
        let mut filtered = SlideScores { left_out_bits_per_px: vec![0.0; 10], ..slide(&[2.0, 3.0]) };
        assert_eq!(filtered.mark(Threshold::Sigma(1.0)), 2);
    }
}
