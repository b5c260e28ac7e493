//! Slide-level models: bags of patch features in, gene expression out; their training and cross-validation.

pub mod bags;
pub mod config;
pub mod crossval;
pub mod fusion;
pub mod manifest;
pub mod model;
pub mod predictor;
pub mod regressor;
pub mod ridge;
pub mod training;
mod validation;
