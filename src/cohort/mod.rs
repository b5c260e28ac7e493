//! Expression tables, labels, patients, splits, statistics and the feature store.
//!
//! [`Cohort::load`] brings slides and expression together; [`splits`] divides patients; [`targets`] scales what is
//! predicted; [`feature_store`] keeps what was extracted from slides.

mod assemble;
pub mod barcode;
mod chosen_genes;
pub mod config;
pub mod expression;
mod expression_files;
pub mod feature_store;
mod findings;
pub mod gdc;
pub mod genes;
mod institutions;
pub mod labels;
mod load;
mod matching;
mod merge;
pub mod names;
mod not_genes;
mod patients;
pub mod slides;
pub mod splits;
mod splits_file;
pub mod spots;
pub mod targets;
mod validation;
mod wide;

pub use config::{CohortConfig, MatchBy};
pub use expression::{ExpressionTable, ReadOptions};
pub use feature_store::{FeatureKey, FeatureStore};
pub use findings::{
    EXCLUDED_FILE, Excluded, ExcludedKind, Findings, MATCHING_FILE, MatchRow, matched_slides, write_excluded_csv,
    write_matching_csv,
};
pub use load::{Cohort, PatientEntry, SlideEntry};
pub use splits::{Fold, SplitConfig, SplitPatient, Splits, Stratify};
pub use targets::{Scaling, TargetScaler, Transform};
