//! From expression to regression targets and back: the log transform and the per-gene scale.
//!
//! HE2RNA's targets are log10(1 + x) of FPKM-UQ, unscaled. The paper's reported L2 loss of 0.023 implies targets within
//! [0, 1], as EGN's per-gene min-max gives; both are switches. A scale is fitted on training patients only.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What is applied to expression values on the linear scale.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transform {
    None,
    /// log10(1 + x), as HE2RNA.
    #[default]
    Log10p1,
    /// log2(1 + x)
    Log2p1,
}

/// The scale a table's values are on already. It cannot be seen from the numbers; the user states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableScale {
    #[default]
    Linear,
    Log2p1,
    Log10p1,
    /// ln(1 + x)
    Lnp1,
}

impl TableScale {
    /// The value on the linear scale.
    pub fn linear(self, value: f64) -> f64 {
        match self {
            TableScale::Linear => value,
            TableScale::Log2p1 => (value * std::f64::consts::LN_2).exp_m1(),
            TableScale::Log10p1 => (value * std::f64::consts::LN_10).exp_m1(),
            TableScale::Lnp1 => value.exp_m1(),
        }
    }
}

impl Transform {
    /// A table value as a target. `None` where the logarithm does not exist (a value below zero on the linear scale).
    ///
    /// With [`Transform::None`] the value stays as the table has it, whatever its scale.
    pub fn apply(self, value: f64, scale: TableScale) -> Option<f64> {
        use std::f64::consts::{LN_2, LN_10};
        match (self, scale) {
            (Transform::None, _) => return Some(value),
            (Transform::Log2p1, TableScale::Log2p1) | (Transform::Log10p1, TableScale::Log10p1) => return Some(value),
            _ => {}
        }
        let ln = match scale {
            TableScale::Linear if value < 0.0 => return None,
            TableScale::Linear => value.ln_1p(),
            TableScale::Log2p1 => value * LN_2,
            TableScale::Log10p1 => value * LN_10,
            TableScale::Lnp1 => value,
        };
        Some(if self == Transform::Log2p1 { ln / LN_2 } else { ln / LN_10 })
    }

    /// The linear-scale value of a target; the target itself with [`Transform::None`].
    pub fn inverse(self, target: f64) -> f64 {
        match self {
            Transform::None => target,
            Transform::Log10p1 => TableScale::Log10p1.linear(target),
            Transform::Log2p1 => TableScale::Log2p1.linear(target),
        }
    }
}

/// How targets are scaled, per gene.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    None,
    /// To [0, 1] over the training patients.
    #[default]
    MinMax,
    /// To mean 0 and variance 1 over the training patients.
    Standard,
}

/// A fitted scale: `scaled = (target - offset) / span`, per gene. A gene that is constant in training has span 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TargetScaler {
    pub scaling: Scaling,
    pub offset: Vec<f64>,
    pub span: Vec<f64>,
}

impl TargetScaler {
    /// Fits on training rows alone; each row holds one target per gene. Errors for no rows or rows of unequal length.
    pub fn fit<'a>(scaling: Scaling, rows: impl IntoIterator<Item = &'a [f64]>) -> Result<TargetScaler> {
        let rows: Vec<&[f64]> = rows.into_iter().collect();
        let genes = rows.first().map(|r| r.len());
        let genes = genes.ok_or_else(|| Error::shape("target scaler", "no training row to fit on"))?;
        if rows.iter().any(|r| r.len() != genes) {
            return Err(Error::shape("target scaler", "rows have different numbers of genes"));
        }
        let column = |g: usize| rows.iter().map(move |r| r[g]);
        let n = rows.len() as f64;
        let (offset, span) = (0..genes)
            .map(|g| match scaling {
                Scaling::None => (0.0, 1.0),
                Scaling::MinMax => {
                    let low = column(g).fold(f64::INFINITY, f64::min);
                    (low, column(g).fold(f64::NEG_INFINITY, f64::max) - low)
                }
                Scaling::Standard => {
                    let mean = column(g).sum::<f64>() / n;
                    (mean, (column(g).map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt())
                }
            })
            .map(|(offset, span)| (offset, if span > 0.0 && span.is_finite() { span } else { 1.0 }))
            .unzip();
        Ok(TargetScaler { scaling, offset, span })
    }

    /// Scales one row in place. Held-out values may leave [0, 1].
    pub fn transform(&self, row: &mut [f64]) {
        for (v, (offset, span)) in row.iter_mut().zip(self.offset.iter().zip(&self.span)) {
            *v = (*v - offset) / span;
        }
    }

    /// The inverse of [`TargetScaler::transform`].
    pub fn inverse(&self, row: &mut [f64]) {
        for (v, (offset, span)) in row.iter_mut().zip(self.offset.iter().zip(&self.span)) {
            *v = *v * span + offset;
        }
    }
}
