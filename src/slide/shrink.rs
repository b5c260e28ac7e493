//! A whole level made smaller, read in bands so that a slide of any size fits in memory.

use super::Slide;
use crate::{error::Result, image::RgbImage};

/// Rows of the level read at once.
const BAND_PX: u64 = 512;

/// Which output cells a source pixel adds to, and how much: at most two, since the output is not larger.
struct Share {
    cell: usize,
    first: f32,
    second: f32,
}

/// Source pixel `i` covers `[i, i + 1) * to / from` of the output axis.
fn shares(from: usize, to: usize) -> Vec<Share> {
    let step = to as f64 / from as f64;
    (0..from)
        .map(|i| {
            let (start, end) = (i as f64 * step, (i + 1) as f64 * step);
            let cell = (start as usize).min(to - 1);
            let border = (cell + 1) as f64;
            let second = if cell + 1 < to { (end - border).max(0.0) } else { 0.0 };
            Share { cell, first: (end.min(border) - start) as f32, second: second as f32 }
        })
        .collect()
}

/// The mean over the source area of every output pixel. The output is at most as large as the level.
pub fn level(slide: &Slide, level: usize, width_px: usize, height_px: usize) -> Result<RgbImage> {
    let source = &slide.levels()[level];
    let (from_width, from_height) = (source.width_px as usize, source.height_px as usize);
    if (from_width, from_height) == (width_px, height_px) {
        return slide.read_region(level, 0, 0, width_px, height_px);
    }
    let (columns, rows) = (shares(from_width, width_px), shares(from_height, height_px));
    let mut sums = vec![0.0_f32; width_px * height_px * 3];
    let mut line = vec![0.0_f32; width_px * 3];
    // Whole tile rows per band, so that no tile is decoded twice.
    let band_px = source.tile_height_px.clamp(1, source.height_px) * (BAND_PX / source.tile_height_px).max(1);
    for top in (0..source.height_px).step_by(band_px as usize) {
        let band_height = band_px.min(source.height_px - top) as usize;
        let band = slide.read_region(level, 0, top as i64, from_width, band_height)?;
        for (pixels, share) in band.pixels.chunks_exact(from_width * 3).zip(&rows[top as usize..]) {
            line.fill(0.0);
            for (pixel, share) in pixels.chunks_exact(3).zip(&columns) {
                let at = share.cell * 3;
                for c in 0..3 {
                    line[at + c] += share.first * f32::from(pixel[c]);
                }
                if share.second > 0.0 {
                    for c in 0..3 {
                        line[at + 3 + c] += share.second * f32::from(pixel[c]);
                    }
                }
            }
            let at = share.cell * width_px * 3;
            sums[at..at + width_px * 3].iter_mut().zip(&line).for_each(|(s, v)| *s += share.first * v);
            if share.second > 0.0 {
                let at = at + width_px * 3;
                sums[at..at + width_px * 3].iter_mut().zip(&line).for_each(|(s, v)| *s += share.second * v);
            }
        }
    }
    // Every output pixel's shares add up to one pixel's area.
    let pixels = sums.into_iter().map(|sum| sum.round().clamp(0.0, 255.0) as u8).collect();
    Ok(RgbImage { width_px, height_px, pixels })
}
