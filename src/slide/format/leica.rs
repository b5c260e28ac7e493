//! Leica: SCN, a BigTIFF whose first image is the overview of the glass, and LIF, a container of microscope images.
//!
//! Marks: SCN describes itself in XML with the root element `scn` of Leica's namespace; LIF begins with a block header.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
    xml_root,
};

pub static SCN: Foreign =
    Foreign { what: "is a Leica SCN slide", marks: is_scn, converter: Converter::Vips, openslide: Some("leica") };
pub static LIF: Foreign =
    Foreign { what: "is a Leica LIF file", marks: is_lif, converter: Converter::BioFormats, openslide: None };

fn is_scn(candidate: &Candidate) -> bool {
    let text = candidate.description();
    let root = xml_root(&text);
    root.split_whitespace().next().is_some_and(|name| name.rsplit(':').next() == Some("scn"))
        && root.contains("leica-microsystems")
}

/// A block of memory type 0x70, its length, the test byte 0x2a, then UTF-16 text.
fn is_lif(candidate: &Candidate) -> bool {
    let head = candidate.head();
    head.starts_with(&[0x70, 0, 0, 0]) && head.get(8) == Some(&0x2a) && head.get(13..17) == Some(b"<\0L\0")
}
