//! OME-TIFF: the first ImageDescription is OME-XML.
//!
//! Source: the OME data model (2016-06 and earlier; elements are matched by local name, so the schema's year does not
//! matter). The slide is the largest image that is not called a label, macro, overview or thumbnail; `TiffData` says which
//! directory begins it. Its other levels are that directory's SubIFDs or smaller copies in the chain. Further images are
//! associated, named as the XML names them. Scale: PhysicalSizeX/Y with their units; magnification: the objective's
//! NominalMagnification.
//! Refused: images whose channels lie in directories of their own (fluorescence), because they are not RGB; files that
//! hold nothing but a label; XML whose form makes reading it take quadratic time ([`check_form`]).

use super::{
    Associated, Candidate, Container, Format, Layout, Opened,
    generic::{self, page_name},
    pyramid::{Image, Survey},
};
use crate::{
    error::{Error, Result},
    slide::scale::{MppSource, Scale, decimal},
};

pub struct OmeTiff;

impl Format for OmeTiff {
    fn recognises(&self, candidate: &Candidate) -> bool {
        let text = candidate.description();
        text.trim_end().ends_with("OME>") && text.contains("<OME") || text.contains("<OME:OME")
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let text = candidate.description();
        let container = candidate.into_tiff()?;
        interpret(&container, &text)?.opened(container)
    }
}

fn interpret(container: &Container, text: &str) -> Result<Layout> {
    let refuse = |problem: String, remedy: &str| Error::input(container.file.path(), problem, remedy);
    let ome = read_xml(text).map_err(|why| {
        refuse(
            format!("holds OME-XML that cannot be read ({why})"),
            "export the slide again, or as a plain pyramidal TIFF",
        )
    })?;
    let survey = Survey::of(container)?;
    let chosen = match ome.slide() {
        Some(image) => Some(image),
        None if ome.images.is_empty() => None,
        None => {
            return Err(refuse(
                format!("holds no slide, only the image {:?}", ome.images[0].name),
                "export the slide itself",
            ));
        }
    };
    let base = match chosen {
        None => survey.largest(),
        Some(image) => image.directory(&survey),
    };
    let Some(base) = base else {
        let size = chosen.and_then(|image| image.size).unwrap_or_default();
        return Err(refuse(
            format!("describes an image of {} x {} px that none of its directories holds", size.0, size.1),
            "the file is damaged or a part of a set, export the slide into one file",
        ));
    };
    if let Some(image) = chosen
        && image.channels > 1
        && base.outline.samples == 1
    {
        return Err(refuse(
            format!("holds {} channels as separate grey images", image.channels),
            "this is fluorescence or split colour, export a brightfield RGB slide",
        ));
    }
    let levels = survey.levels(base);
    if chosen.is_none_or(|image| image.size.is_none()) {
        survey.refuse_a_lost_slide(base, levels.len())?;
    }
    let name = |place: usize| {
        let image = ome.images.iter().find(|image| image.place == place && !image.name.is_empty());
        image.map_or_else(|| page_name(place), |image| image.name.clone())
    };
    let associated = survey
        .others(&levels)
        .map(|image| Associated { name: name(image.place), directory: image.directory.clone() })
        .collect();
    let scale = match chosen.and_then(|image| image.scale) {
        None => generic::resolution(container, base.directory)?,
        known => known,
    };
    let mut properties = generic::properties(container, &container.directories[0])?;
    properties.extend(ome.properties);
    let remarks = survey.remarks;
    Ok(Layout { vendor: "ome-tiff", levels, associated, scale, magnification: ome.magnification, properties, remarks })
}

/// An `Image` element.
struct OmeImage {
    name: String,
    /// Position in the chain of its first directory.
    place: usize,
    /// SizeX and SizeY.
    size: Option<(u64, u64)>,
    channels: u64,
    scale: Option<Scale>,
}

impl OmeImage {
    /// True for an image that is called what scanners call those beside the slide.
    fn is_beside_the_slide(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        let mut words = name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).peekable();
        let beside =
            ["label", "macro", "overview", "thumbnail", "barcode", "image", "picture", "photo", "slide", "ome"];
        let tells = ["label", "macro", "overview", "thumbnail", "barcode"];
        words.peek().is_some()
            && tells.iter().any(|tell| name.contains(tell))
            && words.all(|word| beside.contains(&word) || matches!(word, "tif" | "tiff" | "the" | "of"))
    }

    /// The directory of its size at its place, else the only one of its size.
    fn directory<'s, 'a>(&self, survey: &'s Survey<'a>) -> Option<&'s Image<'a>> {
        let Some(size) = self.size else {
            return survey.chain().find(|image| image.place == self.place);
        };
        let mut of_this_size = survey.chain().filter(|image| image.size() == size);
        match survey.chain().find(|image| image.place == self.place && image.size() == size) {
            Some(image) => Some(image),
            None => of_this_size.next().filter(|_| of_this_size.next().is_none()),
        }
    }
}

struct Ome {
    images: Vec<OmeImage>,
    magnification: Option<f64>,
    properties: Vec<(String, String)>,
}

impl Ome {
    /// The image that is the slide: the largest of those that are not called otherwise.
    fn slide(&self) -> Option<&OmeImage> {
        let area = |image: &OmeImage| image.size.map_or(0, |(x, y)| x.saturating_mul(y));
        let slides = self.images.iter().filter(|image| !image.is_beside_the_slide());
        slides.reduce(|best, image| if area(image) > area(best) { image } else { best })
    }
}

/// Bounds of the form of OME-XML. The parser compares every attribute of an element with every other, and hands every
/// element the namespaces declared around it; no writer comes near these.
const MAX_ATTRIBUTES: usize = 1000;
const MAX_DEPTH: usize = 100;
const MAX_NAMESPACES: usize = 1000;
const MAX_ELEMENTS: u32 = 1 << 20;

/// Refuses XML of a hostile form, in one pass over its tags.
fn check_form(text: &str) -> Result<(), String> {
    let (mut depth, mut namespaces) = (0_usize, 0);
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(open) = bytes[at..].iter().position(|&b| b == b'<') {
        at += open + 1;
        let rest = &text.as_bytes()[at..];
        let skip = |end: &[u8]| rest.windows(end.len()).position(|w| w == end).map_or(rest.len(), |k| k + end.len());
        match rest {
            [b'!', b'-', b'-', ..] => at += skip(b"-->"),
            [b'!', b'[', ..] => at += skip(b"]]>"),
            [b'?', ..] => at += skip(b"?>"),
            [b'/', ..] => {
                depth = depth.saturating_sub(1);
                at += skip(b">");
            }
            _ => {
                let (mut quote, mut attributes, mut end) = (None, 0, rest.len());
                for (k, &b) in rest.iter().enumerate() {
                    match (quote, b) {
                        (Some(q), _) if b == q => quote = None,
                        (Some(_), _) => {}
                        (None, b'"' | b'\'') => quote = Some(b),
                        (None, b'=') => attributes += 1,
                        (None, b'>') => {
                            end = k;
                            break;
                        }
                        _ => {}
                    }
                }
                namespaces += rest[..end].windows(6).filter(|w| w == b" xmlns").count();
                depth += usize::from(end == 0 || rest[end - 1] != b'/');
                at += end;
                if attributes > MAX_ATTRIBUTES {
                    return Err(format!("an element has more than {MAX_ATTRIBUTES} attributes"));
                }
            }
        }
        if depth > MAX_DEPTH || namespaces > MAX_NAMESPACES {
            return Err(format!("it nests deeper than {MAX_DEPTH}, or has more than {MAX_NAMESPACES} namespaces"));
        }
    }
    Ok(())
}

fn read_xml(text: &str) -> Result<Ome, String> {
    check_form(text)?;
    let options = roxmltree::ParsingOptions { nodes_limit: MAX_ELEMENTS, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|e| e.to_string())?;
    let named = |name: &'static str| document.descendants().filter(move |n| n.tag_name().name() == name);
    let mut images: Vec<OmeImage> = Vec::new();
    for image in named("Image") {
        let Some(pixels) = image.children().find(|n| n.tag_name().name() == "Pixels") else { continue };
        let number = |name: &str| pixels.attribute(name).and_then(|v| v.trim().parse::<u64>().ok());
        let length = |axis: &str| {
            let value = decimal(pixels.attribute(format!("PhysicalSize{axis}").as_str())?)?;
            Some(value * unit_um(pixels.attribute(format!("PhysicalSize{axis}Unit").as_str()))?)
        };
        let first = pixels.children().find(|n| n.tag_name().name() == "TiffData");
        let ifd = first.and_then(|data| data.attribute("IFD")?.trim().parse().ok());
        images.push(OmeImage {
            name: image.attribute("Name").unwrap_or_default().to_string(),
            // Without a number directories are taken in order.
            place: ifd.unwrap_or(images.len()),
            size: number("SizeX").zip(number("SizeY")),
            channels: number("SizeC").unwrap_or(1),
            scale: length("X").and_then(|x| Scale::plausible(x, length("Y").unwrap_or(x), MppSource::OmeXml)),
        });
    }
    let magnification =
        named("Objective").filter_map(|n| decimal(n.attribute("NominalMagnification")?)).find(|m| *m > 0.0);
    let mut properties = Vec::new();
    for (element, attributes) in [
        ("Image", &["Name"][..]),
        ("Pixels", &["PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit", "SizeC"][..]),
        ("Objective", &["NominalMagnification", "Model", "LensNA"][..]),
        ("Microscope", &["Manufacturer", "Model"][..]),
    ] {
        if let Some(node) = named(element).next() {
            let present = attributes.iter().filter_map(|a| Some((format!("ome.{element}.{a}"), node.attribute(*a)?)));
            properties.extend(present.map(|(key, value)| (key, generic::shown(value.to_string()))));
        }
    }
    Ok(Ome { images, magnification, properties })
}

/// µm per unit of length; without a unit the schema says µm.
fn unit_um(unit: Option<&str>) -> Option<f64> {
    Some(match unit.map(str::trim) {
        None | Some("" | "µm" | "μm" | "um" | "micron") => 1.0,
        Some("nm") => 1e-3,
        Some("mm") => 1e3,
        Some("cm") => 1e4,
        Some("m") => 1e6,
        Some("Å") => 1e-4,
        Some("pm") => 1e-6,
        Some("in") => 25_400.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> OmeImage {
        OmeImage { name: name.into(), place: 0, size: None, channels: 3, scale: None }
    }

    #[test]
    fn images_beside_the_slide_are_known_by_their_names() {
        for beside in ["label", "Label Image", "macro image", "Overview", "slide_thumbnail.tif", "MACRO"] {
            assert!(named(beside).is_beside_the_slide(), "{beside}");
        }
        for slide in ["", "CMU-1.svs", "Macrophages_12.svs", "label 3 of patient B", "slide", "Image:0"] {
            assert!(!named(slide).is_beside_the_slide(), "{slide}");
        }
    }

    #[test]
    fn xml_of_a_hostile_form_is_refused_before_it_is_parsed() {
        let attributes: String = (0..5000).map(|k| format!(" a{k}=\"1\"")).collect();
        assert!(read_xml(&format!("<OME><Image{attributes}/></OME>")).is_err_and(|e| e.contains("attributes")));
        let deep = "<a>".repeat(5000) + &"</a>".repeat(5000);
        assert!(read_xml(&format!("<OME>{deep}</OME>")).is_err_and(|e| e.contains("nests")));
        let spaces: String = (0..5000).map(|k| format!("<b xmlns=\"u{k}\"/>")).collect();
        assert!(read_xml(&format!("<OME>{spaces}</OME>")).is_err_and(|e| e.contains("namespaces")));
        let text = "<OME><!-- <a> --><Image Name=\"a > b\"><Pixels SizeX=\"9\" SizeY=\"7\"/></Image></OME>";
        assert_eq!(read_xml(text).map(|ome| ome.images[0].size).ok(), Some(Some((9, 7))));
    }
}
