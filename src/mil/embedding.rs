//! Encoders of methods that see a patch's global vector alone: as it is, or through ReLU layers.

use crate::{
    activation::Activation,
    error::{Error, Result},
    mil::network::{Mode, PatchEncoder, Patches},
    nn::{Builder, linear::Linear},
    tensor::Tensor,
};

/// The vectors as they are.
pub struct GlobalVectors;

impl PatchEncoder for GlobalVectors {
    fn tokens(&self, patches: &Patches, _: &mut Mode) -> Result<Tensor> {
        patches.global().cloned()
    }
}

/// ReLU layers `[n, widths[0]] -> [n, widths[last]]`, values dropped after each.
pub struct Embedding {
    layers: Vec<Linear>,
    dropout: f64,
}

/// What makes up for the half that a ReLU takes away: √2 (He et al. 2015).
const RELU_GAIN: f64 = std::f64::consts::SQRT_2;

impl Embedding {
    /// Layers named by `name`, each from one of the widths to the next.
    pub fn new(b: &mut Builder, name: impl Fn(usize) -> String, widths: &[usize], dropout: f64) -> Result<Embedding> {
        let layer = |(i, pair): (usize, &[usize])| b.scope(&name(i), |b| Linear::new(b, pair[0], pair[1], RELU_GAIN));
        Ok(Embedding { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?, dropout })
    }
}

impl PatchEncoder for Embedding {
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        let mut x = patches.global()?.clone();
        for layer in &self.layers {
            x = mode.dropout(layer.forward_activated(&x, Activation::Relu)?, self.dropout)?;
        }
        Ok(x)
    }
}

/// # Errors
/// `Usage` where it is no share.
pub fn check_dropout(dropout: f64) -> Result<()> {
    match (0.0..1.0).contains(&dropout) {
        true => Ok(()),
        false => Err(Error::Usage("dropout goes from 0 to below 1".into())),
    }
}
