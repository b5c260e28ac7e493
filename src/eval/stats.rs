//! Plain statistics in f64: correlations with p-values and intervals, error, ROC AUC.
//!
//! What is undefined (a constant vector has no correlation, one class has no ROC curve, a number is missing) is `None`,
//! never NaN. p-values follow `scipy.stats.pearsonr` and `spearmanr` (Student's t with n - 2 degrees of freedom); ROC
//! AUC is the Mann-Whitney statistic with half a point for ties. Results depend on the data and the seed, not on threads.

use rayon::prelude::*;

use crate::random::{Philox, fnv1a};

/// A confidence interval.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Which deviation counts against "no association".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alternative {
    TwoSided,
    /// Only a positive correlation: what a predictor is meant to have.
    Greater,
}

/// Two points lie on a line whatever they are: a correlation of held-out predictions takes three observations.
pub const LEAST_FOR_CORRELATION: usize = 3;
/// And its interval four.
pub const LEAST_FOR_INTERVAL: usize = 4;

fn all_equal(x: &[f64]) -> bool {
    x.windows(2).all(|w| w[0] == w[1])
}

/// x minus its mean, divided by its largest magnitude so that no square over- or underflows.
fn centred(x: &[f64]) -> Option<Vec<f64>> {
    if x.len() < 2 || x.iter().any(|v| !v.is_finite()) || all_equal(x) {
        return None;
    }
    let largest = x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let mean = x.iter().map(|v| v / largest).sum::<f64>() / x.len() as f64;
    let mut out: Vec<f64> = x.iter().map(|v| v / largest - mean).collect();
    // A second pass takes away what rounding left of the mean.
    let rest = out.iter().sum::<f64>() / out.len() as f64;
    out.iter_mut().for_each(|v| *v -= rest);
    let spread = out.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if spread == 0.0 {
        return None;
    }
    out.iter_mut().for_each(|v| *v /= spread);
    Some(out)
}

/// Pearson's correlation. `None` for fewer than two pairs, unequal lengths, a constant vector, or non-finite numbers.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let (x, y) = (centred(x)?, centred(y)?);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let r = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
    Some(r.clamp(-1.0, 1.0))
}

/// Ranks from 1; equal values share the mean of their ranks. `None` where a value is NaN.
pub fn ranks(x: &[f64]) -> Option<Vec<f64>> {
    if x.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut out = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        // total_cmp tells -0 from 0; a tie does not.
        while end < order.len() && x[order[end]] == x[order[start]] {
            end += 1;
        }
        let rank = (start + 1 + end) as f64 / 2.0;
        order[start..end].iter().for_each(|&i| out[i] = rank);
        start = end;
    }
    Some(out)
}

/// Spearman's rank correlation, ties by mean ranks.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    pearson(&ranks(x)?, &ranks(y)?)
}

/// p-value of a correlation `r` of `n` pairs under independence (exact for normal data). `None` for fewer than three.
pub fn correlation_p_value(r: f64, n: usize, alternative: Alternative) -> Option<f64> {
    if n < 3 || !(-1.0..=1.0).contains(&r) {
        return None;
    }
    let degrees = (n - 2) as f64;
    // With t² = r² df / (1 - r²), df / (df + t²) is 1 - r².
    let two_sided = incomplete_beta_parts(degrees / 2.0, 0.5, (1.0 - r) * (1.0 + r), r * r);
    Some(match alternative {
        Alternative::TwoSided => two_sided,
        Alternative::Greater if r > 0.0 => two_sided / 2.0,
        Alternative::Greater => 1.0 - two_sided / 2.0,
    })
}

/// Two-sided p of Student's t.
pub fn student_two_sided(t: f64, degrees: f64) -> f64 {
    incomplete_beta_parts(degrees / 2.0, 0.5, degrees / (degrees + t * t), t * t / (degrees + t * t))
}

/// Two-sided p of a standard normal variable.
pub fn normal_two_sided(z: f64) -> f64 {
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// The regularised incomplete beta function I_x(a, b), for a, b > 0 and x in [0, 1].
pub fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    incomplete_beta_parts(a, b, x, 1.0 - x)
}

/// With 1 - x given apart, because it is often known more exactly than its difference.
fn incomplete_beta_parts(a: f64, b: f64, x: f64, one_minus_x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if one_minus_x <= 0.0 {
        return 1.0;
    }
    let ln_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * one_minus_x.ln();
    let value = if x < (a + 1.0) / (a + b + 2.0) {
        ln_front.exp() * beta_fraction(a, b, x) / a
    } else {
        1.0 - ln_front.exp() * beta_fraction(b, a, one_minus_x) / b
    };
    value.clamp(0.0, 1.0)
}

/// The continued fraction of the incomplete beta function by Lentz's method (DLMF 8.17.22).
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let keep = |v: f64| if v.abs() < TINY { TINY } else { v };
    let (mut c, mut d) = (1.0, 1.0 / keep(1.0 - (a + b) * x / (a + 1.0)));
    let mut f = d;
    for m in 1..20_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / keep(1.0 + even * d);
        c = keep(1.0 + even / c);
        f *= c * d;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / keep(1.0 + odd * d);
        c = keep(1.0 + odd / c);
        f *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    f
}

/// The value that a standard normal variable exceeds with probability `upper_tail` in (0, 1), by bisection.
pub fn normal_quantile(upper_tail: f64) -> f64 {
    let tail = |z: f64| 0.5 * libm::erfc(z / std::f64::consts::SQRT_2);
    let (mut low, mut high) = (-39.0, 39.0);
    for _ in 0..90 {
        let middle = (low + high) / 2.0;
        if tail(middle) > upper_tail { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Fisher's interval of a correlation at `level` (0.95): atanh(r) is normal with variance 1 / (n - 3).
pub fn fisher_interval(r: f64, n: usize, level: f64) -> Option<Interval> {
    if n < 4 || !(-1.0..=1.0).contains(&r) || !(0.0..1.0).contains(&level) {
        return None;
    }
    if r.abs() == 1.0 {
        return Some(Interval { low: r, high: r });
    }
    let half = normal_quantile((1.0 - level) / 2.0) / ((n - 3) as f64).sqrt();
    Some(Interval { low: (r.atanh() - half).tanh(), high: (r.atanh() + half).tanh() })
}

/// How a bootstrap is drawn.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    pub resamples: usize,
    pub level: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Bootstrap {
        Bootstrap { resamples: 1000, level: 0.95, seed: 0 }
    }
}

/// Percentile bootstrap over `units` (patients): `statistic` gets the units drawn with replacement. Draws for which it is
/// undefined are left out; `None` where that is more than half of them.
pub fn bootstrap_interval(
    units: usize,
    settings: Bootstrap,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Option<Interval> {
    if units == 0 || settings.resamples == 0 {
        return None;
    }
    let first_stream = fnv1a(b"bootstrap");
    let drawn: Vec<Option<f64>> = (0..settings.resamples)
        .into_par_iter()
        .map(|resample| {
            let random = Philox::new(settings.seed, first_stream.wrapping_add(resample as u64));
            let draw: Vec<usize> = (0..units).map(|i| random.below(i as u64, units)).collect();
            statistic(&draw)
        })
        .collect();
    percentile_interval(drawn.into_iter().flatten().collect(), settings)
}

/// The percentile interval of a statistic's draws, undefined ones (NaN) left out; `None` where these are more than half.
pub fn percentile_interval(mut drawn: Vec<f64>, settings: Bootstrap) -> Option<Interval> {
    drawn.retain(|v| v.is_finite());
    if drawn.is_empty() || drawn.len() * 2 < settings.resamples {
        return None;
    }
    drawn.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - settings.level) / 2.0;
    Some(Interval { low: quantile(&drawn, tail)?, high: quantile(&drawn, 1.0 - tail)? })
}

/// Quantile of sorted values, linear between neighbours (numpy's default). `None` for no values or q outside [0, 1].
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    if !(0.0..=1.0).contains(&q) {
        return None;
    }
    let at = q * (sorted.len().checked_sub(1)? as f64);
    let (below, part) = (at.floor() as usize, at - at.floor());
    let low = sorted[below];
    Some(low + (sorted.get(below + 1).copied().unwrap_or(low) - low) * part)
}

/// Median of the finite values. `None` where there are none.
pub fn median(x: &[f64]) -> Option<f64> {
    let mut x: Vec<f64> = x.iter().copied().filter(|v| v.is_finite()).collect();
    x.sort_by(f64::total_cmp);
    quantile(&x, 0.5)
}

/// Mean of those that are defined. `None` where none is.
pub fn mean_defined(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, n) = values.into_iter().flatten().fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Mean squared error. `None` for no pairs or unequal lengths.
pub fn mean_squared_error(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    if truth.is_empty() || truth.len() != predicted.len() {
        return None;
    }
    let sum: f64 = truth.iter().zip(predicted).map(|(t, p)| (t - p) * (t - p)).sum();
    sum.is_finite().then(|| sum / truth.len() as f64)
}

/// Coefficient of determination 1 - SSE / SST; negative where predicting the mean does better.
pub fn r_squared(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    let mse = mean_squared_error(truth, predicted)?;
    if all_equal(truth) {
        return None;
    }
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let variance = truth.iter().map(|t| (t - mean) * (t - mean)).sum::<f64>() / truth.len() as f64;
    (variance > 0.0).then(|| 1.0 - mse / variance)
}

/// Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.
/// `None` where a class is empty, lengths differ or a score is NaN.
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    if scores.len() != positive.len() {
        return None;
    }
    let positives = positive.iter().filter(|p| **p).count();
    let negatives = positive.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let ranks = ranks(scores)?;
    let rank_sum: f64 = ranks.iter().zip(positive).filter(|(_, p)| **p).map(|(r, _)| r).sum();
    let n = positives as f64;
    Some((rank_sum - n * (n + 1.0) / 2.0) / (n * negatives as f64))
}

/// ROC AUC's bootstrap interval over the given units.
pub fn roc_auc_interval(scores: &[f64], positive: &[bool], settings: Bootstrap) -> Option<Interval> {
    roc_auc(scores, positive)?;
    bootstrap_interval(scores.len(), settings, |draw| {
        let scores: Vec<f64> = draw.iter().map(|&i| scores[i]).collect();
        let positive: Vec<bool> = draw.iter().map(|&i| positive[i]).collect();
        roc_auc(&scores, &positive)
    })
}
