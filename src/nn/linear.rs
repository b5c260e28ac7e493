//! A fully connected layer.

use crate::{
    activation::Activation,
    error::Result,
    nn::builder::{Builder, Init},
    ops::epilogue::Epilogue,
    tensor::Tensor,
};

/// `y = x Wᵀ + b`, computed in the type of `x`; parameters `weight` `[out, in]` and, where wanted, `bias` `[out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// With a bias that begins at zero. `gain` times the standard deviation that keeps the variance, `1/√in`.
    pub fn new(b: &mut Builder, inputs: usize, outputs: usize, gain: f64) -> Result<Linear> {
        let weight = Linear::draw(b, inputs, outputs, gain)?;
        Ok(Linear { weight, bias: Some(b.param("bias", [outputs], Init::Constant(0.0))?) })
    }

    /// As [`Linear::new`], without a bias.
    pub fn without_bias(b: &mut Builder, inputs: usize, outputs: usize, gain: f64) -> Result<Linear> {
        Ok(Linear { weight: Linear::draw(b, inputs, outputs, gain)?, bias: None })
    }

    fn draw(b: &mut Builder, inputs: usize, outputs: usize, gain: f64) -> Result<Tensor> {
        b.param("weight", [outputs, inputs], Init::Normal(gain / (inputs.max(1) as f64).sqrt()))
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Weight and bias at the type of `x`; none without a bias.
    pub fn biased(&self, x: &Tensor) -> Result<Option<[Tensor; 2]>> {
        let Some(bias) = &self.bias else { return Ok(None) };
        Ok(Some([self.weight.matching(x)?, bias.matching(x)?]))
    }

    /// `[.., in] -> [.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fused(x, Activation::Linear, None)
    }

    /// The activation of the same.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.fused(x, activation, None)
    }

    /// The same, added to `residual`.
    pub fn forward_add_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.fused(x, Activation::Linear, Some(residual))
    }

    fn fused(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.matching(x)).transpose()?;
        let epilogue = Epilogue { activation, residual, ..Epilogue::bias(bias.as_ref()) };
        x.linear_fused(&self.weight.matching(x)?, &epilogue)
    }
}
