//! How good predictions are: per gene, per fold, per project and pooled.
//!
//! HE2RNA reports Pearson's correlation per gene, project and fold; others pool the held-out folds first. Both are given,
//! with patients (not slides) as the units: a patient's prediction is the mean over their slides, as for the MSI labels.
//! Pooling mixes the folds' own offsets into the correlation; that is why the fold means are reported beside it.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    escape,
    eval::stats::{self, Alternative, Bootstrap, Interval},
    io::atomic,
};

/// One held-out slide: what was measured (NaN where it was not) and what was predicted, per gene, on the same scale.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Prediction {
    pub slide: String,
    pub patient: String,
    pub project: String,
    pub fold: usize,
    pub truth: Vec<f64>,
    pub predicted: Vec<f64>,
}

/// What counts as one observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Slides of a patient averaged.
    #[default]
    Patient,
    Slide,
}

/// Scores of one gene over one group of observations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GeneScore {
    pub gene: String,
    /// Observations.
    pub n: usize,
    pub pearson: Option<f64>,
    /// Percentile bootstrap over patients.
    pub pearson_interval: Option<Interval>,
    pub p_two_sided: Option<f64>,
    /// Against a positive correlation.
    pub p_one_sided: Option<f64>,
    /// q-value of the one-sided p over the genes of the same group.
    pub false_discovery_rate: Option<f64>,
    pub spearman: Option<f64>,
    pub mse: Option<f64>,
    pub r_squared: Option<f64>,
}

/// The genes' scores over one group: a fold, a project, a project within a fold, or all.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupScores {
    /// `None`: all folds.
    pub fold: Option<usize>,
    /// `None`: all projects.
    pub project: Option<String>,
    pub genes: Vec<GeneScore>,
}

impl GroupScores {
    /// Mean correlation over the genes that have one.
    pub fn mean_pearson(&self) -> Option<f64> {
        stats::mean_defined(self.genes.iter().map(|g| g.pearson))
    }
}

/// Everything `isg evaluate` reports.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    pub unit: Unit,
    pub pooled: GroupScores,
    /// One per project, where there are several.
    pub projects: Vec<GroupScores>,
    /// One per fold, then one per project and fold where there are several projects.
    pub folds: Vec<GroupScores>,
}

impl Evaluation {
    /// Each gene's mean correlation over the folds that define it, as HE2RNA averages.
    pub fn fold_means(&self) -> Vec<Option<f64>> {
        let folds: Vec<&GroupScores> = self.folds.iter().filter(|g| g.project.is_none()).collect();
        let mean = |gene: usize| stats::mean_defined(folds.iter().map(|f| f.genes[gene].pearson));
        (0..self.pooled.genes.len()).map(mean).collect()
    }
}

/// Scores held-out predictions. Errors where a prediction has another number of genes than named.
pub fn evaluate(genes: &[String], predictions: &[Prediction], unit: Unit, bootstrap: Bootstrap) -> Result<Evaluation> {
    if let Some(p) = predictions.iter().find(|p| p.truth.len() != genes.len() || p.predicted.len() != genes.len()) {
        let message = format!("{}: {} predictions for {} genes", p.slide, p.predicted.len(), genes.len());
        return Err(Error::shape("evaluate", message));
    }
    let all: Vec<&Prediction> = predictions.iter().collect();
    let score = |fold: Option<usize>, project: Option<&str>, interval: bool| {
        let rows = all
            .iter()
            .copied()
            .filter(|p| fold.is_none_or(|f| p.fold == f) && project.is_none_or(|name| p.project == name))
            .collect::<Vec<_>>();
        let genes = score_group(genes, &rows, unit, interval.then_some(bootstrap));
        GroupScores { fold, project: project.map(str::to_string), genes }
    };
    let mut fold_numbers: Vec<usize> = predictions.iter().map(|p| p.fold).collect();
    fold_numbers.sort_unstable();
    fold_numbers.dedup();
    let mut project_names: Vec<&str> = predictions.iter().map(|p| p.project.as_str()).collect();
    project_names.sort_unstable();
    project_names.dedup();
    let several = project_names.len() > 1;

    let mut folds: Vec<GroupScores> = fold_numbers.iter().map(|&f| score(Some(f), None, false)).collect();
    if several {
        for &project in &project_names {
            folds.extend(fold_numbers.iter().map(|&f| score(Some(f), Some(project), false)));
        }
    }
    let projects =
        if several { project_names.iter().map(|p| score(None, Some(p), true)).collect() } else { Vec::new() };
    Ok(Evaluation { unit, pooled: score(None, None, true), projects, folds })
}

/// One gene's observations in one group, units in order of name: the mean truth and the mean prediction of each, and
/// which patient it is of. Slides where the gene was not measured (or not predicted) do not count.
fn observations(rows: &[&Prediction], unit: Unit, gene: usize) -> (Vec<f64>, Vec<f64>, Vec<usize>) {
    let mut units: BTreeMap<(&str, &str), Vec<&Prediction>> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.truth[gene].is_finite() && r.predicted[gene].is_finite()) {
        let slide = if unit == Unit::Slide { row.slide.as_str() } else { "" };
        units.entry((row.patient.as_str(), slide)).or_default().push(row);
    }
    let column = |of: fn(&Prediction) -> &[f64]| -> Vec<f64> {
        units.values().map(|rows| rows.iter().map(|r| of(r)[gene]).sum::<f64>() / rows.len() as f64).collect()
    };
    // Slides of one patient are drawn together, so that intervals are not too narrow.
    let mut patients = Vec::with_capacity(units.len());
    let mut last: Option<&str> = None;
    let mut number = 0;
    for (patient, _) in units.keys() {
        if last.is_some_and(|l| l != *patient) {
            number += 1;
        }
        last = Some(patient);
        patients.push(number);
    }
    (column(|p| &p.truth), column(|p| &p.predicted), patients)
}

fn score_group(names: &[String], rows: &[&Prediction], unit: Unit, bootstrap: Option<Bootstrap>) -> Vec<GeneScore> {
    let mut scores: Vec<GeneScore> = names
        .iter()
        .enumerate()
        .map(|(gene_index, gene)| {
            let (truth, predicted, patients) = observations(rows, unit, gene_index);
            let (t, p) = (&truth[..], &predicted[..]);
            let mut members: Vec<Vec<usize>> = Vec::new();
            for (row, &patient) in patients.iter().enumerate() {
                members.resize_with(members.len().max(patient + 1), Vec::new);
                members[patient].push(row);
            }
            let pearson = stats::pearson(t, p);
            let p_value = |alternative| stats::correlation_p_value(pearson?, t.len(), alternative);
            let interval = |settings| {
                pearson?;
                stats::bootstrap_interval(members.len(), settings, |draw| {
                    let rows = || draw.iter().flat_map(|&patient| &members[patient]);
                    let pick = |x: &[f64]| rows().map(|&i| x[i]).collect::<Vec<f64>>();
                    stats::pearson(&pick(t), &pick(p))
                })
            };
            GeneScore {
                gene: gene.clone(),
                n: t.len(),
                pearson,
                pearson_interval: bootstrap.and_then(interval),
                p_two_sided: p_value(Alternative::TwoSided),
                p_one_sided: p_value(Alternative::Greater),
                false_discovery_rate: None,
                spearman: stats::spearman(t, p),
                mse: stats::mean_squared_error(t, p),
                r_squared: stats::r_squared(t, p),
            }
        })
        .collect();
    let rates = stats::benjamini_hochberg(&scores.iter().map(|s| s.p_one_sided).collect::<Vec<_>>());
    scores.iter_mut().zip(rates).for_each(|(score, rate)| score.false_discovery_rate = rate);
    scores
}

/// One line per gene and group. Undefined numbers are empty fields.
pub fn write_scores_csv(path: impl AsRef<Path>, evaluation: &Evaluation) -> Result<()> {
    let path = path.as_ref();
    let header = "project,fold,gene,n,pearson,pearson_low,pearson_high,p_two_sided,p_one_sided,fdr,spearman,mse,r2";
    let groups = std::iter::once(&evaluation.pooled).chain(&evaluation.projects).chain(&evaluation.folds);
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::Usage(format!("{}: {e}", path.display()));
    out.write_record(header.split(',')).map_err(failed)?;
    for group in groups {
        let fold = group.fold.map_or("all".to_string(), |f| f.to_string());
        let project = group.project.clone().unwrap_or_else(|| "all".to_string());
        for g in &group.genes {
            let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
            out.write_record([
                escape::cell(&project).into_owned(),
                fold.clone(),
                escape::cell(&g.gene).into_owned(),
                g.n.to_string(),
                number(g.pearson),
                number(g.pearson_interval.map(|i| i.low)),
                number(g.pearson_interval.map(|i| i.high)),
                number(g.p_two_sided),
                number(g.p_one_sided),
                number(g.false_discovery_rate),
                number(g.spearman),
                number(g.mse),
                number(g.r_squared),
            ])
            .map_err(failed)?;
        }
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}
