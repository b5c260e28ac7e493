//! Akoya (PerkinElmer): QPTIFF of the Vectra and PhenoImager scanners, a TIFF with one directory per channel and level.
//!
//! Marks: PerkinElmer-QPI as the software, or as the root of the description's XML.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
    xml_root,
};
use crate::slide::container::tag;

pub static QPTIFF: Foreign = Foreign {
    what: "is an Akoya (PerkinElmer) QPTIFF slide",
    marks,
    converter: Converter::BioFormats,
    openslide: None,
};

fn marks(candidate: &Candidate) -> bool {
    candidate.text(tag::SOFTWARE).starts_with("PerkinElmer-QPI")
        || xml_root(&candidate.description()).starts_with("PerkinElmer-QPI")
}
