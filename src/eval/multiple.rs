//! Many tests at once: adjusted p-values, in the order given. An undefined p-value stays undefined and counts as no test.

use serde::{Deserialize, Serialize};

/// How false discoveries are controlled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FalseDiscovery {
    /// Benjamini and Hochberg 1995: for tests that are independent or depend on each other positively.
    #[default]
    BenjaminiHochberg,
    /// Benjamini and Yekutieli 2001: whatever the tests' dependence, at the price of a factor of about ln(tests).
    BenjaminiYekutieli,
}

impl FalseDiscovery {
    pub fn name(self) -> &'static str {
        match self {
            FalseDiscovery::BenjaminiHochberg => "Benjamini-Hochberg",
            FalseDiscovery::BenjaminiYekutieli => "Benjamini-Yekutieli",
        }
    }

    pub fn adjust(self, p_values: &[Option<f64>]) -> Vec<Option<f64>> {
        match self {
            FalseDiscovery::BenjaminiHochberg => benjamini_hochberg(p_values),
            FalseDiscovery::BenjaminiYekutieli => benjamini_yekutieli(p_values),
        }
    }
}

/// False discovery rates (Benjamini and Hochberg 1995): the q-value of each defined p-value.
pub fn benjamini_hochberg(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    step_up(p_values, 1.0)
}

/// The same times the harmonic number of the tests (Benjamini and Yekutieli 2001), at most 1.
pub fn benjamini_yekutieli(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let tests = p_values.iter().flatten().count();
    step_up(p_values, (1..=tests).map(|i| 1.0 / i as f64).sum())
}

/// From the largest p-value down: p · factor · tests / rank, never above what a larger p-value got.
fn step_up(p_values: &[Option<f64>], factor: f64) -> Vec<Option<f64>> {
    let mut out = vec![None; p_values.len()];
    let defined = ascending(p_values);
    let tests = defined.len() as f64;
    let mut lowest = 1.0f64;
    for (rank, (i, p)) in defined.into_iter().enumerate().rev() {
        lowest = lowest.min(p * (factor * tests / (rank + 1) as f64));
        out[i] = Some(lowest);
    }
    out
}

/// Family-wise error (Holm 1979): from the smallest p-value up, p · (tests left), never below what a smaller one got.
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut out = vec![None; p_values.len()];
    let defined = ascending(p_values);
    let tests = defined.len();
    let mut highest = 0.0f64;
    for (rank, (i, p)) in defined.into_iter().enumerate() {
        highest = highest.max((p * (tests - rank) as f64).min(1.0));
        out[i] = Some(highest);
    }
    out
}

/// The defined p-values with their places, the smallest first.
fn ascending(p_values: &[Option<f64>]) -> Vec<(usize, f64)> {
    let mut defined: Vec<(usize, f64)> = p_values.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    defined.sort_by(|a, b| a.1.total_cmp(&b.1));
    defined
}
