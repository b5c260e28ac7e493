//! The pre-norm transformer block of the vision transformer (Dosovitskiy et al. 2021), as timm's `Block`: attention and a
//! GELU MLP, each after a layer normalisation and around a residual path.
//!
//! Tokens of several sequences lie one after another in one matrix, so that everything but the attention itself runs on
//! all of them at once; attention stays within a sequence.

use std::cell::OnceCell;

use crate::{
    activation::Activation,
    device::{Device, host::HostBuffer, nvtx},
    error::{Error, Result},
    nn::{
        builder::Builder,
        class_token::WithClassToken,
        linear::Linear,
        mbconv::RESIDUAL_GAIN,
        norm::{LAYER_EPS, LayerNorm},
        row_numbers::RowNumbers,
    },
    tensor::Tensor,
};

/// Drops values of the first tensor, then adds the second.
pub type Drop<'a> = &'a mut dyn FnMut(Tensor, Option<&Tensor>) -> Result<Tensor>;

/// Sequences that lie one after another in one matrix, in the device's memory, so that a captured step can be replayed with
/// others of the same number and total.
pub struct Sequences {
    lengths: Vec<usize>,
    /// First rows, and the number of rows at last.
    offsets: Tensor,
    /// The same with a class token each, once somebody asked.
    with_class_token: OnceCell<Box<WithClassToken>>,
    /// Of their rows, once somebody asked.
    row_numbers: OnceCell<RowNumbers>,
}

impl Sequences {
    pub fn new(lengths: &[usize], device: &Device) -> Result<Sequences> {
        let offsets = offsets(lengths)?;
        let offsets = Tensor::from_vec(offsets.clone(), [offsets.len()], device)?;
        let (with_class_token, row_numbers) = (OnceCell::new(), OnceCell::new());
        Ok(Sequences { lengths: lengths.to_vec(), offsets, with_class_token, row_numbers })
    }

    /// Other lengths in the same memory: as many, of the same total.
    pub fn overwrite(&mut self, lengths: &[usize]) -> Result<()> {
        if lengths.len() != self.lengths.len() {
            let message = format!("{} sequences in the place of {}", lengths.len(), self.lengths.len());
            return Err(Error::shape("vit", message));
        }
        self.check("vit", lengths.iter().sum())?;
        self.offsets.overwrite(HostBuffer::I32(offsets(lengths)?))?;
        self.lengths.copy_from_slice(lengths);
        self.with_class_token.get_mut().map_or(Ok(()), |longer| longer.overwrite(lengths))?;
        self.row_numbers.get_mut().map_or(Ok(()), |numbers| numbers.overwrite(lengths))
    }

    /// The same sequences with a class token in front of each. Made when first asked for, and kept up to date by
    /// [`Sequences::overwrite`].
    pub fn with_class_token(&self) -> Result<&WithClassToken> {
        if let Some(longer) = self.with_class_token.get() {
            return Ok(longer);
        }
        let longer = Box::new(WithClassToken::new(self)?);
        Ok(self.with_class_token.get_or_init(|| longer))
    }

    /// Of each row, its sequence and its place in it. Made when first asked for, and kept up to date by
    /// [`Sequences::overwrite`].
    pub fn row_numbers(&self) -> Result<&RowNumbers> {
        if let Some(numbers) = self.row_numbers.get() {
            return Ok(numbers);
        }
        let numbers = RowNumbers::new(&self.lengths, self.offsets.device())?;
        Ok(self.row_numbers.get_or_init(|| numbers))
    }

    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// i32 `[sequences + 1]`: the first row of each, and the number of rows at last.
    pub fn offsets(&self) -> &Tensor {
        &self.offsets
    }

    /// Refuses a matrix of another number of rows.
    pub fn check(&self, op: &'static str, rows: usize) -> Result<()> {
        match self.lengths.iter().sum::<usize>() == rows {
            true => Ok(()),
            false => Err(Error::shape(op, format!("sequences of {:?} tokens in {rows} rows", self.lengths))),
        }
    }
}

fn offsets(lengths: &[usize]) -> Result<Vec<i32>> {
    if lengths.is_empty() || lengths.contains(&0) {
        return Err(Error::shape("vit", format!("sequences of at least one token wanted, got {lengths:?}")));
    }
    let mut offsets = vec![0];
    for &length in lengths {
        let last = offsets[offsets.len() - 1];
        let next = i32::try_from(length).ok().and_then(|length| length.checked_add(last));
        offsets.push(next.ok_or_else(|| Error::shape("vit", format!("{lengths:?} tokens are more than 2³¹")))?);
    }
    Ok(offsets)
}

/// Sizes of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VitConfig {
    pub width: usize,
    /// Divides the width.
    pub heads: usize,
    /// Hidden width of the MLP.
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
        VitBlock::named(b, config, ["ln1", "qkv", "proj", "ln2", "fc1", "fc2"])
    }

    /// The same under timm's names: `norm1.*`, `attn.qkv.*`, `attn.proj.*`, `norm2.*`, `mlp.fc1.*`, `mlp.fc2.*`.
    pub fn timm(b: &mut Builder, config: VitConfig) -> Result<VitBlock> {
        VitBlock::named(b, config, ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"])
    }

    fn named(b: &mut Builder, config: VitConfig, names: [&str; 6]) -> Result<VitBlock> {
        let VitConfig { width, heads, mlp } = config;
        if heads == 0 || width == 0 || width % heads != 0 || mlp == 0 {
            return Err(Error::shape("vit", format!("a width that {heads} heads divide wanted, got {config:?}")));
        }
        let [ln1, qkv, proj, ln2, fc1, fc2] = names;
        Ok(VitBlock {
            ln1: b.scope(ln1, |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            qkv: b.scope(qkv, |b| Linear::new(b, width, 3 * width, 1.0))?,
            proj: b.scope(proj, |b| Linear::new(b, width, width, RESIDUAL_GAIN))?,
            ln2: b.scope(ln2, |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            fc1: b.scope(fc1, |b| Linear::new(b, width, mlp, 1.0))?,
            fc2: b.scope(fc2, |b| Linear::new(b, mlp, width, RESIDUAL_GAIN))?,
            heads,
        })
    }

    /// `x` `[rows, width]`: the sequences, one after another. `drop`, if any, is applied to what each half adds to the residual
    /// path, and adds it.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences, drop: Option<Drop>) -> Result<Tensor> {
        let _range = nvtx::range("vit_block");
        sequences.check("vit", x.shape().rows())?;
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?;
        let attended = qkv.packed_attention(sequences.offsets(), self.heads, self.scale(x.shape().last()))?;
        let mut drop = drop;
        let mut onto = |x: &Tensor, branch: &Tensor, last: &Linear| match &mut drop {
            Some(drop) => drop(last.forward(branch)?, Some(x)),
            None => last.forward_add_residual(branch, x),
        };
        let x = onto(x, &attended, &self.proj)?;
        let hidden = self.fc1.forward_activated(&self.ln2.forward(&x)?, Activation::Gelu)?;
        onto(&x, &hidden, &self.fc2)
    }

    /// As [`VitBlock::forward`] for one sequence, without dropout, and its attention averaged over the heads
    /// `[queries, keys]`, for images.
    pub fn forward_with_attention(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (length, width) = (x.shape().rows(), x.shape().last());
        let (h, d) = (self.heads, width / self.heads);
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?;
        let parts = qkv.reshape([length, 3, h, d])?.permute(&[1, 2, 0, 3])?;
        let part = |i: usize| parts.slice(0, i, 1)?.reshape([h, length, d]);
        let scores = part(0)?.matmul(&part(1)?, false, true)?.scale(self.scale(width))?;
        let map = scores.softmax()?.mean(&[0])?.reshape([length, length])?;
        Ok((self.forward(x, &Sequences::new(&[length], x.device())?, None)?, map))
    }

    fn scale(&self, width: usize) -> f64 {
        ((width / self.heads) as f64).sqrt().recip()
    }
}
