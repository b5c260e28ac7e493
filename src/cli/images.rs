//! Whole images, from files and folders named on the command line.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    image::RgbImage,
    slide::Slide,
};

/// An image larger than this is not one patch by intention.
pub(super) const LARGEST_WHOLE_IMAGE_PX: u64 = 4096;

/// The files named, and those directly inside the folders named, in order.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
            let mut inside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            inside.retain(|path| path.is_file() && path.file_name().is_none_or(|n| n.as_encoded_bytes()[0] != b'.'));
            inside.sort();
            found.extend(inside);
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

/// All of an image at full resolution.
///
/// # Errors
/// It cannot be read, or is a slide rather than a patch of one.
pub(super) fn whole(path: &Path) -> Result<RgbImage> {
    let slide = Slide::open(path)?;
    let full = &slide.levels()[0];
    let (width, height) = (full.width_px, full.height_px);
    if width.max(height) > LARGEST_WHOLE_IMAGE_PX {
        let problem = format!("is {width}x{height} px, too large for one patch");
        return Err(Error::input(path, problem, "cut it (isg slide region), or run the slide (isg run)"));
    }
    slide.read_region(0, 0, 0, width as usize, height as usize)
}
