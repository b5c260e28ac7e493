//! Slide-level models: bags of patch features in, gene expression out; their training and cross-validation.

pub mod bags;
pub mod batch;
pub mod clusters;
pub mod config;
pub mod crossval;
pub mod embedding;
pub mod features;
pub mod loss;
pub mod manifest;
pub mod method;
pub mod methods;
pub mod model;
pub mod network;
pub mod predictor;
pub mod ridge;
pub mod tasks;
pub mod training;
pub mod transformer;
mod validation;

pub use methods::METHODS;
