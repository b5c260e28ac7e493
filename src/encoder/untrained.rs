//! The StyleGAN pair's encoder before its first step: what its training has to be better than.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, registry};
use crate::{device::Device, error::Result, extractor::Extractor, image::RgbImage, io::checksum::Digest};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "untrained",
    title: "StyleGAN pair, untrained",
    cites: "the paper, section 3.2, drawn weights",
    with: |parameters| registry::with::<Untrained>(SPEC.name, parameters),
    cases: || vec![Arc::new(Untrained::default())],
};

/// Its sizes and its seed are those of `[extractor]`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untrained {}

impl Encoder for Untrained {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn cells_by_default(&self) -> bool {
        true
    }

    fn differs_by_scale(&self) -> bool {
        true
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        Ok(Extractor::untrained(site.extractor, &Device::cpu())?.digest())
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        Ok(Box::new(Drawn(Extractor::untrained(site.extractor, device)?)))
    }
}

struct Drawn(Extractor);

impl PatchEncoder for Drawn {
    fn d(&self) -> usize {
        self.0.d()
    }

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        self.0.encode(images)
    }
}
