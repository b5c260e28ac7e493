//! A score without decoding: the compressed size of a JPEG slide's tiles.
//!
//! A slide whose tiles are JPEG already holds a score of its own: the compressed size of every tile, in the
//! file's directory. With [`ScoreOptions::prefilter`](super::ScoreOptions::prefilter) only the given share of patches with the most compressed bytes is decoded and
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

use super::{grid::PatchGrid, score::PatchScore};
use crate::{error::Result, slide::Plane};

/// Compressed bits per pixel of every patch from the sizes of the tiles it touches, in proportion to the area it covers of
/// each. `None` where the level's tiles are not JPEG.
pub(super) fn compressed_bits_per_px(plane: &Plane, grid: &PatchGrid) -> Result<Option<Vec<f64>>> {
    let (slide, level) = (plane.slide(), plane.rule().level);
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
    let overlaps = |start: f64, end: f64, tile_px: u64| {
        (start as u64 / tile_px..(end.ceil() as u64).div_ceil(tile_px))
            .map(move |tile| (tile, end.min(((tile + 1) * tile_px) as f64) - start.max((tile * tile_px) as f64)))
    };
    let patch = |index: usize| {
        let [left, top, right, bottom] = plane.source(grid.corner(index), grid.width_px, grid.height_px);
        let mut bits = 0.0;
        for (row, height) in overlaps(top, bottom, tile_height_px) {
            for (column, width) in overlaps(left, right, tile_width_px) {
                bits += per_px(row * columns + column) * width * height;
            }
        }
        bits / ((right - left) * (bottom - top))
    };
    Ok(Some((0..grid.len()).map(patch).collect()))
}

/// The patches with the highest values, at least one, in the order of the grid.
pub(super) fn largest(values: &[f64], share: f64) -> Vec<usize> {
    let wanted = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(wanted);
    order.sort_unstable();
    order
}

/// What the patches that are not candidates would have scored, in proportion to their compressed size.
pub(super) fn estimates(compressed: &[f64], candidates: &[usize], scored: &[PatchScore]) -> Vec<f64> {
    let seen: f64 = candidates.iter().map(|&index| compressed[index]).sum();
    let found: f64 = scored.iter().map(|patch| patch.score).sum();
    let factor = if seen > 0.0 { found / seen } else { 0.0 };
    let mut chosen = candidates.iter().peekable();
    let left_out = (0..compressed.len()).filter(|index| chosen.next_if_eq(&index).is_none());
    left_out.map(|index| factor * compressed[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_taken_and_the_rest_estimated() {
        let compressed = [1.0, 4.0, 2.0, 8.0];
        let candidates = largest(&compressed, 0.5);
        assert_eq!(candidates, [1, 3]);
        let patch = |score| PatchScore { bits: Some(1), score, ..PatchScore::default() };
        assert_eq!(estimates(&compressed, &candidates, &[patch(8.0), patch(16.0)]), [2.0, 4.0]);
        assert_eq!(largest(&compressed, 0.01), [3]);
    }
}
