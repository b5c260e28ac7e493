//! An image of a slide's scores: its thumbnail, each patch tinted from blue (low) over yellow to red (high), the kept
//! ones framed in black.

use super::{grid::PatchGrid, score::PatchScore};
use crate::{error::Result, image::RgbImage, slide::Plane};

/// Longer side of the map.
const MAP_SIDE_PX: usize = 1024;
/// Weight of the tint over the thumbnail, in percent.
const TINT_PERCENT: u32 = 45;

/// Draws the scores of a plane's patches. Colours span the scores present, from the lowest to the highest.
///
/// # Errors
/// The thumbnail cannot be read.
pub fn draw(plane: &Plane, patch_px: usize, patches: &[PatchScore]) -> Result<RgbImage> {
    let mut map = plane.slide().thumbnail(MAP_SIDE_PX)?;
    let [width_px, height_px] = plane.area();
    let extent = PatchGrid::of(plane, patch_px).extent(plane);
    let (low, high) =
        patches.iter().fold((f64::MAX, f64::MIN), |(low, high), patch| (low.min(patch.score), high.max(patch.score)));
    let (map_width, map_height) = (map.width_px as u64, map.height_px as u64);
    let column = |x: u64| (x * map_width / width_px.max(1)).min(map_width) as usize;
    let row = |y: u64| (y * map_height / height_px.max(1)).min(map_height) as usize;
    for patch in patches {
        let strength = if high > low { (patch.score - low) / (high - low) } else { 0.5 };
        let tint = colour(strength);
        let (left, right) = (column(patch.x), column(patch.x + extent[0]));
        let (top, bottom) = (row(patch.y), row(patch.y + extent[1]));
        for y in top..bottom {
            for x in left..right {
                let edge = x == left || x + 1 == right || y == top || y + 1 == bottom;
                let under = map.pixel(x, y);
                let mixed = std::array::from_fn(|c| {
                    let sum = u32::from(under[c]) * (100 - TINT_PERCENT) + u32::from(tint[c]) * TINT_PERCENT;
                    (sum / 100) as u8
                });
                map.put(x, y, if patch.kept && edge { [0; 3] } else { mixed });
            }
        }
    }
    Ok(map)
}

/// Blue at 0, yellow at one half, red at 1.
fn colour(strength: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 3] = [[40.0, 70.0, 200.0], [250.0, 220.0, 60.0], [200.0, 30.0, 30.0]];
    let at = 2.0 * strength.clamp(0.0, 1.0);
    let (from, to) = if at < 1.0 { (STOPS[0], STOPS[1]) } else { (STOPS[1], STOPS[2]) };
    std::array::from_fn(|c| (from[c] + (to[c] - from[c]) * at.fract().max(if at >= 2.0 { 1.0 } else { 0.0 })) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_blue_to_red() {
        assert_eq!(colour(0.0), [40, 70, 200]);
        assert_eq!(colour(0.5), [250, 220, 60]);
        assert_eq!(colour(1.0), [200, 30, 30]);
        assert_eq!(colour(f64::NAN.max(0.0)), [40, 70, 200]);
    }
}
