//! Learned perceptual distance (Zhang et al. 2018) on AlexNet, version 0.1: the semantics of the LPIPS package.
//!
//! Both images run through AlexNet's five convolutions. Each layer's activations are scaled to unit length over channels
//! at every pixel; squared differences are weighted per channel, summed over channels, averaged over the image, and the
//! five layers add up. Images `[n, h, w, 3]` in [-1, 1], at least 31 pixels a side; distances `[n]`.
//!
//! Trained weights come as two files: torchvision's AlexNet and LPIPS's linear layers. Without them `random` gives the
//! same network with drawn convolutions (He et al. 2015) and equal channel weights. Such features still compare edges,
//! colours and texture at growing scales; what training adds is their agreement with human judgement.
//!
//! Images and weights of 16 bits are compared in f32: features differ by less than they are long, their unit lengths by less
//! still, and rounding either to 16 bits leaves the gradient without a digit, or overflows it.

use std::{collections::HashMap, path::Path};

use crate::{
    activation::Activation,
    device::Device,
    dtype::DType,
    error::{Error, Result},
    io::{array::NamedArray, weights::Weights},
    nn::builder::{Builder, Init},
    ops::{avg_pool2d::Pool2d, conv2d::Conv2d, epilogue::Epilogue},
    tensor::Tensor,
};

/// Kernel, stride, padding of AlexNet's convolutions; a 3x3 maximum pooling of stride 2 stands before the second and third.
const CONVOLUTIONS: [(usize, usize, usize); 5] = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)];

/// Channels of torchvision's AlexNet.
pub const ALEXNET_WIDTHS: [usize; 5] = [64, 192, 384, 256, 256];

/// Where torchvision keeps the five convolutions among its `features`.
const TORCHVISION_LAYERS: [usize; 5] = [0, 3, 6, 8, 10];

/// Smallest image side that leaves every layer a pixel.
pub const MIN_IMAGE_PX: usize = 31;

/// From [-1, 1] to the colour statistics AlexNet was trained with.
const SHIFT: [f64; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f64; 3] = [0.458, 0.448, 0.450];

pub struct Lpips {
    layers: Vec<Layer>,
    shift: Tensor,
    inverse_scale: Tensor,
}

struct Layer {
    weight: Tensor,
    bias: Tensor,
    /// One weight per channel, `[c]`.
    linear: Tensor,
    conv: Conv2d,
    pool_before: bool,
}

impl Lpips {
    /// Tensors `conv{i}.weight` `[k, r, s, c]`, `conv{i}.bias` `[k]` and `lin{i}.weight` `[k]` for i in 0..5, k being
    /// `widths[i]`. They are buffers: nothing trains them.
    pub fn from_builder(b: &mut Builder, widths: [usize; 5]) -> Result<Lpips> {
        let mut layers = Vec::with_capacity(5);
        let mut c = 3;
        for (i, (k, (kernel_px, stride, padding))) in widths.into_iter().zip(CONVOLUTIONS).enumerate() {
            let fan_in = kernel_px * kernel_px * c;
            let drawn = Init::Normal((2.0 / fan_in as f64).sqrt());
            layers.push(Layer {
                weight: b.buffer(&format!("conv{i}.weight"), [k, kernel_px, kernel_px, c], drawn)?,
                bias: b.buffer(&format!("conv{i}.bias"), [k], Init::Constant(0.0))?,
                linear: b.buffer(&format!("lin{i}.weight"), [k], Init::Constant(0.2))?,
                conv: Conv2d { stride, padding, ..Conv2d::default() },
                pool_before: i == 1 || i == 2,
            });
            c = k;
        }
        // In 16 bits they would move every image by more than rounding it does.
        let wide = if b.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok(Lpips {
            layers,
            shift: Tensor::from_f64(&SHIFT, [3], wide, b.device())?,
            inverse_scale: Tensor::from_f64(&SCALE.map(f64::recip), [3], wide, b.device())?,
        })
    }

    /// AlexNet with drawn convolutions and equal channel weights.
    pub fn random(seed: u64, dtype: DType, device: &Device) -> Result<Lpips> {
        Lpips::from_builder(&mut Builder::fresh(seed, dtype, device), ALEXNET_WIDTHS)
    }

    /// Says which of the two files of trained weights is not there.
    pub fn check_files(alexnet: &Path, linear: &Path) -> Result<()> {
        if !alexnet.is_file() {
            return Err(Error::input(
                alexnet,
                "the AlexNet weights that LPIPS compares images with are not there",
                "download torchvision's ImageNet checkpoint alexnet-owt-7be5be79.pth and name it in lpips.weights, or \
                 choose lpips.weights = \"random\" or \"none\"",
            ));
        }
        if !linear.is_file() {
            return Err(Error::input(
                linear,
                "the linear layers of LPIPS are not there",
                "take weights/v0.1/alex.pth from the LPIPS package and name it in lpips.linear",
            ));
        }
        Ok(())
    }

    /// Trained weights: `alexnet` is torchvision's checkpoint, `linear` LPIPS's `alex.pth`; either may also be a
    /// safetensors file with the same names.
    pub fn load(alexnet: &Path, linear: &Path, dtype: DType, device: &Device) -> Result<Lpips> {
        Lpips::check_files(alexnet, linear)?;
        let (trunk, heads) = (Weights::read(alexnet)?, Weights::read(linear)?);
        let mut tensors = HashMap::new();
        let mut c = 3;
        for (i, (k, (kernel_px, ..))) in ALEXNET_WIDTHS.into_iter().zip(CONVOLUTIONS).enumerate() {
            let layer = format!("features.{}", TORCHVISION_LAYERS[i]);
            let weight = trunk.get_shaped(&format!("{layer}.weight"), &[k, c, kernel_px, kernel_px])?;
            let weight = channels_last(&weight.view().to_f32(), [k, c, kernel_px, kernel_px]);
            let weight = Tensor::from_vec(weight, [k, kernel_px, kernel_px, c], device)?;
            tensors.insert(format!("conv{i}.weight"), weight);
            let vector = |array: &NamedArray| Tensor::from_vec(array.view().to_f32(), [k], device);
            let bias = trunk.get_shaped(&format!("{layer}.bias"), &[k])?;
            tensors.insert(format!("conv{i}.bias"), vector(bias)?);
            let linear = heads.get_shaped(&format!("lin{i}.model.1.weight"), &[1, k, 1, 1])?;
            tensors.insert(format!("lin{i}.weight"), vector(linear)?);
            c = k;
        }
        let origin = alexnet.display().to_string();
        Lpips::from_builder(&mut Builder::load(tensors, &origin, dtype, device), ALEXNET_WIDTHS)
    }

    /// Distance of each image in `x0` to the one at its place in `x1`: `[n]`.
    pub fn distance(&self, x0: &Tensor, x1: &Tensor) -> Result<Tensor> {
        let dtype = x0.dtype();
        let mut total: Option<Tensor> = None;
        let features = self.features(&x0.widened()?)?.into_iter().zip(self.features(&x1.widened()?)?);
        for ((a, b), layer) in features.zip(&self.layers) {
            let distance = a.lpips_distance(&b, &layer.linear.widened()?)?;
            total = Some(match total {
                Some(total) => total.add(&distance)?,
                None => distance,
            });
        }
        total.expect("there are five layers").cast(dtype)
    }

    fn features(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        match images.shape().nhwc() {
            Some([_, h, w, 3]) if h.min(w) >= MIN_IMAGE_PX => {}
            _ => {
                let message =
                    format!("images [n, h, w, 3] of {MIN_IMAGE_PX} px or more wanted, got {}", images.shape());
                return Err(Error::shape("lpips", message));
            }
        }
        let mut x = images.sub(&self.shift)?.mul(&self.inverse_scale)?;
        let mut out = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            if layer.pool_before {
                x = x.max_pool2d(Pool2d { kernel: 3, stride: 2, padding: 0 })?;
            }
            let (weight, bias) = (layer.weight.widened()?, layer.bias.widened()?);
            let rectified = Epilogue { activation: Activation::Relu, ..Epilogue::bias(Some(&bias)) };
            x = x.conv2d_fused(&weight, layer.conv, &rectified)?;
            out.push(x.clone());
        }
        Ok(out)
    }
}

/// `[k, c, r, s] -> [k, r, s, c]`.
fn channels_last(weight: &[f32], [k, c, r, s]: [usize; 4]) -> Vec<f32> {
    let taps = r * s;
    let pixel = |k: usize, tap: usize| (0..c).map(move |channel| weight[(k * c + channel) * taps + tap]);
    (0..k).flat_map(|k| (0..taps).flat_map(move |tap| pixel(k, tap))).collect()
}
