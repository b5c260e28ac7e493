//! The tables of a finished cross-validation: `predictions.csv` (one line per slide and gene), `evaluation.json` and
//! `evaluation.csv` with the network's and the baseline's scores on the same held-out slides.
//!
//! Pooled scores are over all held-out predictions at once, on the targets' own scale, exactly as each fold's networks
//! gave them: nothing is centred per fold with held-out values.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    escape,
    eval::{
        metrics::{self, Evaluation, Prediction, Unit},
        stats::Bootstrap,
    },
    io::{atomic, text},
};

pub const PREDICTIONS_FILE: &str = "predictions.csv";
pub const BASELINE_FILE: &str = "predictions_ridge.csv";
pub const EVALUATION_JSON: &str = "evaluation.json";
pub const EVALUATION_CSV: &str = "evaluation.csv";

/// The network's scores and the baseline's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub genes: Vec<String>,
    pub network: Evaluation,
    /// Ridge regression on mean features.
    pub baseline: Option<Evaluation>,
}

/// Scores predictions and, where given, the baseline's.
pub fn compare(
    genes: &[String],
    predictions: &[Prediction],
    baseline: Option<&[Prediction]>,
    unit: Unit,
    bootstrap: Bootstrap,
) -> Result<Comparison> {
    Ok(Comparison {
        genes: genes.to_vec(),
        network: metrics::evaluate(genes, predictions, unit, bootstrap)?,
        baseline: baseline.map(|b| metrics::evaluate(genes, b, unit, bootstrap)).transpose()?,
    })
}

/// Writes `evaluation.json`, `evaluation.csv` and, with a baseline, `evaluation_ridge.csv` into `dir`.
pub fn write(dir: &Path, comparison: &Comparison) -> Result<()> {
    let text = serde_json::to_string_pretty(comparison).map_err(|e| Error::io(dir, e.into()))?;
    metrics::write_scores_csv(dir.join(EVALUATION_CSV), &comparison.network)?;
    if let Some(baseline) = &comparison.baseline {
        metrics::write_scores_csv(dir.join("evaluation_ridge.csv"), baseline)?;
    }
    atomic::write_bytes(dir.join(EVALUATION_JSON), format!("{text}\n").as_bytes())
}

/// Reads what [`write()`] wrote.
pub fn read(dir: &Path) -> Result<Comparison> {
    let path = dir.join(EVALUATION_JSON);
    let text = text::read(&path, text::MAX_JSON_BYTES)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input(&path, format!("is no evaluation ({e})"), "run isg evaluate again"))
}

#[derive(Serialize, Deserialize)]
struct Row {
    slide: String,
    patient: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    fold: usize,
    gene: String,
    /// Empty where it was not measured.
    truth: Option<f64>,
    predicted: f64,
}

/// One line per slide and gene: `slide,patient,project,fold,gene,truth,predicted`.
pub fn write_predictions(path: &Path, genes: &[String], predictions: &[Prediction]) -> Result<()> {
    let mut out = csv::Writer::from_writer(Vec::new());
    for p in predictions {
        for ((gene, truth), predicted) in genes.iter().zip(&p.truth).zip(&p.predicted) {
            let row = Row {
                slide: escape::cell(&p.slide).into_owned(),
                patient: escape::cell(&p.patient).into_owned(),
                project: escape::cell(&p.project).into_owned(),
                fold: p.fold,
                gene: escape::cell(gene).into_owned(),
                truth: truth.is_finite().then_some(*truth),
                predicted: *predicted,
            };
            out.serialize(row).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
        }
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}

/// Reads what [`write_predictions`] wrote, or another program in the same columns. Genes in order of appearance; a slide
/// without a line for one of them has no truth for it.
pub fn read_predictions(path: &Path) -> Result<(Vec<String>, Vec<Prediction>)> {
    let remedy = "give the columns slide,patient,gene,truth,predicted";
    let mut reader = csv::Reader::from_path(path).map_err(|e| Error::input(path, e.to_string(), remedy))?;
    let (mut genes, mut rows): (Vec<String>, Vec<Row>) = (Vec::new(), Vec::new());
    for row in reader.deserialize() {
        let mut row: Row =
            row.map_err(|e| Error::input(path, format!("has a line that cannot be read ({e})"), remedy))?;
        for text in [&mut row.slide, &mut row.patient, &mut row.project, &mut row.gene] {
            *text = escape::uncell(text).to_string();
        }
        if !row.predicted.is_finite() {
            let problem = format!("slide {}, gene {}: the prediction is no number", row.slide, row.gene);
            return Err(Error::input(path, problem, "predict this slide again"));
        }
        if !genes.contains(&row.gene) {
            genes.push(row.gene.clone());
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Error::input(path, "holds no prediction", remedy));
    }
    let mut slides: BTreeMap<(usize, String), Prediction> = BTreeMap::new();
    for row in rows {
        let gene = genes.iter().position(|g| *g == row.gene).unwrap_or(0);
        let missing = vec![f64::NAN; genes.len()];
        let slide = slides.entry((row.fold, row.slide.clone())).or_insert_with(|| Prediction {
            slide: row.slide,
            patient: row.patient,
            project: row.project,
            fold: row.fold,
            truth: missing.clone(),
            predicted: missing,
        });
        slide.truth[gene] = row.truth.unwrap_or(f64::NAN);
        slide.predicted[gene] = row.predicted;
    }
    Ok((genes, slides.into_values().collect()))
}
