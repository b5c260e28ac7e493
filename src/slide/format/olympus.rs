//! Olympus (Evident): `SLIDE.vsi` is a TIFF of label and overview with Olympus' own tags behind its header; the slide lies
//! in `.ets` files in the folder `_SLIDE_` beside it.
//!
//! Marks: the volume header (24 bytes long, version 21321) at byte 8; `SIS` at the start of an `.ets` file. Source:
//! Bio-Formats' reader of the format.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};
use crate::slide::container::Container;

pub static VSI: Foreign =
    Foreign { what: "is an Olympus VSI slide", marks: is_vsi, converter: Converter::BioFormats, openslide: None };
pub static ETS: Foreign = Foreign {
    what: "is an Olympus ETS file, a part of a VSI slide",
    marks: |candidate| candidate.head().starts_with(b"SIS\0") && candidate.head().get(4..8) == Some(&[64, 0, 0, 0]),
    converter: Converter::Command(
        "bfconvert -noflat -series 0 -tilex 512 -tiley 512 -compression zlib SLIDE.vsi OUT.ome.tif",
    ),
    openslide: None,
};

fn is_vsi(candidate: &Candidate) -> bool {
    let head = candidate.head();
    let volume_header = Container::recognises(head) && head.get(8..12) == Some(&[24, 0, 0x49, 0x53]);
    let folder = || {
        let stem = candidate.path().file_stem().unwrap_or_default().to_string_lossy();
        candidate.path().with_file_name(format!("_{stem}_")).is_dir()
    };
    volume_header
        || (!candidate.is_folder() && (candidate.extension() == "vsi" || (Container::recognises(head) && folder())))
}
