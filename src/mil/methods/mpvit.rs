//! MPViT in the place of convolutions: four stages of multi-path transformers over a patch's cube, averaged to a token, then the
//! vision transformer over the slide. The stem that halves a photograph twice is a 1x1 layer here: a cube is small already.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    activation::Activation,
    device::nvtx,
    error::{Error, Result},
    mil::{
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Dims, Mode, Network, PatchEncoder, Patches},
        transformer::{PatchEmbedding, Transformer, TransformerConfig},
    },
    nn::{
        Builder,
        linear::Linear,
        mpvit::{HEADS, MpvitConfig, MpvitStage},
        norm::{Norm, NormKind, RunningStats},
    },
    preset::Preset,
    tensor::Tensor,
};

/// `[train.mpvit]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Mpvit {
    /// Channels of the four stages, multiples of 8; each but the first begins by halving the cube's sides.
    pub dims: [usize; 4],
    /// Receptive fields side by side in each stage.
    pub paths: [usize; 4],
    /// Transformer blocks of each path.
    pub layers: [usize; 4],
    /// Hidden width of the MLPs as a multiple of the channels.
    pub mlp_ratio: usize,
    #[serde(flatten)]
    pub transformer: TransformerConfig,
}

impl Mpvit {
    /// MPViT-XSmall, 10.6 M parameters, and ViT-S.
    pub fn paper() -> Mpvit {
        Mpvit {
            dims: [64, 128, 192, 256],
            paths: [2, 3, 3, 3],
            layers: [1, 2, 4, 1],
            mlp_ratio: 4,
            transformer: TransformerConfig::vit_s(),
        }
    }

    /// For cohorts of tens of slides.
    pub fn small() -> Mpvit {
        Mpvit {
            dims: [16, 16, 24, 32],
            paths: [2; 4],
            layers: [1; 4],
            mlp_ratio: 2,
            transformer: TransformerConfig::small(),
        }
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "mpvit",
    title: "MPViT",
    cites: "Lee et al.: MPViT: Multi-Path Vision Transformer for Dense Prediction. CVPR 2022",
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => Mpvit::paper(),
            Preset::Small => Mpvit::small(),
        })
    },
    training: |_, _| {},
    with: with::<Mpvit>,
    cases: || {
        let small = Mpvit { dims: [8, 8, 8, 16], paths: [1, 2, 1, 1], layers: [1, 2, 1, 1], ..Mpvit::small() };
        let all = TransformerConfig::cases().into_iter();
        all.map(|transformer| Arc::new(Mpvit { transformer, ..small.clone() }) as Arc<dyn Method>).collect()
    },
};

impl Method for Mpvit {
    fn check(&self) -> Result<()> {
        if self.dims.iter().any(|c| *c == 0 || !c.is_multiple_of(HEADS)) {
            return Err(Error::Usage(format!("dims are multiples of the {HEADS} heads")));
        }
        if self.paths.contains(&0) || self.mlp_ratio == 0 {
            return Err(Error::Usage("paths and mlp_ratio are at least 1".into()));
        }
        self.transformer.check()
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        self.transformer.input(Reads::CUBE).reads
    }

    /// Parameters `stem.weight`, `stem.bn.*`, `stages.{i}.*`, `embed.*`, then the transformer's.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let stem = b.scope("stem", |b| Linear::without_bias(b, dims.features.cell, self.dims[0], 1.0))?;
        let stem_norm = b.scope("stem.bn", |b| Norm::new(b, NormKind::Batch, self.dims[0], 1.0))?;
        let stage = |i: usize| MpvitConfig {
            width: self.dims[i],
            outputs: self.dims[(i + 1).min(3)],
            paths: self.paths[i],
            layers: self.layers[i],
            mlp_ratio: self.mlp_ratio,
            stride: if i == 0 { 1 } else { 2 },
        };
        let stages =
            (0..4).map(|i| b.scope(&format!("stages.{i}"), |b| MpvitStage::new(b, stage(i)))).collect::<Result<_>>()?;
        let embedding = PatchEmbedding::new(b, &self.transformer, self.dims[3])?;
        let transformer = Transformer::new(b, &self.transformer, dims.genes)?;
        let encoder = Hierarchy { stem, stem_norm, stages, embedding };
        Ok(Network::new(self.transformer.input(Reads::CUBE), encoder, transformer))
    }
}

struct Hierarchy {
    stem: Linear,
    stem_norm: Norm,
    stages: Vec<MpvitStage>,
    embedding: PatchEmbedding,
}

impl PatchEncoder for Hierarchy {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let _range = nvtx::range("mpvit");
        let (training, mut stats) = (mode.is_training(), RunningStats::default());
        let y = self.stem.forward(patches.cube()?)?;
        let mut x = self.stem_norm.forward(&y, training, "bn", &mut stats)?.activate(Activation::Hardswish)?;
        mode.moved("stem", stats);
        for (i, stage) in self.stages.iter().enumerate() {
            let (y, moved) = stage.forward(&x, training)?;
            x = y;
            mode.moved(&format!("stages.{i}"), moved);
        }
        self.embedding.forward(&x.global_avg_pool()?, patches, mode)
    }
}
