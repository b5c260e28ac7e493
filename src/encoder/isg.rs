//! The paper's encoder: that of the StyleGAN pair, trained on the run's patches, each scale its own ([`crate::extractor`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, registry};
use crate::{
    device::Device,
    dtype::DType,
    error::Result,
    extractor::{
        self, Extractor,
        config::ExtractorConfig,
        lpips::Lpips,
        patches::PatchSource,
        training::{self, StepRecord},
    },
    image::RgbImage,
    io::checksum::Digest,
    progress::Progress,
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "isg",
    title: "StyleGAN pair",
    cites: "the paper, section 3.2; S2FGAN, Yang et al. 2022",
    with: |parameters| registry::with::<Isg>(SPEC.name, parameters),
    cases: || vec![Arc::new(Isg::default())],
};

/// Its settings are those of `[extractor]`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isg {}

impl Encoder for Isg {
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

    fn learns(&self) -> bool {
        true
    }

    fn probe(&self, site: Site) -> Result<usize> {
        let ExtractorConfig { lpips, d, .. } = site.extractor;
        if site.extractor.lpips_weight() > 0.0 && lpips.is_trained() {
            Lpips::load(lpips.weights.as_ref(), &lpips.linear, DType::F32, &Device::cpu())?;
        }
        Ok(*d)
    }

    fn trainable(&self, site: Site) -> Result<usize> {
        extractor::parameters(site.extractor)
    }

    fn curve(&self, site: Site) -> Result<Vec<StepRecord>> {
        training::curve(site.dir)
    }

    fn learn(&self, site: Site, source: &dyn PatchSource, device: &Device, progress: &dyn Progress) -> Result<()> {
        training::renew(site.extractor, source, site.dir, device, progress).map(drop)
    }

    fn has_learned(&self, site: Site, source: &dyn PatchSource) -> Result<bool> {
        training::is_finished(site.extractor, source, site.dir)
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        training::checksum(site.dir)
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        Ok(Box::new(Extractor::load(site.dir, device)?))
    }
}

impl PatchEncoder for Extractor {
    fn d(&self) -> usize {
        Extractor::d(self)
    }

    fn digest(&self) -> Digest {
        Extractor::digest(self)
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        Extractor::encode(self, images)
    }

    fn extractor(&self) -> Option<&Extractor> {
        Some(self)
    }
}
