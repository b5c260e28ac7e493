//! Where the patches of a plane lie: whole squares from the top left corner, without overlap.

use crate::{error::Result, image::RgbImage, slide::Plane};

/// The patches of an area. What is left over at the right and the bottom belongs to none; an area narrower or lower than a
/// patch is one patch across or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PatchGrid {
    pub columns: u64,
    pub rows: u64,
    /// Size of every patch; below the side asked for where the level is smaller than that.
    pub width_px: usize,
    pub height_px: usize,
}

impl PatchGrid {
    pub fn new(area_width_px: u64, area_height_px: u64, patch_px: usize) -> PatchGrid {
        let along = |length: u64| (length.min(patch_px as u64) as usize, (length / patch_px as u64).max(1));
        let ((width_px, columns), (height_px, rows)) = (along(area_width_px), along(area_height_px));
        PatchGrid { columns, rows, width_px, height_px }
    }

    pub fn len(&self) -> usize {
        (self.columns * self.rows) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn of(plane: &Plane, patch_px: usize) -> PatchGrid {
        let [width_px, height_px] = plane.size_px();
        PatchGrid::new(width_px, height_px, patch_px)
    }

    /// Top left corner of a patch, rows from the top, each from the left.
    pub fn corner(&self, index: usize) -> [u64; 2] {
        let (column, row) = (index as u64 % self.columns, index as u64 / self.columns);
        [column * self.width_px as u64, row * self.height_px as u64]
    }

    /// The pixels of one patch.
    ///
    /// # Errors
    /// As [`Plane::read`].
    pub fn read(&self, plane: &Plane, index: usize) -> Result<RgbImage> {
        plane.read(self.corner(index), self.width_px, self.height_px)
    }

    /// Size of a patch in the pixels that [`Plane::place`] writes.
    pub fn extent(&self, plane: &Plane) -> [u64; 2] {
        plane.place([self.width_px as u64, self.height_px as u64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_patches_but_at_least_one() {
        let grid = |w, h| PatchGrid::new(w, h, 1024);
        assert_eq!(grid(2220, 2967), PatchGrid { columns: 2, rows: 2, width_px: 1024, height_px: 1024 });
        assert_eq!(grid(1024, 1023), PatchGrid { columns: 1, rows: 1, width_px: 1024, height_px: 1023 });
        assert_eq!(grid(5000, 10), PatchGrid { columns: 4, rows: 1, width_px: 1024, height_px: 10 });
        assert_eq!(grid(1, 1), PatchGrid { columns: 1, rows: 1, width_px: 1, height_px: 1 });
        assert_eq!(grid(5000, 2048).corner(5), [1024, 1024]);
    }
}
