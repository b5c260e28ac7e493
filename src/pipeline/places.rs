//! Which patches of a slide a run chooses from: those of its own grid, or the ones that the encoder has vectors of.

use super::RunConfig;
use crate::{
    error::{Error, Result},
    io::checksum::Digest,
    select::{PatchList, SlideFrame},
    slide::Plane,
};

/// The patches of one slide, where they are not simply those of the grid.
pub(super) struct Places {
    listed: Box<dyn PatchList>,
}

impl Places {
    /// `None` where every patch of the grid is one of them.
    ///
    /// # Errors
    /// A slide that a list should know of and does not.
    pub fn of(config: &RunConfig, slide: &str) -> Result<Option<Places>> {
        let listed = config.encoder.encoder.patches(slide)?;
        Ok(listed.map(|listed| Places { listed }))
    }

    pub fn digest(&self) -> Digest {
        Digest::of("places of a slide", &self.listed.digest())
    }

    /// Corners in level-0 pixels.
    ///
    /// # Errors
    /// A list that cannot be of this slide; no patch at all.
    pub fn corners(&self, plane: &Plane, patch_px: usize) -> Result<Vec<[u64; 2]>> {
        let corners = self.listed.corners(&SlideFrame::of(plane, patch_px))?;
        if corners.is_empty() {
            let problem = "has no patch among those listed for it";
            return Err(Error::input(plane.slide().path(), problem, "make its features, or leave the slide out"));
        }
        Ok(corners)
    }
}
