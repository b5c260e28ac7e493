//! A slide at one scale: the pixels of a level, or pixels of a stated size in µm, cut from the nearest finer level.
//!
//! **Level.** The coarsest level whose pixels are not larger than asked for. Where that level's pixels are within
//! [`AS_IT_IS`] of the size asked for, in both directions, its pixels are taken as they are: scanners miss their nominal
//! scale, and pyramids round their sizes, by less.
//!
//! **Resampling.** Otherwise a pixel is the mean over its area (a box filter, every source pixel weighted by the share of
//! it that is covered, in f32, columns first). Weights depend on the pixel's place in the whole plane alone, so a region
//! read by itself equals the same region cut out of a larger one, on every machine and thread.
//!
//! **Never upsampled.** A slide whose finest level is coarser than asked for, by more than [`AS_IT_IS`], has no such plane.

use serde::{Deserialize, Serialize};

use super::Slide;
use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// A level's pixels serve for pixels up to this share larger or smaller.
pub const AS_IT_IS: f64 = 0.05;
/// Source pixels that are resampled at a time; bounds memory where a slide has no level near the scale.
const STRIP_BYTES: usize = 64 << 20;

/// Which pixels of a slide a plane is made of: with the slide itself, all that decides what is read.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlaneRule {
    /// The size of a pixel that was asked for, in µm; `None` where a level was.
    pub mpp: Option<f64>,
    /// The level that pixels are cut from.
    pub level: usize,
    /// Pixels of that level along a pixel of the plane, across and down; 1 where they are taken as they are.
    pub step: [f64; 2],
}

/// A slide at one scale. Regions are in pixels of the plane; [`Plane::place`] says where those lie on the slide.
#[derive(Clone, Debug)]
pub struct Plane {
    slide: Slide,
    rule: PlaneRule,
    /// Pixels in which places are written along a pixel of the plane.
    unit: [f64; 2],
    size_px: [u64; 2],
}

impl Plane {
    /// The pixels of a level as they are. Places are written in its own pixels.
    ///
    /// # Errors
    /// The slide has no such level.
    pub fn of_level(slide: &Slide, level: usize) -> Result<Plane> {
        let found = slide.level(level)?;
        let (size_px, step) = ([found.width_px, found.height_px], [1.0; 2]);
        Ok(Plane { slide: slide.clone(), rule: PlaneRule { mpp: None, level, step }, unit: step, size_px })
    }

    /// Pixels of `mpp` µm, or without it level 0. Places are written in level-0 pixels.
    ///
    /// # Errors
    /// The slide does not say its scale, or its finest level is coarser than asked for.
    pub fn at(slide: &Slide, mpp: Option<f64>) -> Result<Plane> {
        let Some(wanted) = mpp else { return Plane::of_level(slide, 0) };
        let finest_mpp = slide.require_mpp()?;
        let scale = slide.scale().map_or([finest_mpp; 2], |scale| [scale.x_mpp, scale.y_mpp]);
        let full = slide.level(0)?;
        // Level-0 pixels along a level's pixel.
        let downsample = |level: &super::Level| {
            [full.width_px as f64 / level.width_px as f64, full.height_px as f64 / level.height_px as f64]
        };
        let step_at = |level: &super::Level| {
            let downsample = downsample(level);
            [0, 1].map(|axis| wanted / (scale[axis] * downsample[axis]))
        };
        let levels = slide.levels();
        let fine_enough = |level: &super::Level| step_at(level).into_iter().all(|step| step * (1.0 + AS_IT_IS) >= 1.0);
        let Some(level) = levels.iter().rposition(fine_enough) else {
            return Err(Error::input(
                slide.path(),
                format!("has {finest_mpp:.4} µm/px at its finest, coarser than the {wanted} µm/px asked for"),
                format!("ask for at least {:.4} µm/px; nothing is upsampled", finest_mpp / (1.0 + AS_IT_IS)),
            ));
        };
        let (found, mut step) = (&levels[level], step_at(&levels[level]));
        if step.into_iter().all(|step| step <= 1.0 + AS_IT_IS) {
            step = [1.0; 2];
        }
        let downsample = downsample(found);
        let size_px = [(found.width_px, step[0]), (found.height_px, step[1])]
            // A rounding error must not take the last pixel away.
            .map(|(length, step)| (length as f64 / step * (1.0 + 1e-12)) as u64);
        if size_px.contains(&0) {
            let problem = format!("is smaller than one pixel of {wanted} µm");
            return Err(Error::input(slide.path(), problem, "ask for smaller pixels"));
        }
        let unit = [step[0] * downsample[0], step[1] * downsample[1]];
        Ok(Plane { slide: slide.clone(), rule: PlaneRule { mpp, level, step }, unit, size_px })
    }

    pub fn slide(&self) -> &Slide {
        &self.slide
    }

    pub fn rule(&self) -> PlaneRule {
        self.rule
    }

    /// Width and height in pixels of the plane.
    pub fn size_px(&self) -> [u64; 2] {
        self.size_px
    }

    /// Where a pixel of the plane is written to lie: in level-0 pixels, for [`Plane::of_level`] in the level's.
    pub fn place(&self, at: [u64; 2]) -> [u64; 2] {
        [0, 1].map(|axis| (at[axis] as f64 * self.unit[axis]).round() as u64)
    }

    /// Width and height of the whole slide in the pixels that places are written in.
    pub fn area(&self) -> [u64; 2] {
        let level = if self.rule.mpp.is_some() { 0 } else { self.rule.level };
        let found = &self.slide.levels()[level];
        [found.width_px, found.height_px]
    }

    /// The pixel of the plane that [`Plane::place`] wrote: exact, because the plane's pixels are never the smaller ones.
    pub fn pixel_at(&self, place: [u64; 2]) -> [u64; 2] {
        [0, 1].map(|axis| (place[axis] as f64 / self.unit[axis]).round() as u64)
    }

    /// The rectangle of the level that a region is made of, in its pixels: left, top, right, bottom.
    pub(crate) fn source(&self, [x, y]: [u64; 2], width_px: usize, height_px: usize) -> [f64; 4] {
        let [across, down] = self.rule.step;
        let (right, bottom) = (x + width_px as u64, y + height_px as u64);
        [x as f64 * across, y as f64 * down, right as f64 * across, bottom as f64 * down]
    }

    /// The pixels of a rectangle. What lies outside the slide is white.
    ///
    /// # Errors
    /// The region does not fit memory, or a tile in it is damaged.
    pub fn read(&self, [x, y]: [u64; 2], width_px: usize, height_px: usize) -> Result<RgbImage> {
        let PlaneRule { level, step, .. } = self.rule;
        if step == [1.0; 2] {
            return self.slide.read_region(level, x as i64, y as i64, width_px, height_px);
        }
        let columns = Spans::new(x, width_px, step[0]);
        let mut pixels = Vec::with_capacity(3 * width_px * height_px);
        let source_row_bytes = 3.0 * width_px as f64 * step[0] * step[1];
        let strip_px = ((STRIP_BYTES as f64 / source_row_bytes.max(1.0)) as usize).clamp(1, height_px.max(1));
        for top in (0..height_px).step_by(strip_px) {
            let rows = Spans::new(y + top as u64, strip_px.min(height_px - top), step[1]);
            let source =
                self.slide.read_region(level, columns.first as i64, rows.first as i64, columns.length, rows.length)?;
            average(&source, &columns, &rows, &mut pixels);
        }
        Ok(RgbImage { width_px, height_px, pixels })
    }
}

/// Which source pixels of an axis the pixels of a region cover, and each one's share.
struct Spans {
    /// First source pixel, and how many there are.
    first: u64,
    length: usize,
    /// For every pixel of the region: the first source pixel, counted from `first`, and the weights from there on.
    weights: Vec<(usize, Vec<f32>)>,
}

impl Spans {
    fn new(start: u64, count: usize, step: f64) -> Spans {
        let edge = |i: u64| i as f64 * step;
        let first = edge(start) as u64;
        let length = (edge(start + count as u64).ceil() as u64).saturating_sub(first) as usize;
        let weights = (start..start + count as u64).map(|i| {
            let (from, to) = (edge(i), edge(i + 1));
            let covered = |at: u64| ((at + 1) as f64).min(to) - (at as f64).max(from);
            let pixels = from as u64..to.ceil() as u64;
            ((pixels.start - first) as usize, pixels.map(|at| (covered(at) / step) as f32).collect())
        });
        Spans { first, length, weights: weights.collect() }
    }
}

/// Appends the rows of a region made of `source`.
fn average(source: &RgbImage, columns: &Spans, rows: &Spans, pixels: &mut Vec<u8>) {
    let width = 3 * columns.weights.len();
    // Source rows made narrower, each once; neighbouring rows of the region share at most one.
    let mut narrow: Option<(usize, Vec<f32>)> = None;
    let mut sums = vec![0.0f32; width];
    for (first, weights) in &rows.weights {
        sums.fill(0.0);
        for (row, weight) in (*first..).zip(weights) {
            let line = match narrow.take() {
                Some((held, line)) if held == row => line,
                _ => narrowed(source, row, columns),
            };
            sums.iter_mut().zip(&line).for_each(|(sum, value)| *sum += weight * value);
            narrow = Some((row, line));
        }
        pixels.extend(sums.iter().map(|sum| sum.round().clamp(0.0, 255.0) as u8));
    }
}

fn narrowed(source: &RgbImage, row: usize, columns: &Spans) -> Vec<f32> {
    let line = &source.pixels[3 * row * source.width_px..][..3 * source.width_px];
    let mean = |(first, weights): &(usize, Vec<f32>)| {
        let mut sum = [0.0f32; 3];
        for (rgb, weight) in line[3 * first..].chunks_exact(3).zip(weights) {
            (0..3).for_each(|c| sum[c] += weight * f32::from(rgb[c]));
        }
        sum
    };
    columns.weights.iter().flat_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::SlideOptions;

    /// A slide of one level, 0.25 µm/px, of a smooth ramp with a grid in it.
    fn slide(dir: &std::path::Path, mpp: Option<f64>) -> Slide {
        let (width_px, height_px) = (301, 203);
        let mut image = RgbImage::filled(width_px, height_px, [0; 3]);
        for (y, x) in (0..height_px).flat_map(|y| (0..width_px).map(move |x| (y, x))) {
            image.put(
                x,
                y,
                [(x * 255 / width_px) as u8, (y * 255 / height_px) as u8, ((x / 7 + y / 5) % 2 * 200) as u8],
            );
        }
        let path = dir.join("slide.png");
        image.write_png(&path).expect("a writable folder");
        Slide::open_with(&path, &SlideOptions { mpp, ..SlideOptions::default() }).expect("a sound slide")
    }

    #[test]
    fn a_region_is_the_same_cut_out_of_a_larger_one() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let slide = slide(dir.path(), Some(0.25));
        for mpp in [0.5, 0.33, 0.7301] {
            let plane = Plane::at(&slide, Some(mpp)).expect("a coarser plane");
            let [width, height] = plane.size_px();
            assert_eq!([width, height], [(301.0 * 0.25 / mpp) as u64, (203.0 * 0.25 / mpp) as u64]);
            let whole = plane.read([0, 0], width as usize, height as usize).expect("a read");
            let part = plane.read([17, 9], 40, 31).expect("a read");
            assert_eq!(part, whole.crop(17, 9, 40, 31), "{mpp}");
            for at in [[0, 0], [17, 9], [width - 1, height - 1]] {
                assert_eq!(plane.pixel_at(plane.place(at)), at);
            }
        }
        let halved = Plane::at(&slide, Some(0.5)).expect("a coarser plane").read([10, 20], 60, 50).expect("a read");
        assert_eq!(halved, slide.read_region(0, 20, 40, 120, 100).expect("a read").resize_area(60, 50));
    }

    #[test]
    fn near_scales_are_taken_as_they_are_and_nothing_is_enlarged() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let slide_at = |mpp| slide(dir.path(), mpp);
        for mpp in [0.24, 0.25, 0.26] {
            let plane = Plane::at(&slide_at(Some(0.25)), Some(mpp)).expect("near enough");
            assert_eq!((plane.size_px(), plane.place([9, 9])), ([301, 203], [9, 9]));
        }
        let refused = Plane::at(&slide_at(Some(0.5)), Some(0.25)).expect_err("coarser").to_string();
        assert!(refused.contains("0.5000 µm/px") && refused.contains("slide.png"), "{refused}");
        assert!(Plane::at(&slide_at(None), Some(0.25)).expect_err("no scale").to_string().contains("how large"));
        assert!(Plane::at(&slide_at(None), None).is_ok());
        assert!(Plane::at(&slide_at(Some(0.25)), Some(500.0)).is_err(), "less than a pixel");
    }
}
