//! Learning rates over a run, as factors of the base rate.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate goes. Lengths are in steps; `final_factor` is where a cosine ends, as a fraction of the base rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    /// Linear from nothing during the warm-up, then half a cosine down over the rest of `total` steps.
    Cosine {
        warm_up: u64,
        total: u64,
        final_factor: f64,
    },
    /// After a linear warm-up, cosines one after the other, each `growth` times as long as the last (SGDR, Loshchilov and
    /// Hutter 2017).
    WarmRestarts {
        warm_up: u64,
        cycle: u64,
        growth: f64,
        final_factor: f64,
    },
    /// Multiplied by `factor` every `every` steps.
    Steps {
        every: u64,
        factor: f64,
    },
}

impl Schedule {
    /// The factor at `step`, which counts from 0; fractions are positions between steps.
    pub fn factor(&self, step: f64) -> f64 {
        match *self {
            Schedule::Constant => 1.0,
            Schedule::Cosine { warm_up, total, final_factor } => {
                let (warm_up, total) = (warm_up as f64, total as f64);
                if step < warm_up {
                    return (step + 1.0).min(warm_up) / warm_up;
                }
                cosine((step - warm_up) / (total - warm_up).max(1.0), final_factor)
            }
            Schedule::WarmRestarts { warm_up, cycle, growth, final_factor } => {
                let warm_up = warm_up as f64;
                if step < warm_up {
                    return (step + 1.0).min(warm_up) / warm_up;
                }
                let (mut at, mut length) = (step - warm_up, (cycle as f64).max(1.0));
                while at >= length {
                    at -= length;
                    length = (length * growth).max(1.0);
                }
                cosine(at / length, final_factor)
            }
            Schedule::Steps { every, factor } => factor.powf((step / every.max(1) as f64).floor()),
        }
    }
}

/// From 1 at the beginning down to `last` at 1 and beyond.
fn cosine(progress: f64, last: f64) -> f64 {
    last + (1.0 - last) * 0.5 * (1.0 + (PI * progress.clamp(0.0, 1.0)).cos())
}
