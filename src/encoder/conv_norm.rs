//! A convolution and the batch normalisation behind it, as image networks have them by the dozen.
//!
//! With given statistics the two are one convolution with a bias: `w′ = w · γ / √(variance + eps)`,
//! `b′ = β − mean · γ / √(variance + eps)`, computed in f32 at least; [`ConvNorm::fold`] does it. A network that is not folded does
//! one after the other, which is the same map, has gradients of weight, γ and β, and in 16 bits rounds where other programs do:
//! a weight rounded once more moves values across the kinks of ReLU.

use crate::{
    activation::{Activation, ActivationParams},
    dtype::DType,
    error::{Error, Result},
    nn::builder::{Builder, Init},
    ops::{conv2d::Conv2d, epilogue::Epilogue},
    tensor::Tensor,
};

/// Zeros around an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Padding {
    /// As many on each side.
    Each(usize),
    /// TensorFlow's "same": `⌈extent / stride⌉` positions along each axis; of what that needs, the smaller half comes first.
    Same,
}

/// Extents of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel_px: usize,
    pub stride: usize,
    pub padding: Padding,
    /// Every channel sees itself alone; as many outputs as inputs.
    pub depthwise: bool,
}

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    Nothing,
    Relu,
    /// `clamp(x, 0, 6)`.
    Relu6,
}

pub struct ConvNorm {
    /// As files hold it, `[outputs, inputs, r, s]`; `[outputs, 1, r, s]` where depthwise.
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
    shape: Shape,
    then: Then,
    folded: Option<Folded>,
}

/// Weight `[k, r, s, c]`, or `[r, s, c]` where depthwise, and bias `[k]`.
#[derive(Clone)]
struct Folded {
    weight: Tensor,
    bias: Tensor,
}

impl ConvNorm {
    /// Parameters `CONV.weight`, `NORM.weight`, `NORM.bias`; buffers `NORM.running_mean`, `NORM.running_var`. Drawn as He et
    /// al. 2015, the normalisation leaving values as they are.
    pub fn new(b: &mut Builder, [conv, norm]: [&str; 2], shape: Shape, eps: f64, then: Then) -> Result<ConvNorm> {
        let Shape { inputs, outputs, kernel_px, depthwise, .. } = shape;
        if depthwise && inputs != outputs {
            return Err(Error::shape("conv_norm", format!("{inputs} channels to {outputs}, each by itself")));
        }
        let seen = if depthwise { 1 } else { inputs };
        let drawn = Init::Normal((2.0 / (seen * kernel_px * kernel_px) as f64).sqrt());
        let weight = b.scope(conv, |b| b.param("weight", [outputs, seen, kernel_px, kernel_px], drawn))?;
        b.scope(norm, |b| {
            Ok(ConvNorm {
                weight,
                norm_weight: b.param("weight", [outputs], Init::Constant(1.0))?,
                norm_bias: b.param("bias", [outputs], Init::Constant(0.0))?,
                mean: b.buffer("running_mean", [outputs], Init::Constant(0.0))?,
                variance: b.buffer("running_var", [outputs], Init::Constant(1.0))?,
                eps,
                shape,
                then,
                folded: None,
            })
        })
    }

    /// Folds for good, for images of this type: passes after this cost one convolution, and weights have no gradient any more.
    pub fn fold(&mut self, dtype: DType) -> Result<()> {
        self.folded = Some(self.folding(dtype)?);
        Ok(())
    }

    /// The weight as convolutions here read it.
    fn laid_out(&self, weight: &Tensor) -> Result<Tensor> {
        let Shape { outputs, kernel_px, depthwise, .. } = self.shape;
        match depthwise {
            true => weight.permute(&[2, 3, 1, 0])?.reshape([kernel_px, kernel_px, outputs]),
            false => weight.permute(&[0, 2, 3, 1]),
        }
    }

    fn folding(&self, dtype: DType) -> Result<Folded> {
        let Shape { outputs, depthwise, .. } = self.shape;
        let scale = self.variance.widened()?.shift(self.eps)?.rsqrt()?.mul(&self.norm_weight.widened()?)?;
        let bias = self.norm_bias.widened()?.sub(&self.mean.widened()?.mul(&scale)?)?;
        let scale = if depthwise { scale } else { scale.reshape([outputs, 1, 1, 1])? };
        let weight = self.laid_out(&self.weight.widened()?)?.mul(&scale)?;
        Ok(Folded { weight: weight.cast(dtype)?, bias: bias.cast(dtype)? })
    }

    /// `[n, h, w, inputs]` to `[n, h′, w′, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_add_residual(x, None)
    }

    /// The same, added to `residual`; for layers that nothing follows.
    pub fn forward_add_residual(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (padded, padding) = self.padded(x)?;
        let (activation, clamp) = match self.then {
            Then::Nothing => (Activation::Linear, None),
            Then::Relu => (Activation::Relu, None),
            Then::Relu6 => (Activation::Relu, Some(6.0)),
        };
        let params = ActivationParams { clamp, ..ActivationParams::default() };
        let Shape { stride, depthwise, .. } = self.shape;
        let Some(Folded { weight, bias }) = &self.folded else {
            let weight = self.laid_out(&self.weight)?;
            let y = match depthwise {
                true => padded.depthwise_conv2d(&weight, stride, padding)?,
                false => padded.conv2d(&weight, None, Conv2d { stride, padding, ..Conv2d::default() })?,
            };
            let [gamma, beta, mean, variance] =
                [&self.norm_weight, &self.norm_bias, &self.mean, &self.variance].map(Tensor::widened);
            let y = y.batch_norm2d_eval(&gamma?, &beta?, &mean?, &variance?, self.eps)?;
            let y = if self.then == Then::Nothing { y } else { y.bias_act(None, activation, params)? };
            return residual.map_or(Ok(y.clone()), |residual| y.add(residual));
        };
        if depthwise {
            let y = padded.depthwise_conv2d(weight, stride, padding)?.bias_act(Some(bias), activation, params)?;
            return residual.map_or(Ok(y.clone()), |residual| y.add(residual));
        }
        let epilogue = Epilogue { bias: Some(bias), activation, params, residual, ..Epilogue::default() };
        padded.conv2d_fused(weight, Conv2d { stride, padding, ..Conv2d::default() }, &epilogue)
    }

    /// The image with the zeros that a convolution cannot add by itself, and those it can.
    fn padded(&self, x: &Tensor) -> Result<(Tensor, usize)> {
        let Shape { kernel_px, stride, padding, .. } = self.shape;
        match (padding, x.shape().nhwc()) {
            (Padding::Each(padding), _) => Ok((x.clone(), padding)),
            (Padding::Same, Some([_, h, w, _])) => {
                let zeros = [h, w].map(|extent| same_padding(extent, kernel_px, stride));
                let [[top, bottom], [left, right]] = zeros;
                if [bottom, left, right].iter().all(|&zeros| zeros == top) {
                    return Ok((x.clone(), top));
                }
                let x = x.pad_with_zeros(1, top, h + top + bottom)?.pad_with_zeros(2, left, w + left + right)?;
                Ok((x, 0))
            }
            (Padding::Same, None) => Err(Error::shape("conv_norm", format!("images wanted, got {}", x.shape()))),
        }
    }
}

/// Zeros before and after an axis.
fn same_padding(extent: usize, kernel_px: usize, stride: usize) -> [usize; 2] {
    let total = ((extent.div_ceil(stride) - 1) * stride + kernel_px).saturating_sub(extent);
    [total / 2, total - total / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn the_smaller_half_of_same_padding_comes_first() {
        assert_eq!(same_padding(224, 3, 2), [0, 1]);
        assert_eq!(same_padding(225, 3, 2), [1, 1]);
        assert_eq!(same_padding(56, 5, 2), [1, 2]);
        assert_eq!(same_padding(7, 5, 1), [2, 2]);
        assert_eq!(same_padding(9, 1, 2), [0, 0]);
    }

    /// Folded and not, against the two operations one after the other.
    #[test]
    fn folding_changes_nothing() -> Result<()> {
        let cpu = Device::cpu();
        for depthwise in [false, true] {
            let shape = Shape {
                inputs: 5,
                outputs: if depthwise { 5 } else { 7 },
                kernel_px: 3,
                stride: 2,
                padding: Padding::Each(1),
                depthwise,
            };
            let mut b = Builder::fresh(3, DType::F64, &cpu);
            let mut layer = ConvNorm::new(&mut b, ["conv", "norm"], shape, 1e-3, Then::Nothing)?;
            let k = shape.outputs;
            let drawn = |name: &str, low: f64| {
                let values: Vec<f64> =
                    crate::random::Philox::named(1, name).uniforms(k).iter().map(|u| low + u).collect();
                Tensor::from_f64(&values, [k], DType::F64, &cpu)
            };
            (layer.norm_weight, layer.norm_bias) = (drawn("weight", 0.5)?, drawn("bias", -0.5)?);
            (layer.mean, layer.variance) = (drawn("mean", -0.5)?, drawn("variance", 0.2)?);
            let x = crate::random::Philox::named(2, "x").normals(2 * 9 * 6 * 5);
            let x = Tensor::from_f64(&x, [2, 9, 6, 5], DType::F64, &cpu)?;
            let y = if depthwise {
                x.depthwise_conv2d(&layer.weight.reshape([5, 3, 3])?.permute(&[1, 2, 0])?, 2, 1)?
            } else {
                let conv = Conv2d { stride: 2, padding: 1, ..Conv2d::default() };
                x.conv2d(&layer.weight.permute(&[0, 2, 3, 1])?, None, conv)?
            };
            let (w, b) = (&layer.norm_weight, &layer.norm_bias);
            let wanted = y.batch_norm2d_eval(w, b, &layer.mean, &layer.variance, 1e-3)?.to_vec::<f64>()?;
            for folded in [false, true] {
                if folded {
                    layer.fold(DType::F64)?;
                }
                let ours = layer.forward(&x)?.to_vec::<f64>()?;
                let worst = ours.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-12 && ours.len() == wanted.len(), "{worst}");
            }
        }
        Ok(())
    }
}
