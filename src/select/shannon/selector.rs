//! Selector `shannon`, the paper's and the default: bits of a compressed form of the patch, per pixel.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{
    jpeg,
    kernels::shannon::batch,
    order0,
    response::Response,
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
};

/// What the bits of a patch are counted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Codec {
    /// The project's lossless stream ([`super`]): a proven upper bound of the patch's description length.
    #[default]
    Lz,
    /// Entropy of predicted residuals ([`order0`]).
    Order0,
    /// Size of a baseline JPEG, 4:2:0 ([`jpeg`]).
    Jpeg { quality: u8 },
}

impl Codec {
    /// By name; `quality` (1 to 100) is for `jpeg` alone.
    ///
    /// # Errors
    /// Another name, or a quality that JPEG does not have.
    pub fn named(name: &str, quality: u8) -> Result<Codec> {
        match name {
            "lz" => Ok(Codec::Lz),
            "order0" => Ok(Codec::Order0),
            "jpeg" if (1..=100).contains(&quality) => Ok(Codec::Jpeg { quality }),
            "jpeg" => Err(Error::Usage(format!("JPEG has no quality {quality}; give 1 to 100"))),
            _ => Err(Error::Usage(format!("there is no codec `{name}`; choose lz, order0 or jpeg"))),
        }
    }

    /// Bits of an image. Single-threaded: patches, not parts of them, are spread over cores.
    pub fn bits(self, image: &RgbImage) -> u64 {
        match self {
            Codec::Lz => super::bits(image),
            Codec::Order0 => order0::bits(image),
            Codec::Jpeg { quality } => jpeg::bits(image, quality),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Codec::Lz => "lz",
            Codec::Order0 => "order0",
            Codec::Jpeg { .. } => "jpeg",
        }
    }
}

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "shannon",
    title: "Shannon",
    unit: "bits per pixel",
    counts_bits: true,
    flags: &[
        Flag {
            long: "codec",
            key: "codec",
            value_name: Some("CODEC"),
            help: "What bits are counted with: lz, order0 or jpeg [default: lz]",
        },
        Flag {
            long: "quality",
            key: "jpeg_quality",
            value_name: Some("Q"),
            help: "Quality of `--codec jpeg`, 1 to 100 [default: 75]",
        },
    ],
    short_keys: &["codec", "jpeg_quality"],
    with: |parameters| selector::with::<Shannon>("shannon", parameters),
};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shannon {
    /// `lz`, `order0` or `jpeg`.
    pub codec: String,
    /// For `jpeg`.
    pub jpeg_quality: u8,
}

impl Default for Shannon {
    fn default() -> Shannon {
        Codec::default().into()
    }
}

impl From<Codec> for Shannon {
    fn from(codec: Codec) -> Shannon {
        let jpeg_quality = if let Codec::Jpeg { quality } = codec { quality } else { jpeg::DEFAULT_QUALITY };
        Shannon { codec: codec.name().to_string(), jpeg_quality }
    }
}

impl From<Codec> for Arc<dyn Selector> {
    fn from(codec: Codec) -> Arc<dyn Selector> {
        Arc::new(Shannon::from(codec))
    }
}

impl Shannon {
    fn codec(&self) -> Result<Codec> {
        Codec::named(&self.codec, self.jpeg_quality)
    }
}

impl Selector for Shannon {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        match self.codec() {
            Ok(Codec::Jpeg { quality }) => format!("shannon jpeg q{quality}"),
            _ => format!("shannon {}", self.codec),
        }
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.codec().map(drop)
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(ShannonScore { codec: self.codec()?, device: selector::accelerator(device) }))
    }
}

struct ShannonScore {
    codec: Codec,
    device: Option<Device>,
}

impl Score for ShannonScore {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        let codec = self.codec;
        match &self.device {
            None => Work::Each(Box::new(move |image| codec.bits(image) as f64)),
            Some(device) => Work::Queued(Box::new(move |images| {
                let pixels = batch(images, device)?;
                let scores = match codec {
                    Codec::Lz => pixels.shannon_bits()?,
                    Codec::Order0 => pixels.shannon_order0()?,
                    Codec::Jpeg { quality } => pixels.shannon_jpeg(quality)?,
                };
                let bits = move |score: u64| match codec {
                    Codec::Lz => score,
                    Codec::Order0 => order0::whole_bits(score),
                    Codec::Jpeg { .. } => jpeg::file_bits(score),
                };
                Ok(Box::new(move || Ok(scores.to_scores()?.into_iter().map(|score| bits(score) as f64).collect())))
            })),
        }
    }

    /// Predicted cost in bits, under the image's own residual statistics.
    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        Ok(Response::of(image, order0::costs(image)))
    }
}
