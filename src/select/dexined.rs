//! DexiNed, a learned edge detector (Soria, Riba, Sappa 2020), as a selector: the mean edge probability of a patch.
//!
//! Six blocks of convolutions look at the image at 1/2 to 1/16 of its size; each gives an edge map, upsampled by transposed
//! convolutions, and a 1 x 1 convolution fuses the six. Batch normalisation uses stored statistics and is folded into
//! the convolution before it when weights are loaded. Images are BGR, 0 to 255, less the mean colour that the network was trained with;
//! sides are made multiples of 16 by repeating the border, and the result is cut back.
//!
//! Weights are those of the authors' PyTorch model (`DexiNed` of the release trained on BIPED; names as `block_1.conv1.weight`), as `.pth` or
//! safetensors.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    response::Response,
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::{checksum::Digest, weights::Weights},
    nn::norm::BATCH_EPS,
    ops::{avg_pool2d::Pool2d, conv2d::Conv2d},
    tensor::Tensor,
};

/// Longest side of a patch as the network sees it, where none is given: larger ones are made smaller.
pub const DEFAULT_LONGEST_PX: usize = 256;
/// Coarsest map: one value for so many pixels.
const STRIDE_PX: usize = 16;
/// Mean colour of the training images, blue first.
const MEAN_BGR: [f32; 3] = [103.939, 116.779, 123.68];

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DexinedOptions {
    /// The weight file.
    pub weights: PathBuf,
    /// Patches are made no larger than this before the network sees them.
    pub longest_px: usize,
}

impl Default for DexinedOptions {
    fn default() -> DexinedOptions {
        DexinedOptions { weights: PathBuf::new(), longest_px: DEFAULT_LONGEST_PX }
    }
}

impl DexinedOptions {
    /// # Errors
    /// No weight file named, or a size that cannot be.
    pub fn check_parameters(&self) -> Result<()> {
        if self.weights.as_os_str().is_empty() {
            return Err(Error::Usage(
                "dexined needs the network's weights: download the authors' checkpoint 10_model.pth (DexiNed on BIPED, linked \
                 from their GitHub page xavysp/DexiNed) and name it with --weights, or in a run as select.dexined.weights"
                    .to_string(),
            ));
        }
        if !(STRIDE_PX..=4096).contains(&self.longest_px) {
            return Err(Error::Usage(format!("dexined: a side of {} px; give {STRIDE_PX} to 4096", self.longest_px)));
        }
        Ok(())
    }
}

/// A convolution with what follows it folded in.
struct Layer {
    weight: Tensor,
    bias: Tensor,
    conv: Conv2d,
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv2d(&self.weight, Some(&self.bias), self.conv)
    }
}

/// 1 x 1 convolution, ReLU and a transposed convolution that doubles the size.
struct Doubling {
    mix: Layer,
    weight: Tensor,
    bias: Tensor,
    conv: Conv2d,
}

impl Doubling {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.mix.forward(x)?.relu()?;
        let [_, h, w, _] = x.shape().nhwc().ok_or_else(|| Error::shape("dexined", "an image wanted"))?;
        x.conv2d_input_gradient(&self.weight, [2 * h, 2 * w], self.conv)?.add(&self.bias)
    }
}

/// The network with its weights on a device.
pub struct Dexined {
    block1: [Layer; 2],
    block2: [Layer; 2],
    /// Blocks 3 to 6: pairs of convolutions.
    dense: [Vec<[Layer; 2]>; 4],
    /// `side_1` to `side_4`.
    side: [Layer; 4],
    /// `pre_dense_2` to `pre_dense_6`.
    before: [Layer; 5],
    up: Vec<Vec<Doubling>>,
    fuse: Layer,
    longest_px: usize,
    device: Device,
}

/// Reads layers by their names in the checkpoint.
struct Loader<'a> {
    weights: Weights,
    device: &'a Device,
}

impl Loader<'_> {
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.weights.get_shaped(name, shape)?.view().to_f32())
    }

    /// A convolution `[k, c, side, side]`, and the batch normalisation after it if there is one.
    fn layer(&self, name: &str, norm: Option<&str>, [c, k, side]: [usize; 3], conv: Conv2d) -> Result<Layer> {
        let mut weight = self.values(&format!("{name}.weight"), &[k, c, side, side])?;
        let mut bias = self.values(&format!("{name}.bias"), &[k])?;
        if let Some(norm) = norm {
            let read = |what: &str| self.values(&format!("{norm}.{what}"), &[k]);
            let (gain, shift) = (read("weight")?, read("bias")?);
            let (mean, variance) = (read("running_mean")?, read("running_var")?);
            for channel in 0..k {
                let scale = f64::from(gain[channel]) / (f64::from(variance[channel]) + BATCH_EPS).sqrt();
                for value in &mut weight[channel * c * side * side..][..c * side * side] {
                    *value = (f64::from(*value) * scale) as f32;
                }
                let centred = f64::from(bias[channel]) - f64::from(mean[channel]);
                bias[channel] = (centred * scale + f64::from(shift[channel])) as f32;
            }
        }
        let weight = Tensor::from_vec(channels_last(&weight, [k, c, side * side]), [k, side, side, c], self.device)?;
        Ok(Layer { weight, bias: Tensor::from_vec(bias, [k], self.device)?, conv })
    }

    fn single(&self, name: &str, c: usize, k: usize, stride: usize) -> Result<Layer> {
        let conv = Conv2d { stride, ..Conv2d::default() };
        self.layer(&format!("{name}.conv"), Some(&format!("{name}.bn")), [c, k, 1], conv)
    }

    fn double(&self, name: &str, [c, middle, k]: [usize; 3], stride: usize) -> Result<[Layer; 2]> {
        let layer = |i: usize, c, k, stride| {
            let conv = Conv2d { stride, padding: 1, ..Conv2d::default() };
            self.layer(&format!("{name}.conv{i}"), Some(&format!("{name}.bn{i}")), [c, k, 3], conv)
        };
        Ok([layer(1, c, middle, stride)?, layer(2, middle, k, 1)?])
    }

    fn dense(&self, name: &str, count: usize, c: usize, k: usize) -> Result<Vec<[Layer; 2]>> {
        let layer = |i: usize, convolution: usize, c: usize, padding: usize| {
            let name = format!("{name}.denselayer{i}");
            let conv = Conv2d { padding, ..Conv2d::default() };
            self.layer(
                &format!("{name}.conv{convolution}"),
                Some(&format!("{name}.norm{convolution}")),
                [c, k, 3],
                conv,
            )
        };
        // Two pixels of padding before the first convolution of a pair serve both.
        let pair = |i: usize| Ok([layer(i, 1, if i == 1 { c } else { k }, 2)?, layer(i, 2, k, 0)?]);
        (1..=count).map(pair).collect()
    }

    /// As many doublings as it takes to bring a block's map back to the image's size.
    fn up(&self, name: &str, mut c: usize, doublings: usize) -> Result<Vec<Doubling>> {
        let (side, padding) = (1 << doublings, (1 << (doublings - 1)) - 1);
        let mut stages = Vec::new();
        for i in 0..doublings {
            let k = if i + 1 == doublings { 1 } else { 16 };
            let features = format!("{name}.features");
            let mix = self.layer(&format!("{features}.{}", 3 * i), None, [c, k, 1], Conv2d::default())?;
            let deconvolution = format!("{features}.{}", 3 * i + 2);
            let weight = self.values(&format!("{deconvolution}.weight"), &[k, k, side, side])?;
            let weight = channels_last(&weight, [k, k, side * side]);
            stages.push(Doubling {
                mix,
                weight: Tensor::from_vec(weight, [k, side, side, k], self.device)?,
                bias: Tensor::from_vec(self.values(&format!("{deconvolution}.bias"), &[k])?, [k], self.device)?,
                conv: Conv2d { stride: 2, padding, ..Conv2d::default() },
            });
            c = k;
        }
        Ok(stages)
    }
}

/// `[k, c, taps] -> [k, taps, c]`.
fn channels_last(weight: &[f32], [k, c, taps]: [usize; 3]) -> Vec<f32> {
    (0..k * taps * c).map(|i| weight[(i / (taps * c) * c + i % c) * taps + i / c % taps]).collect()
}

impl Dexined {
    /// # Errors
    /// Weights that are not there, cannot be read, or are another network's.
    pub fn load(options: &DexinedOptions, device: &Device) -> Result<Dexined> {
        options.check_parameters()?;
        if !options.weights.is_file() {
            return Err(Error::input(
                &options.weights,
                "the DexiNed weights are not there",
                "download the authors' checkpoint 10_model.pth (DexiNed on BIPED, linked from their GitHub page \
                 xavysp/DexiNed) and give its path",
            ));
        }
        let load = Loader { weights: Weights::read(&options.weights)?, device };
        let up = [(64, 1), (128, 1), (256, 2), (512, 3), (512, 4), (256, 4)];
        let up = up.iter().enumerate().map(|(i, &(c, n))| load.up(&format!("up_block_{}", i + 1), c, n));
        Ok(Dexined {
            block1: load.double("block_1", [3, 32, 64], 2)?,
            block2: load.double("block_2", [64, 128, 128], 1)?,
            dense: [
                load.dense("dblock_3", 2, 128, 256)?,
                load.dense("dblock_4", 3, 256, 512)?,
                load.dense("dblock_5", 3, 512, 512)?,
                load.dense("dblock_6", 3, 512, 256)?,
            ],
            side: [
                load.single("side_1", 64, 128, 2)?,
                load.single("side_2", 128, 256, 2)?,
                load.single("side_3", 256, 512, 2)?,
                load.single("side_4", 512, 512, 1)?,
            ],
            before: [
                load.single("pre_dense_2", 128, 256, 2)?,
                load.single("pre_dense_3", 128, 256, 1)?,
                load.single("pre_dense_4", 256, 512, 1)?,
                load.single("pre_dense_5", 512, 512, 1)?,
                load.single("pre_dense_6", 512, 256, 1)?,
            ],
            up: up.collect::<Result<_>>()?,
            fuse: load.layer("block_cat.conv", None, [6, 1, 1], Conv2d::default())?,
            longest_px: options.longest_px,
            device: device.clone(),
        })
    }

    /// Edge scores `[n, h, w, 1]`, before the sigmoid, of images `[n, h, w, 3]` whose sides are multiples of 16.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let halve = |x: &Tensor| x.max_pool2d(Pool2d { kernel: 3, stride: 2, padding: 1 });
        let [pre2, pre3, pre4, pre5, pre6] = &self.before;

        let block1 = self.block1[1].forward(&self.block1[0].forward(x)?.relu()?)?.relu()?;
        let block2 = self.block2[1].forward(&self.block2[0].forward(&block1)?.relu()?)?;
        let down2 = halve(&block2)?;
        let sum2 = down2.add(&self.side[0].forward(&block1)?)?;

        let block3 = dense(&self.dense[0], &sum2, &pre3.forward(&down2)?)?;
        let down3 = halve(&block3)?;
        let sum3 = down3.add(&self.side[1].forward(&sum2)?)?;

        let skip4 = pre4.forward(&down3.add(&pre2.forward(&down2)?)?)?;
        let block4 = dense(&self.dense[1], &sum3, &skip4)?;
        let down4 = halve(&block4)?;
        let sum4 = down4.add(&self.side[2].forward(&sum3)?)?;

        let block5 = dense(&self.dense[2], &sum4, &pre5.forward(&down4)?)?;
        let sum5 = block5.add(&self.side[3].forward(&sum4)?)?;
        let block6 = dense(&self.dense[3], &sum5, &pre6.forward(&block5)?)?;

        let mut maps = Vec::with_capacity(6);
        for (block, stages) in [block1, block2, block3, block4, block5, block6].iter().zip(&self.up) {
            let mut map = block.clone();
            for stage in stages {
                map = stage.forward(&map)?;
            }
            maps.push(map);
        }
        self.fuse.forward(&Tensor::concat(&maps.iter().collect::<Vec<_>>(), 3)?)
    }

    /// Edge probability of every pixel of an image, after it was made no larger than the longest side asked for: width,
    /// height and values.
    pub fn probabilities(&self, image: &RgbImage) -> Result<(usize, usize, Vec<f32>)> {
        let longest = image.width_px.max(image.height_px);
        if longest == 0 || image.width_px.min(image.height_px) == 0 {
            return Ok((image.width_px, image.height_px, Vec::new()));
        }
        let fitted;
        let image = if longest > self.longest_px {
            let shrink = |side: usize| (side * self.longest_px / longest).max(1);
            fitted = image.resize_bilinear(shrink(image.width_px), shrink(image.height_px));
            &fitted
        } else {
            image
        };
        let (width, height) = (image.width_px, image.height_px);
        let [h, w] = [height, width].map(|side| side.next_multiple_of(STRIDE_PX));
        let mut values = Vec::with_capacity(h * w * 3);
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let [r, g, b] = image.pixel(x.min(width - 1), y.min(height - 1)).map(f32::from);
            values.extend([b - MEAN_BGR[0], g - MEAN_BGR[1], r - MEAN_BGR[2]]);
        }
        let scores = self.forward(&Tensor::from_vec(values, [1, h, w, 3], &self.device)?)?;
        let all: Vec<f32> = scores.sigmoid()?.to_vec()?;
        Ok((width, height, all.chunks_exact(w).take(height).flat_map(|row| row[..width].iter().copied()).collect()))
    }

    /// Mean edge probability; 0 for an image without pixels.
    pub fn score(&self, image: &RgbImage) -> Result<f64> {
        let (_, _, values) = self.probabilities(image)?;
        Ok(values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64)
    }
}

/// Pairs of convolutions, each averaged with the same skip connection.
fn dense(pairs: &[[Layer; 2]], x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for [first, second] in pairs {
        x = second.forward(&first.forward(&x.relu()?)?.relu()?)?.add(skip)?.scale(0.5)?;
    }
    Ok(x)
}

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "dexined",
    title: "DexiNed",
    unit: "mean edge probability",
    counts_bits: false,
    flags: &[
        Flag {
            long: "weights",
            key: "weights",
            value_name: Some("FILE"),
            help: "dexined: the network's weights, .pth or .safetensors",
        },
        Flag {
            long: "network-px",
            key: "longest_px",
            value_name: Some("PX"),
            help: "dexined: patches are made no larger than this before the network sees them [default: 256]",
        },
    ],
    short_keys: &[],
    with: |parameters| selector::with::<DexinedOptions>("dexined", parameters),
};

impl Selector for DexinedOptions {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        format!("dexined {} {} px", self.weights.display(), self.longest_px)
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.check_parameters()
    }

    fn is_complete(&self) -> bool {
        !self.weights.as_os_str().is_empty()
    }

    fn files(&self) -> Vec<PathBuf> {
        if self.is_complete() { vec![self.weights.clone()] } else { Vec::new() }
    }

    fn digest(&self) -> Result<Digest> {
        Ok(Digest::of("dexined", &(Digest::of_file(&self.weights)?, self.longest_px)))
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Selector>> {
        let weights = settle(&self.weights);
        self.is_complete().then(|| Arc::new(DexinedOptions { weights, ..self.clone() }) as Arc<dyn Selector>)
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(Dexined::load(self, device)?))
    }
}

impl Score for Dexined {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        Work::InTurn(Box::new(|image| self.score(image)))
    }

    /// Of the size that the network saw.
    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        let (width_px, height_px, values) = self.probabilities(image)?;
        Ok(Response { width_px, height_px, values })
    }
}
