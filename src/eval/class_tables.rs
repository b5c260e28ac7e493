//! What was found of labels, as a person reads it.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{
    classes::ClassScore,
    metrics::Settings,
    stats::Interval,
    tables::{GeneResult, width},
};

/// What `evaluation.json` and `evaluation.csv` have of a label beside every gene's columns.
#[derive(Clone, Copy, Default, Serialize)]
pub struct ClassRow {
    pub positives: Option<usize>,
    pub auc: Option<f64>,
    pub auc_low: Option<f64>,
    pub auc_high: Option<f64>,
    pub delong_low: Option<f64>,
    pub delong_high: Option<f64>,
    pub sensitivity: Option<f64>,
    pub specificity: Option<f64>,
    pub threshold: Option<f64>,
}

impl From<ClassScore> for ClassRow {
    fn from(score: ClassScore) -> ClassRow {
        ClassRow {
            positives: Some(score.positives),
            auc: score.auc,
            auc_low: score.interval.map(|i| i.low),
            auc_high: score.interval.map(|i| i.high),
            delong_low: score.delong.map(|i| i.low),
            delong_high: score.delong.map(|i| i.high),
            sensitivity: score.sensitivity,
            specificity: score.specificity,
            threshold: score.threshold,
        }
    }
}

/// What stands beside a label's correlation: the mean over folds of the area under the ROC curve, and its company.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LabelResult {
    pub positives: usize,
    pub auc: Option<f64>,
    /// By drawing patients.
    pub interval: Option<Interval>,
    pub delong: Option<Interval>,
    /// Over the patients of all folds together.
    pub pooled_auc: Option<f64>,
    pub pooled_interval: Option<Interval>,
    pub pooled_delong: Option<Interval>,
    pub sensitivity: Option<f64>,
    /// What the thresholds reach that `sensitivity` is counted at.
    pub specificity: Option<f64>,
    /// Other methods' means over the same folds.
    pub other_aucs: BTreeMap<String, Option<f64>>,
}

impl LabelResult {
    pub(super) fn new(mean: ClassScore, pooled: ClassScore, other_aucs: BTreeMap<String, Option<f64>>) -> LabelResult {
        LabelResult {
            positives: mean.positives,
            auc: mean.auc,
            interval: mean.interval,
            delong: mean.delong,
            pooled_auc: pooled.auc,
            pooled_interval: pooled.interval,
            pooled_delong: pooled.delong,
            sensitivity: mean.sensitivity,
            specificity: mean.specificity,
            other_aucs,
        }
    }
}

/// One line per label of every project.
pub(super) fn lines(out: &mut String, results: &[(&GeneResult, &LabelResult)], with_project: bool) {
    let label = width(results.iter().map(|(r, _)| r.gene.chars().count()).max(), 12);
    let project = width(results.iter().map(|(r, _)| r.project.chars().count()).max(), 8);
    let others: Vec<&String> = results.first().map_or(Vec::new(), |(_, l)| l.other_aucs.keys().collect());
    if with_project {
        let _ = write!(out, "{:<project$} ", "project");
    }
    let _ = write!(
        out,
        "{:<label$} {:>4} {:>4} {:>6}  {:<14} {:<14} {:>7} {:>7} {:>6} {:>6} {:>6}",
        "label", "n", "pos", "AUC", "95 % interval", "DeLong", "p", "q", "pooled", "sens", "spec"
    );
    others.iter().for_each(|name| {
        let _ = write!(out, " {name:>6}");
    });
    out.push('\n');
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    let range =
        |interval: Option<Interval>| interval.map_or("-".to_string(), |i| format!("{:.2} to {:.2}", i.low, i.high));
    for (r, l) in results {
        if with_project {
            let _ = write!(out, "{:<project$} ", r.project);
        }
        let _ = write!(
            out,
            "{:<label$} {:>4} {:>4} {:>6}  {:<14} {:<14} {:>7} {:>7} {:>6} {:>6} {:>6}",
            r.gene,
            r.n,
            l.positives,
            number(l.auc, 3),
            range(l.interval),
            range(l.delong),
            number(r.p_value, 4),
            number(r.false_discovery_rate, 4),
            number(l.pooled_auc, 3),
            number(l.sensitivity, 2),
            number(l.specificity, 2)
        );
        for (name, auc) in others.iter().zip(l.other_aucs.values()) {
            let _ = write!(out, " {:>1$}", number(*auc, 3), name.len().max(6));
        }
        out.push('\n');
    }
}

/// What the numbers of [`lines`] are, in plain words.
pub(super) fn explanation(settings: &Settings) -> String {
    format!(
        "AUC: area under the ROC curve, counted in every fold with patients of both classes; interval: by drawing patients; \
         DeLong: his formula.\nsens: sensitivity at the lowest threshold whose specificity is at least {}; spec: what it \
         reaches. Mean over folds.\n",
        settings.specificity
    )
}
