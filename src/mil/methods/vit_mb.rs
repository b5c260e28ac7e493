//! ViT-MB: MBConv blocks over a patch's local cube, averaged over its cells, and a vision transformer over the patches. The
//! paper's network without its global vectors and the fusion with them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    mil::{
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Dims, Mode, Network, PatchEncoder, Patches},
        transformer::{PatchEmbedding, Transformer, TransformerConfig},
    },
    nn::{
        builder::Builder,
        mbconv::{MbConv, MbConvConfig},
        norm::NormKind,
    },
    preset::Preset,
    tensor::Tensor,
};

/// `[train.vit-mb]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VitMb {
    pub mbconv_blocks: usize,
    pub mbconv_expansion: usize,
    pub mbconv_kernel: usize,
    /// Squeezed channels as a share of a cell's numbers.
    pub squeeze_ratio: f64,
    pub mbconv_norm: NormKind,
    #[serde(flatten)]
    pub transformer: TransformerConfig,
}

impl VitMb {
    /// As ISG-10-2, fusions left out.
    pub fn paper() -> VitMb {
        VitMb {
            mbconv_blocks: 10,
            mbconv_expansion: 4,
            mbconv_kernel: 3,
            squeeze_ratio: 0.25,
            mbconv_norm: NormKind::Layer,
            transformer: TransformerConfig::vit_s(),
        }
    }

    /// For cohorts of tens of slides.
    pub fn small() -> VitMb {
        VitMb { mbconv_blocks: 1, mbconv_expansion: 2, transformer: TransformerConfig::small(), ..VitMb::paper() }
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "vit-mb",
    title: "ViT-MB",
    cites: "Yang, Pan, Liu, Stone: ISG: I can See Your Gene Expression. BMVC 2022",
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => VitMb::paper(),
            Preset::Small => VitMb::small(),
        })
    },
    training: |_, _| {},
    with: with::<VitMb>,
    cases: || {
        let norms = [NormKind::Batch, NormKind::Layer, NormKind::Batch];
        let case = |(transformer, mbconv_norm)| {
            Arc::new(VitMb { mbconv_blocks: 2, mbconv_norm, transformer, ..VitMb::small() }) as Arc<dyn Method>
        };
        TransformerConfig::cases().into_iter().zip(norms).map(case).collect()
    },
};

impl Method for VitMb {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::Usage(what.to_string()));
        if self.mbconv_expansion == 0 || self.mbconv_kernel.is_multiple_of(2) {
            return wrong("mbconv_expansion is at least 1, mbconv_kernel is odd");
        }
        if !(self.squeeze_ratio > 0.0 && self.squeeze_ratio <= 64.0) {
            return wrong("squeeze_ratio goes from above 0 to 64");
        }
        self.transformer.check()
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        self.transformer.input(Reads::CUBE).reads
    }

    /// Parameters `mbconv.{i}.*`, `embed.*`, then the transformer's.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let width = dims.features.cell;
        let mbconv = MbConvConfig {
            inputs: width,
            outputs: width,
            expansion: self.mbconv_expansion,
            kernel: self.mbconv_kernel,
            stride: 1,
            squeeze: ((width as f64 * self.squeeze_ratio) as usize).max(1),
            norm: self.mbconv_norm,
        };
        let blocks = (0..self.mbconv_blocks).map(|i| b.scope(&format!("mbconv.{i}"), |b| MbConv::new(b, mbconv)));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let embedding = PatchEmbedding::new(b, &self.transformer, width)?;
        let transformer = Transformer::new(b, &self.transformer, dims.genes)?;
        Ok(Network::new(self.transformer.input(Reads::CUBE), OfCube { blocks, embedding }, transformer))
    }
}

struct OfCube {
    blocks: Vec<MbConv>,
    embedding: PatchEmbedding,
}

impl PatchEncoder for OfCube {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let mut x = patches.cube()?.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, moved) = block.forward(&x, mode.is_training())?;
            x = y;
            mode.moved(&format!("mbconv.{i}"), moved);
        }
        self.embedding.forward(&x.global_avg_pool()?, patches, mode)
    }
}
