//! Images of a slide with what the pipeline made of it: scores, choices and attention of patches over a thumbnail.

use super::{colour, scale_bar};
use crate::{eval::stats::quantile, image::RgbImage};

/// A patch of a slide and what became of it. Positions and sizes are in pixels of level 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatchMark {
    pub x_px: u64,
    pub y_px: u64,
    pub side_px: u64,
    /// The selector's score, bits per pixel for the Shannon selector.
    pub score: f64,
    pub kept: bool,
    /// Share of the model's attention, if the patch was looked at.
    pub attention: Option<f64>,
}

/// A thumbnail and the size of the slide that it shows.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    pub image: RgbImage,
    /// Width and height of level 0.
    pub slide_px: (u64, u64),
}

impl Thumbnail {
    /// The same, no longer than `longest_px` on either side.
    pub fn fitted(&self, longest_px: usize) -> Thumbnail {
        let longest = self.image.width_px.max(self.image.height_px);
        if longest <= longest_px {
            return self.clone();
        }
        let shrink = |side: usize| (side * longest_px).div_ceil(longest).max(1);
        let image = self.image.resize_area(shrink(self.image.width_px), shrink(self.image.height_px));
        Thumbnail { image, slide_px: self.slide_px }
    }

    /// The rectangle of a patch on the thumbnail: left, top, right, bottom, right and bottom excluded.
    pub(super) fn rectangle(&self, mark: &PatchMark) -> [usize; 4] {
        let place = |at: u64, slide: u64, side: usize| {
            ((at as f64 / slide.max(1) as f64 * side as f64).round() as usize).min(side)
        };
        let (width, height) = (self.image.width_px, self.image.height_px);
        [
            place(mark.x_px, self.slide_px.0, width),
            place(mark.y_px, self.slide_px.1, height),
            place(mark.x_px.saturating_add(mark.side_px), self.slide_px.0, width),
            place(mark.y_px.saturating_add(mark.side_px), self.slide_px.1, height),
        ]
    }

    /// The slide in grey with every patch tinted by its value between `low` and `high`; patches without a value stay grey.
    pub fn value_map(
        &self,
        marks: &[PatchMark],
        (low, high): (f64, f64),
        value: impl Fn(&PatchMark) -> Option<f64>,
    ) -> RgbImage {
        let mut image = grey(&self.image);
        for mark in marks {
            let Some(v) = value(mark).filter(|v| v.is_finite()) else { continue };
            let tint = colour::scale(if high > low { (v - low) / (high - low) } else { 0.5 });
            fill(&mut image, self.rectangle(mark), tint, 0.62);
        }
        image
    }

    /// The slide with everything washed out but the kept patches, and a line around the regions that they form.
    pub fn selection(&self, marks: &[PatchMark]) -> RgbImage {
        let (width, height) = (self.image.width_px, self.image.height_px);
        let mut kept = vec![false; width * height];
        for mark in marks.iter().filter(|m| m.kept) {
            let [x0, y0, x1, y1] = self.rectangle(mark);
            for y in y0..y1 {
                kept[y * width + x0..y * width + x1.max(x0)].fill(true);
            }
        }
        let mut image = self.image.clone();
        fill(&mut image, [0, 0, width, height], [255; 3], 0.62);
        let inside = |x: isize, y: isize| {
            let on_image = (0..width as isize).contains(&x) && (0..height as isize).contains(&y);
            on_image && kept[y as usize * width + x as usize]
        };
        for y in 0..height as isize {
            for x in 0..width as isize {
                if inside(x, y) {
                    let within = [(1, 0), (-1, 0), (0, 1), (0, -1)].iter().all(|(dx, dy)| inside(x + dx, y + dy));
                    let (x, y) = (x as usize, y as usize);
                    image.put(x, y, if within { self.image.pixel(x, y) } else { OUTLINE });
                }
            }
        }
        image
    }
}

impl Thumbnail {
    /// A bar of known length on a picture of this size; nothing where the slide's scale (µm per pixel of level 0) is not known.
    pub fn draw_scale_bar(&self, image: &mut RgbImage, mpp: Option<f64>) {
        if let Some(mpp) = mpp {
            scale_bar::draw(image, mpp * self.slide_px.0 as f64 / image.width_px.max(1) as f64);
        }
    }
}

/// Dark violet: stands out from pink tissue and from glass.
const OUTLINE: [u8; 3] = [91, 58, 140];

/// Lowest and highest finite value; 0 and 1 if there is none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// The range between the hundredth part at either end: a few outliers do not take all of the colours.
pub fn clipped_range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut sorted: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    match (quantile(&sorted, 0.01), quantile(&sorted, 0.99)) {
        (Some(low), Some(high)) => (low, high),
        _ => (0.0, 1.0),
    }
}

/// A matrix of values (`rows` times `columns`, row by row) as an image of square cells, e.g. an attention map.
pub fn heat_map(values: &[f64], columns: usize, cell_px: usize) -> RgbImage {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let (low, high) = range(values.iter().copied());
    let mut image = RgbImage::filled(columns * cell_px, rows * cell_px, [255; 3]);
    for (i, v) in values.iter().take(rows * columns).enumerate() {
        let (x, y) = (i % columns * cell_px, i / columns * cell_px);
        let share = if high > low { (v - low) / (high - low) } else { 0.5 };
        fill(&mut image, [x, y, x + cell_px, y + cell_px], colour::scale(share), 1.0);
    }
    image
}

fn grey(image: &RgbImage) -> RgbImage {
    let mut out = image.clone();
    for rgb in out.pixels.chunks_exact_mut(3) {
        let luma = (299 * u32::from(rgb[0]) + 587 * u32::from(rgb[1]) + 114 * u32::from(rgb[2])) / 1000;
        rgb.fill(luma as u8);
    }
    out
}

fn fill(image: &mut RgbImage, [x0, y0, x1, y1]: [usize; 4], rgb: [u8; 3], share: f64) {
    for y in y0..y1.min(image.height_px) {
        for x in x0..x1.min(image.width_px) {
            let old = image.pixel(x, y);
            let blend = |c: usize| (f64::from(old[c]) * (1.0 - share) + f64::from(rgb[c]) * share).round() as u8;
            image.put(x, y, [blend(0), blend(1), blend(2)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(x_px: u64, kept: bool, score: f64) -> PatchMark {
        PatchMark { x_px, y_px: 0, side_px: 100, score, kept, attention: None }
    }

    #[test]
    fn patches_land_where_they_are() {
        let thumbnail = Thumbnail { image: RgbImage::filled(40, 20, [200; 3]), slide_px: (400, 200) };
        let map = thumbnail.value_map(&[mark(100, true, 1.0)], (0.0, 1.0), |m| Some(m.score));
        assert_eq!(map.pixel(9, 5), [200; 3]);
        assert_ne!(map.pixel(10, 5), [200; 3]);
        assert_ne!(map.pixel(19, 9), [200; 3]);
        assert_eq!(map.pixel(20, 5), [200; 3]);
        let chosen = thumbnail.selection(&[mark(100, true, 1.0), mark(200, false, 0.0)]);
        assert_eq!(chosen.pixel(15, 5), [200; 3]);
        assert!(chosen.pixel(25, 5)[0] > 220);
    }

    #[test]
    fn patches_beyond_the_slide_and_empty_slides_do_no_harm() {
        let thumbnail = Thumbnail { image: RgbImage::filled(4, 4, [0; 3]), slide_px: (0, 0) };
        let wild =
            PatchMark { x_px: u64::MAX, y_px: 3, side_px: u64::MAX, score: f64::NAN, kept: true, attention: None };
        thumbnail.value_map(&[wild], (0.0, 0.0), |m| Some(m.score));
        thumbnail.selection(&[wild]);
        assert_eq!(thumbnail.fitted(2).image.width_px, 2);
        assert_eq!(heat_map(&[], 0, 4).pixels.len(), 0);
    }
}
