//! Which directories of a TIFF are levels of one image, whatever order they are in.
//!
//! A directory is a level of another if it has the same shape to within rounding, is smaller, has as many samples and is
//! tiled if the other is; the reduced-image mark is not asked for, because many exporters forget it. Levels are sorted by
//! size: some writers put the smallest first, or one out of order.

use super::{Container, Directory, clause};
use crate::{
    error::{Error, Result},
    slide::{container::tag, page::Outline},
};

/// One directory whose size is known.
pub struct Image<'a> {
    /// Position in the chain of the directory, or of the one whose SubIFD it is.
    pub place: usize,
    /// A SubIFD.
    pub is_child: bool,
    pub directory: &'a Directory,
    pub outline: Outline,
}

impl Image<'_> {
    pub fn size(&self) -> (u64, u64) {
        (self.outline.width_px, self.outline.height_px)
    }

    pub fn area(&self) -> u64 {
        self.outline.width_px.saturating_mul(self.outline.height_px)
    }
}

/// Every directory of a container, those that cannot be read as remarks.
pub struct Survey<'a> {
    container: &'a Container,
    pub images: Vec<Image<'a>>,
    pub remarks: Vec<String>,
    /// The most tiles that a directory without a readable size claims.
    lost_tiles: u64,
}

impl<'a> Survey<'a> {
    /// Fails where the first directory cannot be read: in most files it is the slide.
    pub fn of(container: &'a Container) -> Result<Survey<'a>> {
        let remarks = container.faults.iter().map(|fault| format!("not all of the file is used: {fault}")).collect();
        let mut survey = Survey { container, images: Vec::new(), remarks, lost_tiles: 0 };
        for (place, directory) in container.directories.iter().enumerate() {
            survey.add(place, directory, None)?;
            for (number, child) in directory.children.iter().enumerate() {
                survey.add(place, child, Some(number))?;
            }
        }
        Ok(survey)
    }

    fn add(&mut self, place: usize, directory: &'a Directory, child: Option<usize>) -> Result<()> {
        match Outline::read(self.container, directory) {
            Ok(outline) => self.images.push(Image { place, is_child: child.is_some(), directory, outline }),
            Err(error) if place == 0 && child.is_none() => return Err(error),
            Err(error) => {
                let name = match child {
                    Some(number) => format!("SubIFD {} of directory {}", number + 1, place + 1),
                    None => format!("directory {}", place + 1),
                };
                self.remarks.push(format!("{name} is left out: it {}", clause(error)?));
                self.lost_tiles = self.lost_tiles.max(self.container.count(directory, tag::TILE_OFFSETS));
            }
        }
        Ok(())
    }

    /// The images of the chain, masks left out.
    pub fn chain(&self) -> impl Iterator<Item = &Image<'a>> {
        self.images.iter().filter(|image| !image.is_child && !image.outline.mask)
    }

    /// The image that is the slide where nothing else says so: the largest, of the tiled ones if any are. A label or an
    /// overview may come before it.
    pub fn largest(&self) -> Option<&Image<'a>> {
        let any_tiled = self.chain().any(|image| image.outline.tiled);
        let candidates = self.chain().filter(|image| image.outline.tiled || !any_tiled);
        candidates.reduce(|best, image| if image.area() > best.area() { image } else { best })
    }

    /// The levels of an image, itself first, each smaller than the one before.
    pub fn levels(&self, base: &Image<'a>) -> Vec<Directory> {
        let fits = |image: &&Image| {
            let outline = &image.outline;
            let (width, height) = image.size();
            !outline.mask
                && (!image.is_child || image.place == base.place)
                && width <= base.outline.width_px
                && height <= base.outline.height_px
                && image.size() != base.size()
                && (outline.tiled || !base.outline.tiled)
                && outline.samples == base.outline.samples
                && same_shape(&base.outline, outline)
        };
        let mut smaller: Vec<&Image> = self.images.iter().filter(fits).collect();
        // Stable, so that of two images of one size the first stays first, and is the level.
        smaller.sort_by_key(|image| std::cmp::Reverse(image.area()));
        smaller.dedup_by_key(|image| image.size());
        std::iter::once(base.directory).chain(smaller.iter().map(|image| image.directory)).cloned().collect()
    }

    /// The images of the chain that are none of these levels.
    pub fn others(&self, levels: &[Directory]) -> impl Iterator<Item = &Image<'a>> {
        self.chain().filter(move |image| levels.iter().all(|level| level.offset != image.directory.offset))
    }

    /// Fails where what could not be read may have been the slide itself: a directory with more tiles than `base`, or the
    /// rest of a chain in which nothing yet shows that it begins with the largest image.
    pub fn refuse_a_lost_slide(&self, base: &Image, levels: usize) -> Result<()> {
        let broken = |problem: String| {
            Err(Error::input(self.container.file.path(), problem, "the file is damaged, copy it again"))
        };
        if self.lost_tiles > self.container.count(base.directory, tag::TILE_OFFSETS) {
            return broken(self.remarks.join("; "));
        }
        let descends = base.place == 0 && levels > 1;
        match self.container.faults.last() {
            Some(fault) if self.container.chain_is_broken && !descends => broken(fault.clone()),
            _ => Ok(()),
        }
    }
}

/// True if `small` can be `base` shrunk, sizes rounded either way at every halving.
fn same_shape(base: &Outline, small: &Outline) -> bool {
    let (across, down) = (base.width_px as f64 / small.width_px as f64, base.height_px as f64 / small.height_px as f64);
    // Two pixels of rounding at the small size, or one percent.
    let slack = |size: u64| 0.01_f64.max(2.0 / size as f64);
    (across / down - 1.0).abs() <= slack(small.width_px).max(slack(small.height_px))
}
