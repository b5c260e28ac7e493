//! What a vendor module makes of a container: which directories are levels, which are associated images, what the
//! metadata says. A format is recognised by its first directory; the generic reading comes last.

use super::{
    container::{Container, Directory},
    scale::Scale,
    vendor_aperio, vendor_generic, vendor_ome,
};
use crate::error::Result;

/// A picture beside the slide: thumbnail, label, macro photograph.
pub struct Associated {
    pub name: String,
    pub directory: Directory,
}

/// A container understood.
pub struct Layout {
    pub vendor: &'static str,
    /// Level 0 first, each smaller than the one before.
    pub levels: Vec<Directory>,
    pub associated: Vec<Associated>,
    pub scale: Option<Scale>,
    pub magnification: Option<f64>,
    pub properties: Vec<(String, String)>,
}

pub fn interpret(container: &Container) -> Result<Layout> {
    if vendor_aperio::recognises(container) {
        vendor_aperio::interpret(container)
    } else if vendor_ome::recognises(container) {
        vendor_ome::interpret(container)
    } else {
        vendor_generic::interpret(container)
    }
}
