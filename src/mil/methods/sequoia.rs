//! SEQUOIA: a linearised transformer over the means of 100 clusters of a slide's patches, by their features. The clusters stand in
//! the order of the clustering, and each has a learned position.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    device::nvtx,
    error::{Error, Result},
    mil::{
        clusters::{By, clustered},
        embedding::GlobalVectors,
        features::{FeatureDims, PatchFeatures, Reads},
        method::{Method, MethodSpec, Rows, with},
        network::{Aggregator, Dims, Input, Mode, Network},
        transformer::HEAD_GAIN,
    },
    nn::{
        builder::{Builder, Init},
        linear::Linear,
        norm::{LayerNorm, TORCH_LAYER_EPS},
        summary_mixing::{SummaryMixingBlock, SummaryMixingConfig},
        vit::Sequences,
    },
    preset::Preset,
    tensor::Tensor,
};

/// `[train.sequoia]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequoia {
    /// Clusters of a slide's patches, at most.
    pub clusters: usize,
    pub depth: usize,
    pub heads: usize,
    pub head_width: usize,
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "sequoia",
    title: "SEQUOIA",
    cites: "Pizurica et al.: Digital profiling of gene expression from histology images with linearized attention. \
            Nature Communications 2024",
    slide: (100, FeatureDims { global: 2048, cell: 0, grid: 0 }),
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => Sequoia { clusters: 100, depth: 6, heads: 16, head_width: 64 },
            Preset::Small => Sequoia { clusters: 16, depth: 1, heads: 2, head_width: 16 },
        })
    },
    training: |preset, config| {
        if preset == Preset::Paper {
            config.learning_rate = 1e-3;
            config.batch_slides = 16;
            config.patience = 20;
        }
    },
    with: with::<Sequoia>,
    cases: || vec![Arc::new(Sequoia { clusters: 8, depth: 2, heads: 2, head_width: 5 })],
};

impl Method for Sequoia {
    fn check(&self) -> Result<()> {
        if [self.clusters, self.heads, self.head_width].contains(&0) {
            return Err(Error::Usage("clusters, heads and head_width are at least 1".into()));
        }
        Ok(())
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        Reads::GLOBAL
    }

    /// Parameters `position` `[clusters, d]`, `blocks.{i}.*`, `norm.*`, `head.*`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let width = dims.features.global;
        let block = SummaryMixingConfig { width, heads: self.heads, head_width: self.head_width };
        let mixer = Mixer {
            position: b.param("position", [self.clusters, width], Init::Normal(1.0))?,
            blocks: (0..self.depth)
                .map(|i| b.scope(&format!("blocks.{i}"), |b| SummaryMixingBlock::new(b, block)))
                .collect::<Result<_>>()?,
            norm: b.scope("norm", |b| LayerNorm::new(b, width, 1.0, TORCH_LAYER_EPS))?,
            head: b.scope("head", |b| Linear::new(b, width, dims.genes, HEAD_GAIN))?,
        };
        Ok(Network::new(Input::of(Reads::GLOBAL), GlobalVectors, mixer))
    }

    fn rows(&self, features: &dyn PatchFeatures) -> Result<Option<Rows>> {
        clustered(features, By::Features, self.clusters).map(Some)
    }
}

struct Mixer {
    position: Tensor,
    blocks: Vec<SummaryMixingBlock>,
    norm: LayerNorm,
    head: Linear,
}

impl Aggregator for Mixer {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, _: &mut Mode) -> Result<Tensor> {
        let _range = nvtx::range("sequoia");
        let positions = self.position.shape().rows();
        if let Some(longest) = slides.lengths().iter().find(|&&length| length > positions) {
            return Err(Error::shape("sequoia", format!("{longest} clusters with {positions} positions")));
        }
        let mut x = tokens.add(&self.position.gather_rows(&slides.row_numbers()?.places)?.cast(tokens.dtype())?)?;
        for block in &self.blocks {
            x = block.forward(&x, slides)?;
        }
        self.head.forward(&self.norm.forward(&x.segment_mean(slides.offsets())?)?.widened()?)
    }
}
