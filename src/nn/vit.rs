//! The pre-norm transformer block of the vision transformer (Dosovitskiy et al. 2021), as timm's `Block`: attention and a
//! GELU perceptron, each after a layer normalisation and around a residual path.
//!
//! Tokens of several sequences lie one after another in one matrix, so that everything but the attention itself runs on
//! all of them at once; attention stays within a sequence.

use crate::{
    error::{Error, Result},
    nn::{
        builder::Builder,
        linear::Linear,
        mbconv::RESIDUAL_GAIN,
        norm::{LAYER_EPS, LayerNorm},
    },
    tensor::Tensor,
};

/// Sizes of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VitConfig {
    pub width: usize,
    /// Divides the width.
    pub heads: usize,
    /// Hidden width of the perceptron.
    pub mlp: usize,
}

pub struct VitBlock {
    ln1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ln2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl VitBlock {
    /// Parameters `ln1.*`, `qkv.*` (queries, keys, values, in this order), `proj.*`, `ln2.*`, `fc1.*`, `fc2.*`.
    pub fn new(b: &mut Builder, config: VitConfig) -> Result<VitBlock> {
        let VitConfig { width, heads, mlp } = config;
        if heads == 0 || width == 0 || width % heads != 0 || mlp == 0 {
            return Err(Error::shape("vit", format!("a width that {heads} heads divide wanted, got {config:?}")));
        }
        Ok(VitBlock {
            ln1: b.scope("ln1", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            qkv: b.scope("qkv", |b| Linear::new(b, width, 3 * width, 1.0))?,
            proj: b.scope("proj", |b| Linear::new(b, width, width, RESIDUAL_GAIN))?,
            ln2: b.scope("ln2", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            fc1: b.scope("fc1", |b| Linear::new(b, width, mlp, 1.0))?,
            fc2: b.scope("fc2", |b| Linear::new(b, mlp, width, RESIDUAL_GAIN))?,
            heads,
        })
    }

    /// `x` `[rows, width]`: sequences of the given lengths, one after another. `drop` is applied to what each half adds to
    /// the residual path.
    pub fn forward(
        &self,
        x: &Tensor,
        lengths: &[usize],
        drop: &mut dyn FnMut(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?;
        let x = x.add(&drop(self.proj.forward(&self.attend(&qkv, lengths)?)?)?)?;
        let hidden = self.fc1.forward(&self.ln2.forward(&x)?)?.gelu()?;
        x.add(&drop(self.fc2.forward(&hidden)?)?)
    }

    /// As [`VitBlock::forward`] for one sequence, without dropout, and its attention averaged over the heads
    /// `[queries, keys]`, for pictures.
    pub fn forward_with_attention(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let length = x.shape().rows();
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?;
        let [q, k, _] = self.split(&qkv, 1, length)?;
        let scale = self.scale(x.shape().last());
        let map = q.matmul(&k, false, true)?.scale(scale)?.softmax()?.mean(&[1])?.reshape([length, length])?;
        Ok((self.forward(x, &[length], &mut Ok)?, map))
    }

    fn scale(&self, width: usize) -> f64 {
        ((width / self.heads) as f64).sqrt().recip()
    }

    /// `[rows, 3 width]` of `b` sequences of `length` tokens to queries, keys, values `[b, heads, length, width / heads]`.
    fn split(&self, qkv: &Tensor, b: usize, length: usize) -> Result<[Tensor; 3]> {
        let width = qkv.shape().last() / 3;
        let (h, d) = (self.heads, width / self.heads);
        let parts = qkv.reshape([b, length, 3, h, d])?.permute(&[2, 0, 3, 1, 4])?;
        let part = |i: usize| parts.slice(0, i, 1)?.reshape([b, h, length, d]);
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Attention within each sequence: `[rows, 3 width] -> [rows, width]`.
    fn attend(&self, qkv: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = (qkv.shape().rows(), qkv.shape().last() / 3);
        if lengths.iter().sum::<usize>() != rows || lengths.contains(&0) {
            return Err(Error::shape("vit", format!("sequences of {lengths:?} tokens in {rows} rows")));
        }
        let one = |qkv: &Tensor, b: usize, length: usize| {
            let [q, k, v] = self.split(qkv, b, length)?;
            let y = q.attention(&k, &v, self.scale(width))?;
            y.permute(&[0, 2, 1, 3])?.reshape([b * length, width])
        };
        // Neighbours of one length go through attention together; equal patch counts make that all of them.
        let mut parts = Vec::new();
        let mut begin = 0;
        for group in lengths.chunk_by(|a, b| a == b) {
            let tokens = group[0] * group.len();
            let part = if tokens == rows { qkv.clone() } else { qkv.slice(0, begin, tokens)? };
            parts.push(one(&part, group.len(), group[0])?);
            begin += tokens;
        }
        match &parts[..] {
            [all] => Ok(all.clone()),
            _ => Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0),
        }
    }
}
