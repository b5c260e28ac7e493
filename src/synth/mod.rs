//! Synthetic H&E-like cohorts whose planted genes follow morphology.
