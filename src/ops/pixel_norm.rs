//! `y = x / √(mean(x²) + eps)` over the last axis (StyleGAN's normalisation of a latent code). Composed, so every order of
//! derivative exists; it runs on one vector a sample.

use crate::{
    error::{Error, Result},
    op::{Case, OpSpec, Order, normal, registry::only},
    tensor::Tensor,
};

impl Tensor {
    /// The last axis scaled to a mean square of one.
    pub fn pixel_norm(&self, eps: f64) -> Result<Tensor> {
        let Some(last) = self.shape().rank().checked_sub(1) else {
            return Err(Error::shape("pixel_norm", "a scalar has no last axis"));
        };
        self.mul(&self.square()?.mean(&[last])?.shift(eps)?.rsqrt()?)
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "pixel_norm",
    order: Order::Any,
    kernels: &[],
    cases: || vec![Case::new("codes", [normal([3, 37])], |x| Ok(vec![x[0].pixel_norm(1e-8)?]))],
    reference: Some(|a| Ok(only("y", a.tensor("x")?.pixel_norm(a.float("eps")?)?))),
    ..OpSpec::BARE
};
