//! The Dual Attention network M (paper §3.3): MBConv blocks interleaved with attention fusion blocks refine every patch's
//! local cube and global vector; the cubes, average-pooled, become the tokens of a small vision transformer, one sequence
//! per slide, whose averaged output a linear head turns into gene expression.
//!
//! "ISG-a-b" is `mbconv_blocks = a`, `fusion_every = b`. Everything before the transformer sees one patch at a time, so the
//! patches of a whole batch of slides go through it together; attention stays within a slide.

use serde::{Deserialize, Serialize};

use crate::{
    device::nvtx,
    error::{Error, Result},
    mil::fusion::{Fusion, FusionConfig, FusionMaps},
    nn::{
        builder::Builder,
        linear::Linear,
        mbconv::{MbConv, MbConvConfig},
        norm::{LAYER_EPS, LayerNorm, NormKind, RunningStats},
        vit::{Drop, Sequences, VitBlock, VitConfig},
    },
    tensor::Tensor,
};

/// What a patch's token is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// The average-pooled cube, as in the paper.
    #[default]
    Local,
    /// The average-pooled cube and the global vector, one after the other. The last global update then matters too.
    Both,
}

/// Sizes and form of the network. The data give the rest: [`Dims`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressorConfig {
    /// a of ISG-a-b.
    pub mbconv_blocks: usize,
    /// b of ISG-a-b: a fusion block after every b-th MBConv block.
    pub fusion_every: usize,
    pub mbconv_expansion: usize,
    pub mbconv_kernel: usize,
    /// Squeezed channels as a part of d.
    pub squeeze_ratio: f64,
    pub mbconv_norm: NormKind,
    /// Off: equations 5 and 8 to the letter.
    pub fusion_residual: bool,
    pub fusion_norm: bool,
    pub tokens: Tokens,
    pub vit_width: usize,
    pub vit_depth: usize,
    pub vit_heads: usize,
    /// Hidden width of the MLPs as a multiple of the width.
    pub vit_mlp_ratio: f64,
    /// Part of the values dropped in training: of the tokens, and of what each half of a transformer block adds.
    pub dropout: f64,
}

impl RegressorConfig {
    /// ISG-10-2 and ViT-S, the paper's best (table 6) with the open choices of EfficientNet and timm.
    pub fn paper() -> RegressorConfig {
        RegressorConfig {
            mbconv_blocks: 10,
            fusion_every: 2,
            mbconv_expansion: 4,
            mbconv_kernel: 3,
            squeeze_ratio: 0.25,
            mbconv_norm: NormKind::Layer,
            fusion_residual: true,
            fusion_norm: true,
            tokens: Tokens::Local,
            vit_width: 384,
            vit_depth: 12,
            vit_heads: 6,
            vit_mlp_ratio: 4.0,
            dropout: 0.1,
        }
    }

    /// For cohorts of tens of slides: few weights, near-linear at first.
    pub fn small() -> RegressorConfig {
        RegressorConfig {
            mbconv_blocks: 1,
            fusion_every: 1,
            mbconv_expansion: 2,
            tokens: Tokens::Both,
            vit_width: 32,
            vit_depth: 1,
            vit_heads: 2,
            vit_mlp_ratio: 2.0,
            dropout: 0.1,
            ..RegressorConfig::paper()
        }
    }

    /// One sentence on the first key that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::Usage(format!("train.model: {what}")));
        let sizes = [self.fusion_every, self.mbconv_expansion, self.vit_width, self.vit_heads];
        if sizes.contains(&0) {
            return bad("fusion_every, mbconv_expansion, vit_width and vit_heads must be at least 1");
        }
        if self.mbconv_kernel.is_multiple_of(2) {
            return bad("mbconv_kernel must be odd");
        }
        if !self.vit_width.is_multiple_of(self.vit_heads) {
            return bad("vit_heads must divide vit_width");
        }
        if !(self.vit_mlp_ratio > 0.0
            && self.vit_mlp_ratio < 1e3
            && self.squeeze_ratio > 0.0
            && self.squeeze_ratio <= 64.0)
        {
            return bad("vit_mlp_ratio and squeeze_ratio must be above 0 and reasonable");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout must be from 0 to below 1");
        }
        Ok(())
    }
}

/// Sizes that the data give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dims {
    /// d: features of a patch.
    pub width: usize,
    /// p/q: cells per side of a cube.
    pub grid: usize,
    pub genes: usize,
}

/// Whether a forward pass trains, and how it drops values.
pub enum Mode<'a> {
    Evaluate,
    /// `drop` gets each tensor that dropout applies to, and what it is added to.
    Train {
        drop: Drop<'a>,
        stats: &'a mut RunningStats,
    },
}

pub struct Regressor {
    blocks: Vec<MbConv>,
    fusions: Vec<Fusion>,
    fusion_every: usize,
    tokens: Tokens,
    embed: Linear,
    vit: Vec<VitBlock>,
    norm: LayerNorm,
    head: Linear,
}

/// How one slide's prediction came about, on the host.
pub struct Explanation {
    /// `[genes]`.
    pub prediction: Vec<f64>,
    /// `[patches, genes]`: the head sees the mean over tokens, so a slide's prediction is exactly the mean over its
    /// patches of these.
    pub contribution: Vec<f64>,
    /// `[patches]`, sums to one: attention rolled out through the transformer (Abnar and Zuidema 2020), averaged over the
    /// tokens that the head averages.
    pub attention: Vec<f64>,
    /// Per fusion block `[patches, g, g]`: A of eq. 4, averaged over channels.
    pub score_maps: Vec<Vec<f32>>,
    /// Per fusion block `[patches, g, g]`: Z of eq. 6.
    pub weight_maps: Vec<Vec<f32>>,
}

impl Regressor {
    /// Parameters `mbconv.{i}.*`, `fusion.{j}.*`, `embed.*`, `vit.{i}.*`, `norm.*`, `head.*`.
    pub fn new(b: &mut Builder, config: &RegressorConfig, dims: Dims) -> Result<Regressor> {
        config.validate()?;
        let Dims { width, grid, genes } = dims;
        let (mut blocks, mut fusions) = (Vec::new(), Vec::new());
        let mbconv = MbConvConfig {
            inputs: width,
            outputs: width,
            expansion: config.mbconv_expansion,
            kernel: config.mbconv_kernel,
            stride: 1,
            squeeze: ((width as f64 * config.squeeze_ratio) as usize).max(1),
            norm: config.mbconv_norm,
        };
        let fusion = FusionConfig { width, grid, residual: config.fusion_residual, norm: config.fusion_norm };
        for i in 0..config.mbconv_blocks {
            blocks.push(b.scope(&format!("mbconv.{i}"), |b| MbConv::new(b, mbconv))?);
            if (i + 1) % config.fusion_every == 0 {
                fusions.push(b.scope(&format!("fusion.{}", fusions.len()), |b| Fusion::new(b, fusion))?);
            }
        }
        let token = if config.tokens == Tokens::Both { 2 * width } else { width };
        let embed = b.scope("embed", |b| Linear::new(b, token, config.vit_width, 1.0))?;
        let block = VitConfig {
            width: config.vit_width,
            heads: config.vit_heads,
            mlp: ((config.vit_width as f64 * config.vit_mlp_ratio) as usize).max(1),
        };
        let vit = (0..config.vit_depth)
            .map(|i| b.scope(&format!("vit.{i}"), |b| VitBlock::new(b, block)))
            .collect::<Result<Vec<_>>>()?;
        let norm = b.scope("norm", |b| LayerNorm::new(b, config.vit_width, 1.0, LAYER_EPS))?;
        let head = b.scope("head", |b| Linear::new(b, config.vit_width, genes, HEAD_GAIN))?;
        let (fusion_every, tokens) = (config.fusion_every, config.tokens);
        Ok(Regressor { blocks, fusions, fusion_every, tokens, embed, vit, norm, head })
    }

    /// Expression `[slides, genes]` of slides whose patches lie one after another: cubes `[n, g, g, d]`, global vectors
    /// `[n, d]`.
    pub fn forward(&self, cubes: &Tensor, globals: &Tensor, slides: &Sequences, mut mode: Mode) -> Result<Tensor> {
        let _range = nvtx::range("regressor");
        let tokens = self.tokens(cubes, globals, &mut mode)?;
        self.predict(&tokens, slides, &mut mode)
    }

    /// The first half: patches to tokens `[n, vit_width]`. One patch never sees another (but for batch statistics), so
    /// long slides may pass in pieces.
    pub fn tokens(&self, cubes: &Tensor, globals: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let training = matches!(mode, Mode::Train { .. });
        let (mut r, mut f) = (cubes.clone(), globals.clone());
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, moved) = block.forward(&r, training)?;
            r = y;
            if let Mode::Train { stats, .. } = mode {
                stats.extend(&format!("mbconv.{i}"), moved);
            }
            if let Some(fusion) = self.fusion_after(i) {
                (r, f) = fusion.forward(&r, &f)?;
            }
        }
        let token = self.embed.forward(&self.pooled(&r, &f)?)?;
        match mode {
            Mode::Evaluate => Ok(token),
            Mode::Train { drop, .. } => drop(token, None),
        }
    }

    /// The second half: tokens of all slides, one slide after another, to expression `[slides, genes]`.
    pub fn predict(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        slides.check("regressor", tokens.shape().rows())?;
        let mut x = tokens.clone();
        for block in &self.vit {
            x = match mode {
                Mode::Evaluate => block.forward(&x, slides, None)?,
                Mode::Train { drop, .. } => block.forward(&x, slides, Some(&mut **drop))?,
            };
        }
        let means = self.norm.forward(&x)?.segment_mean(slides.offsets())?;
        self.head.forward(&means)
    }

    /// One slide's prediction with what led to it. `cubes` `[n, g, g, d]`, `globals` `[n, d]`.
    pub fn explain(&self, cubes: &Tensor, globals: &Tensor) -> Result<Explanation> {
        let (mut r, mut f) = (cubes.clone(), globals.clone());
        let (mut score_maps, mut weight_maps) = (Vec::new(), Vec::new());
        for (i, block) in self.blocks.iter().enumerate() {
            (r, _) = block.forward(&r, false)?;
            if let Some(fusion) = self.fusion_after(i) {
                let FusionMaps { score, weight } = fusion.maps(&r, &f)?;
                score_maps.push(score.to_vec::<f32>()?);
                weight_maps.push(weight.to_vec::<f32>()?);
                (r, f) = fusion.forward(&r, &f)?;
            }
        }
        let mut x = self.embed.forward(&self.pooled(&r, &f)?)?;
        let n = x.shape().rows();
        // Rollout from the output back: row weights w ← w (A + I) / 2, begun by the mean over tokens.
        let mut layers = Vec::new();
        for block in &self.vit {
            let (y, map) = block.forward_with_attention(&x)?;
            layers.push(map.to_vec::<f64>()?);
            x = y;
        }
        let mut attention = vec![1.0 / n.max(1) as f64; n];
        for map in layers.iter().rev() {
            let through = |key: usize| (0..n).map(|query| attention[query] * map[query * n + key]).sum::<f64>();
            attention = (0..n).map(|key| 0.5 * (attention[key] + through(key))).collect();
        }
        let each = self.head.forward(&self.norm.forward(&x)?)?;
        let genes = each.shape().last();
        let contribution = each.to_vec::<f64>()?;
        let prediction =
            (0..genes).map(|g| contribution.iter().skip(g).step_by(genes).sum::<f64>() / n.max(1) as f64).collect();
        Ok(Explanation { prediction, contribution, attention, score_maps, weight_maps })
    }

    fn fusion_after(&self, block: usize) -> Option<&Fusion> {
        match (block + 1) % self.fusion_every {
            0 => self.fusions.get((block + 1) / self.fusion_every - 1),
            _ => None,
        }
    }

    fn pooled(&self, cube: &Tensor, global: &Tensor) -> Result<Tensor> {
        let mean = cube.global_avg_pool()?;
        match self.tokens {
            Tokens::Local => Ok(mean),
            Tokens::Both => Tensor::concat(&[&mean, global], 1),
        }
    }
}

/// A fresh head is small: the first predictions are its bias, the mean of the training targets.
const HEAD_GAIN: f64 = 0.1;
