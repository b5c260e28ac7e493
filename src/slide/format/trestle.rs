//! Trestle: a TIFF whose tiles overlap by the amounts that its description gives; read as they lie, they repeat tissue.
//!
//! Marks: MedScan as the software, or `OverlapsXY=` in a description of `key=value;` fields. Source: OpenSlide's
//! description of the format.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};
use crate::slide::container::tag;

pub static TRESTLE: Foreign =
    Foreign { what: "is a Trestle slide", marks, converter: Converter::Vips, openslide: Some("trestle") };

fn marks(candidate: &Candidate) -> bool {
    let text = candidate.description();
    let fields = || text.split(';').any(|field| field.trim_start().starts_with("OverlapsXY="));
    candidate.text(tag::SOFTWARE).starts_with("MedScan") || (!text.starts_with('<') && fields())
}
