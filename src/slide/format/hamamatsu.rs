//! Hamamatsu: NDPI, a TIFF of 64-bit offsets under a 32-bit header whose levels are single huge JPEG images; VMS and
//! VMU, text files that name JPEG or NGR images beside them; NDPIS, a list of NDPI files.
//!
//! Marks: the tag 65420, or NanoZoomer as the scanner's model; the text files' first section. Source: OpenSlide's
//! description of the formats.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};
use crate::slide::container::{Container, tag};

pub static NDPI: Foreign = Foreign {
    what: "is a Hamamatsu NDPI slide",
    marks: is_ndpi,
    converter: Converter::Vips,
    openslide: Some("hamamatsu"),
};
pub static VMS: Foreign = Foreign {
    what: "is a Hamamatsu VMS file, the index of a slide's images",
    marks: |candidate| section(candidate, "Virtual Microscope Specimen"),
    converter: Converter::Vips,
    openslide: Some("hamamatsu"),
};
pub static VMU: Foreign = Foreign {
    what: "is a Hamamatsu VMU file, the index of a slide's images",
    marks: |candidate| section(candidate, "Uncompressed Virtual Microscope Specimen"),
    converter: Converter::Vips,
    openslide: Some("hamamatsu"),
};
pub static NDPIS: Foreign = Foreign {
    what: "is a Hamamatsu NDPIS file, a list of NDPI slides",
    marks: |candidate| section(candidate, "NanoZoomer Digital Pathology Image Set"),
    converter: Converter::Vips,
    openslide: None,
};
pub static NGR: Foreign = Foreign {
    what: "is a Hamamatsu NGR image, a part of a VMU slide",
    marks: |candidate| candidate.head().starts_with(b"GN") && candidate.extension() == "ngr",
    converter: Converter::Command("vips tiffsave IN.vmu OUT.tif --tile --pyramid --compression jpeg --Q 90 --bigtiff"),
    openslide: None,
};

fn is_ndpi(candidate: &Candidate) -> bool {
    let made_by_it = candidate.text(tag::MAKE).starts_with("Hamamatsu")
        && (candidate.text(tag::MODEL).starts_with("NanoZoomer") || candidate.extension() == "ndpi");
    let tagged = candidate.tiff().is_some_and(|tiff| tiff.directories[0].has(tag::NDPI_FORMAT));
    tagged || made_by_it || has_wide_offsets(candidate)
}

/// A file beyond 4 GiB: its first directory lies where all eight bytes behind the version say, and holds the tag.
fn has_wide_offsets(candidate: &Candidate) -> bool {
    let head = candidate.head();
    if !Container::recognises(head) || head.len() < 12 || head[2..4] != [42, 0] {
        return false;
    }
    let at = u64::from_le_bytes([4, 5, 6, 7, 8, 9, 10, 11].map(|k| head[k]));
    let Some(count) = candidate.bytes_at(at, 2) else { return false };
    let count = u64::from(u16::from_le_bytes([count[0], count[1]]));
    let tags = candidate.bytes_at(at.saturating_add(2), 12 * count).unwrap_or_default();
    tags.chunks_exact(12).any(|entry| entry[..2] == tag::NDPI_FORMAT.to_le_bytes())
}

/// True for a text file whose first section has this name.
fn section(candidate: &Candidate, name: &str) -> bool {
    let head = &candidate.head()[..candidate.head().len().min(4096)];
    let text = String::from_utf8_lossy(head);
    let first = text.trim_start_matches('\u{feff}').lines().map(str::trim).find(|line| !line.is_empty());
    first.and_then(|line| line.strip_prefix('[')?.strip_suffix(']')).is_some_and(|found| found == name)
}
