//! SEQUOIA's mixer (Pizurica et al. 2024): attention replaced by summary mixing (Parcollet et al. 2024), whose cost is linear
//! in the number of tokens. Each token meets one summary of all of them, the mean of a second projection, head by head.

use crate::{
    activation::{Activation, ActivationParams},
    device::nvtx,
    error::{Error, Result},
    nn::{
        builder::{Builder, Init},
        linear::Linear,
        mbconv::RESIDUAL_GAIN,
        norm::{LayerNorm, TORCH_LAYER_EPS},
        vit::Sequences,
    },
    tensor::Tensor,
};

/// Sizes of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SummaryMixingConfig {
    /// Features of a token.
    pub width: usize,
    pub heads: usize,
    /// Numbers of a head.
    pub head_width: usize,
}

/// A projection into heads, each normalised by itself, then GELU. The parameters of its norm are `[heads · head_width]`.
struct Projection {
    linear: Linear,
    weight: Tensor,
    bias: Tensor,
    /// Ones and zeros `[head_width]`: the normalisation's own weights differ from head to head.
    plain: [Tensor; 2],
}

impl Projection {
    fn new(b: &mut Builder, name: &str, config: SummaryMixingConfig) -> Result<Projection> {
        let SummaryMixingConfig { width, heads, head_width } = config;
        let all = heads * head_width;
        let constant = |value: f64| Tensor::from_f64(&vec![value; head_width], [head_width], b.dtype(), b.device());
        let plain = [constant(1.0)?, constant(0.0)?];
        let linear = b.scope(name, |b| Linear::new(b, width, all, 1.0))?;
        b.scope(&format!("{name}_norm"), |b| {
            let weight = b.param("weight", [all], Init::Constant(1.0))?;
            Ok(Projection { linear, weight, bias: b.param("bias", [all], Init::Constant(0.0))?, plain })
        })
    }

    /// `[rows, width] -> [rows, heads · head_width]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(x)?;
        let shape = y.shape();
        let [ones, zeros] = [self.plain[0].matching(x)?, self.plain[1].matching(x)?];
        let heads = [y.shape().elems() / ones.shape().elems(), ones.shape().elems()];
        let y = y.reshape(heads)?.layer_norm(&ones, &zeros, TORCH_LAYER_EPS)?.reshape(shape)?;
        y.mul(&self.weight.matching(x)?)?.bias_act(
            Some(&self.bias.matching(x)?),
            Activation::Gelu,
            ActivationParams::default(),
        )
    }
}

/// One block: the mixer, which has no norm before it, and an MLP after one, each around a residual path.
pub struct SummaryMixingBlock {
    local: Projection,
    summary: Projection,
    combine: Tensor,
    combine_bias: Tensor,
    proj: Linear,
    ln: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    config: SummaryMixingConfig,
}

impl SummaryMixingBlock {
    /// Parameters `local.*`, `local_norm.*`, `summary.*`, `summary_norm.*`, `combine.weight` `[heads · head_width, 2 head_width]`,
    /// whose rows of a head multiply its local numbers and then its summary, `combine.bias`, `proj.*`, `ln.*`, `fc1.*`, `fc2.*`.
    ///
    /// # Errors
    /// `Shape` where a size is 0.
    pub fn new(b: &mut Builder, config: SummaryMixingConfig) -> Result<SummaryMixingBlock> {
        let SummaryMixingConfig { width, heads, head_width } = config;
        if [width, heads, head_width].contains(&0) {
            return Err(Error::shape("summary_mixing", format!("sizes above zero wanted, got {config:?}")));
        }
        let all = heads * head_width;
        let std = 1.0 / ((2 * head_width) as f64).sqrt();
        Ok(SummaryMixingBlock {
            local: Projection::new(b, "local", config)?,
            summary: Projection::new(b, "summary", config)?,
            combine: b.param("combine.weight", [all, 2 * head_width], Init::Normal(std))?,
            combine_bias: b.param("combine.bias", [all], Init::Constant(0.0))?,
            proj: b.scope("proj", |b| Linear::new(b, all, width, RESIDUAL_GAIN))?,
            ln: b.scope("ln", |b| LayerNorm::new(b, width, 1.0, TORCH_LAYER_EPS))?,
            fc1: b.scope("fc1", |b| Linear::new(b, width, width, 1.0))?,
            fc2: b.scope("fc2", |b| Linear::new(b, width, width, RESIDUAL_GAIN))?,
            config,
        })
    }

    /// `x` `[rows, width]`: the sequences, one after another.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let _range = nvtx::range("summary_mixing");
        sequences.check("summary_mixing", x.shape().rows())?;
        let local = self.local.forward(x)?;
        // The mean of a linear layer is the layer of the mean, which costs one row a sequence.
        let summary = self.summary.forward(&x.segment_mean(sequences.offsets())?)?;
        let x = self.proj.forward_add_residual(&self.combined(&local, &summary, sequences)?, x)?;
        let hidden = self.fc1.forward_activated(&self.ln.forward(&x)?, Activation::Gelu)?;
        self.fc2.forward_add_residual(&hidden, &x)
    }

    /// `GELU(combine [local; summary])` head by head: each token's own part plus its sequence's, which is computed once.
    fn combined(&self, local: &Tensor, summary: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let SummaryMixingConfig { heads, head_width: w, .. } = self.config;
        let weight = self.combine.matching(local)?.reshape([heads, w, 2 * w])?;
        let part = |x: &Tensor, half: usize| {
            let rows = x.shape().rows();
            let by_head = x.reshape([rows, heads, w])?.permute(&[1, 0, 2])?;
            let y = by_head.matmul(&weight.slice(2, half * w, w)?, false, true)?;
            y.permute(&[1, 0, 2])?.reshape([rows, heads * w])
        };
        let of_sequence = part(summary, 1)?.gather_rows(&sequences.row_numbers()?.owners)?;
        part(local, 0)?.add(&of_sequence)?.bias_act(
            Some(&self.combine_bias.matching(local)?),
            Activation::Gelu,
            ActivationParams::default(),
        )
    }
}
