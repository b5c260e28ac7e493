//! The standard deviation over groups of samples as additional channels: lets a discriminator see a lack of variety
//! (Karras et al. 2018; grouping as StyleGAN2-ADA). Composed, so that R1 can differentiate through it.

use crate::{
    error::{Error, Result},
    op::{Case, OpSpec, Order, normal, registry::only},
    tensor::Tensor,
};

impl Tensor {
    /// `[n, h, w, c] -> [n, h, w, c + channels]`. Samples `i`, `i + n/group`, `i + 2n/group`, .. form a group; `n` is a
    /// multiple of the group size, `c` of `channels`, each of which averages the standard deviation over its share of the channels.
    pub fn minibatch_stddev(&self, group_size: usize, channels: usize) -> Result<Tensor> {
        let wrong = |why: &str| Error::shape("minibatch_stddev", format!("{why}, got {}", self.shape()));
        let [n, h, w, c] = self.shape().nhwc().ok_or_else(|| wrong("[n, h, w, c] wanted"))?;
        if group_size == 0 || !n.is_multiple_of(group_size) || channels == 0 || !c.is_multiple_of(channels) {
            return Err(wrong(&format!("groups of {group_size} samples and {channels} parts of the channels wanted")));
        }
        let groups = n / group_size;
        let y = self.reshape([group_size, groups, h, w, channels, c / channels])?;
        let variance = y.sub(&y.mean(&[0])?)?.square()?.mean(&[0])?;
        let deviation = variance.shift(1e-8)?.sqrt()?.mean(&[2, 3, 5])?;
        let maps = deviation.broadcast_to([group_size, groups, h, w, channels, 1])?.reshape([n, h, w, channels])?;
        Tensor::concat(&[self, &maps], 3)
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "minibatch_stddev",
    order: Order::Any,
    kernels: &[],
    cases: || {
        vec![
            Case::new("one_channel", [normal([4, 2, 3, 5])], |x| Ok(vec![x[0].minibatch_stddev(4, 1)?])),
            // Groups of two would be |a − b|, whose kink finite differences of a gradient cannot stand.
            Case::new("two_channels", [normal([8, 2, 1, 6])], |x| Ok(vec![x[0].minibatch_stddev(4, 2)?])),
        ]
    },
    reference: Some(|a| {
        let (group, channels) = (a.int("group_size")?, a.int("num_channels")?);
        Ok(only("y", a.tensor("x")?.minibatch_stddev(group, channels)?))
    }),
    ..OpSpec::BARE
};
