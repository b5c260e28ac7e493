//! Ventana (Roche): BIF, and the `.tif` of the older iScan Coreo. A BigTIFF whose first images are the label and a
//! probability map; its tiles overlap, and its XMP says by how much.
//!
//! Marks: XMP with an `iScan` element, or descriptions such as `level=0 mag=40 quality=95`, in any of the first
//! directories. Source: Roche's BIF white paper; OpenSlide's description of the format.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};
use crate::slide::container::tag;

pub static VENTANA: Foreign =
    Foreign { what: "is a Ventana slide (BIF, iScan)", marks, converter: Converter::Vips, openslide: Some("ventana") };

/// Label, probability map and level 0 come first.
const DIRECTORIES: usize = 8;

fn marks(candidate: &Candidate) -> bool {
    let Some(tiff) = candidate.tiff() else { return false };
    tiff.directories.iter().take(DIRECTORIES).any(|directory| {
        let xmp = tiff.bytes(directory, tag::XMP).ok().flatten().unwrap_or_default();
        let described = || {
            let text = tiff.text(directory, tag::IMAGE_DESCRIPTION).ok().flatten().unwrap_or_default();
            text.starts_with("level=") && text.contains(" mag=")
        };
        xmp.windows(5).any(|w| w == b"iScan") || described()
    })
}
