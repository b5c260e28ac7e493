//! Philips: TIFF, whose level sizes are rounded up to whole tiles and must be corrected from its XML, and iSyntax, a
//! wavelet format of its own. Both describe themselves in an XML document whose root is `DataObject`.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
    xml_root,
};
use crate::slide::container::tag;

pub static PHILIPS_TIFF: Foreign =
    Foreign { what: "is a Philips TIFF slide", marks: is_tiff, converter: Converter::Vips, openslide: Some("philips") };
pub static ISYNTAX: Foreign = Foreign {
    what: "is a Philips iSyntax slide",
    marks: is_isyntax,
    converter: Converter::Command("isyntax-to-tiff IN OUT.tif (of libisyntax)"),
    openslide: None,
};

fn is_root(text: &str) -> bool {
    let root = xml_root(text);
    root.starts_with("DataObject") && root.contains("DPUfsImport")
}

fn is_tiff(candidate: &Candidate) -> bool {
    candidate.tiff().is_some()
        && (candidate.text(tag::SOFTWARE).starts_with("Philips") || is_root(&candidate.description()))
}

fn is_isyntax(candidate: &Candidate) -> bool {
    let head = &candidate.head()[..candidate.head().len().min(8192)];
    candidate.tiff().is_none() && is_root(&String::from_utf8_lossy(head))
}
