//! Which patches of a slide a run chooses from: those of its own grid, or the ones that the encoder has vectors of; of either, those
//! in the regions that somebody drew.

use super::RunConfig;
use crate::{
    error::{Error, Result},
    io::{checksum::Digest, file_name},
    select::{PatchGrid, PatchList, Regions, SlideFrame},
    slide::Plane,
};

/// Endings of files of regions.
const REGIONS: [&str; 2] = ["geojson", "json"];

/// The patches of one slide, where they are not simply those of the grid.
pub(super) struct Places {
    listed: Option<Box<dyn PatchList>>,
    regions: Option<Regions>,
}

impl Places {
    /// `None` where every patch of the grid is one of them.
    ///
    /// # Errors
    /// A slide that a list or a folder of regions should know of and does not.
    pub fn of(config: &RunConfig, slide: &str) -> Result<Option<Places>> {
        let listed = config.encoder.encoder.patches(slide)?;
        let regions = config.select.regions.as_ref().map(|folder| {
            let path = file_name::find(folder, slide, &REGIONS).map_err(|path| {
                Error::input(
                    path,
                    "is not there (select.regions)",
                    "export the slide's regions, or leave the slide out",
                )
            })?;
            Regions::read(&path, &config.select.region_classes)
        });
        let regions = regions.transpose()?;
        Ok((listed.is_some() || regions.is_some()).then_some(Places { listed, regions }))
    }

    /// Of all that decides which they are, but for the slide itself.
    pub fn digest(&self) -> Digest {
        let listed = self.listed.as_ref().map(|listed| listed.digest());
        Digest::of("places of a slide", &(listed, self.regions.as_ref().map(Regions::digest)))
    }

    /// Corners in level-0 pixels.
    ///
    /// # Errors
    /// A list that cannot be of this slide; no patch at all.
    pub fn corners(&self, plane: &Plane, patch_px: usize) -> Result<Vec<[u64; 2]>> {
        let frame = SlideFrame::of(plane, patch_px);
        let mut corners = match &self.listed {
            Some(listed) => listed.corners(&frame)?,
            None => {
                let grid = PatchGrid::of(plane, patch_px);
                (0..grid.len()).map(|patch| plane.place(grid.corner(patch))).collect()
            }
        };
        let slide = plane.slide().path();
        if corners.is_empty() {
            let problem = "has no patch among those listed for it";
            return Err(Error::input(slide, problem, "make its features, or leave the slide out"));
        }
        if let Some(regions) = &self.regions {
            let all = corners.len();
            let centre = |corner: &[u64; 2]| [0, 1].map(|axis| corner[axis] as f64 + frame.patch_px[axis] as f64 / 2.0);
            corners.retain(|corner| regions.hold(centre(corner)));
            if corners.is_empty() {
                let problem = format!("none of the slide's {all} patches has its centre in one of these polygons");
                let remedy = "draw them on this slide, in pixels of its finest level, or leave the slide out";
                return Err(Error::input(regions.path(), problem, remedy));
            }
        }
        Ok(corners)
    }
}
