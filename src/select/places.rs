//! Which patches of a slide there are to choose from, where they are not those of a grid: lists of corners.

use crate::{error::Result, io::checksum::Digest, select::PatchGrid, slide::Plane};

/// A slide as one sees it who knows of places on it, not of its pixels. Sizes are in level-0 pixels, across and down.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SlideFrame {
    pub size_px: [u64; 2],
    /// µm per pixel.
    pub mpp: Option<f64>,
    /// Sides of the run's patches.
    pub patch_px: [u64; 2],
}

impl SlideFrame {
    /// That of a slide whose patches are cut from this plane.
    pub fn of(plane: &Plane, patch_px: usize) -> SlideFrame {
        let slide = plane.slide();
        let full = &slide.levels()[0];
        SlideFrame {
            size_px: [full.width_px, full.height_px],
            mpp: slide.mpp(),
            patch_px: PatchGrid::of(plane, patch_px).extent(plane),
        }
    }
}

/// The patches of one slide, by their corners.
pub trait PatchList {
    /// Of all that decides the list.
    fn digest(&self) -> Digest;

    /// Upper left corners in level-0 pixels, no two the same.
    ///
    /// # Errors
    /// A list that cannot be one of this slide, or of patches of this size.
    fn corners(&self, frame: &SlideFrame) -> Result<Vec<[u64; 2]>>;
}
