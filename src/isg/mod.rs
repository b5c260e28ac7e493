//! The paper, one file per part.

pub mod adaptive_augment;
pub mod discriminator;
pub mod encoder;
pub mod extractor;
pub mod extractor_config;
pub mod extractor_training;
pub mod generator;
pub mod lpips;
pub mod patches;
