//! Gated attention pooling (Ilse, Tomczak and Welling 2018, eq. 9): the mean of a bag's instances, each weighed by what a small
//! network thinks of it alone.

use crate::{
    activation::Activation,
    error::Result,
    nn::{builder::Builder, linear::Linear, vit::Sequences},
    tensor::Tensor,
};

/// `score = w · (tanh(V h) ⊙ sigmoid(U h))`; parameters `v.*`, `u.*` and `w.weight`, without a bias since a softmax cancels it.
pub struct GatedAttention {
    v: Linear,
    u: Linear,
    w: Linear,
}

impl GatedAttention {
    /// Of instances of `width` features, scored through `hidden` numbers.
    pub fn new(b: &mut Builder, width: usize, hidden: usize) -> Result<GatedAttention> {
        Ok(GatedAttention {
            v: b.scope("v", |b| Linear::new(b, width, hidden, 1.0))?,
            u: b.scope("u", |b| Linear::new(b, width, hidden, 1.0))?,
            w: b.scope("w", |b| Linear::without_bias(b, hidden, 1, 1.0))?,
        })
    }

    /// What each instance counts `[rows]`, summing to one within its bag. `h` `[rows, width]`: the bags, one after another.
    pub fn weights(&self, h: &Tensor, bags: &Sequences) -> Result<Tensor> {
        let content = self.v.forward(h)?.tanh()?;
        let gate = self.u.forward_activated(h, Activation::Sigmoid)?;
        // A rounded score is a factor on a weight: scores and their softmax are f32.
        let scores = self.w.forward(&content.mul(&gate)?.widened()?)?;
        scores.segment_softmax(bags.offsets())?.reshape([h.shape().rows()])
    }

    /// The bags' weighed means `[bags, width]`, and [`GatedAttention::weights`].
    pub fn forward(&self, h: &Tensor, bags: &Sequences) -> Result<[Tensor; 2]> {
        let weights = self.weights(h, bags)?;
        Ok([h.segment_weighted_sum(&weights.cast(h.dtype())?, bags.offsets())?, weights])
    }
}
