//! MIRAX (3DHISTECH): `SLIDE.mrxs` is a JPEG overview; the slide lies in the folder `SLIDE` beside it, in `.dat` files
//! that `Slidedat.ini` explains.
//!
//! Marks: nothing in the overview tells it from any JPEG image, so its name or the folder beside it must.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};

pub static MIRAX: Foreign = Foreign {
    what: "is the overview image of a MIRAX slide",
    marks: is_overview,
    converter: Converter::Vips,
    openslide: Some("mirax"),
};
pub static SLIDEDAT: Foreign = Foreign {
    what: "is a part of a MIRAX slide",
    marks: is_slidedat,
    converter: Converter::Command(
        "vips tiffsave SLIDE.mrxs OUT.tif --tile --pyramid --compression jpeg --Q 90 --bigtiff",
    ),
    openslide: None,
};

fn is_overview(candidate: &Candidate) -> bool {
    if candidate.is_folder() {
        return false;
    }
    let folder = candidate.path().with_extension("");
    let beside = || ["Slidedat.ini", "SLIDEDAT.INI", "slidedat.ini"].iter().any(|name| folder.join(name).is_file());
    candidate.extension() == "mrxs" || (candidate.head().starts_with(&[0xff, 0xd8, 0xff]) && beside())
}

/// `Slidedat.ini` itself, or the folder that holds it.
fn is_slidedat(candidate: &Candidate) -> bool {
    if candidate.is_folder() {
        return candidate.path().join("Slidedat.ini").is_file();
    }
    let head = String::from_utf8_lossy(&candidate.head()[..candidate.head().len().min(4096)]);
    let text = head.trim_start_matches('\u{feff}').trim_start();
    text.starts_with("[GENERAL]") && text.contains("SLIDE_")
}
