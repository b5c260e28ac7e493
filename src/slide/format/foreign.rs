//! Formats that are recognised and not read: refused by name, with the command that converts them.

use super::{Candidate, Format, Opened};
use crate::error::{Error, Result};

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

/// A format that is known and not read.
pub struct Foreign {
    /// A clause: "is a Leica SCN slide".
    pub what: &'static str,
    pub marks: fn(&Candidate) -> bool,
    pub converter: Converter,
}

impl Format for Foreign {
    fn recognises(&self, candidate: &Candidate) -> bool {
        (self.marks)(candidate)
    }

    fn open(&self, candidate: Candidate) -> Result<Opened> {
        let problem = format!("{}, which is not read here", self.what);
        Err(Error::input(candidate.path(), problem, self.converter.remedy()))
    }
}
