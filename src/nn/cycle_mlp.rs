//! The block of CycleMLP (Chen et al. 2022): an MLP whose fully connected layers read neighbouring cells at the cost of
//! a 1x1 convolution, because each channel takes its input from one cell only, and the cell cycles with the channel.
//!
//! Channel i is read ((i + 1) mod 3) − 1 cells further along columns (`h`) or rows (`w`), zero outside. Reading so is a
//! depthwise convolution with a one-hot kernel; a third branch (`c`) reads the cell itself, and a gate computed from the mean
//! over all cells weighs the three, channel by channel.

use crate::{
    activation::Activation,
    device::nvtx,
    error::{Error, Result},
    nn::{
        builder::Builder,
        linear::Linear,
        mbconv::RESIDUAL_GAIN,
        norm::{LayerNorm, TORCH_LAYER_EPS},
    },
    tensor::Tensor,
};

/// Cells that the channels cycle over: the one before, the cell itself, the one after.
const CYCLE: usize = 3;

/// The one-hot kernels `[3, 3, channels]` that shift along columns and along rows.
fn shifts(b: &Builder, channels: usize) -> Result<[Tensor; 2]> {
    let kernel = |tap: fn(usize) -> usize| {
        let mut weight = vec![0.0; CYCLE * CYCLE * channels];
        (0..channels).for_each(|i| weight[tap((i + 1) % CYCLE) * channels + i] = 1.0);
        Tensor::from_f64(&weight, [CYCLE, CYCLE, channels], b.dtype(), b.device())
    };
    Ok([kernel(|to| CYCLE + to)?, kernel(|to| CYCLE * to + 1)?])
}

pub struct CycleBlock {
    ln1: LayerNorm,
    /// Not learned.
    along_columns: Tensor,
    along_rows: Tensor,
    h: Linear,
    w: Linear,
    c: Linear,
    gate: [Linear; 2],
    out: Linear,
    ln2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl CycleBlock {
    /// Parameters `ln1.*`, `h.*`, `w.*`, `c.weight`, `gate.fc1.*` (channels to a quarter of them), `gate.fc2.*` (to three for each
    /// channel), `out.*`, `ln2.*`, `fc1.*`, `fc2.*`, whose hidden width is `mlp_ratio · channels`.
    ///
    /// # Errors
    /// `Shape` where there are fewer than four channels.
    pub fn new(b: &mut Builder, channels: usize, mlp_ratio: usize) -> Result<CycleBlock> {
        if channels < 4 || mlp_ratio == 0 {
            let message = format!("four channels and an MLP wanted, got {channels} and a ratio of {mlp_ratio}");
            return Err(Error::shape("cycle_mlp", message));
        }
        let [along_columns, along_rows] = shifts(b, channels)?;
        let (quarter, hidden) = (channels / 4, mlp_ratio * channels);
        Ok(CycleBlock {
            ln1: b.scope("ln1", |b| LayerNorm::new(b, channels, 1.0, TORCH_LAYER_EPS))?,
            along_columns,
            along_rows,
            h: b.scope("h", |b| Linear::new(b, channels, channels, 1.0))?,
            w: b.scope("w", |b| Linear::new(b, channels, channels, 1.0))?,
            c: b.scope("c", |b| Linear::without_bias(b, channels, channels, 1.0))?,
            gate: [
                b.scope("gate.fc1", |b| Linear::new(b, channels, quarter, 1.0))?,
                b.scope("gate.fc2", |b| Linear::new(b, quarter, CYCLE * channels, 1.0))?,
            ],
            out: b.scope("out", |b| Linear::new(b, channels, channels, RESIDUAL_GAIN))?,
            ln2: b.scope("ln2", |b| LayerNorm::new(b, channels, 1.0, TORCH_LAYER_EPS))?,
            fc1: b.scope("fc1", |b| Linear::new(b, channels, hidden, 1.0))?,
            fc2: b.scope("fc2", |b| Linear::new(b, hidden, channels, RESIDUAL_GAIN))?,
        })
    }

    /// `[n, h, w, channels]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _range = nvtx::range("cycle_block");
        let y = self.ln1.forward(x)?;
        let branches = [
            self.h.forward(&y.depthwise_conv2d(&self.along_columns.matching(&y)?, 1, 1)?)?,
            self.w.forward(&y.depthwise_conv2d(&self.along_rows.matching(&y)?, 1, 1)?)?,
            self.c.forward(&y)?,
        ];
        let x = self.out.forward_add_residual(&self.gated(&branches)?, x)?;
        let hidden = self.fc1.forward_activated(&self.ln2.forward(&x)?, Activation::Gelu)?;
        self.fc2.forward_add_residual(&hidden, &x)
    }

    /// The branches' sum, each weighed by its share: a softmax over the three for every channel of an image.
    fn gated(&self, branches: &[Tensor; CYCLE]) -> Result<Tensor> {
        let [h, w, c] = branches;
        let (n, channels) = (h.shape()[0], h.shape().last());
        let mean = h.add(w)?.add(c)?.global_avg_pool()?;
        let logits = self.gate[1].forward(&self.gate[0].forward_activated(&mean, Activation::Gelu)?)?;
        let shares = logits.reshape([n, channels, CYCLE])?.softmax()?.permute(&[2, 0, 1])?;
        let weighed = |i: usize| branches[i].mul(&shares.slice(0, i, 1)?.reshape([n, 1, 1, channels])?);
        weighed(0)?.add(&weighed(1)?)?.add(&weighed(2)?)
    }
}
