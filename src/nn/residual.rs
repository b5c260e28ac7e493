//! StyleGAN2's residual block: two 3x3 convolutions beside a linear 1x1 shortcut, their sum divided by √2 to keep its
//! variance. Encoder and discriminator are towers of these.

use std::f64::consts::FRAC_1_SQRT_2;

use crate::{
    device::nvtx,
    error::Result,
    nn::{
        builder::Builder,
        equalized::{EqualizedConv, Then, plain},
    },
    ops::modulated_conv2d::Resampling,
    tensor::Tensor,
};

pub struct ResidualBlock {
    first: EqualizedConv,
    second: EqualizedConv,
    shortcut: EqualizedConv,
}

impl ResidualBlock {
    /// `[n, h, w, c] -> [n, h, w, k]`, or half the size as the resampling says.
    pub fn new(b: &mut Builder, [c, k]: [usize; 2], resampling: &Resampling) -> Result<ResidualBlock> {
        let active = Some(Then::LeakyRelu);
        Ok(ResidualBlock {
            first: b.scope("first", |b| EqualizedConv::new(b, [c, c], 3, active, plain(&resampling.filter)))?,
            second: b.scope("second", |b| EqualizedConv::new(b, [c, k], 3, active, resampling.clone()))?,
            shortcut: b.scope("shortcut", |b| EqualizedConv::new(b, [c, k], 1, None, resampling.clone()))?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _range = nvtx::range("residual");
        let y = self.second.forward_add_residual(&self.first.forward(x)?, FRAC_1_SQRT_2, None)?;
        self.shortcut.forward_add_residual(x, FRAC_1_SQRT_2, Some(&y))
    }
}
