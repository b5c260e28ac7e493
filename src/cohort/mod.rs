//! Expression tables, labels, patients, splits, statistics and the feature store.
//!
//! [`Cohort::load`] brings slides and expression together; [`splits`] divides patients; [`targets`] scales what is
//! predicted; [`feature_store`] keeps what was extracted from slides.

pub mod barcode;
pub mod config;
pub mod expression;
pub mod feature_store;
pub mod gdc;
pub mod genes;
pub mod labels;
mod load;
pub mod slides;
pub mod splits;
pub mod targets;
mod wide;

pub use config::{CohortConfig, MatchBy};
pub use expression::{ExpressionTable, ReadOptions};
pub use feature_store::{FeatureKey, FeatureStore};
pub use load::{Cohort, Excluded, ExcludedKind, PatientEntry, SlideEntry, write_excluded_csv};
pub use splits::{Fold, SplitConfig, SplitPatient, Splits, Stratify};
pub use targets::{Scaling, TargetScaler, Transform};
