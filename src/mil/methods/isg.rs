//! The Dual Attention network M (paper §3.3): MBConv blocks interleaved with attention fusion blocks refine every patch's
//! local cube and global vector; the cubes, average-pooled, become the tokens of a small vision transformer, one sequence
//! per slide.
//!
//! "ISG-a-b" is `mbconv_blocks = a`, `fusion_every = b`. The paper's transformer knows no places and takes the mean over its
//! tokens as far as the text says; `position` and `pool` give what the transformer it cites has.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    device::nvtx,
    error::{Error, Result},
    mil::{
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Dims, Mode, Network, PatchEncoder, PatchMap, Patches},
        transformer::{PatchEmbedding, Transformer, TransformerConfig},
    },
    nn::{
        builder::Builder,
        fusion::{Fusion, FusionConfig, FusionMaps},
        mbconv::{MbConv, MbConvConfig},
        norm::NormKind,
    },
    preset::Preset,
    tensor::Tensor,
};

/// What a patch's token is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// The average-pooled cube, as in the paper. Nothing reads the last global update, so it has no parameters.
    #[default]
    Local,
    /// The average-pooled cube and the global vector, one after the other. The last global update then matters too.
    Both,
}

/// `[train.isg]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Isg {
    /// a of ISG-a-b.
    pub mbconv_blocks: usize,
    /// b of ISG-a-b: a fusion block after every b-th MBConv block.
    pub fusion_every: usize,
    pub mbconv_expansion: usize,
    pub mbconv_kernel: usize,
    /// Squeezed channels as a share of d.
    pub squeeze_ratio: f64,
    pub mbconv_norm: NormKind,
    /// Off: equations 5 and 8 to the letter.
    pub fusion_residual: bool,
    pub fusion_norm: bool,
    pub tokens: Tokens,
    #[serde(flatten)]
    pub transformer: TransformerConfig,
}

impl Isg {
    /// ISG-10-2 and ViT-S, the paper's best (table 6) with the open choices of EfficientNet and timm.
    pub fn paper() -> Isg {
        Isg {
            mbconv_blocks: 10,
            fusion_every: 2,
            mbconv_expansion: 4,
            mbconv_kernel: 3,
            squeeze_ratio: 0.25,
            mbconv_norm: NormKind::Layer,
            fusion_residual: true,
            fusion_norm: true,
            tokens: Tokens::Local,
            transformer: TransformerConfig::vit_s(),
        }
    }

    /// For cohorts of tens of slides: few weights, near-linear at first.
    pub fn small() -> Isg {
        Isg {
            mbconv_blocks: 1,
            fusion_every: 1,
            mbconv_expansion: 2,
            tokens: Tokens::Both,
            transformer: TransformerConfig::small(),
            ..Isg::paper()
        }
    }

    fn fusions(&self) -> usize {
        self.mbconv_blocks / self.fusion_every.max(1)
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "isg",
    title: "Dual Attention network",
    cites: "Yang, Pan, Liu, Stone: ISG: I can See Your Gene Expression. BMVC 2022",
    slide: ISG_SLIDE,
    preset: |preset| match preset {
        Preset::Paper => Arc::new(Isg::paper()),
        Preset::Small => Arc::new(Isg::small()),
    },
    training: |_, _| {},
    with: with::<Isg>,
    cases: || {
        let [none, cls, learned] = <[TransformerConfig; 3]>::try_from(TransformerConfig::cases()).expect("three forms");
        let literal = Isg {
            mbconv_blocks: 2,
            fusion_every: 1,
            mbconv_norm: NormKind::Batch,
            fusion_residual: false,
            fusion_norm: false,
            tokens: Tokens::Local,
            transformer: none,
            ..Isg::small()
        };
        vec![
            Arc::new(literal.clone()),
            Arc::new(Isg { fusion_norm: true, fusion_residual: true, transformer: cls, ..literal.clone() }),
            Arc::new(Isg { mbconv_blocks: 2, fusion_every: 2, transformer: learned, ..Isg::small() }),
            Arc::new(Isg { mbconv_blocks: 1, fusion_every: 2, ..literal }),
        ]
    },
};

impl Method for Isg {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::Usage(what.to_string()));
        if [self.fusion_every, self.mbconv_expansion].contains(&0) {
            return wrong("fusion_every and mbconv_expansion are at least 1");
        }
        if self.mbconv_kernel.is_multiple_of(2) {
            return wrong("mbconv_kernel is odd");
        }
        if !(self.squeeze_ratio > 0.0 && self.squeeze_ratio <= 64.0) {
            return wrong("squeeze_ratio goes from above 0 to 64");
        }
        self.transformer.check()
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        let global = self.fusions() > 0 || self.tokens == Tokens::Both;
        self.transformer.input(Reads { global, ..Reads::CUBE }).reads
    }

    /// Parameters `mbconv.{i}.*`, `fusion.{j}.*`, `embed.*`, then the transformer's.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let (width, grid) = (dims.features.cell, dims.features.grid);
        let reads = self.reads(dims.features);
        if reads.global && dims.features.global != width {
            let what = format!("global vectors of {} numbers and cells of {width}: equal widths", dims.features.global);
            return Err(Error::Usage(format!("isg fuses {what} are wanted")));
        }
        let (mut blocks, mut fusions) = (Vec::new(), Vec::new());
        let mbconv = MbConvConfig {
            inputs: width,
            outputs: width,
            expansion: self.mbconv_expansion,
            kernel: self.mbconv_kernel,
            stride: 1,
            squeeze: ((width as f64 * self.squeeze_ratio) as usize).max(1),
            norm: self.mbconv_norm,
        };
        for i in 0..self.mbconv_blocks {
            blocks.push(b.scope(&format!("mbconv.{i}"), |b| MbConv::new(b, mbconv))?);
            if (i + 1) % self.fusion_every == 0 {
                let last = fusions.len() + 1 == self.fusions();
                let fusion = FusionConfig {
                    width,
                    grid,
                    residual: self.fusion_residual,
                    norm: self.fusion_norm,
                    global_update: !last || self.tokens == Tokens::Both,
                };
                fusions.push(b.scope(&format!("fusion.{}", fusions.len()), |b| Fusion::new(b, fusion))?);
            }
        }
        let both = self.tokens == Tokens::Both;
        let embedding = PatchEmbedding::new(b, &self.transformer, if both { 2 * width } else { width })?;
        let encoder = DualAttention { blocks, fusions, fusion_every: self.fusion_every, both, embedding };
        let transformer = Transformer::new(b, &self.transformer, dims.genes)?;
        Ok(Network::new(self.transformer.input(reads), encoder, transformer))
    }
}

struct DualAttention {
    blocks: Vec<MbConv>,
    fusions: Vec<Fusion>,
    fusion_every: usize,
    /// Tokens are made of the global vector too.
    both: bool,
    embedding: PatchEmbedding,
}

impl DualAttention {
    /// Cube and global vector behind the last block. `fused` sees what enters each fusion.
    fn refine(
        &self,
        patches: &Patches,
        mode: &mut Mode,
        mut fused: impl FnMut(usize, &Fusion, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (mut r, mut f) = (patches.cube()?.clone(), patches.global.clone());
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, moved) = block.forward(&r, mode.is_training())?;
            r = y;
            mode.moved(&format!("mbconv.{i}"), moved);
            let place = (i + 1) / self.fusion_every;
            if (i + 1).is_multiple_of(self.fusion_every)
                && let (Some(fusion), Some(global)) = (self.fusions.get(place - 1), f.clone())
            {
                fused(place - 1, fusion, &r, &global)?;
                let (local, renewed) = fusion.forward(&r, &global)?;
                (r, f) = (local, Some(renewed.unwrap_or(global)));
            }
        }
        Ok((r, f))
    }
}

impl PatchEncoder for DualAttention {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let _range = nvtx::range("dual_attention");
        let (r, f) = self.refine(patches, mode, |_, _, _, _| Ok(()))?;
        let mean = r.global_avg_pool()?;
        let vectors = match f {
            Some(f) if self.both => Tensor::concat(&[&mean, &f], 1)?,
            _ => mean,
        };
        self.embedding.forward(&vectors, patches, mode)
    }

    /// Per fusion block A of eq. 4, averaged over channels, and Z of eq. 6, which sums to one over a patch.
    fn maps(&self, patches: &Patches) -> Result<Vec<PatchMap>> {
        let mut maps = Vec::new();
        self.refine(patches, &mut Mode::Evaluate, |i, fusion, r, f| {
            let FusionMaps { score, weight } = fusion.maps(r, f)?;
            for (name, map) in [("score", Some(score)), ("weight", weight)] {
                if let Some(map) = map {
                    maps.push(PatchMap { name: format!("fusion {i} {name}"), values: map.to_vec::<f64>()? });
                }
            }
            Ok(())
        })?;
        Ok(maps)
    }
}
