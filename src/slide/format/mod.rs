//! The kinds of slide files, one file per vendor, and the list of them.
//!
//! A [`Format`] recognises a file by its own marks (tags, XML, magic bytes; a name only where the bytes say nothing) and
//! opens it. Formats that are known and not read are foreign: they are recognised all the same, because many of them
//! are TIFF or JPEG files whose first image is a label or an overview, which would be read in place of the slide. The
//! first format of [`FORMATS`] that recognises a file has it, so what is special comes before what is general.
//!
//! To add a vendor: its file here, and its name in the list.

mod akoya;
mod aperio;
mod dicom;
mod foreign;
mod generic;
mod hamamatsu;
mod leica;
mod mirax;
mod not_a_slide;
mod olympus;
mod ome;
mod ome_zarr;
mod philips;
mod plain_image;
mod pyramid;
mod sakura;
mod trestle;
mod ventana;
mod zeiss;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    container::{Container, Directory, clause, tag},
    file::PositionedFile,
    openslide::{self, OpenSlide},
    page::Page,
    scale::Scale,
};
use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// One kind of slide file.
pub trait Format: Sync {
    /// Whether the file bears this format's marks. Reads little, and never fails: what cannot be read bears no mark.
    fn recognises(&self, candidate: &Candidate) -> bool;

    /// Reads the metadata; an error in one sentence where the slide cannot be used.
    fn open(&self, candidate: Candidate) -> Result<Opened>;
}

/// Every format, in the order in which they are asked.
pub static FORMATS: &[&dyn Format] = &[
    &not_a_slide::EMPTY,
    &ome_zarr::OME_ZARR,
    &olympus::VSI,
    &olympus::ETS,
    &hamamatsu::NDPI,
    &hamamatsu::NDPIS,
    &hamamatsu::VMS,
    &hamamatsu::VMU,
    &hamamatsu::NGR,
    &ventana::VENTANA,
    &leica::SCN,
    &leica::LIF,
    &philips::PHILIPS_TIFF,
    &philips::ISYNTAX,
    &akoya::QPTIFF,
    &trestle::TRESTLE,
    &mirax::MIRAX,
    &mirax::SLIDEDAT,
    &zeiss::CZI,
    &dicom::DICOM,
    &sakura::SVSLIDE,
    &aperio::Aperio,
    &ome::OmeTiff,
    &generic::GenericTiff,
    &plain_image::PlainImage,
    &not_a_slide::NotASlide,
];

/// A file or folder before anyone knows what it is.
pub struct Candidate {
    path: PathBuf,
    /// `None` for a folder.
    file: Option<PositionedFile>,
    head: Vec<u8>,
    tiff: Option<Result<Container>>,
}

/// The most bytes of a file that marks are looked for in.
const HEAD_BYTES: u64 = 64 << 10;

impl Candidate {
    pub fn open(path: &Path) -> Result<Candidate> {
        let path = path.to_path_buf();
        if path.is_dir() {
            return Ok(Candidate { path, file: None, head: Vec::new(), tiff: None });
        }
        let file = PositionedFile::open(&path)?;
        let head = file.read(0, file.len_bytes().min(HEAD_BYTES))?;
        let tiff = match Container::recognises(&head) {
            // The container has the file to itself; opening it twice costs nothing.
            true => Some(Container::open(PositionedFile::open(&path)?)),
            false => None,
        };
        Ok(Candidate { path, file: Some(file), head, tiff })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Up to 64 KiB of the file's beginning; nothing for a folder.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    pub fn is_folder(&self) -> bool {
        self.file.is_none()
    }

    /// The name's last extension in lower case.
    pub fn extension(&self) -> String {
        self.path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
    }

    /// The file itself; an error for a folder.
    pub fn file(self) -> Result<PositionedFile> {
        self.file.ok_or_else(|| Error::input(&self.path, "is a folder", "name a slide file"))
    }

    /// `count` bytes at `offset`, if the file has them.
    fn bytes_at(&self, offset: u64, count: u64) -> Option<Vec<u8>> {
        self.file.as_ref()?.read(offset, count).ok()
    }

    /// The directories of a readable TIFF.
    pub fn tiff(&self) -> Option<&Container> {
        self.tiff.as_ref()?.as_ref().ok()
    }

    /// The container of a TIFF, or why it cannot be read.
    fn into_tiff(self) -> Result<Container> {
        self.tiff.unwrap_or_else(|| Err(Error::input(&self.path, "has no TIFF signature", "name a slide file")))
    }

    /// A text tag of the first directory; empty where there is none.
    fn text(&self, tag: u16) -> String {
        let text = self.tiff().and_then(|tiff| tiff.text(&tiff.directories[0], tag).ok().flatten());
        text.unwrap_or_default()
    }

    fn description(&self) -> String {
        self.text(tag::IMAGE_DESCRIPTION)
    }
}

/// The start tag of an XML text's root element, as `scn xmlns="..."`; empty for other text. What else a text mentions is
/// no mark: converters copy the original's metadata into their own.
fn xml_root(text: &str) -> &str {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ if rest.starts_with("<!") => ">",
            _ => break,
        };
        let Some((_, after)) = rest.split_once(end) else { return "" };
        rest = after.trim_start();
    }
    rest.strip_prefix('<').map_or("", |root| root.split('>').next().unwrap_or_default())
}

/// An image beside the slide: thumbnail, label, macro photograph.
pub struct Associated {
    pub name: String,
    pub directory: Directory,
}

/// Where the pixels are.
pub enum Source {
    /// One page per level, the largest first.
    Tiff {
        container: Container,
        pages: Vec<Page>,
        associated: Vec<Associated>,
    },
    Image(Arc<RgbImage>),
    OpenSlide(OpenSlide),
}

/// A slide's metadata, read and checked.
pub struct Opened {
    pub vendor: &'static str,
    pub source: Source,
    pub scale: Option<Scale>,
    pub magnification: Option<f64>,
    pub properties: Vec<(String, String)>,
    /// What of the file is not used, and what is odd about the rest.
    pub remarks: Vec<String>,
}

/// A TIFF container understood.
struct Layout {
    vendor: &'static str,
    /// The largest first.
    levels: Vec<Directory>,
    associated: Vec<Associated>,
    scale: Option<Scale>,
    magnification: Option<f64>,
    properties: Vec<(String, String)>,
    remarks: Vec<String>,
}

impl Layout {
    /// Reads where the levels' tiles lie. A level below the first that is damaged or of a kind not decoded is left out
    /// with a remark: what is coarser than level 0 only saves time.
    fn opened(mut self, container: Container) -> Result<Opened> {
        let mut pages: Vec<Page> = Vec::with_capacity(self.levels.len());
        for directory in &self.levels {
            match Page::read(&container, directory) {
                Ok(page) => pages.push(page),
                Err(error) if pages.is_empty() => return Err(error),
                Err(error) => {
                    let size = |tag| container.uint(directory, tag).ok().flatten().unwrap_or(0);
                    let (width, height) = (size(tag::IMAGE_WIDTH), size(tag::IMAGE_LENGTH));
                    self.remarks.push(format!("the level of {width} x {height} px is left out: it {}", clause(error)?));
                }
            }
        }
        for image in &self.associated {
            if let Err(error) = Page::read(&container, &image.directory) {
                self.remarks.push(format!("the image {} cannot be read: it {}", image.name, clause(error)?));
            }
        }
        Ok(Opened {
            vendor: self.vendor,
            source: Source::Tiff { container, pages, associated: self.associated },
            scale: self.scale,
            magnification: self.magnification,
            properties: self.properties,
            remarks: self.remarks,
        })
    }
}

/// Finds the format of a file and opens it.
pub fn open(path: &Path) -> Result<Opened> {
    let candidate = Candidate::open(path)?;
    // The last format recognises everything.
    match FORMATS.iter().find(|format| format.recognises(&candidate)) {
        Some(format) => format.open(candidate),
        None => Err(Error::input(path, "is not a slide that can be read", "name a slide file")),
    }
}

/// Opens a file through OpenSlide, whatever it is.
pub(super) fn open_through_openslide(path: &Path) -> Result<Opened> {
    openslide::open(path, None).map_err(|refusal| match refusal {
        openslide::Refusal::NoLibrary(why) => Error::input(path, format!("is not read: {why}"), openslide::INSTALL),
        openslide::Refusal::NotOpened(why) => Error::input(path, format!("is a file that {why}"), "name a slide file"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_element_is_found_behind_declarations() {
        assert_eq!(xml_root("\u{feff}<?xml version=\"1.0\"?>\n<!-- x > y --><scn xmlns=\"u\"><a/>"), "scn xmlns=\"u\"");
        assert_eq!(xml_root("<?xml never closed"), "");
        assert_eq!(xml_root("Aperio <scn>"), "");
    }
}
