//! A stage of MPViT (Lee et al. 2022): a chain of convolutions gives the same cells at growing receptive fields, each of these
//! paths has transformer blocks of its own, beside them an inverted bottleneck keeps the local view, and a 1x1 convolution
//! merges all.
//!
//! Attention is CoaT's factorised one (Xu et al. 2021): the keys are normalised over the tokens, so that keys and values meet
//! first in a small matrix per head, and relative positions enter as a depthwise convolution of the values, whose window
//! grows with the head.

use crate::{
    activation::Activation,
    device::nvtx,
    error::{Error, Result},
    nn::{
        builder::Builder,
        depthwise::DepthwiseConv,
        linear::Linear,
        mbconv::RESIDUAL_GAIN,
        norm::{LAYER_EPS, LayerNorm, Norm, NormKind, RunningStats},
    },
    tensor::Tensor,
};

/// Heads of every attention, as published: which window a head has hangs on their number.
pub const HEADS: usize = 8;

/// Side of the relative positions' window, and how many heads have it.
const WINDOWS: [(usize, usize); 3] = [(3, 2), (5, 3), (7, 3)];

/// Sizes of one stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MpvitConfig {
    /// A multiple of [`HEADS`].
    pub width: usize,
    /// Channels of the merged result.
    pub outputs: usize,
    pub paths: usize,
    /// Blocks of each path.
    pub layers: usize,
    /// Hidden width of the perceptrons as a multiple of the width.
    pub mlp_ratio: usize,
    /// 2 halves the sides of the image first.
    pub stride: usize,
}

impl MpvitConfig {
    fn check(&self) -> Result<()> {
        let sizes = [self.width, self.outputs, self.paths, self.mlp_ratio, self.stride];
        if !self.width.is_multiple_of(HEADS) || sizes.contains(&0) {
            let message = format!("sizes above zero and a width that {HEADS} heads divide wanted, got {self:?}");
            return Err(Error::shape("mpvit", message));
        }
        Ok(())
    }
}

pub struct MpvitStage {
    embed: Vec<PathEmbedding>,
    paths: Vec<Path>,
    inverted: InvertedBottleneck,
    merge: Linear,
    merge_norm: Norm,
}

impl MpvitStage {
    /// Parameters `embed.{j}.*`, `paths.{j}.*`, `inverted.*`, `merge.weight`, `merge.bn.*`.
    ///
    /// # Errors
    /// `Shape` where a size is 0 or the heads do not divide the width.
    pub fn new(b: &mut Builder, config: MpvitConfig) -> Result<MpvitStage> {
        config.check()?;
        let MpvitConfig { width, outputs, paths, stride, .. } = config;
        let stride_of = |path: usize| if path == 0 { stride } else { 1 };
        let embedding =
            |b: &mut Builder, j: usize| b.scope(&format!("embed.{j}"), |b| PathEmbedding::new(b, width, stride_of(j)));
        Ok(MpvitStage {
            embed: (0..paths).map(|j| embedding(b, j)).collect::<Result<_>>()?,
            paths: (0..paths)
                .map(|j| b.scope(&format!("paths.{j}"), |b| Path::new(b, config)))
                .collect::<Result<_>>()?,
            inverted: b.scope("inverted", |b| InvertedBottleneck::new(b, width))?,
            merge: b.scope("merge", |b| Linear::without_bias(b, (paths + 1) * width, outputs, 1.0))?,
            merge_norm: b.scope("merge.bn", |b| batch_norm(b, outputs, 1.0))?,
        })
    }

    /// `[n, h, w, width] -> [n, ⌈h / stride⌉, ⌈w / stride⌉, outputs]`, and in training the running statistics it moved.
    pub fn forward(&self, x: &Tensor, training: bool) -> Result<(Tensor, RunningStats)> {
        let _range = nvtx::range("mpvit_stage");
        let mut stats = RunningStats::default();
        let (mut at, mut embedded) = (x.clone(), Vec::new());
        for (j, embed) in self.embed.iter().enumerate() {
            at = embed.forward(&at, training, &format!("embed.{j}"), &mut stats)?;
            embedded.push(at.clone());
        }
        let mut parts = vec![self.inverted.forward(&embedded[0], training, "inverted", &mut stats)?];
        for (path, x) in self.paths.iter().zip(&embedded) {
            parts.push(path.forward(x)?);
        }
        let all = Tensor::concat(&parts.iter().collect::<Vec<_>>(), 3)?;
        let merged = hardswished(&self.merge_norm, &self.merge.forward(&all)?, training, "merge.bn", &mut stats)?;
        Ok((merged, stats))
    }
}

fn batch_norm(b: &mut Builder, channels: usize, gain: f64) -> Result<Norm> {
    Norm::new(b, NormKind::Batch, channels, gain)
}

fn hardswished(norm: &Norm, y: &Tensor, training: bool, name: &str, stats: &mut RunningStats) -> Result<Tensor> {
    norm.forward(y, training, name, stats)?.activate(Activation::Hardswish)
}

/// A depthwise-separable convolution: `depthwise.weight` 3x3, `pointwise.weight` 1x1, `bn.*`, hardswish.
struct PathEmbedding {
    depthwise: DepthwiseConv,
    pointwise: Linear,
    norm: Norm,
}

impl PathEmbedding {
    fn new(b: &mut Builder, width: usize, stride: usize) -> Result<PathEmbedding> {
        Ok(PathEmbedding {
            depthwise: b.scope("depthwise", |b| DepthwiseConv::without_bias(b, 3, width, stride))?,
            pointwise: b.scope("pointwise", |b| Linear::without_bias(b, width, width, 1.0))?,
            norm: b.scope("bn", |b| batch_norm(b, width, 1.0))?,
        })
    }

    fn forward(&self, x: &Tensor, training: bool, name: &str, stats: &mut RunningStats) -> Result<Tensor> {
        let y = self.pointwise.forward(&self.depthwise.forward(x)?)?;
        hardswished(&self.norm, &y, training, &format!("{name}.bn"), stats)
    }
}

/// The local view: `expand`, `bn0`, `depthwise` 3x3, `bn1`, `project`, `bn2`, hardswish between them, around a residual path.
struct InvertedBottleneck {
    expand: Linear,
    depthwise: DepthwiseConv,
    project: Linear,
    norms: [Norm; 3],
}

impl InvertedBottleneck {
    fn new(b: &mut Builder, width: usize) -> Result<InvertedBottleneck> {
        let norm = |b: &mut Builder, name: &str, gain| b.scope(name, |b| batch_norm(b, width, gain));
        Ok(InvertedBottleneck {
            expand: b.scope("expand", |b| Linear::without_bias(b, width, width, 1.0))?,
            depthwise: b.scope("depthwise", |b| DepthwiseConv::without_bias(b, 3, width, 1))?,
            project: b.scope("project", |b| Linear::without_bias(b, width, width, 1.0))?,
            norms: [norm(b, "bn0", 1.0)?, norm(b, "bn1", 1.0)?, norm(b, "bn2", RESIDUAL_GAIN)?],
        })
    }

    fn forward(&self, x: &Tensor, training: bool, name: &str, stats: &mut RunningStats) -> Result<Tensor> {
        let [norm0, norm1, norm2] = &self.norms;
        let y = hardswished(norm0, &self.expand.forward(x)?, training, &format!("{name}.bn0"), stats)?;
        let y = hardswished(norm1, &self.depthwise.forward(&y)?, training, &format!("{name}.bn1"), stats)?;
        x.add(&norm2.forward(&self.project.forward(&y)?, training, &format!("{name}.bn2"), stats)?)
    }
}

/// One path's transformer: its blocks share the convolutions that tell them where tokens are.
struct Path {
    /// Added to the tokens before each block.
    positions: DepthwiseConv,
    relative: RelativePositions,
    blocks: Vec<PathBlock>,
}

impl Path {
    fn new(b: &mut Builder, config: MpvitConfig) -> Result<Path> {
        let MpvitConfig { width, layers, mlp_ratio, .. } = config;
        Ok(Path {
            positions: b.scope("cpe", |b| DepthwiseConv::new(b, 3, width))?,
            relative: b.scope("crpe", |b| RelativePositions::new(b, width))?,
            blocks: (0..layers)
                .map(|l| b.scope(&format!("blocks.{l}"), |b| PathBlock::new(b, width, mlp_ratio * width)))
                .collect::<Result<_>>()?,
        })
    }

    /// `[n, h, w, width]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks {
            x = block.forward(&x.add(&self.positions.forward(&x)?)?, &self.relative)?;
        }
        Ok(x)
    }
}

/// `q ⊙ conv(v)`, heads `[2, 3, 3]` of them with windows of side `[3, 5, 7]`: parameters `3.*`, `5.*`, `7.*`.
struct RelativePositions(Vec<DepthwiseConv>);

impl RelativePositions {
    fn new(b: &mut Builder, width: usize) -> Result<RelativePositions> {
        let conv = |&(side, heads): &(usize, usize)| {
            b.scope(&side.to_string(), |b| DepthwiseConv::new(b, side, width / HEADS * heads))
        };
        Ok(RelativePositions(WINDOWS.iter().map(conv).collect::<Result<_>>()?))
    }

    /// Queries and values `[n, h, w, width]`, heads one after another in the channels.
    fn forward(&self, q: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (mut parts, mut first) = (Vec::new(), 0);
        for (conv, (_, heads)) in self.0.iter().zip(WINDOWS) {
            let channels = v.shape().last() / HEADS * heads;
            parts.push(conv.forward(&v.slice(3, first, channels)?)?);
            first += channels;
        }
        q.mul(&Tensor::concat(&parts.iter().collect::<Vec<_>>(), 3)?)
    }
}

/// A pre-norm transformer block with factorised attention.
struct PathBlock {
    ln1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ln2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl PathBlock {
    fn new(b: &mut Builder, width: usize, hidden: usize) -> Result<PathBlock> {
        Ok(PathBlock {
            ln1: b.scope("ln1", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            qkv: b.scope("qkv", |b| Linear::new(b, width, 3 * width, 1.0))?,
            proj: b.scope("proj", |b| Linear::new(b, width, width, RESIDUAL_GAIN))?,
            ln2: b.scope("ln2", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            fc1: b.scope("fc1", |b| Linear::new(b, width, hidden, 1.0))?,
            fc2: b.scope("fc2", |b| Linear::new(b, hidden, width, RESIDUAL_GAIN))?,
        })
    }

    fn forward(&self, x: &Tensor, relative: &RelativePositions) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?;
        let x = self.proj.forward_add_residual(&factorised_attention(&qkv, relative)?, x)?;
        let hidden = self.fc1.forward_activated(&self.ln2.forward(&x)?, Activation::Gelu)?;
        self.fc2.forward_add_residual(&hidden, &x)
    }
}

/// `q (softmax over the tokens (k)ᵀ v) / √d` and the relative positions, head by head. `qkv` `[n, h, w, 3 width]`.
fn factorised_attention(qkv: &Tensor, relative: &RelativePositions) -> Result<Tensor> {
    let width = qkv.shape().last() / 3;
    let part = |i: usize| qkv.slice(3, i * width, width);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let [n, h, w] = [q.shape()[0], q.shape()[1], q.shape()[2]];
    let d = width / HEADS;
    let heads = |x: &Tensor, axes: [usize; 4]| x.reshape([n, h * w, HEADS, d])?.permute(&axes);
    let keys = heads(&k, [0, 2, 3, 1])?.softmax()?;
    let context = keys.matmul(&heads(&v, [0, 2, 1, 3])?, false, false)?.scale((d as f64).sqrt().recip())?;
    let attended = heads(&q, [0, 2, 1, 3])?.matmul(&context, false, false)?;
    attended.permute(&[0, 2, 1, 3])?.reshape([n, h, w, width])?.add(&relative.forward(&q, &v)?)
}
