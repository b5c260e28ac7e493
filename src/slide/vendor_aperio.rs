//! Aperio SVS: a TIFF whose first ImageDescription begins with `Aperio`.
//!
//! Follows OpenSlide: tiled directories are levels, stripped ones associated images: the second directory is the
//! thumbnail, the others say their name (`label`, `macro`) at the start of the second line of their description. The
//! description is free text up to the first `|`, then `key = value` fields; `MPP` and `AppMag` are the scale and the
//! magnification. Where a file joins the headers of two scans with `;`, the first occurrence of a key counts.

use super::{
    container::{Container, Directory, tag},
    page::Outline,
    scale::{MppSource, Scale},
    vendor::{Associated, Layout},
    vendor_generic,
};
use crate::error::{Error, Result};

fn description(container: &Container, directory: &Directory) -> Option<String> {
    container.text(directory, tag::IMAGE_DESCRIPTION).ok().flatten()
}

pub fn recognises(container: &Container) -> bool {
    description(container, &container.directories[0]).is_some_and(|text| text.starts_with("Aperio"))
}

pub fn interpret(container: &Container) -> Result<Layout> {
    let first = &container.directories[0];
    let text = description(container, first).unwrap_or_default();
    let fields = fields(&text);
    let (mut levels, mut associated, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, directory) in container.directories.iter().enumerate() {
        let outline = Outline::read(container, directory)?;
        let smaller = sizes.last().is_none_or(|&(w, h)| outline.width_px <= w && outline.height_px <= h);
        if outline.tiled && smaller {
            sizes.push((outline.width_px, outline.height_px));
            levels.push(directory.clone());
        } else {
            let name = match index {
                1 => "thumbnail".to_string(),
                _ => name(description(container, directory).as_deref(), outline.reduced)
                    .unwrap_or_else(|| format!("page-{}", index + 1)),
            };
            associated.push(Associated { name, directory: directory.clone() });
        }
    }
    if levels.is_empty() {
        return Err(Error::input(
            container.file.path(),
            "says it is an Aperio slide but has no tiled image",
            "the file is damaged or only a label was exported, export the slide again",
        ));
    }
    let number =
        |key: &str| fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).and_then(|(_, v)| v.parse::<f64>().ok());
    let scale = number("MPP")
        .and_then(|mpp| Scale::plausible(mpp, mpp, MppSource::Vendor))
        .or(vendor_generic::resolution(container, first)?);
    let magnification = number("AppMag").filter(|m| m.is_finite() && *m > 0.0);
    let mut properties = vendor_generic::properties(container, first)?;
    properties.extend(fields.into_iter().map(|(key, value)| (format!("aperio.{key}"), value)));
    Ok(Layout { vendor: "aperio", levels, associated, scale, magnification, properties })
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
