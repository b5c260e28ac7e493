//! How good predictions are: statistics, scores per gene, the tables of a finished cross-validation.

pub mod metrics;
pub mod stats;
pub mod tables;
