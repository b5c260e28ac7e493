//! The vision transformer over a slide's patches (Dosovitskiy et al. 2021), which several methods share: vectors of patches
//! are embedded and told their place, blocks of attention within the slide follow, and a linear head reads the mean over the
//! tokens, or a class token.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    mil::{
        features::Reads,
        network::{Aggregator, Input, Mode, PatchMap, Patches},
    },
    nn::{
        builder::{Builder, Init},
        linear::Linear,
        norm::{LAYER_EPS, LayerNorm},
        position::{Position, PositionKind},
        vit::{Drop, Sequences, VitBlock, VitConfig},
    },
    tensor::Tensor,
};

/// What the head reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The mean over the patches.
    #[default]
    Mean,
    /// A learned token in front of them, which has no place.
    Cls,
}

/// Its keys; methods hold them beside their own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TransformerConfig {
    pub vit_width: usize,
    pub vit_depth: usize,
    pub vit_heads: usize,
    /// Hidden width of the MLPs as a multiple of the width.
    pub vit_mlp_ratio: f64,
    pub position: PositionKind,
    pub pool: Pool,
    /// Share of the values dropped in training: of the tokens, and of what each half of a block adds.
    pub dropout: f64,
}

impl TransformerConfig {
    /// ViT-S: 21 M parameters in its blocks.
    pub fn vit_s() -> TransformerConfig {
        TransformerConfig {
            vit_width: 384,
            vit_depth: 12,
            vit_heads: 6,
            vit_mlp_ratio: 4.0,
            position: PositionKind::None,
            pool: Pool::Mean,
            dropout: 0.1,
        }
    }

    /// ViT-B: 85 M.
    pub fn vit_b() -> TransformerConfig {
        TransformerConfig { vit_width: 768, vit_heads: 12, ..TransformerConfig::vit_s() }
    }

    /// For cohorts of tens of slides.
    pub fn small() -> TransformerConfig {
        TransformerConfig {
            vit_width: 32,
            vit_depth: 1,
            vit_heads: 2,
            vit_mlp_ratio: 2.0,
            ..TransformerConfig::vit_s()
        }
    }

    /// For tests: every form of positions and pool.
    pub fn cases() -> Vec<TransformerConfig> {
        let small = TransformerConfig { vit_width: 8, vit_depth: 2, ..TransformerConfig::small() };
        vec![
            small.clone(),
            TransformerConfig { position: PositionKind::Sincos2d, pool: Pool::Cls, ..small.clone() },
            TransformerConfig { position: PositionKind::Learned, ..small },
        ]
    }

    /// # Errors
    /// `Usage` on the first key that cannot be.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::Usage(what.to_string()));
        if self.vit_width == 0 || self.vit_heads == 0 || !self.vit_width.is_multiple_of(self.vit_heads) {
            return wrong("vit_width and vit_heads are at least 1, and vit_heads divides vit_width");
        }
        if !(self.vit_mlp_ratio > 0.0 && self.vit_mlp_ratio < 1e3) {
            return wrong("vit_mlp_ratio goes from above 0 to below 1000");
        }
        if self.position == PositionKind::Sincos2d && !self.vit_width.is_multiple_of(4) {
            return wrong("position = \"sincos2d\" wants a vit_width that 4 divides");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout goes from 0 to below 1");
        }
        Ok(())
    }

    /// What a network that feeds it reads: `reads`, and places where they are told.
    pub fn input(&self, reads: Reads) -> Input {
        let coords = self.position != PositionKind::None;
        Input { reads: Reads { coords, ..reads }, position: self.position, width: self.vit_width }
    }
}

/// Vectors of patches to tokens.
pub struct PatchEmbedding {
    embed: Linear,
    position: Position,
    dropout: f64,
}

impl PatchEmbedding {
    /// Parameters `embed.*`, and `position` where positions are learned.
    pub fn new(b: &mut Builder, config: &TransformerConfig, inputs: usize) -> Result<PatchEmbedding> {
        let embed = b.scope("embed", |b| Linear::new(b, inputs, config.vit_width, 1.0))?;
        let position = Position::new(b, config.position, config.vit_width)?;
        Ok(PatchEmbedding { embed, position, dropout: config.dropout })
    }

    /// `vectors` `[n, inputs]` of these patches to `[n, vit_width]`.
    pub fn forward(&self, vectors: &Tensor, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let tokens = self.position.add(&self.embed.forward(vectors)?, patches.position.as_ref())?;
        mode.dropout(tokens, self.dropout)
    }
}

/// Tokens to expression.
pub struct Transformer {
    class_token: Option<Tensor>,
    blocks: Vec<VitBlock>,
    norm: LayerNorm,
    head: Linear,
    dropout: f64,
}

/// A fresh head is small: the first predictions are its bias, the mean of the training targets.
pub const HEAD_GAIN: f64 = 0.1;

impl Transformer {
    /// Parameters `cls_token` `[1, vit_width]` with [`Pool::Cls`], `vit.{i}.*`, `norm.*`, `head.*`.
    pub fn new(b: &mut Builder, config: &TransformerConfig, genes: usize) -> Result<Transformer> {
        config.check()?;
        let width = config.vit_width;
        let mlp = ((width as f64 * config.vit_mlp_ratio) as usize).max(1);
        let block = VitConfig { width, heads: config.vit_heads, mlp };
        Ok(Transformer {
            class_token: match config.pool {
                Pool::Cls => Some(b.param("cls_token", [1, width], Init::Normal(0.02))?),
                Pool::Mean => None,
            },
            blocks: (0..config.vit_depth)
                .map(|i| b.scope(&format!("vit.{i}"), |b| VitBlock::new(b, block)))
                .collect::<Result<_>>()?,
            norm: b.scope("norm", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            head: b.scope("head", |b| Linear::new(b, width, genes, HEAD_GAIN))?,
            dropout: config.dropout,
        })
    }

    /// The blocks and the normalisation after them.
    fn blocks(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let mut x = tokens.clone();
        for block in &self.blocks {
            let mut drop = mode.drop_add(self.dropout);
            x = block.forward(&x, slides, drop.as_mut().map(|drop| drop as Drop))?;
        }
        self.norm.forward(&x)
    }
}

impl Aggregator for Transformer {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let pooled = match &self.class_token {
            None => self.blocks(tokens, slides, mode)?.segment_mean(slides.offsets())?,
            Some(token) => {
                let longer = slides.with_class_token()?;
                let x = self.blocks(&longer.prepend(token, tokens)?, &longer.sequences, mode)?;
                longer.first_rows(&x)?
            }
        };
        self.head.forward(&pooled.widened()?)
    }

    /// The head sees the mean over the tokens, so that it can be moved before the mean.
    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        if self.class_token.is_some() {
            return Ok(None);
        }
        let slide = Sequences::new(&[tokens.shape().rows()], tokens.device())?;
        self.head.forward(&self.blocks(tokens, &slide, &mut Mode::Evaluate)?.widened()?).map(Some)
    }

    /// Attention rolled out through the blocks (Abnar and Zuidema 2020) from what the head reads.
    fn maps(&self, tokens: &Tensor) -> Result<Vec<PatchMap>> {
        let n = tokens.shape().rows();
        let class = usize::from(self.class_token.is_some());
        let mut x = match &self.class_token {
            Some(token) => Tensor::concat(&[&token.matching(tokens)?, tokens], 0)?,
            None => tokens.clone(),
        };
        let mut layers = Vec::new();
        for block in &self.blocks {
            let (y, map) = block.forward_with_attention(&x)?;
            layers.push(map.to_vec::<f64>()?);
            x = y;
        }
        let rows = n + class;
        let mut weights = vec![if class == 1 { 0.0 } else { 1.0 / n.max(1) as f64 }; rows];
        if class == 1 {
            weights[0] = 1.0;
        }
        // From the output back: row weights w ← w (A + I) / 2.
        for map in layers.iter().rev() {
            let through = |key: usize| (0..rows).map(|query| weights[query] * map[query * rows + key]).sum::<f64>();
            weights = (0..rows).map(|key| 0.5 * (weights[key] + through(key))).collect();
        }
        // What stays on the class token says nothing of the patches.
        let of_patches: f64 = weights[class..].iter().sum();
        let values = match of_patches > 0.0 {
            true if class == 1 => weights[1..].iter().map(|w| w / of_patches).collect(),
            true => weights,
            false => vec![1.0 / n.max(1) as f64; n],
        };
        Ok(vec![PatchMap { name: PatchMap::ATTENTION.into(), values }])
    }
}
