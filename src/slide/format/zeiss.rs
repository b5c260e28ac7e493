//! Zeiss: CZI of the Axioscan, segments of tiles that overlap and may be JPEG XR.

use super::foreign::{Converter, Foreign};

pub static CZI: Foreign = Foreign {
    what: "is a Zeiss CZI slide",
    marks: |candidate| candidate.head().starts_with(b"ZISRAW"),
    converter: Converter::BioFormats,
    openslide: Some("zeiss"),
};
