//! Patches of selected slides as the extractor's training data.

use crate::{
    error::{Error, Result},
    extractor::patches::PatchSource,
    image::RgbImage,
    io::checksum::Digest,
    random::Philox,
    select::PatchScore,
    slide::Plane,
};

use super::{
    config::{LearnedFrom, RunConfig, Scale},
    scan,
    selection::Selected,
};

/// Most patches an extractor is trained on; more would not fit its cache and hardly teach it more.
pub(super) const MOST_PATCHES: usize = 50_000;

/// Squares of one size, somewhere on the cohort's slides. Slides stay open; their decoded tiles are cached.
pub struct SlidePatches {
    planes: Vec<Plane>,
    /// Slide, and the upper left corner in pixels of its plane.
    places: Vec<(usize, [u64; 2])>,
    side_px: usize,
    digest: Digest,
}

impl SlidePatches {
    /// The coarse patches to learn from, or the fine patches they consist of; a random choice of them where there are too
    /// many.
    pub fn new(selected: &[Selected], config: &RunConfig, scale: Scale) -> Result<SlidePatches> {
        let (select, seed, from) = (&config.select, config.seed, config.extractor.patches);
        let (side_px, grid) = match scale {
            Scale::Global => (select.patch_px, 1),
            Scale::Local => (select.local_px, select.grid()),
        };
        let mut places = Vec::new();
        let planes: Vec<Plane> =
            selected.iter().map(|slide| scan::plane(&slide.entry, select)).collect::<Result<_>>()?;
        for (index, (slide, plane)) in selected.iter().zip(&planes).enumerate() {
            for patch in slide.patches.iter().filter(|patch| is_learned_from(patch, from)) {
                let [x, y] = plane.pixel_at([patch.x, patch.y]);
                for cell in 0..grid * grid {
                    let (column, row) = (cell % grid, cell / grid);
                    places.push((index, [x + (column * side_px) as u64, y + (row * side_px) as u64]));
                }
            }
        }
        if places.len() > MOST_PATCHES {
            let mut chosen = Philox::named(seed, "extractor patches").permutation(places.len());
            chosen.truncate(MOST_PATCHES);
            chosen.sort_unstable();
            places = chosen.into_iter().map(|i| places[i]).collect();
        }
        let pixels: Vec<Digest> = selected.iter().map(|slide| slide.pixels).collect();
        let digest = Digest::of("patches of slides", &(side_px, pixels, &places));
        Ok(SlidePatches { planes, places, side_px, digest })
    }
}

fn is_learned_from(patch: &PatchScore, from: LearnedFrom) -> bool {
    match from {
        LearnedFrom::Kept => patch.kept,
        LearnedFrom::Tissue => !patch.is_glass(),
    }
}

impl PatchSource for SlidePatches {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn load(&self, index: usize) -> Result<RgbImage> {
        let place = self.places.get(index);
        let &(slide, corner) =
            place.ok_or_else(|| Error::internal(format_args!("patch {index} of {}", self.places.len())))?;
        self.planes[slide].read(corner, self.side_px, self.side_px)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}
