//! DICOM: one file per level, one item of a study per slide.
//!
//! Marks: `DICM` behind a preamble of 128 bytes, or, in files without one, the first element of the file meta group. A
//! file that is TIFF and DICOM at once is read as the TIFF it is.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};

pub static DICOM: Foreign =
    Foreign { what: "is a DICOM file", marks, converter: Converter::Vips, openslide: Some("dicom") };

fn marks(candidate: &Candidate) -> bool {
    let head = candidate.head();
    let without_preamble = head.starts_with(&[2, 0, 0, 0, b'U', b'L', 4, 0]);
    candidate.tiff.is_none() && (head.get(128..132) == Some(b"DICM") || without_preamble)
}
