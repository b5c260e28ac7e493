//! Depthwise convolutions as layers: every channel (the last axis) sees only itself.

use crate::{
    activation::{Activation, ActivationParams},
    error::{Error, Result},
    nn::builder::{Builder, Init},
    tensor::Tensor,
};

/// A square odd kernel, padded so that stride 1 keeps the size. Parameters `weight` `[kernel, kernel, channels]` and, where
/// wanted, `bias` `[channels]`.
pub struct DepthwiseConv {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

impl DepthwiseConv {
    /// With a bias that begins at zero.
    pub fn new(b: &mut Builder, kernel: usize, channels: usize) -> Result<DepthwiseConv> {
        let conv = DepthwiseConv::without_bias(b, kernel, channels, 1)?;
        Ok(DepthwiseConv { bias: Some(b.param("bias", [channels], Init::Constant(0.0))?), ..conv })
    }

    /// # Errors
    /// `Shape` where the kernel is even or the stride 0.
    pub fn without_bias(b: &mut Builder, kernel: usize, channels: usize, stride: usize) -> Result<DepthwiseConv> {
        if kernel.is_multiple_of(2) || stride == 0 {
            return Err(Error::shape(
                "depthwise_conv2d",
                format!("an odd kernel wanted, got {kernel}, stride {stride}"),
            ));
        }
        // The deviation that keeps the variance: a channel's fan-in is the kernel alone.
        let weight = b.param("weight", [kernel, kernel, channels], Init::Normal(1.0 / kernel as f64))?;
        Ok(DepthwiseConv { weight, bias: None, stride, padding: kernel / 2 })
    }

    /// `[kernel, kernel, channels]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// `[n, h, w, channels] -> [n, ⌈h / stride⌉, ⌈w / stride⌉, channels]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.depthwise_conv2d(&self.weight.matching(x)?, self.stride, self.padding)?;
        match &self.bias {
            Some(bias) => y.bias_act(Some(&bias.matching(x)?), Activation::Linear, ActivationParams::default()),
            None => Ok(y),
        }
    }
}
