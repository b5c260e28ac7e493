//! ResNet50 of torchvision: 2048 numbers (1024 with `feature = "layer3"`), 4.1 GMAC at 224 px.

use super::{
    EncoderSpec,
    resnet::{Depth, ResnetEncoder},
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "resnet50",
    title: "ResNet50",
    cites: "He et al. 2016, as torchvision",
    with: |parameters| ResnetEncoder::with(Depth::Resnet50, parameters),
    cases: || vec![ResnetEncoder::drawn(Depth::Resnet50)],
};
