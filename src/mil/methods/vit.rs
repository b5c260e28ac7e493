//! A vision transformer over a slide's patches, each patch one token made of its global vector: the paper's ViT-S and ViT-B,
//! which see nothing of what lies within a patch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    mil::{
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Dims, Mode, Network, PatchEncoder, Patches},
        transformer::{PatchEmbedding, Transformer, TransformerConfig},
    },
    nn::builder::Builder,
    preset::Preset,
    tensor::Tensor,
};

const CITES: &str = "Dosovitskiy et al.: An Image is Worth 16x16 Words. ICLR 2021; sizes of Touvron et al. 2021";

/// `[train.vit-s]`, `[train.vit-b]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Vit {
    #[serde(flatten)]
    pub transformer: TransformerConfig,
}

pub const SMALL: MethodSpec = MethodSpec {
    name: "vit-s",
    title: "ViT-S",
    cites: CITES,
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => Vit { transformer: TransformerConfig::vit_s() },
            Preset::Small => Vit { transformer: TransformerConfig::small() },
        })
    },
    training: |_, _| {},
    with: with::<Vit>,
    cases: || {
        let case = |transformer| Arc::new(Vit { transformer }) as Arc<dyn Method>;
        TransformerConfig::cases().into_iter().map(case).collect()
    },
};

pub const BASE: MethodSpec = MethodSpec {
    name: "vit-b",
    title: "ViT-B",
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => Vit { transformer: TransformerConfig::vit_b() },
            Preset::Small => {
                let small = TransformerConfig::small();
                Vit { transformer: TransformerConfig { vit_width: 64, vit_depth: 2, vit_heads: 4, ..small } }
            }
        })
    },
    ..SMALL
};

impl Method for Vit {
    fn check(&self) -> Result<()> {
        self.transformer.check()
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        self.transformer.input(Reads::GLOBAL).reads
    }

    /// Parameters `embed.*`, then the transformer's.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let embedding = PatchEmbedding::new(b, &self.transformer, dims.features.global)?;
        let transformer = Transformer::new(b, &self.transformer, dims.genes)?;
        Ok(Network::new(self.transformer.input(Reads::GLOBAL), OfGlobal(embedding), transformer))
    }
}

/// A token is the embedded global vector.
struct OfGlobal(PatchEmbedding);

impl PatchEncoder for OfGlobal {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        self.0.forward(patches.global()?, patches, mode)
    }
}
