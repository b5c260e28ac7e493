//! Layers with an equalised learning rate (Karras et al. 2018, §4.1), as StyleGAN2 uses them: weights are stored with
//! deviation 1 and scaled by `1/√fan_in` on every use, so that Adam moves all of them at one relative speed. Layers compute in
//! the type of what they are given.
//!
//! `lr_mul` below 1 stores a weight larger and uses it smaller by the same factor: its relative speed falls by it. Images
//! are channels last; convolution weights are `[k, r, s, c]`.

use std::f64::consts::SQRT_2;

use crate::{
    activation::{Activation, ActivationParams},
    error::Result,
    nn::builder::{Builder, Init},
    ops::{
        epilogue::Epilogue,
        modulated_conv2d::{ModulatedConv2d, Resampling},
        upfirdn2d::{Filter, Upfirdn2d},
    },
    tensor::Tensor,
};

/// What follows a layer's sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Bias alone.
    Bias,
    /// Bias, leaky ReLU with alpha 0.2, gain √2.
    LeakyRelu,
}

impl Then {
    /// As an epilogue whose result is `scale` times as large.
    fn epilogue(self, bias: &Tensor, scale: f64) -> Epilogue<'_> {
        let (activation, gain) = match self {
            Then::Bias => (Activation::Linear, 1.0),
            Then::LeakyRelu => (Activation::LeakyRelu, SQRT_2),
        };
        let params = ActivationParams { alpha: 0.2, gain: gain * scale, clamp: None };
        Epilogue { bias: Some(bias), activation, params, ..Epilogue::default() }
    }
}

/// `[.., inputs] -> [.., outputs]`.
pub struct EqualizedLinear {
    weight: Tensor,
    bias: Tensor,
    weight_gain: f64,
    bias_gain: f64,
    then: Then,
}

impl EqualizedLinear {
    pub fn new(b: &mut Builder, inputs: usize, outputs: usize, lr_mul: f64, then: Then) -> Result<EqualizedLinear> {
        EqualizedLinear::with_bias(b, inputs, outputs, lr_mul, then, 0.0)
    }

    /// With a bias that begins at `bias` instead of zero.
    pub fn with_bias(
        b: &mut Builder,
        inputs: usize,
        outputs: usize,
        lr_mul: f64,
        then: Then,
        bias: f64,
    ) -> Result<EqualizedLinear> {
        Ok(EqualizedLinear {
            weight: b.param("weight", [outputs, inputs], Init::Normal(1.0 / lr_mul))?,
            bias: b.param("bias", [outputs], Init::Constant(bias / lr_mul))?,
            weight_gain: lr_mul / (inputs as f64).sqrt(),
            bias_gain: lr_mul,
            then,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.scale(self.weight_gain)?.cast(x.dtype())?;
        if self.bias_gain == 1.0 {
            x.linear_fused(&weight, &self.then.epilogue(&self.bias.matching(x)?, 1.0))
        } else {
            x.linear_fused(&weight, &self.then.epilogue(&self.bias.scale(self.bias_gain)?.cast(x.dtype())?, 1.0))
        }
    }
}

/// A square kernel with "same" padding, optionally low-pass filtered and halved in size, then bias and activation.
pub struct EqualizedConv {
    weight: Tensor,
    /// Absent in the linear shortcut of a residual block.
    bias: Option<(Tensor, Then)>,
    gain: f64,
    resampling: Resampling,
}

impl EqualizedConv {
    /// `[n, h, w, c] -> [n, h, w, k]`, or `[n, h/2, w/2, k]` where it halves.
    pub fn new(
        b: &mut Builder,
        [c, k]: [usize; 2],
        kernel_px: usize,
        then: Option<Then>,
        resampling: Resampling,
    ) -> Result<EqualizedConv> {
        Ok(EqualizedConv {
            weight: b.param("weight", [k, kernel_px, kernel_px, c], Init::Normal(1.0))?,
            bias: then.map(|then| Ok((b.param("bias", [k], Init::Constant(0.0))?, then))).transpose()?,
            gain: 1.0 / ((c * kernel_px * kernel_px) as f64).sqrt(),
            resampling: Resampling { padding: kernel_px / 2, ..resampling },
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_add_residual(x, 1.0, None)
    }

    /// `residual + scale · layer(x)`; a residual is for layers without activation.
    pub fn forward_add_residual(&self, x: &Tensor, scale: f64, residual: Option<&Tensor>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|(bias, then)| Ok((bias.matching(x)?, then))).transpose()?;
        let epilogue = match &bias {
            None => Epilogue {
                params: ActivationParams { gain: scale, ..ActivationParams::default() },
                ..Epilogue::default()
            },
            Some((bias, then)) => then.epilogue(bias, scale),
        };
        let weight = self.weight.scale(self.gain)?.cast(x.dtype())?;
        x.resampled_conv2d_fused(&weight, &self.resampling, &Epilogue { residual, ..epilogue })
    }
}

/// A convolution that keeps the size. The filter is not used.
pub fn plain(filter: &Filter) -> Resampling {
    Resampling { up: 1, down: 1, padding: 0, filter: filter.clone() }
}

/// A convolution that halves the size.
pub fn halving(filter: &Filter) -> Resampling {
    Resampling { down: 2, ..plain(filter) }
}

/// A convolution that doubles the size.
pub fn doubling(filter: &Filter) -> Resampling {
    Resampling { up: 2, ..plain(filter) }
}

/// Twice the size: zeros in between, then the low-pass filter, whose gain of four makes up for them.
pub fn doubled(x: &Tensor, filter: &Filter) -> Result<Tensor> {
    let [rows, cols] = filter.extents().map(|taps| [taps.div_ceil(2) as i64, taps as i64 / 2 - 1]);
    let padding = [cols[0], cols[1], rows[0], rows[1]];
    x.upfirdn2d(filter, Upfirdn2d { up: 2, padding, gain: 4.0, ..Upfirdn2d::default() })
}

/// A convolution whose input channels are scaled per image by a style vector (StyleGAN2 §2.2), its weights then
/// normalised back to unit length per output channel (demodulation).
pub struct ModulatedConv {
    affine: EqualizedLinear,
    weight: Tensor,
    bias: Tensor,
    gain: f64,
    conv: ModulatedConv2d,
    then: Then,
}

impl ModulatedConv {
    /// A 3x3 layer with demodulation.
    pub fn styled(b: &mut Builder, style: usize, [c, k]: [usize; 2], resampling: Resampling) -> Result<ModulatedConv> {
        let conv = ModulatedConv2d { demodulate: true, resampling: Resampling { padding: 1, ..resampling } };
        ModulatedConv::new(b, style, [c, k], 3, conv, Then::LeakyRelu)
    }

    /// The 1x1 layer to red, green and blue, not demodulated.
    pub fn to_rgb(b: &mut Builder, style: usize, c: usize, filter: &Filter) -> Result<ModulatedConv> {
        let conv = ModulatedConv2d { demodulate: false, resampling: plain(filter) };
        ModulatedConv::new(b, style, [c, 3], 1, conv, Then::Bias)
    }

    fn new(
        b: &mut Builder,
        style: usize,
        [c, k]: [usize; 2],
        kernel_px: usize,
        conv: ModulatedConv2d,
        then: Then,
    ) -> Result<ModulatedConv> {
        Ok(ModulatedConv {
            // A style of one leaves the weights as they are.
            affine: b.scope("affine", |b| EqualizedLinear::with_bias(b, style, c, 1.0, Then::Bias, 1.0))?,
            weight: b.param("weight", [k, kernel_px, kernel_px, c], Init::Normal(1.0))?,
            bias: b.param("bias", [k], Init::Constant(0.0))?,
            gain: 1.0 / ((c * kernel_px * kernel_px) as f64).sqrt(),
            conv,
            then,
        })
    }

    /// `x` `[n, h, w, c]`, `code` `[n, style]`, which may be f32 beside 16-bit images: then styles and demodulation are.
    pub fn forward(&self, x: &Tensor, code: &Tensor) -> Result<Tensor> {
        self.forward_add_residual(x, code, None)
    }

    /// The same, added to `residual`; for layers without activation.
    pub fn forward_add_residual(&self, x: &Tensor, code: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let style = self.affine.forward(code)?;
        // Demodulation divides any gain out again; without it the gain belongs to the (much smaller) style.
        let style = if self.conv.demodulate { style } else { style.scale(self.gain)? };
        let bias = self.bias.matching(x)?;
        let epilogue = Epilogue { residual, ..self.then.epilogue(&bias, 1.0) };
        x.modulated_conv2d_fused(&self.weight, &style, &self.conv, &epilogue)
    }
}
