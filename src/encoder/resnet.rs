//! Residual networks (He et al. 2016) as torchvision builds them: the stride of a bottleneck on its 3x3 convolution (v1.5).
//!
//! Names and layouts are those of torchvision's files: `conv1`, `bn1`, `layerL.B.convI`, `layerL.B.bnI`,
//! `layerL.B.downsample.{0,1}`; `fc.*` is not read. Images `[n, h, w, 3]` of any size.
//!
//! HE2RNA's features came from Keras' ResNet50, which has its stride on the first 1x1 convolution, biased convolutions and
//! other input statistics, after a contrast stretch of every tile. This is torchvision's; `stretch` gives it such tiles.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Encoder, EncoderSpec, Parameters, PatchEncoder, Site,
    conv_norm::{ConvNorm, Padding, Shape, Then},
    network::Network,
    registry, resnet18, resnet50,
    state_dict::{self, RANDOM, StateDict},
    tiles::IMAGENET,
};
use crate::{
    device::Device,
    dtype::DType,
    error::{Error, Result},
    io::checksum::Digest,
    nn::builder::Builder,
    ops::avg_pool2d::Pool2d,
    tensor::Tensor,
};

const EPS: f64 = 1e-5;

/// What a stage repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, the last to four times the width.
    Bottleneck,
}

/// Sizes of one network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResnetConfig {
    pub block: Block,
    /// Blocks of each stage.
    pub layers: [usize; 4],
    /// Channels of each stage's 3x3 convolutions; the stem has the first's.
    pub widths: [usize; 4],
}

impl ResnetConfig {
    pub const RESNET18: ResnetConfig =
        ResnetConfig { block: Block::Basic, layers: [2, 2, 2, 2], widths: [64, 128, 256, 512] };
    pub const RESNET50: ResnetConfig =
        ResnetConfig { block: Block::Bottleneck, layers: [3, 4, 6, 3], widths: [64, 128, 256, 512] };

    /// Channels that a stage gives, from 0.
    pub fn channels(&self, stage: usize) -> usize {
        self.widths[stage] * if self.block == Block::Bottleneck { 4 } else { 1 }
    }
}

pub struct Resnet {
    stem: ConvNorm,
    stages: Vec<Vec<Residual>>,
}

struct Residual {
    branch: Vec<ConvNorm>,
    /// The projection of a block that changes channels or size.
    downsample: Option<ConvNorm>,
}

impl Resnet {
    pub fn new(b: &mut Builder, config: &ResnetConfig) -> Result<Resnet> {
        let stem = Shape {
            inputs: 3,
            outputs: config.widths[0],
            kernel_px: 7,
            stride: 2,
            padding: Padding::Each(3),
            depthwise: false,
        };
        let stem = ConvNorm::new(b, ["conv1", "bn1"], stem, EPS, Then::Relu)?;
        let mut inputs = config.widths[0];
        let mut stages = Vec::with_capacity(4);
        for (stage, &blocks) in config.layers.iter().enumerate() {
            let mut residuals = Vec::with_capacity(blocks);
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let ends = [inputs, config.widths[stage], config.channels(stage)];
                let projected = block == 0 && (stage > 0 || inputs != ends[2]);
                let name = format!("layer{}.{block}", stage + 1);
                residuals.push(b.scope(&name, |b| Residual::new(b, config.block, ends, stride, projected))?);
                inputs = ends[2];
            }
            stages.push(residuals);
        }
        Ok(Resnet { stem, stages })
    }

    /// Folds every batch normalisation into its convolution, for images of this type: for passes without gradients of weights.
    ///
    /// # Errors
    /// A device that fails.
    pub fn fold(&mut self, dtype: DType) -> Result<()> {
        self.stem.fold(dtype)?;
        let blocks = self.stages.iter_mut().flatten();
        blocks
            .flat_map(|block| block.branch.iter_mut().chain(&mut block.downsample))
            .try_for_each(|layer| layer.fold(dtype))
    }

    /// Means over positions of what the first `stages` stages make of images: `[n, h, w, 3]` to `[n, channels]`.
    ///
    /// # Errors
    /// Images too small for the network's strides.
    pub fn forward(&self, images: &Tensor, stages: usize) -> Result<Tensor> {
        let mut x = self.stem.forward(images)?.max_pool2d(Pool2d { kernel: 3, stride: 2, padding: 1 })?;
        for block in self.stages.iter().take(stages).flatten() {
            x = block.forward(&x)?;
        }
        x.widened()?.global_avg_pool()
    }
}

impl Residual {
    fn new(
        b: &mut Builder,
        block: Block,
        [inputs, width, outputs]: [usize; 3],
        stride: usize,
        projected: bool,
    ) -> Result<Residual> {
        // Channels before and after, side of the kernel, stride.
        let layers = match block {
            Block::Basic => vec![(inputs, width, 3, stride), (width, outputs, 3, 1)],
            Block::Bottleneck => vec![(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)],
        };
        let last = layers.len() - 1;
        let layer = |(i, (inputs, outputs, kernel_px, stride)): (usize, (usize, usize, usize, usize))| {
            let padding = Padding::Each(kernel_px / 2);
            let shape = Shape { inputs, outputs, kernel_px, stride, padding, depthwise: false };
            let names = [format!("conv{}", i + 1), format!("bn{}", i + 1)];
            let then = if i == last { Then::Nothing } else { Then::Relu };
            ConvNorm::new(b, [&names[0], &names[1]], shape, EPS, then)
        };
        let branch = layers.into_iter().enumerate().map(layer).collect::<Result<_>>()?;
        let shape = Shape { inputs, outputs, kernel_px: 1, stride, padding: Padding::Each(0), depthwise: false };
        let project = |b: &mut Builder| ConvNorm::new(b, ["0", "1"], shape, EPS, Then::Nothing);
        let downsample = projected.then(|| b.scope("downsample", project)).transpose()?;
        Ok(Residual { branch, downsample })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (last, first) = self.branch.split_last().ok_or_else(|| Error::shape("resnet", "a block of no layers"))?;
        let shortcut = self.downsample.as_ref().map_or_else(|| Ok(x.clone()), |layer| layer.forward(x))?;
        let y = first.iter().try_fold(x.clone(), |y, layer| layer.forward(&y))?;
        last.forward_add_residual(&y, Some(&shortcut))?.relu()
    }
}

/// The stage whose mean is the vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// As CLAM and TRIDENT take it of ResNet50: 1024 numbers.
    Layer3,
    #[default]
    Layer4,
}

/// Settings of either depth.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// torchvision's file, or `random`.
    pub weights: String,
    pub tile_px: TilePx,
    pub feature: Feature,
    /// Spread each tile's channels over all values first.
    pub stretch: bool,
    /// Of drawn weights.
    pub seed: u64,
}

/// Which of the published networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    Resnet18,
    Resnet50,
}

#[derive(Clone, Debug)]
pub struct ResnetEncoder {
    pub depth: Depth,
    pub settings: Settings,
}

impl ResnetEncoder {
    /// For [`EncoderSpec::with`].
    pub(super) fn with(depth: Depth, parameters: Parameters) -> Result<Arc<dyn Encoder>> {
        let name = if depth == Depth::Resnet18 { resnet18::SPEC.name } else { resnet50::SPEC.name };
        let settings = registry::settings(name, parameters)?;
        Ok(Arc::new(ResnetEncoder { depth, settings }))
    }

    /// For [`EncoderSpec::cases`].
    pub(super) fn drawn(depth: Depth) -> Arc<dyn Encoder> {
        let settings = Settings { weights: RANDOM.into(), tile_px: TilePx(32), ..Settings::default() };
        Arc::new(ResnetEncoder { depth, settings })
    }
}

/// Side that patches are resized to before a network sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TilePx(pub usize);

impl Default for TilePx {
    fn default() -> TilePx {
        TilePx(224)
    }
}

impl TilePx {
    /// # Errors
    /// A side that no network is fed with.
    pub fn check(self) -> Result<()> {
        if (32..=2048).contains(&self.0) {
            return Ok(());
        }
        Err(Error::Usage(format!("encoder.tile_px = {}: a side from 32 to 2048 px is wanted", self.0)))
    }
}

impl Encoder for ResnetEncoder {
    fn spec(&self) -> &'static EncoderSpec {
        match self.depth {
            Depth::Resnet18 => &resnet18::SPEC,
            Depth::Resnet50 => &resnet50::SPEC,
        }
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(&self.settings)
    }

    fn check(&self) -> Result<()> {
        self.settings.tile_px.check()?;
        state_dict::check(&self.settings.weights)
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        let weights = state_dict::resolved(&self.settings.weights, settle)?;
        Some(Arc::new(ResnetEncoder { settings: Settings { weights, ..self.settings.clone() }, ..*self }))
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        Ok((self as &dyn Encoder).digest_of_settings(
            &["weights"],
            &state_dict::digests(&self.settings.weights)?,
            site.precision,
        ))
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        let mut b = if self.settings.weights == RANDOM {
            Builder::fresh(self.settings.seed, DType::F32, device)
        } else {
            StateDict::read(Path::new(&self.settings.weights), &["conv1.weight"], &["fc."])?
                .into_builder(DType::F32, device)?
        };
        let config = match self.depth {
            Depth::Resnet18 => ResnetConfig::RESNET18,
            Depth::Resnet50 => ResnetConfig::RESNET50,
        };
        let stages = if self.settings.feature == Feature::Layer3 { 3 } else { 4 };
        let mut resnet = Resnet::new(&mut b, &config)?;
        b.finish()?;
        let precision = site.precision.on(device);
        resnet.fold(precision.dtype())?;
        Ok(Box::new(Network {
            d: config.channels(stages - 1),
            tile_px: self.settings.tile_px.0,
            normalisation: IMAGENET,
            stretch: self.settings.stretch,
            precision,
            device: device.clone(),
            digest: self.digest(site)?,
            forward: Box::new(move |tiles| resnet.forward(tiles, stages)),
        }))
    }
}
