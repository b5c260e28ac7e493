//! How good predictions are: statistics, scores per gene and project, the tables of a finished cross-validation.
//!
//! [`predictions`] reads and checks held-out predictions, [`metrics`] scores them, [`tables`] writes the scores down.
//! Beneath them [`stats`] has the plain statistics and [`multiple`] the corrections for many tests,
//! [`paired`] the tests of two predictors, [`compare`] the comparison of whole arms, [`classes`] the scores of labels,
//! [`blocks`] those of spots in space; `layout`, `lanes`, `permutation` and `resampling` are how the p-values and intervals of
//! thousands of genes are counted quickly.

pub mod blocks;
pub mod class_tables;
pub mod classes;
pub mod compare;
mod lanes;
mod layout;
pub mod metrics;
pub mod multiple;
pub mod paired;
pub mod permutation;
pub mod predictions;
mod resampling;
pub mod stats;
pub mod tables;
