//! The paper's figure 2: the same patches under every selector, and all patches of the slide they are of.
//!
//! Patches are chosen along the scores of the first selector, from its lowest to its highest, so that some are textureless and
//! some are full. A selector's responses share one scale within its row: what is white in one patch is as strong as what
//! is white in the next.

use std::fmt::Write;

use super::{
    PatchMark, SelectorCell, SelectorComparison, SelectorRow, Thumbnail,
    html::{escape, fixed, photograph},
    overlay::range,
};
use crate::{
    error::Result,
    image::RgbImage,
    progress::Progress,
    select::{
        PatchGrid, Scorer, Threshold,
        response::Response,
        score::{SlideScores, score_plane_by_each},
    },
    slide::Plane,
};

/// Patches shown.
pub const PATCHES: usize = 10;
/// Side of a patch in the figure.
const CELL_PX: usize = 128;
/// Longest side of a slide's maps in the figure.
const MAP_PX: usize = 300;
const THUMBNAIL_PX: usize = 640;

/// Scores a slide by every selector, each with its threshold, and shows what they make of some of its patches.
///
/// # Errors
/// The slide cannot be read, a selector cannot be used, or the user's interruption.
pub fn compare(
    plane: &Plane,
    patch_px: usize,
    selectors: &[(Scorer, Threshold)],
    progress: &dyn Progress,
) -> Result<SelectorComparison> {
    let (scorers, thresholds): (Vec<&Scorer>, Vec<Threshold>) = selectors.iter().map(|(s, t)| (s, *t)).unzip();
    let slide = plane.slide();
    let mut scores = score_plane_by_each(plane, patch_px, &scorers, progress)?;
    let size_px = slide.levels().first().map_or((1, 1), |first| (first.width_px, first.height_px));
    let grid = PatchGrid::of(plane, patch_px);
    let [width_px, height_px] = grid.extent(plane);
    // Marks are in pixels of level 0.
    let scale = size_px.0 as f64 / plane.area()[0].max(1) as f64;
    let chosen = scores.first().map(chosen).unwrap_or_default();
    let images = chosen.iter().map(|&i| grid.read(plane, i)).collect::<Result<Vec<RgbImage>>>()?;
    let mut rows = Vec::with_capacity(scorers.len());
    for ((scorer, &threshold), scores) in scorers.iter().zip(&thresholds).zip(&mut scores) {
        scores.mark(threshold);
        let tissue = scores.tissue_threshold;
        let responses = images.iter().map(|image| scorer.response(image, tissue)).collect::<Result<Vec<Response>>>()?;
        let white = responses.iter().map(bright).fold(0.0, f32::max);
        let cell = |(&i, response): (&usize, &Response)| SelectorCell {
            score: scores.patches[i].score,
            kept: scores.patches[i].kept,
            response: Some(fitted(&response.image(white))),
        };
        let mark = |patch: &crate::select::PatchScore| PatchMark {
            x_px: (patch.x as f64 * scale) as u64,
            y_px: (patch.y as f64 * scale) as u64,
            side_px: (width_px.max(height_px) as f64 * scale) as u64,
            score: patch.score,
            kept: patch.kept,
            attention: None,
        };
        rows.push(SelectorRow {
            name: scorer.selector().title().to_string(),
            rule: format!("{}; {threshold}", scorer.selector().unit()),
            marks: scores.patches.iter().map(mark).collect(),
            cells: chosen.iter().zip(&responses).map(cell).collect(),
        });
    }
    let thumbnail = Some(Thumbnail { image: slide.thumbnail(THUMBNAIL_PX)?, slide_px: size_px });
    Ok(SelectorComparison { patches: images.iter().map(fitted).collect(), selectors: rows, thumbnail })
}

/// Patches spread evenly over the order of their scores.
fn chosen(scores: &SlideScores) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.patches.len()).collect();
    order.sort_by(|&a, &b| scores.patches[a].score.total_cmp(&scores.patches[b].score).then(a.cmp(&b)));
    let count = PATCHES.min(order.len());
    (0..count).map(|i| order[i * (order.len() - 1) / (count - 1).max(1)]).collect()
}

/// The value that 99 of 100 pixels do not pass; of masks, which are 0 or 1, the 1.
fn bright(response: &Response) -> f32 {
    let mut values = response.values.clone();
    if values.is_empty() {
        return 0.0;
    }
    let largest = response.largest();
    if values.iter().all(|v| *v == 0.0 || *v == largest) {
        return largest;
    }
    let at = values.len() * 99 / 100;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

fn fitted(image: &RgbImage) -> RgbImage {
    let longest = image.width_px.max(image.height_px);
    if longest <= CELL_PX || image.pixels.is_empty() {
        return image.clone();
    }
    let side = |px: usize| (px * CELL_PX / longest).max(1);
    image.resize_area(side(image.width_px), side(image.height_px))
}

/// A slide's scores by their rank, kept patches framed in black. Ranks, because energies and bits spread differently.
pub fn score_map(thumbnail: &Thumbnail, marks: &[PatchMark]) -> RgbImage {
    let mut order: Vec<f64> = marks.iter().map(|mark| mark.score).filter(|v| v.is_finite()).collect();
    order.sort_by(f64::total_cmp);
    let rank = |score: f64| order.partition_point(|v| *v < score) as f64;
    let mut image = thumbnail.value_map(marks, range(marks.iter().map(|m| rank(m.score))), |m| Some(rank(m.score)));
    for mark in marks.iter().filter(|m| m.kept) {
        let [x0, y0, x1, y1] = thumbnail.rectangle(mark);
        for (y, x) in (y0..y1).flat_map(|y| (x0..x1).map(move |x| (y, x))) {
            if x == x0 || y == y0 || x + 1 == x1 || y + 1 == y1 {
                image.put(x, y, [0; 3]);
            }
        }
    }
    image
}

/// The comparison as one SVG that needs nothing else: patches and responses, scores below, kept ones framed; then the maps of the
/// slide.
pub fn figure(comparison: &SelectorComparison) -> String {
    const LABEL: usize = 230;
    const STEP: usize = CELL_PX + 10;
    const ROW: usize = CELL_PX + 34;
    let columns = comparison.patches.len().max(1);
    let width = LABEL + columns * STEP + 10;
    let mut body = String::new();
    // Writing into a String cannot fail.
    let mut place = |image: &RgbImage, x: usize, y: usize, kept: Option<bool>| {
        let html = photograph(image, "");
        if let (Some(start), false) = (html.find("data:"), image.pixels.is_empty()) {
            let data = &html[start..start + html[start..].find('"').unwrap_or(0)];
            let (w, h) = (image.width_px, image.height_px);
            let _ = write!(body, "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" href=\"{data}\"/>");
            if kept == Some(true) {
                let _ = write!(body, "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" class=\"kept\"/>");
            }
        }
    };
    let mut text = String::new();
    let mut say = |x: usize, y: usize, class: &str, words: &str| {
        let _ = write!(text, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escape(words));
    };
    let left = |column: usize| LABEL + column * STEP;
    for (column, patch) in comparison.patches.iter().enumerate() {
        place(patch, left(column), 10, None);
    }
    let mut y = 10 + ROW;
    for row in &comparison.selectors {
        say(10, y + 20, "name", &row.name);
        for (line, words) in row.rule.split("; ").enumerate() {
            say(10, y + 40 + 16 * line, "note", words);
        }
        for (column, cell) in row.cells.iter().enumerate() {
            if let Some(response) = &cell.response {
                place(response, left(column), y, Some(cell.kept));
            }
            let word = if cell.kept { "kept" } else { "" };
            say(left(column), y + CELL_PX + 16, "score", &format!("{} {word}", fixed(Some(cell.score), 3)));
        }
        y += ROW;
    }
    if let Some(thumbnail) = &comparison.thumbnail {
        let thumbnail = thumbnail.fitted(MAP_PX);
        let across = ((width - 10) / (MAP_PX + 10)).max(1);
        let down = thumbnail.image.height_px + 34;
        for (i, row) in comparison.selectors.iter().enumerate() {
            let (x, top) = (10 + i % across * (MAP_PX + 10), y + 20 + i / across * down);
            let kept = row.marks.iter().filter(|m| m.kept).count();
            say(x, top - 6, "score", &format!("{}: {kept} of {} kept", row.name, row.marks.len()));
            place(&score_map(&thumbnail, &row.marks), x, top, None);
        }
        y += comparison.selectors.len().div_ceil(across) * down + 10;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" height=\"{y}\">\
         <title>The same patches under every selector</title>\
         <style>text{{font-family:sans-serif;fill:#333}} .name{{font-size:18px;font-weight:bold}} .note{{font-size:11px;fill:#666}} \
         .score{{font-size:12px}} .kept{{fill:none;stroke:#0a8a4a;stroke-width:4}}</style>\
         <rect width=\"{width}\" height=\"{y}\" fill=\"#fff\"/>{body}{text}</svg>\n"
    )
}
