//! Plain TIFF: the first directory is level 0, smaller copies of it in the chain or in its SubIFDs are the other levels.
//!
//! A later directory is a level if it has the same shape to within rounding, is smaller than the level before it and is
//! tiled if level 0 is; the reduced-image mark is not asked for, because many exporters forget it. Every other directory
//! is an associated image (`page-2`, ...), images of the same size (further sections, time points) among them.

use super::{
    container::{Container, Directory, tag},
    page::Outline,
    scale::Scale,
    vendor::{Associated, Layout},
};
use crate::error::Result;

/// Tags shown as properties.
const TEXT_TAGS: [(u16, &str); 7] = [
    (tag::IMAGE_DESCRIPTION, "tiff.ImageDescription"),
    (tag::MAKE, "tiff.Make"),
    (tag::MODEL, "tiff.Model"),
    (tag::SOFTWARE, "tiff.Software"),
    (tag::DATE_TIME, "tiff.DateTime"),
    (tag::ARTIST, "tiff.Artist"),
    (tag::RESOLUTION_UNIT, "tiff.ResolutionUnit"),
];

pub fn interpret(container: &Container) -> Result<Layout> {
    let first = &container.directories[0];
    let (levels, rest) = pyramid(container)?;
    let associated = rest
        .into_iter()
        .map(|(index, directory)| Associated { name: format!("page-{}", index + 1), directory: directory.clone() })
        .collect();
    Ok(Layout {
        vendor: "generic-tiff",
        levels,
        associated,
        scale: resolution(container, first)?,
        magnification: None,
        properties: properties(container, first)?,
    })
}

/// A top-level directory with its position in the chain.
type Numbered<'a> = (usize, &'a Directory);

/// Levels of the first image, and the top-level directories that are none, with their positions in the chain.
pub fn pyramid(container: &Container) -> Result<(Vec<Directory>, Vec<Numbered<'_>>)> {
    let first = &container.directories[0];
    let base = Outline::read(container, first)?;
    let mut levels = vec![first.clone()];
    let mut smallest = (base.width_px, base.height_px);
    let mut takes = |directory: &Directory| -> bool {
        let Ok(outline) = Outline::read(container, directory) else { return false };
        let (width_px, height_px) = (outline.width_px, outline.height_px);
        let smaller = width_px <= smallest.0 && height_px <= smallest.1 && (width_px, height_px) != smallest;
        let fits = !outline.mask && smaller && (outline.tiled || !base.tiled) && same_shape(&base, &outline);
        if fits {
            smallest = (width_px, height_px);
            levels.push(directory.clone());
        }
        fits
    };
    for child in &first.children {
        takes(child);
    }
    let rest: Vec<_> = container.directories.iter().enumerate().skip(1).filter(|(_, d)| !takes(d)).collect();
    Ok((levels, rest))
}

/// True if `small` can be `base` shrunk, sizes rounded either way at every halving.
fn same_shape(base: &Outline, small: &Outline) -> bool {
    let (across, down) = (base.width_px as f64 / small.width_px as f64, base.height_px as f64 / small.height_px as f64);
    // Two pixels of rounding at the small size, or one percent.
    let slack = |size: u64| 0.01_f64.max(2.0 / size as f64);
    (across / down - 1.0).abs() <= slack(small.width_px).max(slack(small.height_px))
}

/// µm per pixel from the resolution tags, if a microscope can have written them.
pub fn resolution(container: &Container, directory: &Directory) -> Result<Option<Scale>> {
    let (Ok(Some(x)), Ok(Some(y))) =
        (container.real(directory, tag::X_RESOLUTION), container.real(directory, tag::Y_RESOLUTION))
    else {
        return Ok(None);
    };
    let unit = container.uint(directory, tag::RESOLUTION_UNIT).ok().flatten().unwrap_or(2);
    let description = container.text(directory, tag::IMAGE_DESCRIPTION).ok().flatten().unwrap_or_default();
    let micron_unit = ["unit=micron", "unit=um", "unit=µm", "unit=\\u00B5m"].iter().any(|u| description.contains(u));
    let unit_um = match unit {
        // ImageJ counts pixels per the unit named in its description.
        _ if description.starts_with("ImageJ=") && micron_unit => 1.0,
        2 => 25_400.0,
        3 => 10_000.0,
        _ => return Ok(None),
    };
    Ok(Scale::from_resolution(x, y, unit_um))
}

pub fn properties(container: &Container, directory: &Directory) -> Result<Vec<(String, String)>> {
    let mut list = Vec::new();
    for (tag, name) in TEXT_TAGS {
        let value = match tag {
            tag::RESOLUTION_UNIT => container.uint(directory, tag).ok().flatten().map(|unit| match unit {
                1 => "none".to_string(),
                2 => "inch".to_string(),
                3 => "centimeter".to_string(),
                other => other.to_string(),
            }),
            _ => container.text(directory, tag).ok().flatten(),
        };
        list.extend(value.filter(|v| !v.is_empty()).map(|v| (name.to_string(), v)));
    }
    for (tag, name) in [(tag::X_RESOLUTION, "tiff.XResolution"), (tag::Y_RESOLUTION, "tiff.YResolution")] {
        if let Ok(Some(value)) = container.real(directory, tag) {
            list.push((name.to_string(), value.to_string()));
        }
    }
    Ok(list)
}
