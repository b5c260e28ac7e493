//! CycleMLP in the place of convolutions: a hierarchy of cycle blocks over a patch's cube, averaged to a token, then the vision
//! transformer over the slide. The stem that halves a photograph twice is a 1x1 layer here: a cube is small already.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    device::nvtx,
    error::{Error, Result},
    mil::{
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Dims, Mode, Network, PatchEncoder, Patches},
        transformer::{PatchEmbedding, Transformer, TransformerConfig},
    },
    nn::{
        builder::{Builder, Init},
        cycle_mlp::CycleBlock,
        linear::Linear,
        norm::{LayerNorm, TORCH_LAYER_EPS},
    },
    ops::conv2d::Conv2d,
    preset::Preset,
    tensor::Tensor,
};

/// `[train.cyclemlp]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CycleMlp {
    /// Channels of the four stages; each but the first begins by halving the cube's sides.
    pub dims: [usize; 4],
    /// Blocks of the four stages.
    pub depths: [usize; 4],
    /// Hidden width of the MLPs as a multiple of the channels.
    pub mlp_ratio: usize,
    #[serde(flatten)]
    pub transformer: TransformerConfig,
}

impl CycleMlp {
    /// CycleMLP-B1, 15 M parameters, and ViT-S.
    pub fn paper() -> CycleMlp {
        CycleMlp {
            dims: [64, 128, 320, 512],
            depths: [2, 2, 4, 2],
            mlp_ratio: 4,
            transformer: TransformerConfig::vit_s(),
        }
    }

    /// For cohorts of tens of slides.
    pub fn small() -> CycleMlp {
        CycleMlp { dims: [16, 24, 32, 48], depths: [1; 4], mlp_ratio: 2, transformer: TransformerConfig::small() }
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "cyclemlp",
    title: "CycleMLP",
    cites: "Chen et al.: CycleMLP: A MLP-like Architecture for Dense Prediction. ICLR 2022",
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => CycleMlp::paper(),
            Preset::Small => CycleMlp::small(),
        })
    },
    training: |_, _| {},
    with: with::<CycleMlp>,
    cases: || {
        let small = CycleMlp { dims: [4, 5, 6, 9], depths: [1, 1, 2, 1], ..CycleMlp::small() };
        let all = TransformerConfig::cases().into_iter();
        all.map(|transformer| Arc::new(CycleMlp { transformer, ..small.clone() }) as Arc<dyn Method>).collect()
    },
};

impl Method for CycleMlp {
    fn check(&self) -> Result<()> {
        if self.dims.iter().any(|&c| c < 4) || self.mlp_ratio == 0 {
            return Err(Error::Usage("dims are at least 4 and mlp_ratio is at least 1".into()));
        }
        self.transformer.check()
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        self.transformer.input(Reads::CUBE).reads
    }

    /// Parameters `stem.*`, `stages.{s}.{block}.*`, `down.{s}.weight` `[out, 3, 3, in]`, `down.{s}.bias`, `token_norm.*`,
    /// `embed.*`, then the transformer's.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let stem = b.scope("stem", |b| Linear::new(b, dims.features.cell, self.dims[0], 1.0))?;
        let (mut stages, mut downs) = (Vec::new(), Vec::new());
        for (s, (&c, &depth)) in self.dims.iter().zip(&self.depths).enumerate() {
            let block = |i: usize, b: &mut Builder| {
                b.scope(&format!("stages.{s}.{i}"), |b| CycleBlock::new(b, c, self.mlp_ratio))
            };
            stages.push((0..depth).map(|i| block(i, b)).collect::<Result<_>>()?);
            if let Some(&wider) = self.dims.get(s + 1) {
                downs.push(b.scope(&format!("down.{s}"), |b| Halving::new(b, c, wider))?);
            }
        }
        let token_norm = b.scope("token_norm", |b| LayerNorm::new(b, self.dims[3], 1.0, TORCH_LAYER_EPS))?;
        let embedding = PatchEmbedding::new(b, &self.transformer, self.dims[3])?;
        let encoder = Hierarchy { stem, stages, downs, token_norm, embedding };
        let transformer = Transformer::new(b, &self.transformer, dims.genes)?;
        Ok(Network::new(self.transformer.input(Reads::CUBE), encoder, transformer))
    }
}

struct Hierarchy {
    stem: Linear,
    stages: Vec<Vec<CycleBlock>>,
    /// Between the stages.
    downs: Vec<Halving>,
    token_norm: LayerNorm,
    embedding: PatchEmbedding,
}

impl PatchEncoder for Hierarchy {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let _range = nvtx::range("cyclemlp");
        let mut x = self.stem.forward(patches.cube()?)?;
        for (s, blocks) in self.stages.iter().enumerate() {
            for block in blocks {
                x = block.forward(&x)?;
            }
            if let Some(down) = self.downs.get(s) {
                x = down.forward(&x)?;
            }
        }
        let vectors = self.token_norm.forward(&x)?.global_avg_pool()?;
        self.embedding.forward(&vectors, patches, mode)
    }
}

/// A 3x3 convolution with stride 2.
struct Halving {
    weight: Tensor,
    bias: Tensor,
}

impl Halving {
    fn new(b: &mut Builder, inputs: usize, outputs: usize) -> Result<Halving> {
        let std = 1.0 / ((9 * inputs) as f64).sqrt();
        let weight = b.param("weight", [outputs, 3, 3, inputs], Init::Normal(std))?;
        Ok(Halving { weight, bias: b.param("bias", [outputs], Init::Constant(0.0))? })
    }

    /// `[n, h, w, inputs] -> [n, ⌈h/2⌉, ⌈w/2⌉, outputs]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv2d(
            &self.weight.matching(x)?,
            Some(&self.bias.matching(x)?),
            Conv2d { stride: 2, padding: 1, ..Conv2d::default() },
        )
    }
}
