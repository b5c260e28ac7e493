//! The paper, one file per part.

pub mod adaptive_augment;
pub mod bags;
pub mod crossval;
pub mod discriminator;
pub mod encoder;
pub mod evaluation;
pub mod extractor;
pub mod extractor_config;
pub mod extractor_training;
pub mod fusion;
pub mod generator;
pub mod lpips;
pub mod model;
pub mod patches;
pub mod predictor;
pub mod regressor;
pub mod run;
pub mod train_config;
pub mod training;
