//! ResNet18 of torchvision: 512 numbers, 1.8 GMAC at 224 px.

use super::{
    EncoderSpec,
    resnet::{Depth, ResnetEncoder},
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "resnet18",
    title: "ResNet18",
    cites: "He et al. 2016, as torchvision",
    with: |parameters| ResnetEncoder::with(Depth::Resnet18, parameters),
    cases: || vec![ResnetEncoder::drawn(Depth::Resnet18)],
};
