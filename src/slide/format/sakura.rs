//! Sakura VisionTek: `.svslide`, a SQLite data base of tiles. Marks: its tables `SVSlideDataXPO` and the like.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};

pub static SVSLIDE: Foreign =
    Foreign { what: "is a Sakura slide (svslide)", marks, converter: Converter::Vips, openslide: Some("sakura") };

fn marks(candidate: &Candidate) -> bool {
    let head = candidate.head();
    head.starts_with(b"SQLite format 3\0")
        && (candidate.extension() == "svslide" || head.windows(7).any(|w| w == b"SVSlide"))
}
