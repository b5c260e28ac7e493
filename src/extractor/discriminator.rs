//! The discriminator C of paper §3.2: StyleGAN2's residual critic as S2FGAN uses it. A 1x1 convolution, one downsampling
//! residual block per halving until 4x4, two fully connected layers, one logit per image (high means real).
//!
//! StyleGAN2 lets the critic see how much a batch varies (minibatch standard deviation); S2FGAN leaves that out. Here it
//! is a switch, off by default.

use crate::{
    device::nvtx,
    error::Result,
    extractor::config::DiscriminatorConfig,
    nn::{
        builder::Builder,
        equalized::{EqualizedConv, EqualizedLinear, Then, halving, plain},
        precision::ComputePrecision,
        residual::ResidualBlock,
    },
    ops::upfirdn2d::Filter,
    tape::Tape,
    tensor::Tensor,
};

pub struct Discriminator {
    from_rgb: EqualizedConv,
    blocks: Vec<ResidualBlock>,
    /// Images that are compared with each other, 1 for none.
    stddev_group: usize,
    hidden: EqualizedLinear,
    logit: EqualizedLinear,
    precision: ComputePrecision,
}

/// Resolutions from the highest down whose activations have 16 bits while R1 is computed, the others TF32: the gradient of a gradient
/// amplifies rounding. Source: StyleGAN2-ADA's `num_fp16_res`.
const R1_NARROW_RESOLUTIONS: usize = 4;

impl Discriminator {
    pub fn new(
        b: &mut Builder,
        config: &DiscriminatorConfig,
        filter: &Filter,
        precision: ComputePrecision,
    ) -> Result<Discriminator> {
        let channels = &config.channels;
        let from_rgb =
            b.scope("from_rgb", |b| EqualizedConv::new(b, [3, channels[0]], 1, Some(Then::LeakyRelu), plain(filter)))?;
        let blocks = (channels.windows(2).enumerate())
            .map(|(i, pair)| {
                b.scope(&format!("block.{i}"), |b| ResidualBlock::new(b, [pair[0], pair[1]], &halving(filter)))
            })
            .collect::<Result<Vec<_>>>()?;
        let last = channels[channels.len() - 1];
        let seen = if config.minibatch_stddev_group > 1 { last + 1 } else { last };
        Ok(Discriminator {
            from_rgb,
            blocks,
            stddev_group: config.minibatch_stddev_group,
            hidden: b.scope("hidden", |b| EqualizedLinear::new(b, 16 * seen, last, 1.0, Then::LeakyRelu))?,
            logit: b.scope("logit", |b| EqualizedLinear::new(b, last, 1, 1.0, Then::Bias))?,
            precision: precision.on(b.device()),
        })
    }

    /// `[n, h, w, 3]` to logits `[n, 1]`.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_narrow(images, usize::MAX)
    }

    /// The same for [`r1_penalty`], in 16 bits at the highest resolutions alone.
    pub fn forward_for_r1(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_narrow(images, R1_NARROW_RESOLUTIONS)
    }

    fn forward_narrow(&self, images: &Tensor, resolutions: usize) -> Result<Tensor> {
        let _range = nvtx::range("discriminator");
        let mut x = self.from_rgb.forward(&self.precision.narrowed(images)?)?;
        for (i, block) in self.blocks.iter().enumerate() {
            if i == resolutions {
                x = x.widened()?;
            }
            x = block.forward(&x)?;
        }
        x = x.widened()?;
        if self.stddev_group > 1 {
            let n = x.shape()[0];
            // The last batch of an evaluation may be smaller than the group.
            let group = (1..=self.stddev_group.min(n)).rev().find(|g| n % g == 0).unwrap_or(1);
            x = x.minibatch_stddev(group, 1)?;
        }
        let [n, h, w, c] = x.shape().nhwc().expect("convolutions give images");
        self.logit.forward(&self.hidden.forward(&x.reshape([n, h * w * c])?)?)
    }
}

/// R1 (Mescheder et al. 2018): mean over the batch of the squared norm of the logits' gradient at the real images,
/// `[1]`. Recorded on `tape`, which must have been watching `images` and the critic's weights when `logits` were
/// computed, so that the penalty itself can be differentiated.
pub fn r1_penalty(tape: &Tape, logits: &Tensor, images: &Tensor) -> Result<Tensor> {
    let n = images.shape()[0].max(1);
    let gradient = tape.grad(logits, &[images])?.swap_remove(0);
    gradient.square()?.sum_all()?.scale(1.0 / n as f64)
}
