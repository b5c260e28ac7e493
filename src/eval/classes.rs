//! Scores of predicted labels. A gene whose truth is 0 or 1 for every patient is one: its predictions are judged by how well
//! they order positives above negatives, beside the correlation that every gene has.
//!
//! The area under the ROC curve stands in the same rows as the correlation: the mean over the folds, the pool, every fold. Its
//! interval is counted twice: by the bootstrap, whose patients are drawn as for the correlation, and by DeLong's formula,
//! which takes patients as independent and the folds of one cross-validation as independent tests.

use rayon::prelude::*;

use super::{
    layout::{Cell, Column, Design, mean_finite},
    metrics::{Settings, Unit},
    paired::{auc_variance, sensitivity_at_specificity},
    resampling::{Resamples, patients},
    stats::{self, Bootstrap, Interval, LEAST_FOR_INTERVAL, percentile_interval},
};

/// Scores of one label over one group of observations. What is undefined is `None`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ClassScore {
    /// Observations whose truth is 1.
    pub positives: usize,
    /// Area under the ROC curve; none where a class is missing.
    pub auc: Option<f64>,
    /// By drawing patients.
    pub interval: Option<Interval>,
    /// By DeLong's formula; none where the classes are apart, which leaves it no variance to count, and in the mean over
    /// several repeats, whose tests share their patients.
    pub delong: Option<Interval>,
    /// At the lowest threshold that leaves at least the asked part of the negatives below it.
    pub sensitivity: Option<f64>,
    /// What that threshold reaches.
    pub specificity: Option<f64>,
    /// On the scale of the predictions; none in a mean over folds.
    pub threshold: Option<f64>,
}

/// Whether these are two classes: 0 and 1, and both of them.
pub(super) fn is_label(column: &Column) -> bool {
    let known = || column.truth.iter().filter(|t| t.is_finite());
    known().all(|t| *t == 0.0 || *t == 1.0) && known().any(|t| *t == 0.0) && known().any(|t| *t == 1.0)
}

/// The scores of one label: the mean over folds, the pool, and every cell of the design.
pub(super) struct ClassScores {
    pub mean: ClassScore,
    pub pooled: ClassScore,
    pub cells: Vec<ClassScore>,
}

pub(super) fn scores(design: &Design, column: &Column, settings: &Settings) -> ClassScores {
    let folds = Ranked::of_cells(design, column);
    let everyone: Vec<u32> = (0..design.members.len() as u32).collect();
    let over_repeats = |o: usize| mean_finite(column.predicted.iter().map(|of| of[o]));
    let pool = Ranked::new(design, column, &everyone, over_repeats);

    let all = Resamples::draw(design, &design.by_project, settings.bootstrap);
    let by_fold: Vec<Resamples> =
        design.by_fold.iter().map(|sets| Resamples::draw(design, sets, settings.bootstrap)).collect();
    let cell_score = |(ranked, cell): (&Ranked, &Cell)| ClassScore {
        interval: ranked.interval(design, &by_fold[cell.repeat], settings.bootstrap),
        ..ranked.score(settings)
    };
    let cells: Vec<ClassScore> = folds.iter().zip(&design.cells).map(cell_score).collect();
    let mean = |value: fn(&ClassScore) -> Option<f64>| stats::mean_defined(cells.iter().map(value));
    ClassScores {
        mean: ClassScore {
            positives: pool.positives(),
            auc: mean(|c| c.auc),
            interval: mean_interval(design, &folds, &all, settings.bootstrap),
            delong: (design.by_fold.len() == 1).then(|| mean_delong(&folds, settings)).flatten(),
            sensitivity: mean(|c| c.sensitivity),
            specificity: mean(|c| c.specificity),
            threshold: None,
        },
        pooled: ClassScore { interval: pool.interval(design, &all, settings.bootstrap), ..pool.score(settings) },
        cells,
    }
}

/// Of the mean of the folds' areas: every draw counts all of them again.
fn mean_interval(design: &Design, folds: &[Ranked], all: &Resamples, bootstrap: Bootstrap) -> Option<Interval> {
    let counting: Vec<&Ranked> = folds.iter().filter(|fold| fold.auc().is_some()).collect();
    if counting.is_empty() || counting.iter().any(|fold| fold.patients(design) < LEAST_FOR_INTERVAL) {
        return None;
    }
    let one = |weights: &Vec<u16>| {
        stats::mean_defined(counting.iter().map(|fold| fold.weighted_auc(weights))).unwrap_or(f64::NAN)
    };
    percentile_interval(all.weights.par_iter().map(one).collect(), bootstrap)
}

/// The folds test different patients: the variance of the mean of their areas is the sum of theirs over the square of their
/// number.
fn mean_delong(folds: &[Ranked], settings: &Settings) -> Option<Interval> {
    let counting: Vec<&Ranked> = folds.iter().filter(|fold| fold.auc().is_some()).collect();
    let n = counting.len() as f64;
    let variances = counting.iter().map(|fold| fold.variance(settings)).collect::<Option<Vec<f64>>>()?;
    let mean = counting.iter().filter_map(|fold| fold.auc()).sum::<f64>() / n;
    normal_interval(mean, variances.iter().sum::<f64>() / (n * n), settings.bootstrap.level)
}

/// Cut to [0, 1].
fn normal_interval(auc: f64, variance: f64, level: f64) -> Option<Interval> {
    let half = stats::normal_quantile((1.0 - level) / 2.0) * variance.sqrt();
    (variance > 0.0).then(|| Interval { low: (auc - half).max(0.0), high: (auc + half).min(1.0) })
}

/// Observations in the order of their predictions.
pub(super) struct Ranked {
    /// As the design counts them.
    members: Vec<u32>,
    scores: Vec<f64>,
    positive: Vec<bool>,
}

impl Ranked {
    /// Every fold of every repeat.
    pub(super) fn of_cells(design: &Design, column: &Column) -> Vec<Ranked> {
        let one = |cell: &Cell| Ranked::new(design, column, &cell.members, |o| column.predicted[cell.repeat][o]);
        design.cells.iter().map(one).collect()
    }

    fn new(design: &Design, column: &Column, members: &[u32], predicted: impl Fn(usize) -> f64) -> Ranked {
        let observation = |i: u32| design.members[i as usize];
        let mut members = members.to_vec();
        members.sort_by(|&a, &b| predicted(observation(a)).total_cmp(&predicted(observation(b))).then(a.cmp(&b)));
        Ranked {
            scores: members.iter().map(|&i| predicted(observation(i))).collect(),
            positive: members.iter().map(|&i| column.truth[observation(i)] == 1.0).collect(),
            members,
        }
    }

    fn positives(&self) -> usize {
        self.positive.iter().filter(|p| **p).count()
    }

    fn auc(&self) -> Option<f64> {
        stats::roc_auc(&self.scores, &self.positive)
    }

    /// Where each observation counts as often as it was drawn; `None` where a class was not drawn.
    pub(super) fn weighted_auc(&self, weights: &[u16]) -> Option<f64> {
        let (mut positives, mut negatives, mut ordered) = (0.0, 0.0, 0.0);
        let mut at = 0;
        while at < self.scores.len() {
            let tied = self.scores[at..].iter().take_while(|s| **s == self.scores[at]).count();
            let (mut p, mut n) = (0.0, 0.0);
            for i in at..at + tied {
                let weight = f64::from(weights[self.members[i] as usize]);
                *(if self.positive[i] { &mut p } else { &mut n }) += weight;
            }
            ordered += p * (negatives + 0.5 * n);
            (positives, negatives) = (positives + p, negatives + n);
            at += tied;
        }
        (positives > 0.0 && negatives > 0.0).then(|| ordered / (positives * negatives))
    }

    fn interval(&self, design: &Design, resamples: &Resamples, bootstrap: Bootstrap) -> Option<Interval> {
        if self.auc().is_none() || self.patients(design) < LEAST_FOR_INTERVAL {
            return None;
        }
        let one = |weights: &Vec<u16>| self.weighted_auc(weights).unwrap_or(f64::NAN);
        percentile_interval(resamples.weights.par_iter().map(one).collect(), bootstrap)
    }

    fn patients(&self, design: &Design) -> usize {
        let mut members = self.members.clone();
        members.sort_unstable();
        patients(design, &members)
    }

    /// DeLong's. Slides of a patient are not independent, as it takes observations to be.
    fn variance(&self, settings: &Settings) -> Option<f64> {
        auc_variance(&self.scores, &self.positive).map(|(_, v)| v).filter(|_| settings.unit == Unit::Patient)
    }

    fn score(&self, settings: &Settings) -> ClassScore {
        let auc = self.auc();
        let point = auc.and_then(|_| sensitivity_at_specificity(&self.scores, &self.positive, settings.specificity));
        let variance = self.variance(settings);
        ClassScore {
            positives: self.positives(),
            auc,
            interval: None,
            delong: auc.zip(variance).and_then(|(auc, v)| normal_interval(auc, v, settings.bootstrap.level)),
            sensitivity: point.map(|p| p.sensitivity),
            specificity: point.map(|p| p.specificity),
            threshold: point.map(|p| p.threshold),
        }
    }
}
