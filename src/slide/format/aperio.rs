//! Aperio SVS: a TIFF whose first ImageDescription begins with `Aperio`.
//!
//! Follows OpenSlide: tiled directories are levels, the first of them level 0; stripped ones are associated images: the
//! second directory is the thumbnail, the others say their name (`label`, `macro`) at the start of the second line of
//! their description. The description is free text up to the first `|`, then `key = value` fields; `MPP` and `AppMag` are
//! the scale and the magnification, with a decimal comma where the scanner's language has one. Where a file joins the
//! headers of two scans with `;`, the first occurrence of a key counts.

use super::{
    Associated, Candidate, Container, Directory, Format, Layout, Opened,
    generic::{self, page_name},
    pyramid::Survey,
};
use crate::{
    error::{Error, Result},
    slide::{
        container::tag,
        scale::{MppSource, Scale, decimal},
    },
};

pub struct Aperio;

impl Format for Aperio {
    fn recognises(&self, candidate: &Candidate) -> bool {
        candidate.description().starts_with("Aperio")
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let container = candidate.into_tiff()?;
        interpret(&container)?.opened(container)
    }
}

fn description(container: &Container, directory: &Directory) -> Option<String> {
    container.text(directory, tag::IMAGE_DESCRIPTION).ok().flatten()
}

fn interpret(container: &Container) -> Result<Layout> {
    let first = &container.directories[0];
    let fields = fields(&description(container, first).unwrap_or_default());
    let survey = Survey::of(container)?;
    let Some(base) = survey.largest().filter(|image| image.outline.tiled) else {
        return Err(Error::input(
            container.file.path(),
            "says it is an Aperio slide but has no tiled image",
            "the file is damaged or only a label was exported, export the slide again",
        ));
    };
    let levels = survey.levels(base);
    // Aperio puts the slide first, so a chain that breaks off behind it has lost other images only.
    if base.place != 0 {
        survey.refuse_a_lost_slide(base, levels.len())?;
    }
    let associated = survey
        .others(&levels)
        .map(|image| {
            let text = description(container, image.directory);
            let name = match image.place {
                1 if !image.outline.tiled => "thumbnail".to_string(),
                place => name(text.as_deref(), image.outline.reduced).unwrap_or_else(|| page_name(place)),
            };
            Associated { name, directory: image.directory.clone() }
        })
        .collect();
    let number = |key: &str| fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).and_then(|(_, v)| decimal(v));
    let scale = number("MPP")
        .and_then(|mpp| Scale::plausible(mpp, mpp, MppSource::Vendor))
        .or(generic::resolution(container, first)?);
    let magnification = number("AppMag").filter(|m| *m > 0.0);
    let mut properties = generic::properties(container, first)?;
    properties.extend(fields.into_iter().map(|(key, value)| (format!("aperio.{key}"), generic::shown(value))));
    Ok(Layout { vendor: "aperio", levels, associated, scale, magnification, properties, remarks: survey.remarks })
}

/// `key = value` fields of a description, in order, each key once.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    for part in text.split('|').skip(1).flat_map(|part| part.split(';')) {
        if let Some((key, value)) = part.split_once('=') {
            let (key, value) = (key.trim(), value.trim());
            if !key.is_empty() && !list.iter().any(|(k, _)| k == key) {
                list.push((key.to_string(), value.to_string()));
            }
        }
    }
    list
}

/// `label`, `macro`: the first word of a description's second line. Without one, the subfile types Aperio uses.
fn name(text: Option<&str>, reduced: bool) -> Option<String> {
    let second_line = text?.lines().nth(1).unwrap_or_default();
    match second_line.split_whitespace().next() {
        Some(word) if word.chars().all(|c| c.is_ascii_alphabetic()) => Some(word.to_ascii_lowercase()),
        _ if reduced => Some("label".to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_headers_keep_the_first_value() {
        let text = "Aperio Image Library v11\r\n100x100 [0,0 9x9] (240x240) JPEG/RGB Q=30;Aperio Image Library v10\r\n\
                    46920x33014 JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990|Left = 25.69;x|MPP = 9";
        let list = fields(text);
        assert_eq!(list[0], ("AppMag".to_string(), "20".to_string()));
        assert_eq!(list[1], ("MPP".to_string(), "0.4990".to_string()));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn associated_images_say_their_name() {
        assert_eq!(name(Some("Aperio\r\nlabel 387x463"), true).as_deref(), Some("label"));
        assert_eq!(name(Some("Aperio\r\nmacro 1280x431"), true).as_deref(), Some("macro"));
        assert_eq!(name(Some("Aperio\r\n2220x2967 -> 574x768"), false), None);
        assert_eq!(name(None, false), None);
    }
}
