//! EfficientNet-Lite0 (Google 2020: EfficientNet without squeeze-and-excitation, ReLU6 for swish): 1280 numbers, 0.4 GMAC at
//! 224 px. Its ImageNet weights are to be had from a package registry: `tools/weights.py`.
//!
//! A stage repeats inverted bottlenecks: expansion 1x1, depthwise, projection 1x1; from its second block on with a residual path.
//! Padding is TensorFlow's "same", eps 1e-3. Names are either those of the `efficientnet_lite_pytorch` wheels
//! (`_conv_stem`, `_blocks.I._expand_conv`, …) or timm's (`conv_stem`, `blocks.S.B.conv_pw`, …); classifiers are not read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Encoder, EncoderSpec, Parameters, PatchEncoder, Site,
    conv_norm::{ConvNorm, Padding, Shape, Then},
    network::Network,
    registry,
    resnet::TilePx,
    state_dict::{self, RANDOM, StateDict},
    tiles::Normalisation,
};
use crate::{device::Device, dtype::DType, error::Result, io::checksum::Digest, nn::builder::Builder, tensor::Tensor};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "efficientnet-lite0",
    title: "EfficientNet-Lite0",
    cites: "Tan and Le 2019; EfficientNet-Lite, Google 2020",
    with: |parameters| registry::with::<EfficientNetLite0>(SPEC.name, parameters),
    cases: || {
        let (weights, tile_px) = (RANDOM.into(), TilePx(32));
        vec![Arc::new(EfficientNetLite0 { weights, tile_px, seed: 0 })]
    },
};

const EPS: f64 = 1e-3;

/// `(v − 127) / 128`, as the network was trained.
const INPUT: Normalisation = Normalisation { mean: [127.0 / 255.0; 3], sd: [128.0 / 255.0; 3] };

/// Blocks, kernel, stride of the first block, expansion.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)];

/// Channels of the stem, of each stage, and of the head.
pub const CHANNELS: [usize; 9] = [32, 16, 24, 40, 80, 112, 192, 320, 1280];

/// Who named the tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    Wheel,
    Timm,
}

impl Keys {
    /// Convolution and normalisation of the stem, and of the head.
    const fn ends(self) -> [[&'static str; 2]; 2] {
        match self {
            Keys::Wheel => [["_conv_stem", "_bn0"], ["_conv_head", "_bn1"]],
            Keys::Timm => [["conv_stem", "bn1"], ["conv_head", "bn2"]],
        }
    }

    /// Block `b` of stage `s`, the `i`-th of all.
    fn block(self, s: usize, b: usize, i: usize) -> String {
        match self {
            Keys::Wheel => format!("_blocks.{i}"),
            Keys::Timm => format!("blocks.{s}.{b}"),
        }
    }

    /// Of expansion, depthwise convolution and projection. timm numbers normalisations by their order in the block.
    const fn layers(self, expanded: bool) -> [[&'static str; 2]; 3] {
        match (self, expanded) {
            (Keys::Wheel, _) => [["_expand_conv", "_bn0"], ["_depthwise_conv", "_bn1"], ["_project_conv", "_bn2"]],
            (Keys::Timm, true) => [["conv_pw", "bn1"], ["conv_dw", "bn2"], ["conv_pwl", "bn3"]],
            (Keys::Timm, false) => [["", ""], ["conv_dw", "bn1"], ["conv_pw", "bn2"]],
        }
    }
}

/// The network up to the mean over positions.
pub struct EfficientNet {
    stem: ConvNorm,
    blocks: Vec<InvertedBottleneck>,
    head: ConvNorm,
}

struct InvertedBottleneck {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    project: ConvNorm,
    residual: bool,
}

const fn same(inputs: usize, outputs: usize, kernel_px: usize, stride: usize) -> Shape {
    Shape { inputs, outputs, kernel_px, stride, padding: Padding::Same, depthwise: false }
}

impl EfficientNet {
    /// With the names of `keys`; `channels` as [`CHANNELS`] has them.
    pub fn new(b: &mut Builder, channels: &[usize; 9], keys: Keys) -> Result<EfficientNet> {
        let [stem, head] = keys.ends();
        let stem = ConvNorm::new(b, stem, same(3, channels[0], 3, 2), EPS, Then::Relu6)?;
        let (mut blocks, mut inputs) = (Vec::new(), channels[0]);
        for (s, (repeats, kernel_px, stride, expansion)) in STAGES.into_iter().enumerate() {
            for block in 0..repeats {
                let (outputs, hidden) = (channels[s + 1], inputs * expansion);
                let [expand, depthwise, project] = keys.layers(expansion > 1);
                let stride = if block == 0 { stride } else { 1 };
                blocks.push(b.scope(&keys.block(s, block, blocks.len()), |b| {
                    let expanded = same(inputs, hidden, 1, 1);
                    let expand = (expansion > 1).then(|| ConvNorm::new(b, expand, expanded, EPS, Then::Relu6));
                    let each = Shape { depthwise: true, ..same(hidden, hidden, kernel_px, stride) };
                    Ok(InvertedBottleneck {
                        expand: expand.transpose()?,
                        depthwise: ConvNorm::new(b, depthwise, each, EPS, Then::Relu6)?,
                        project: ConvNorm::new(b, project, same(hidden, outputs, 1, 1), EPS, Then::Nothing)?,
                        residual: stride == 1 && inputs == outputs,
                    })
                })?);
                inputs = outputs;
            }
        }
        let head = ConvNorm::new(b, head, same(inputs, channels[8], 1, 1), EPS, Then::Relu6)?;
        Ok(EfficientNet { stem, blocks, head })
    }

    /// Folds every batch normalisation into its convolution.
    ///
    /// # Errors
    /// A device that fails.
    pub fn fold(&mut self, dtype: DType) -> Result<()> {
        self.stem.fold(dtype)?;
        for block in &mut self.blocks {
            block.expand.as_mut().map_or(Ok(()), |layer| layer.fold(dtype))?;
            block.depthwise.fold(dtype)?;
            block.project.fold(dtype)?;
        }
        self.head.fold(dtype)
    }

    /// `[n, h, w, 3]` to `[n, channels of the head]`.
    ///
    /// # Errors
    /// What the convolutions give.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(images)?;
        for block in &self.blocks {
            let hidden = block.expand.as_ref().map_or_else(|| Ok(x.clone()), |layer| layer.forward(&x))?;
            let hidden = block.depthwise.forward(&hidden)?;
            x = block.project.forward_add_residual(&hidden, block.residual.then_some(&x))?;
        }
        self.head.forward(&x)?.widened()?.global_avg_pool()
    }
}

/// Settings.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EfficientNetLite0 {
    /// A file with either kind of names, or `random`.
    pub weights: String,
    pub tile_px: TilePx,
    /// Of drawn weights.
    pub seed: u64,
}

impl Encoder for EfficientNetLite0 {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.tile_px.check()?;
        state_dict::check(&self.weights)
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        let weights = state_dict::resolved(&self.weights, settle)?;
        Some(Arc::new(EfficientNetLite0 { weights, ..self.clone() }))
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        Ok((self as &dyn Encoder).digest_of_settings(
            &["weights"],
            &state_dict::digests(&self.weights)?,
            site.precision,
        ))
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        let (mut b, keys) = if self.weights == RANDOM {
            (Builder::fresh(self.seed, DType::F32, device), Keys::Timm)
        } else {
            let anchors = [Keys::Wheel, Keys::Timm].map(|keys| format!("{}.weight", keys.ends()[0][0]));
            let path = Path::new(&self.weights);
            let weights = StateDict::read(path, &anchors.each_ref().map(String::as_str), &["_fc.", "classifier."])?;
            let keys = if weights.holds(&anchors[0]) { Keys::Wheel } else { Keys::Timm };
            (weights.into_builder(DType::F32, device)?, keys)
        };
        let mut network = EfficientNet::new(&mut b, &CHANNELS, keys)?;
        b.finish()?;
        let precision = site.precision.on(device);
        network.fold(precision.dtype())?;
        Ok(Box::new(Network {
            d: CHANNELS[8],
            tile_px: self.tile_px.0,
            normalisation: INPUT,
            stretch: false,
            precision,
            device: device.clone(),
            digest: self.digest(site)?,
            forward: Box::new(move |tiles| network.forward(tiles)),
        }))
    }
}
