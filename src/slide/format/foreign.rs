//! Formats that are recognised and not decoded here: read through OpenSlide where it knows them and is on the machine, else refused
//! by name, with what to install and the command that converts them.

use super::{Candidate, Format, Opened};
use crate::{
    error::{Error, Result},
    slide::openslide::{self, Refusal},
};

/// A program that reads a format and writes one that is read here.
#[derive(Clone, Copy)]
pub enum Converter {
    /// libvips with OpenSlide.
    Vips,
    /// Bio-Formats' command line tools.
    BioFormats,
    /// Any other command.
    Command(&'static str),
}

impl Converter {
    fn remedy(self) -> String {
        match self {
            Converter::Vips => {
                "convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90 --bigtiff \
                                (with OpenSlide)"
                    .into()
            }
            Converter::BioFormats => "convert it: bfconvert -noflat -series 0 -tilex 512 -tiley 512 -compression zlib \
                                      IN OUT.ome.tif (showinf -nopix IN lists the series)"
                .into(),
            Converter::Command(command) => format!("convert it: {command}"),
        }
    }
}

/// A format that is known and not decoded here.
pub struct Foreign {
    /// A clause: "is a Leica SCN slide".
    pub what: &'static str,
    pub marks: fn(&Candidate) -> bool,
    pub converter: Converter,
    /// What OpenSlide calls the vendor, where it reads the format.
    pub openslide: Option<&'static str>,
}

impl Format for Foreign {
    fn recognises(&self, candidate: &Candidate) -> bool {
        (self.marks)(candidate)
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let (path, remedy) = (candidate.path(), self.converter.remedy());
        let Some(vendor) = self.openslide else {
            return Err(Error::input(path, format!("{}, which is not read here", self.what), remedy));
        };
        openslide::open(path, Some(vendor)).map_err(|refusal| match refusal {
            Refusal::NoLibrary(why) => {
                let problem = format!("{}, read through OpenSlide, and {why}", self.what);
                Error::input(path, problem, format!("{}, or {remedy}", openslide::INSTALL))
            }
            Refusal::NotOpened(why) => Error::input(path, format!("{}, which {why}", self.what), remedy),
        })
    }
}
