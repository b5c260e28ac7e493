//! Normalisation over channels (the last axis): per position (layer) or per channel over the batch (batch).

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    nn::builder::{Builder, Init},
    ops::{batch_norm2d, lerp::lerp, mbconv::LayerNormOf},
    tensor::Tensor,
};

/// Which normalisation a convolution block uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// Over the batch, with running statistics for evaluation, as EfficientNet. A batch that holds the patches of a few
    /// slides is a poor sample of all slides, which is why it is not the default here.
    Batch,
    /// Over the channels of each position; the same in training and evaluation.
    #[default]
    Layer,
    /// The values as they are.
    None,
}

/// PyTorch's defaults for `BatchNorm2d`.
pub const BATCH_MOMENTUM: f64 = 0.1;
pub const BATCH_EPS: f64 = 1e-5;
/// As the vision transformers of timm.
pub const LAYER_EPS: f64 = 1e-6;
/// PyTorch's default for `LayerNorm`.
pub const TORCH_LAYER_EPS: f64 = 1e-5;

/// Running statistics that a training step has moved on: written back by [`RunningStats::store`] once no tape lives.
#[derive(Default)]
pub struct RunningStats(Vec<RunningStat>);

struct RunningStat {
    name: String,
    held: Tensor,
    updated: Tensor,
}

impl RunningStats {
    /// The updated value of one statistic, by its name within the block, such as `bn0.running_mean`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|s| s.name == name).map(|s| &s.updated)
    }

    /// Takes over another block's, its names prefixed.
    pub fn extend(&mut self, prefix: &str, other: RunningStats) {
        self.0.extend(other.0.into_iter().map(|s| RunningStat { name: format!("{prefix}.{}", s.name), ..s }));
    }

    /// Writes the updated values into the model. Refused while a tape lives.
    pub fn store(&self) -> Result<()> {
        let (held, updated): (Vec<&Tensor>, Vec<&Tensor>) = self.0.iter().map(|s| (&s.held, &s.updated)).unzip();
        lerp(&held, &updated, 1.0)
    }
}

/// Normalisation over the last axis with weight and bias.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Parameters `weight` (begins at `gain`) and `bias` (at 0), `[channels]`.
    pub fn new(b: &mut Builder, channels: usize, gain: f64, eps: f64) -> Result<LayerNorm> {
        let weight = b.param("weight", [channels], Init::Constant(gain))?;
        Ok(LayerNorm { weight, bias: b.param("bias", [channels], Init::Constant(0.0))?, eps })
    }

    /// `[.., channels]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(&self.weight.matching(x)?, &self.bias.matching(x)?, self.eps)
    }
}

/// The normalisation of a convolution block.
pub enum Norm {
    Batch { weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor },
    Layer(LayerNorm),
    None,
}

impl Norm {
    /// The layer normalisation that it is, at the type of `x`; none where it is another.
    pub fn layer(&self, x: &Tensor) -> Result<Option<LayerNormOf>> {
        let Norm::Layer(LayerNorm { weight, bias, eps }) = self else { return Ok(None) };
        Ok(Some(LayerNormOf { weight: weight.matching(x)?, bias: bias.matching(x)?, eps: *eps }))
    }

    /// Parameters `weight` (begins at `gain`) and `bias`; with [`NormKind::Batch`] also the buffers `running_mean` and
    /// `running_var`.
    pub fn new(b: &mut Builder, kind: NormKind, channels: usize, gain: f64) -> Result<Norm> {
        Ok(match kind {
            NormKind::Batch => Norm::Batch {
                weight: b.param("weight", [channels], Init::Constant(gain))?,
                bias: b.param("bias", [channels], Init::Constant(0.0))?,
                running_mean: b.buffer("running_mean", [channels], Init::Constant(0.0))?,
                running_var: b.buffer("running_var", [channels], Init::Constant(1.0))?,
            },
            NormKind::Layer => Norm::Layer(LayerNorm::new(b, channels, gain, LAYER_EPS)?),
            NormKind::None => Norm::None,
        })
    }

    /// `x` `[n, h, w, channels]`. In training, batch statistics normalise and the moved running ones are added to `stats`
    /// under `name`.
    pub fn forward(&self, x: &Tensor, training: bool, name: &str, stats: &mut RunningStats) -> Result<Tensor> {
        match self {
            Norm::None => Ok(x.clone()),
            Norm::Layer(norm) => norm.forward(x),
            Norm::Batch { weight, bias, running_mean, running_var } if !training => {
                x.batch_norm2d_eval(weight, bias, running_mean, running_var, BATCH_EPS)
            }
            Norm::Batch { weight, bias, running_mean, running_var } => {
                let [y, mean, var] = x.batch_norm2d_train(weight, bias, BATCH_EPS)?;
                for (what, held, seen) in [("mean", running_mean, mean), ("var", running_var, var)] {
                    let updated = batch_norm2d::moved(held, &seen, BATCH_MOMENTUM)?;
                    let name = format!("{name}.running_{what}");
                    stats.0.push(RunningStat { name, held: held.clone(), updated });
                }
                Ok(y)
            }
        }
    }
}
