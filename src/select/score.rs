//! Scores of all patches of a slide.
//!
//! Patches are whole squares of `patch_px` from the top left corner of a [`Plane`]: a level, or the slide at a scale in µm
//! per pixel. What is left over at the right and the bottom is not scored, because a cut patch has fewer bits for no fault
//! of its texture. A slide narrower or lower than a patch is one patch across or down, scored at its real size, so a small
//! image is one patch. Every patch is read once: its score, and how much of it is glass and tissue ([`glass`]), come from
//! the same pixels.

use std::{
    ops::Range,
    sync::{Arc, mpsc},
};

use rayon::prelude::*;

use super::{
    Codec,
    glass::{self, Cells},
    grid::PatchGrid,
    prefilter,
    selector::{self, Pending, Scorer, Selector, Work},
    threshold::{Threshold, least_score},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    progress::Progress,
    slide::{Plane, Slide},
};

/// Side of a patch where none is given, in pixels of the scored plane.
pub const DEFAULT_PATCH_PX: usize = 1024;
/// The largest patch: 3 GiB of pixels would be one patch of 32768.
const MAX_PATCH_PX: usize = 16384;

/// One patch and its score. `x` and `y` are its top left corner, where [`Plane::place`] writes it: in level-0 pixels, or
/// where a level was asked for, in that level's.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PatchScore {
    pub x: u64,
    pub y: u64,
    /// What Shannon selection counts; other selectors count none.
    pub bits: Option<u64>,
    /// What patches are compared by: bits per pixel for Shannon selection.
    pub score: f64,
    /// Shares of the patch, 0 to 1, that Otsu's threshold of the slide calls tissue, and that are [`glass`].
    pub tissue_share: f32,
    pub glass_share: f32,
    pub kept: bool,
}

impl PatchScore {
    pub fn is_glass(&self) -> bool {
        self.glass_share >= glass::GLASS_SHARE
    }
}

/// How a slide is scored.
#[derive(Clone, Debug)]
pub struct ScoreOptions {
    pub patch_px: usize,
    pub selector: Arc<dyn Selector>,
    /// µm per pixel at which patches are cut; without it, the pixels of `level`.
    pub mpp: Option<f64>,
    pub level: usize,
    pub threshold: Threshold,
    /// Share of the patches, 0 to 1, that are decoded at all, by the compressed size of their tiles.
    pub prefilter: Option<f64>,
}

impl Default for ScoreOptions {
    fn default() -> ScoreOptions {
        ScoreOptions {
            patch_px: DEFAULT_PATCH_PX,
            selector: selector::default_selector(),
            mpp: None,
            level: 0,
            threshold: Threshold::default(),
            prefilter: None,
        }
    }
}

impl ScoreOptions {
    /// # Errors
    /// A patch side of 0 or beyond memory, a scale and a level at once, a share outside 0 to 1, an unusable threshold.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_PATCH_PX).contains(&self.patch_px) {
            return Err(Error::Usage(format!(
                "a patch side of {} px cannot be; give 1 to {MAX_PATCH_PX}",
                self.patch_px
            )));
        }
        if self.mpp.is_some() && self.level != 0 {
            return Err(Error::Usage("a scale in µm per pixel chooses its level itself; leave the level out".into()));
        }
        self.mpp.map(crate::slide::scale::check_override).transpose()?;
        if self.prefilter.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(Error::Usage("the pre-filter's share must be above 0 and at most 1".to_string()));
        }
        if self.prefilter.is_some() && !self.selector.counts_bits() {
            let name = self.selector.name();
            return Err(Error::Usage(format!(
                "the pre-filter goes by compressed bytes, which say nothing of {name}; leave it out, or select by bits"
            )));
        }
        self.selector.check()?;
        self.selector.accepts(self.threshold).map(drop)
    }

    /// The pixels of a slide that patches are cut from.
    ///
    /// # Errors
    /// The slide has no such level or scale.
    pub fn plane(&self, slide: &Slide) -> Result<Plane> {
        match self.mpp {
            Some(_) => Plane::at(slide, self.mpp),
            None => Plane::of_level(slide, self.level),
        }
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
    /// Marks the patches of this slide that are kept, by the slide's own mean and standard deviation where the threshold asks for
    /// them; returns how many.
    pub fn mark(&mut self, threshold: Threshold) -> usize {
        let threshold = match threshold {
            Threshold::Sigma(deviations) => {
                let scored = self.patches.iter().map(|patch| patch.score);
                Threshold::Min(least_score(scored.chain(self.left_out_bits_per_px.iter().copied()), deviations))
            }
            other => other,
        };
        threshold.mark(&mut self.patches)
    }
}

/// Scores the patches of a slide in parallel and marks those kept under the slide's own threshold. At most a few patches per thread
/// are in memory at once.
///
/// ```
/// use isg::{image::RgbImage, progress::Silent, random::Philox, select::{ScoreOptions, score_slide}, slide::Slide};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut image = RgbImage::filled(128, 64, [230, 180, 210]);
/// for (i, noise) in Philox::named(1, "texture").uniforms(64 * 64).into_iter().enumerate() {
///     image.put(64 + i % 64, i / 64, [(255.0 * noise) as u8; 3]);
/// }
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("half.png");
/// image.write_png(&path)?;
///
/// let options = ScoreOptions { patch_px: 64, ..ScoreOptions::default() };
/// let scores = score_slide(&Slide::open(&path)?, &options, &Silent)?;
/// assert!(scores.patches[1].score > 2.0 && scores.patches[0].score < 0.1); // bits per pixel
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Options that cannot be, a level or scale that the slide does not have, a tile that cannot be decoded, or the user's
/// interruption.
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
    let plane = options.plane(slide)?;
    let grid = PatchGrid::of(&plane, options.patch_px);
    let (candidates, compressed) = match options.prefilter {
        None => ((0..grid.len()).collect(), None),
        Some(share) => match prefilter::compressed_bits_per_px(&plane, &grid)? {
            Some(compressed) => (prefilter::largest(&compressed, share), Some(compressed)),
            None => {
                progress.note(&format!(
                    "{}: has no JPEG tiles to pre-filter by; scoring all of it",
                    slide.path().display()
                ));
                ((0..grid.len()).collect(), None)
            }
        },
    };
    let side_px = [grid.width_px, grid.height_px];
    let corners: Vec<[u64; 2]> = candidates.iter().map(|&patch| plane.place(grid.corner(patch))).collect();
    let mut all = score_patches(&stage_of(slide), &plane, side_px, &corners, &[scorer], progress)?;
    let mut scores = all.pop().unwrap_or_default();
    if let Some(compressed) = compressed {
        scores.left_out_bits_per_px = prefilter::estimates(&compressed, &candidates, &scores.patches);
    }
    scores.mark(options.threshold);
    Ok(scores)
}

/// As [`score_slide_with`], of the patches at these corners alone, which are in level-0 pixels and may lie anywhere.
///
/// # Errors
/// As [`score_slide`].
pub fn score_listed_with(
    slide: &Slide,
    options: &ScoreOptions,
    scorer: &Scorer,
    corners: &[[u64; 2]],
    progress: &dyn Progress,
) -> Result<SlideScores> {
    options.check()?;
    let plane = options.plane(slide)?;
    let side_px = [options.patch_px; 2];
    let mut all = score_patches(&stage_of(slide), &plane, side_px, corners, &[scorer], progress)?;
    let mut scores = all.pop().unwrap_or_default();
    scores.mark(options.threshold);
    Ok(scores)
}

/// What the scoring of a slide is called while it lasts.
fn stage_of(slide: &Slide) -> String {
    format!("score {}", slide.path().file_name().unwrap_or_default().to_string_lossy())
}

/// Scores every patch of a plane by several selectors, reading each patch once. Nothing is marked as kept yet.
///
/// # Errors
/// As [`score_slide`].
pub fn score_plane_by_each(
    plane: &Plane,
    patch_px: usize,
    scorers: &[&Scorer],
    progress: &dyn Progress,
) -> Result<Vec<SlideScores>> {
    ScoreOptions { patch_px, ..ScoreOptions::default() }.check()?;
    let grid = PatchGrid::of(plane, patch_px);
    let every: Vec<[u64; 2]> = (0..grid.len()).map(|patch| plane.place(grid.corner(patch))).collect();
    score_patches("selectors", plane, [grid.width_px, grid.height_px], &every, scorers, progress)
}

/// Scores patches by where their corners are written to lie, in order, by every scorer.
fn score_patches(
    stage: &str,
    plane: &Plane,
    [width_px, height_px]: [usize; 2],
    corners: &[[u64; 2]],
    scorers: &[&Scorer],
    progress: &dyn Progress,
) -> Result<Vec<SlideScores>> {
    let thresholds = scorers.iter().map(|s| s.slide_threshold(plane.slide())).collect::<Result<Vec<_>>>()?;
    let work: Vec<Work> = scorers.iter().zip(&thresholds).map(|(scorer, &tissue)| scorer.work(tissue)).collect();
    let read = |index: usize| plane.read(plane.pixel_at(corners[index]), width_px, height_px);
    progress.begin(stage, corners.len() as u64, "patches");
    let measured = measure(corners.len(), &work, read, progress);
    progress.end();
    let (mut values, cells) = measured?;
    for (scorer, values) in scorers.iter().zip(&mut values) {
        if let Some(known) = scorer.at(plane.slide(), corners)? {
            *values = known;
        }
    }
    let tissue = glass::tissue_shares(&cells);
    let scores = |((scorer, values), &tissue_threshold): ((&&Scorer, Vec<f64>), &Option<u8>)| {
        let row = |(i, value): (usize, f64)| PatchScore {
            tissue_share: tissue[i],
            glass_share: cells[i].glass_share(),
            ..scorer.selector().patch_score(corners[i], value, width_px * height_px)
        };
        let patches = values.into_iter().enumerate().map(row).collect();
        SlideScores { patches, left_out_bits_per_px: Vec::new(), tissue_threshold }
    };
    Ok(scorers.iter().zip(values).zip(&thresholds).map(scores).collect())
}

/// What every kind of work measures on `count` patches that `read` gives, each read once, and the patches' cells.
fn measure(
    count: usize,
    work: &[Work],
    read: impl Fn(usize) -> Result<RgbImage> + Sync,
    progress: &dyn Progress,
) -> Result<(Vec<Vec<f64>>, Vec<Cells>)> {
    let mut values = vec![Vec::with_capacity(count); work.len()];
    let mut cells = Vec::with_capacity(count);
    // Work that any thread does alone is done where the patch is read, so that no more patches than threads are held.
    let alone: Vec<_> = work.iter().map(|work| if let Work::Each(score) = work { Some(score) } else { None }).collect();
    let hold = alone.iter().any(Option::is_none);
    let one = |index: usize| -> Result<(Cells, Vec<f64>, Option<RgbImage>)> {
        let image = read(index)?;
        let scores = alone.iter().flatten().map(|score| score(&image)).collect();
        if !hold {
            progress.advance(1);
        }
        Ok((Cells::of(&image), scores, hold.then_some(image)))
    };
    // A device counts one batch while another is uploaded to it and the threads decode the next two.
    let mut pending: Vec<(usize, Pending)> = Vec::new();
    let mut score = |batch: Vec<(Cells, Vec<f64>, Option<RgbImage>)>| -> Result<()> {
        progress.check()?;
        let count = batch.len();
        let mut images = Vec::new();
        let mut scores = Vec::with_capacity(count);
        for (of_patch, values, image) in batch {
            cells.push(of_patch);
            scores.push(values);
            images.extend(image);
        }
        let started = work.iter().enumerate().filter_map(|(i, work)| match work {
            Work::Queued(start) => Some(start(&images).map(|pending| (i, pending))),
            _ => None,
        });
        let started = started.collect::<Result<Vec<_>>>()?;
        finish(std::mem::replace(&mut pending, started), &mut values)?;
        let mut column = 0..;
        for (work, values) in work.iter().zip(&mut values) {
            match work {
                Work::Each(_) => {
                    let column = column.next().unwrap_or_default();
                    values.extend(scores.iter().map(|scores| scores[column]));
                }
                Work::InTurn(score) => {
                    for image in &images {
                        progress.check()?;
                        values.push(score(image)?);
                    }
                }
                Work::Queued(_) => {}
            }
        }
        if hold {
            progress.advance(count as u64);
        }
        Ok(())
    };
    // A thread that waits for the tiles of its patch may start another one meanwhile; a batch bounds how many.
    let at_once = 2 * rayon::current_num_threads();
    let batches = (0..count).step_by(at_once).map(|first| first..count.min(first + at_once));
    let decode = |batch: Range<usize>| batch.into_par_iter().map(one).collect::<Result<Vec<_>>>();
    if rayon::current_thread_index().is_some() && rayon::current_num_threads() == 1 {
        // The pool's only thread cannot wait for itself.
        batches.map(decode).try_for_each(|batch| score(batch?))?;
    } else {
        rayon::in_place_scope(|scope| {
            let (send, decoded) = mpsc::sync_channel(1);
            scope.spawn(move |_| {
                // A closed channel means that scoring failed: nobody needs more patches.
                let _ = batches.map(decode).try_for_each(|batch| {
                    let whole = batch.is_ok();
                    if send.send(batch).is_ok() && whole { Ok(()) } else { Err(()) }
                });
            });
            decoded.into_iter().try_for_each(|batch| score(batch?))
        })?;
    }
    finish(pending, &mut values)?;
    Ok((values, cells))
}

/// Waits for the scores that a device is busy with.
fn finish(pending: Vec<(usize, Pending)>, values: &mut [Vec<f64>]) -> Result<()> {
    pending.into_iter().try_for_each(|(work, wait)| {
        values[work].extend(wait()?);
        Ok(())
    })
}

/// Scores one image as one patch, whatever its size.
pub fn score_image(image: &RgbImage, codec: Codec) -> PatchScore {
    let selector: Arc<dyn Selector> = codec.into();
    let score = selector.patch_score([0, 0], codec.bits(image) as f64, image.width_px * image.height_px);
    PatchScore { kept: true, ..score }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn patches_are_measured_in_order_by_every_kind_of_work_and_errors_stop_the_job() {
        let read = |index: usize| Ok(RgbImage::filled(10, 10, [index as u8, 0, 0]));
        let wanted = 60;
        let red = |image: &RgbImage| f64::from(image.pixels[0]);
        let each = || Work::Each(Box::new(red));
        let in_turn = || Work::InTurn(Box::new(|image| Ok(red(image))));
        let queued = || {
            Work::Queued(Box::new(|images| {
                let values = images.iter().map(red).collect();
                Ok(Box::new(move || Ok(values)))
            }))
        };
        for work in [vec![each()], vec![in_turn()], vec![queued()], vec![in_turn(), each(), queued(), each()]] {
            let (values, cells) = measure(wanted, &work, read, &Silent).expect("a measure");
            assert_eq!((values.len(), cells.len()), (work.len(), 60));
            assert!(values.iter().all(|values| values.iter().copied().eq((0..60).map(f64::from))));
        }
        let broken = |index: usize| if index == 55 { Err(Error::Usage("broken".into())) } else { read(index) };
        assert!(measure(wanted, &[each()], broken, &Silent).is_err());
    }

    #[test]
    fn a_slide_is_marked_by_its_own_mean_and_sd() {
        let slide = |values: &[f64]| {
            let patch = |&v: &f64| PatchScore { bits: Some(v as u64), score: v, kept: true, ..PatchScore::default() };
            SlideScores { patches: values.iter().map(patch).collect(), ..SlideScores::default() }
        };
        let mut marked = slide(&[1.0, 1.0, 2.0]);
        // Mean 4/3, sd 0.47: the slide keeps its best patch.
        assert_eq!(marked.mark(Threshold::Sigma(1.0)), 1);
        assert_eq!(marked.patches.iter().map(|p| p.kept).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(slide(&[3.0; 5]).mark(Threshold::Sigma(0.0)), 5);
        assert_eq!(slide(&[3.0; 5]).mark(Threshold::Bits(3.5)), 0);
        // Estimates of patches left out pull the mean down.
        let mut filtered = SlideScores { left_out_bits_per_px: vec![0.0; 10], ..slide(&[2.0, 3.0]) };
        assert_eq!(filtered.mark(Threshold::Sigma(1.0)), 2);
    }
}
