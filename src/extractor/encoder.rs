//! The extractor E of paper §3.2: an image becomes one feature vector of d numbers.
//!
//! The paper cites the encoder of S2FGAN (Yang et al.) and gives no sizes; this is that architecture. A 1x1 convolution,
//! then stages that each halve the image (a downsampling and a plain residual block). After every stage a head looks at a
//! coarse average of it (`head_pool_px` squared cells) through a small fully connected net; the heads' vectors are
//! averaged, normalised to unit mean square, and merged by another such net into the code that also drives the
//! generator. That net ends in a leaky rectifier, so its vectors have a large part in common; `code_norm = "batch"` takes it off and
//! gives every number one scale, by the batch's statistics in training and by running ones after. Images `[n, h, w, 3]` in [-1, 1], code `[n, d]`.
//! Heads and code are f32 at any precision: they cost nothing, and everything after depends on them.

use crate::{
    device::nvtx,
    error::Result,
    extractor::config::EncoderConfig,
    nn::{
        builder::Builder,
        equalized::{EqualizedConv, EqualizedLinear, Then, halving, plain},
        norm::{Norm, RunningStats},
        precision::ComputePrecision,
        residual::ResidualBlock,
    },
    ops::{avg_pool2d::Pool2d, upfirdn2d::Filter},
    tensor::Tensor,
};

const PIXEL_NORM_EPS: f64 = 1e-8;

pub struct Encoder {
    from_rgb: EqualizedConv,
    stages: Vec<Stage>,
    merge: Vec<EqualizedLinear>,
    norm: Norm,
    precision: ComputePrecision,
}

struct Stage {
    halve: ResidualBlock,
    refine: ResidualBlock,
    /// Cells per side that the head sees.
    pool_px: usize,
    head: Vec<EqualizedLinear>,
}

impl Encoder {
    /// `config` as [`ExtractorConfig::validate`](crate::extractor::config::ExtractorConfig::validate) accepts it.
    pub fn new(
        b: &mut Builder,
        config: &EncoderConfig,
        d: usize,
        filter: &Filter,
        precision: ComputePrecision,
    ) -> Result<Encoder> {
        let channels = &config.channels;
        let from_rgb =
            b.scope("from_rgb", |b| EqualizedConv::new(b, [3, channels[0]], 1, Some(Then::LeakyRelu), plain(filter)))?;
        let stages = (channels.windows(2).zip(&config.head_pool_px).enumerate())
            .map(|(i, (pair, &pool_px))| {
                let (c, k) = (pair[0], pair[1]);
                b.scope(&format!("stage.{i}"), |b| {
                    let halve = b.scope("halve", |b| ResidualBlock::new(b, [c, k], &halving(filter)))?;
                    let refine = b.scope("refine", |b| ResidualBlock::new(b, [k, k], &plain(filter)))?;
                    let head = mlp(b, "head", pool_px * pool_px * k, d, config.head_layers, config.style_lr_mul)?;
                    Ok(Stage { halve, refine, pool_px, head })
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let merge = mlp(b, "merge", d, d, config.merge_layers, config.style_lr_mul)?;
        let norm = b.scope("code_norm", |b| Norm::new(b, config.code_norm, d, 1.0))?;
        Ok(Encoder { from_rgb, stages, merge, norm, precision: precision.on(b.device()) })
    }

    /// `[n, h, w, 3]` in [-1, 1] to `[n, d]`.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.merged(images)?, false, "code_norm", &mut RunningStats::default())
    }

    /// The same of a training batch, and the running statistics that it moves on.
    pub fn forward_training(&self, images: &Tensor) -> Result<(Tensor, RunningStats)> {
        let mut stats = RunningStats::default();
        Ok((self.norm.forward(&self.merged(images)?, true, "code_norm", &mut stats)?, stats))
    }

    fn merged(&self, images: &Tensor) -> Result<Tensor> {
        let _range = nvtx::range("encoder");
        let mut x = self.from_rgb.forward(&self.precision.narrowed(images)?)?;
        let mut sum: Option<Tensor> = None;
        for stage in &self.stages {
            x = stage.refine.forward(&stage.halve.forward(&x)?)?;
            let seen = through(&stage.head, &cells(&x, stage.pool_px)?.widened()?)?;
            sum = Some(match sum {
                Some(sum) => sum.add(&seen)?,
                None => seen,
            });
        }
        let sum = sum.expect("a validated configuration has at least one stage");
        let mean = sum.scale(1.0 / self.stages.len() as f64)?;
        through(&self.merge, &mean.pixel_norm(PIXEL_NORM_EPS)?)
    }
}

/// Fully connected layers `name.0`, `name.1`, ... from `inputs` to `d` numbers, each with a leaky rectifier.
fn mlp(
    b: &mut Builder,
    name: &str,
    inputs: usize,
    d: usize,
    layers: usize,
    lr_mul: f64,
) -> Result<Vec<EqualizedLinear>> {
    let layer = |i: usize, b: &mut Builder| {
        EqualizedLinear::new(b, if i == 0 { inputs } else { d }, d, lr_mul, Then::LeakyRelu)
    };
    (0..layers).map(|i| b.scope(&format!("{name}.{i}"), |b| layer(i, b))).collect()
}

fn through(layers: &[EqualizedLinear], x: &Tensor) -> Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))
}

/// Mean over each of `side` x `side` equal cells, flattened: `[n, h, w, c] -> [n, side² c]`.
fn cells(x: &Tensor, side: usize) -> Result<Tensor> {
    let [n, h, w, c] = x.shape().nhwc().expect("convolutions give images");
    let cell_px = h / side;
    let pooled = if cell_px == 1 && w == h {
        x.clone()
    } else {
        x.avg_pool2d(Pool2d { kernel: cell_px, stride: cell_px, padding: 0 })?
    };
    pooled.reshape([n, side * side * c])
}
