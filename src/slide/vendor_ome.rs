//! OME-TIFF: the first ImageDescription is OME-XML.
//!
//! Source: the OME data model (2016-06 and earlier; elements are matched by local name, so the schema's year does not
//! matter). Image 0 is the slide: level 0 is its first directory, the other levels are that directory's SubIFDs or
//! smaller copies in the chain. Further images are associated, named as the XML names them. Scale: PhysicalSizeX/Y with
//! their units; magnification: the objective's NominalMagnification.
//! Refused: images whose channels lie in directories of their own (fluorescence), because they are not RGB.

use super::{
    container::{Container, tag},
    scale::{MppSource, Scale},
    vendor::{Associated, Layout},
    vendor_generic,
};
use crate::error::{Error, Result};

pub fn recognises(container: &Container) -> bool {
    let text = container.text(&container.directories[0], tag::IMAGE_DESCRIPTION).ok().flatten();
    text.is_some_and(|text| text.trim_end().ends_with("OME>") && text.contains("<OME"))
}

pub fn interpret(container: &Container) -> Result<Layout> {
    let first = &container.directories[0];
    let text = container.text(first, tag::IMAGE_DESCRIPTION)?.unwrap_or_default();
    let ome = read_xml(container, &text)?;
    if let Some(image) = ome.images.first() {
        let samples = container.uint(first, tag::SAMPLES_PER_PIXEL)?.unwrap_or(1);
        if image.channels > 1 && samples == 1 {
            return Err(Error::input(
                container.file.path(),
                format!("holds {} channels as separate grey images", image.channels),
                "this is fluorescence or split colour, export a brightfield RGB slide",
            ));
        }
    }
    let (levels, rest) = vendor_generic::pyramid(container)?;
    // Directories that are no level belong to the images after the first, in order.
    let mut names = ome.images.iter().skip(1).map(|image| image.name.clone());
    let associated = rest
        .into_iter()
        .map(|(index, directory)| {
            let name = names.next().filter(|n| !n.is_empty()).unwrap_or_else(|| format!("page-{}", index + 1));
            Associated { name, directory: directory.clone() }
        })
        .collect();
    let scale = ome.images.first().and_then(|image| image.scale);
    let mut properties = vendor_generic::properties(container, first)?;
    properties.extend(ome.properties);
    Ok(Layout {
        vendor: "ome-tiff",
        levels,
        associated,
        scale: match scale {
            None => vendor_generic::resolution(container, first)?,
            known => known,
        },
        magnification: ome.magnification,
        properties,
    })
}

struct Image {
    name: String,
    channels: u64,
    scale: Option<Scale>,
}

struct Ome {
    images: Vec<Image>,
    magnification: Option<f64>,
    properties: Vec<(String, String)>,
}

fn read_xml(container: &Container, text: &str) -> Result<Ome> {
    let options = roxmltree::ParsingOptions { nodes_limit: 1 << 20, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|e| {
        Error::input(
            container.file.path(),
            format!("holds OME-XML that cannot be read ({e})"),
            "export the slide again, or as a plain pyramidal TIFF",
        )
    })?;
    let named = |name: &'static str| document.descendants().filter(move |n| n.tag_name().name() == name);
    let images = named("Image")
        .filter_map(|image| {
            let pixels = image.children().find(|n| n.tag_name().name() == "Pixels")?;
            let size = |axis: &str| {
                let value: f64 = pixels.attribute(format!("PhysicalSize{axis}").as_str())?.trim().parse().ok()?;
                Some(value * unit_um(pixels.attribute(format!("PhysicalSize{axis}Unit").as_str()))?)
            };
            let scale = size("X").and_then(|x| Scale::plausible(x, size("Y").unwrap_or(x), MppSource::OmeXml));
            Some(Image {
                name: image.attribute("Name").unwrap_or_default().to_string(),
                channels: pixels.attribute("SizeC").and_then(|c| c.trim().parse().ok()).unwrap_or(1),
                scale,
            })
        })
        .collect();
    let magnification = named("Objective")
        .filter_map(|n| n.attribute("NominalMagnification")?.trim().parse::<f64>().ok())
        .find(|m| m.is_finite() && *m > 0.0);
    let mut properties = Vec::new();
    for (element, attributes) in [
        ("Image", &["Name"][..]),
        ("Pixels", &["PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit", "SizeC"][..]),
        ("Objective", &["NominalMagnification", "Model", "LensNA"][..]),
        ("Microscope", &["Manufacturer", "Model"][..]),
    ] {
        if let Some(node) = named(element).next() {
            let present =
                attributes.iter().filter_map(|a| Some((format!("ome.{element}.{a}"), node.attribute(*a)?.into())));
            properties.extend(present);
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
