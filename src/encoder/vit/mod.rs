//! Vision transformers by the names of timm, of DINOv2's own files, and of transformers' Dinov2Model: the networks that
//! pathology's foundation models are. One architecture, its variants told by the tensors: register tokens, SwiGLU, LayerScale, and
//! for which tokens there are positions. What a file does not tell (heads, input statistics, pooling) a `preset` does.
//!
//! A patch of `p` px becomes a token by one convolution; class token, registers and patches pass through pre-norm blocks
//! (Dosovitskiy et al. 2021; eps 1e-6) and a last normalisation. The vector is the class token, with `pool = "cls+mean"` followed
//! by the mean over patches. Where a tile has more or fewer patches than positions are stored for, those are resampled
//! ([`positions`]).

pub mod names;
pub mod positions;
pub mod presets;

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Encoder, EncoderSpec, Parameters, PatchEncoder, Site,
    network::Network,
    registry,
    resnet::TilePx,
    state_dict::{self, RANDOM, StateDict},
    tiles::IMAGENET,
};
use crate::{
    activation::Activation,
    device::{Device, nvtx},
    error::{Error, Result},
    io::checksum::Digest,
    nn::{
        builder::{Builder, Init},
        linear::Linear,
        norm::{LAYER_EPS, LayerNorm},
        vit::Sequences,
    },
    ops::conv2d::Conv2d,
    tensor::Tensor,
};
use positions::Positions;
use presets::Preset;

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "vit",
    title: "vision transformer",
    cites: "Dosovitskiy et al. 2021; DINOv2, Oquab et al. 2024",
    with: |parameters| registry::with::<VitEncoder>(SPEC.name, parameters),
    cases: || {
        let preset = Some("lunit-s8".to_string());
        vec![Arc::new(VitEncoder { weights: RANDOM.into(), preset, tile_px: TilePx(32), ..VitEncoder::default() })]
    },
};

/// Who named the tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// `reg_token`, `mlp.fc1`, `mlp.fc2`.
    Timm,
    /// `register_tokens`, and for SwiGLU `mlp.w12`, `mlp.w3`.
    Dinov2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mlp {
    Gelu,
    /// `silu(first half) ⊙ second half`.
    SwiGlu,
}

/// What the vector of an image is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TokenPool {
    /// The class token.
    #[default]
    #[serde(rename = "cls")]
    Cls,
    /// The class token, then the mean of the patches.
    #[serde(rename = "cls+mean")]
    ClsMean,
}

/// Sizes of one network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VitConfig {
    pub keys: Keys,
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub patch_px: usize,
    pub mlp: Mlp,
    /// Width between the MLP's two layers, after SwiGLU's product.
    pub mlp_width: usize,
    pub registers: usize,
    pub layer_scale: bool,
    pub positions: Positions,
    /// Patches down and across that positions are stored for.
    pub stored_grid: [usize; 2],
    pub pool: TokenPool,
}

impl VitConfig {
    /// Length of a vector.
    pub fn d(&self) -> usize {
        self.width * if self.pool == TokenPool::ClsMean { 2 } else { 1 }
    }
}

pub struct Vit {
    config: VitConfig,
    /// As files hold it, `[width, 3, p, p]`.
    patch_weight: Tensor,
    patch_bias: Tensor,
    class_token: Tensor,
    registers: Option<Tensor>,
    /// `[1, positions, width]`: of those before the patches that have one, then of the patches.
    positions: Tensor,
    /// Of the patches of another grid, once they were resampled for it.
    resampled: RefCell<Option<([usize; 2], Tensor)>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    scale1: Option<Tensor>,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    scale2: Option<Tensor>,
    mlp: Mlp,
    heads: usize,
}

impl Vit {
    /// Parameters by the names of `config.keys`.
    pub fn new(b: &mut Builder, config: VitConfig) -> Result<Vit> {
        let VitConfig { width, heads, patch_px, registers, stored_grid: [rows, columns], .. } = config;
        if heads == 0 || width == 0 || width % heads != 0 || patch_px == 0 || config.mlp_width == 0 {
            return Err(Error::shape("vit", format!("a width that {heads} heads divide wanted, got {config:?}")));
        }
        let token = Init::Normal(0.02);
        let class_token = b.param("cls_token", [1, 1, width], token)?;
        let name = if config.keys == Keys::Dinov2 { "register_tokens" } else { "reg_token" };
        let registers = (registers > 0).then(|| b.param(name, [1, registers, width], token)).transpose()?;
        let held = config.positions.before_patches(config.registers);
        let positions = b.param("pos_embed", [1, held + rows * columns, width], token)?;
        let he = Init::Normal((2.0 / (3 * patch_px * patch_px) as f64).sqrt());
        let (patch_weight, patch_bias) = b.scope("patch_embed.proj", |b| {
            let weight = b.param("weight", [width, 3, patch_px, patch_px], he)?;
            Ok((weight, b.param("bias", [width], Init::Constant(0.0))?))
        })?;
        let block = |i: usize| b.scope(&format!("blocks.{i}"), |b| Block::new(b, &config));
        let blocks = (0..config.depth).map(block).collect::<Result<_>>()?;
        let norm = b.scope("norm", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?;
        let resampled = RefCell::default();
        Ok(Vit { config, patch_weight, patch_bias, class_token, registers, positions, resampled, blocks, norm })
    }

    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// `[n, h, w, 3]` to `[n, d]`.
    ///
    /// # Errors
    /// Sides that patches do not divide.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let _range = nvtx::range("vit");
        let VitConfig { patch_px, width, registers, pool, .. } = self.config;
        let (n, grid) = match images.shape().nhwc() {
            Some([n, h, w, 3]) if h % patch_px == 0 && w % patch_px == 0 && h * w > 0 => (n, [h / patch_px, w / patch_px]),
            _ => {
                let message = format!("images [n, h, w, 3] of whole {patch_px} px patches wanted, got {}", images.shape());
                return Err(Error::shape("vit", message));
            }
        };
        let (count, before) = (grid[0] * grid[1], 1 + registers);
        let stride = Conv2d { stride: patch_px, ..Conv2d::default() };
        let patches = images.conv2d(&self.patch_weight.permute(&[0, 2, 3, 1])?, Some(&self.patch_bias), stride)?;
        let patches = patches.reshape([n, count, width])?.add(&self.positions_of(grid)?)?;
        let first = self.first_tokens()?.broadcast_to([n, before, width])?;
        let length = before + count;
        let mut x = Tensor::concat(&[&first, &patches], 1)?.reshape([n * length, width])?;
        let sequences = Sequences::new(&vec![length; n], images.device())?;
        for block in &self.blocks {
            x = block.forward(&x, &sequences)?;
        }
        let x = self.norm.forward(&x.widened()?)?.reshape([n, length, width])?;
        let class = x.slice(1, 0, 1)?.reshape([n, width])?;
        match pool {
            TokenPool::Cls => Ok(class),
            TokenPool::ClsMean => {
                let mean = x.slice(1, before, count)?.mean(&[1])?.reshape([n, width])?;
                Tensor::concat(&[&class, &mean], 1)
            }
        }
    }

    /// Class token and registers with their positions, `[1, 1 + registers, width]`.
    fn first_tokens(&self) -> Result<Tensor> {
        let held = self.config.positions.before_patches(self.config.registers);
        let positions = self.positions.slice(1, 0, held.max(1))?;
        let class = match self.config.positions {
            Positions::ClsPatches => self.class_token.add(&positions)?,
            Positions::All | Positions::Patches => self.class_token.clone(),
        };
        let tokens = match &self.registers {
            None => class,
            Some(registers) => Tensor::concat(&[&class, registers], 1)?,
        };
        if self.config.positions == Positions::All { tokens.add(&positions) } else { Ok(tokens) }
    }

    /// Positions of the patches of a grid, `[1, patches, width]`.
    fn positions_of(&self, grid: [usize; 2]) -> Result<Tensor> {
        let held = self.config.positions.before_patches(self.config.registers);
        let [rows, columns] = self.config.stored_grid;
        if let Some((known, positions)) = &*self.resampled.borrow()
            && *known == grid
        {
            return Ok(positions.clone());
        }
        let stored = self.positions.slice(1, held, rows * columns)?;
        if grid == self.config.stored_grid {
            return Ok(stored);
        }
        let values = positions::resample(&stored.to_vec::<f64>()?, self.config.stored_grid, grid);
        let shape = [1, grid[0] * grid[1], self.config.width];
        let resampled = Tensor::from_f64(&values, shape, stored.dtype(), stored.device())?;
        *self.resampled.borrow_mut() = Some((grid, resampled.clone()));
        Ok(resampled)
    }
}

impl Block {
    fn new(b: &mut Builder, config: &VitConfig) -> Result<Block> {
        let VitConfig { keys, width, heads, mlp, mlp_width, layer_scale, .. } = *config;
        let norm = |b: &mut Builder, name: &str| b.scope(name, |b| LayerNorm::new(b, width, 1.0, LAYER_EPS));
        let scale = |b: &mut Builder, name: &str| {
            layer_scale.then(|| b.scope(name, |b| b.param("gamma", [width], Init::Constant(1.0)))).transpose()
        };
        let (up, down) = match (keys, mlp) {
            (Keys::Dinov2, Mlp::SwiGlu) => ("mlp.w12", "mlp.w3"),
            _ => ("mlp.fc1", "mlp.fc2"),
        };
        let hidden = mlp_width * if mlp == Mlp::SwiGlu { 2 } else { 1 };
        Ok(Block {
            norm1: norm(b, "norm1")?,
            qkv: b.scope("attn.qkv", |b| Linear::new(b, width, 3 * width, 1.0))?,
            proj: b.scope("attn.proj", |b| Linear::new(b, width, width, 1.0))?,
            scale1: scale(b, "ls1")?,
            norm2: norm(b, "norm2")?,
            up: b.scope(up, |b| Linear::new(b, width, hidden, 1.0))?,
            down: b.scope(down, |b| Linear::new(b, mlp_width, width, 1.0))?,
            scale2: scale(b, "ls2")?,
            mlp,
            heads,
        })
    }

    /// `[rows, width]`: the sequences, one after another.
    fn forward(&self, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let head_width = (x.shape().last() / self.heads) as f64;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let attended = qkv.packed_attention(sequences.offsets(), self.heads, head_width.sqrt().recip())?;
        let x = onto(x, &attended, &self.proj, self.scale1.as_ref())?;
        let normed = self.norm2.forward(&x)?;
        let hidden = match self.mlp {
            Mlp::Gelu => self.up.forward_activated(&normed, Activation::Gelu)?,
            Mlp::SwiGlu => {
                let both = self.up.forward(&normed)?;
                let half = both.shape().last() / 2;
                both.slice(1, 0, half)?.silu()?.mul(&both.slice(1, half, half)?)?
            }
        };
        onto(&x, &hidden, &self.down, self.scale2.as_ref())
    }
}

/// `x + scale ⊙ last(branch)`.
fn onto(x: &Tensor, branch: &Tensor, last: &Linear, scale: Option<&Tensor>) -> Result<Tensor> {
    match scale {
        None => last.forward_add_residual(branch, x),
        Some(scale) => last.forward(branch)?.mul(scale)?.add(x),
    }
}

/// Settings.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitEncoder {
    /// A file, or `random` for the preset's network drawn.
    pub weights: String,
    /// One of [`presets::PRESETS`]; without it, what the file tells and timm's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    pub tile_px: TilePx,
    /// Over what the preset says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenPool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Of drawn weights.
    pub seed: u64,
}

impl VitEncoder {
    fn known(&self) -> Result<Option<&'static Preset>> {
        self.preset.as_deref().map(presets::named).transpose()
    }

    /// Sizes of the network in a file, or of the preset's where weights are drawn.
    fn sizes(&self, weights: Option<&StateDict>) -> Result<VitConfig> {
        let preset = self.known()?;
        let drawn = || Error::Usage(format!("encoder.preset: name the network to draw, one of {}", presets::names()));
        let mut config = match weights {
            Some(weights) => names::sizes(weights)?,
            None => preset.ok_or_else(drawn)?.sizes,
        };
        if let (Some(preset), Some(weights)) = (preset, weights) {
            preset.check(&config).map_err(|problem| weights.unusable(&problem))?;
        }
        config.heads = self.heads.or(preset.map(|p| p.heads(config.width))).unwrap_or(config.heads);
        config.pool = self.tokens.or(preset.map(|p| p.sizes.pool)).unwrap_or(config.pool);
        if config.heads == 0 || config.width % config.heads != 0 {
            let (heads, width) = (config.heads, config.width);
            return Err(Error::Usage(format!("encoder.heads = {heads} does not divide the network's width, {width}")));
        }
        if !self.tile_px.0.is_multiple_of(config.patch_px) {
            let (tile_px, patch_px) = (self.tile_px.0, config.patch_px);
            return Err(Error::Usage(format!(
                "encoder.tile_px = {tile_px}: the network sees whole patches of {patch_px} px; give a multiple of that"
            )));
        }
        Ok(config)
    }
}

impl Encoder for VitEncoder {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.tile_px.check()?;
        state_dict::check(&self.weights)?;
        self.known()?;
        if self.weights == RANDOM { self.sizes(None).map(drop) } else { Ok(()) }
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        let weights = state_dict::resolved(&self.weights, settle)?;
        Some(Arc::new(VitEncoder { weights, ..self.clone() }))
    }

    fn licence(&self) -> Option<&'static str> {
        (self.weights != RANDOM).then(|| self.known().ok().flatten()).flatten().map(|preset| preset.licence)
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        Ok((self as &dyn Encoder).digest_of_settings(&["weights"], &state_dict::digests(&self.weights)?, site.precision))
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        let precision = site.precision.on(device);
        let (mut b, config) = if self.weights == RANDOM {
            (Builder::fresh(self.seed, precision.dtype(), device), self.sizes(None)?)
        } else {
            let weights = names::read(Path::new(&self.weights))?;
            let config = self.sizes(Some(&weights))?;
            (weights.into_builder(precision.dtype(), device)?, config)
        };
        let vit = Vit::new(&mut b, config)?;
        b.finish()?;
        Ok(Box::new(Network {
            d: config.d(),
            tile_px: self.tile_px.0,
            normalisation: self.known()?.map_or(IMAGENET, |preset| preset.normalisation),
            stretch: false,
            precision,
            device: device.clone(),
            digest: self.digest(site)?,
            forward: Box::new(move |tiles| vit.forward(tiles)),
        }))
    }
}
