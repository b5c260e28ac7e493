//! Two predictors of the same observations: does one predict better? By resampling, by the formulas for correlations that
//! share their truth, and for areas under ROC curves.

use super::stats::{self, Interval, normal_two_sided, pearson, quantile, student_two_sided};

/// How two correlations with the same truth differ.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Correlations {
    pub first: f64,
    pub second: f64,
    /// Between the two predictions.
    pub between: f64,
    /// Steiger's z (1980) with the pooled correlation, and its two-sided p.
    pub z: f64,
    pub p: f64,
    /// Williams' t with n - 3 degrees of freedom, and its two-sided p.
    pub t: f64,
    pub p_williams: f64,
}

/// Steiger's and Williams' tests of r(truth, first) against r(truth, second). `None` for fewer than four observations, where
/// a correlation is undefined or perfect, and where the two predictions are one.
pub fn steiger(truth: &[f64], first: &[f64], second: &[f64]) -> Option<Correlations> {
    let n = truth.len() as f64;
    let (a, b, between) = (pearson(truth, first)?, pearson(truth, second)?, pearson(first, second)?);
    if truth.len() < 4 || [a, b, between].iter().any(|r| r.abs() >= 1.0) {
        return None;
    }
    let mean = (a + b) / 2.0;
    let square = mean * mean;
    let psi = between * (1.0 - 2.0 * square) - square * (1.0 - 2.0 * square - between * between) / 2.0;
    let s = psi / (1.0 - square).powi(2);
    let z = (a.atanh() - b.atanh()) * ((n - 3.0) / (2.0 - 2.0 * s)).sqrt();
    let determinant = 1.0 - a * a - b * b - between * between + 2.0 * a * b * between;
    let spread = 2.0 * (n - 1.0) / (n - 3.0) * determinant + square * (1.0 - between).powi(3);
    let t = (a - b) * ((n - 1.0) * (1.0 + between) / spread).sqrt();
    let all = Correlations {
        first: a,
        second: b,
        between,
        z,
        p: normal_two_sided(z),
        t,
        p_williams: student_two_sided(t, n - 3.0),
    };
    (z.is_finite() && t.is_finite()).then_some(all)
}

/// r(truth, first) - r(truth, second) on all observations and on every resample (their numbers, with repetition), and the
/// percentile interval at `level`. `None` where a correlation is undefined.
pub fn bootstrap(
    truth: &[f64],
    first: &[f64],
    second: &[f64],
    resamples: &[Vec<usize>],
    level: f64,
) -> Option<(f64, Vec<f64>, Interval)> {
    let difference =
        |truth: &[f64], first: &[f64], second: &[f64]| Some(pearson(truth, first)? - pearson(truth, second)?);
    let pick =
        |values: &[f64], rows: &[usize]| rows.iter().map(|&i| values.get(i).copied()).collect::<Option<Vec<f64>>>();
    let one = |rows: &Vec<usize>| difference(&pick(truth, rows)?, &pick(first, rows)?, &pick(second, rows)?);
    let deltas = resamples.iter().map(one).collect::<Option<Vec<f64>>>()?;
    let mut sorted = deltas.clone();
    sorted.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    let interval = Interval { low: quantile(&sorted, tail)?, high: quantile(&sorted, 1.0 - tail)? };
    Some((difference(truth, first, second)?, deltas, interval))
}

/// Two areas under ROC curves on the same observations (DeLong, DeLong and Clarke-Pearson 1988).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DeLong {
    pub auc: f64,
    pub variance: f64,
    /// Normal interval of `auc`, cut to [0, 1].
    pub interval: Interval,
    pub other: f64,
    pub variance_other: f64,
    pub covariance: f64,
    pub z: f64,
    /// Two-sided.
    pub p: f64,
}

/// `None` where a class has fewer than two members, and where the difference has no variance.
pub fn delong(score: &[f64], other: &[f64], positive: &[bool], level: f64) -> Option<DeLong> {
    let (a, b) = (Placements::of(score, positive)?, Placements::of(other, positive)?);
    let (auc, auc_other) = (a.auc(), b.auc());
    let (variance, variance_other, shared) = (a.covariance(&a), b.covariance(&b), a.covariance(&b));
    let z = (auc - auc_other) / (variance + variance_other - 2.0 * shared).sqrt();
    let half = stats::normal_quantile((1.0 - level) / 2.0) * variance.sqrt();
    z.is_finite().then(|| DeLong {
        auc,
        variance,
        interval: Interval { low: (auc - half).max(0.0), high: (auc + half).min(1.0) },
        other: auc_other,
        variance_other,
        covariance: shared,
        z,
        p: normal_two_sided(z),
    })
}

/// An area under the ROC curve and its variance by the same placements. `None` where a class has fewer than two members or a
/// score is NaN.
pub fn auc_variance(scores: &[f64], positive: &[bool]) -> Option<(f64, f64)> {
    let placements = Placements::of(scores, positive)?;
    Some((placements.auc(), placements.covariance(&placements)))
}

/// Of each positive the share of negatives below it, of each negative the share of positives above it; ties count half.
struct Placements {
    positives: Vec<f64>,
    negatives: Vec<f64>,
}

impl Placements {
    fn auc(&self) -> f64 {
        self.positives.iter().sum::<f64>() / self.positives.len() as f64
    }

    /// Of the areas of two scores of the same observations.
    fn covariance(&self, other: &Placements) -> f64 {
        let of = |x: &[f64], y: &[f64]| {
            let n = x.len() as f64;
            let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
            x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / (n - 1.0) / n
        };
        of(&self.positives, &other.positives) + of(&self.negatives, &other.negatives)
    }

    fn of(scores: &[f64], positive: &[bool]) -> Option<Placements> {
        if scores.len() != positive.len() || scores.iter().any(|s| s.is_nan()) {
            return None;
        }
        let class = |wanted: bool| -> Vec<f64> {
            let mut of_class: Vec<f64> =
                scores.iter().zip(positive).filter(|(_, p)| **p == wanted).map(|(s, _)| *s).collect();
            of_class.sort_by(f64::total_cmp);
            of_class
        };
        let (positives, negatives) = (class(true), class(false));
        if positives.len() < 2 || negatives.len() < 2 {
            return None;
        }
        // Ties count half, so that the share above is one less the share below.
        let below = |sorted: &[f64], score: f64| {
            let (under, up_to) = (sorted.partition_point(|s| *s < score), sorted.partition_point(|s| *s <= score));
            (under + up_to) as f64 / 2.0 / sorted.len() as f64
        };
        let each = |wanted: bool, sorted: &[f64]| -> Vec<f64> {
            let of_class = scores.iter().zip(positive).filter(|(_, p)| **p == wanted);
            of_class.map(|(s, _)| below(sorted, *s)).map(|share| if wanted { share } else { 1.0 - share }).collect()
        };
        Some(Placements { positives: each(true, &negatives), negatives: each(false, &positives) })
    }
}

/// A threshold and what it does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OperatingPoint {
    pub sensitivity: f64,
    pub specificity: f64,
    /// Positive is a score at least this high.
    pub threshold: f64,
}

/// Of the scores that occur, the lowest that as a threshold leaves at least `specificity` of the negatives below it. `None`
/// where a class is empty, a score is NaN or no score does.
pub fn sensitivity_at_specificity(scores: &[f64], positive: &[bool], specificity: f64) -> Option<OperatingPoint> {
    if scores.len() != positive.len() || scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let share = |of_positives: bool, above: &dyn Fn(f64) -> bool| -> Option<f64> {
        let of_class = scores.iter().zip(positive).filter(|(_, p)| **p == of_positives);
        let (hits, n) = of_class.fold((0usize, 0usize), |(hits, n), (s, _)| (hits + usize::from(above(*s)), n + 1));
        (n > 0).then(|| hits as f64 / n as f64)
    };
    let mut thresholds = scores.to_vec();
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    // The higher the threshold, the more negatives are below it.
    let below = |threshold: f64| share(false, &|s| s < threshold);
    let at = thresholds.partition_point(|&threshold| below(threshold).is_some_and(|share| share < specificity));
    let threshold = *thresholds.get(at)?;
    Some(OperatingPoint { sensitivity: share(true, &|s| s >= threshold)?, specificity: below(threshold)?, threshold })
}
