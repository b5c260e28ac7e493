//! Plain TIFF: the largest image is level 0, smaller copies of it in the chain or in its SubIFDs are the other levels
//! ([`super::pyramid`]). Every other directory is an associated image (`page-2`, ...), images of the same size (further
//! sections, time points) among them.

use super::{Associated, Candidate, Container, Directory, Format, Layout, Opened, pyramid::Survey};
use crate::{
    error::{Error, Result},
    slide::{container::tag, scale::Scale},
};

pub struct GenericTiff;

impl Format for GenericTiff {
    fn recognises(&self, candidate: &Candidate) -> bool {
        Container::recognises(candidate.head())
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let container = candidate.into_tiff()?;
        interpret(&container)?.opened(container)
    }
}

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

fn interpret(container: &Container) -> Result<Layout> {
    let survey = Survey::of(container)?;
    let Some(base) = survey.largest() else {
        return Err(Error::input(container.file.path(), "holds nothing but masks", "export the slide again"));
    };
    let levels = survey.levels(base);
    survey.refuse_a_lost_slide(base, levels.len())?;
    let associated = survey
        .others(&levels)
        .map(|image| Associated { name: page_name(image.place), directory: image.directory.clone() })
        .collect();
    Ok(Layout {
        vendor: "generic-tiff",
        levels,
        associated,
        scale: resolution(container, base.directory)?,
        magnification: None,
        properties: properties(container, base.directory)?,
        remarks: survey.remarks,
    })
}

/// What an image is called that nothing names.
pub fn page_name(place: usize) -> String {
    format!("page-{}", place + 1)
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
        list.extend(value.filter(|v| !v.is_empty()).map(|v| (name.to_string(), shown(v))));
    }
    for (tag, name) in [(tag::X_RESOLUTION, "tiff.XResolution"), (tag::Y_RESOLUTION, "tiff.YResolution")] {
        if let Ok(Some(value)) = container.real(directory, tag) {
            list.push((name.to_string(), value.to_string()));
        }
    }
    Ok(list)
}

/// The most characters of a property that are kept: some writers put whole images into a description.
const PROPERTY_CHARS: usize = 16_384;

pub fn shown(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(PROPERTY_CHARS) {
        value.truncate(end);
        value.push('…');
    }
    value
}
