//! The tables of an evaluation: `evaluation.csv` and `evaluation.json` with every score of every method, and the results as a
//! person reads them, one line per gene and project.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    class_tables::{self, ClassRow, LabelResult},
    metrics::{self, ALL_PROJECTS, Evaluation, GeneScore, Part, Prediction, Settings, Unit},
    stats::{self, Interval},
};
use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
};

pub const PREDICTIONS_FILE: &str = "predictions.csv";
pub const EVALUATION_JSON: &str = "evaluation.json";
pub const EVALUATION_CSV: &str = "evaluation.csv";
/// What follows a method's name in [`GeneResult::others`].
pub const PEARSON: &str = "_pearson";
/// A method's predictions.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    pub name: &'a str,
    pub genes: &'a [String],
    pub predictions: &'a [Prediction],
}

/// Methods compared on the same slides, the one in question first.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    pub methods: Vec<(String, Evaluation)>,
}

impl Comparison {
    /// Scores each method's predictions. Errors where there is none.
    pub fn new(methods: &[Method], settings: Settings) -> Result<Comparison> {
        let score = |m: &Method| Ok((m.name.to_string(), metrics::evaluate(m.genes, m.predictions, settings)?));
        let methods = methods.iter().map(score).collect::<Result<Vec<_>>>()?;
        match methods.is_empty() {
            true => Err(Error::shape("evaluate", "no method's predictions")),
            false => Ok(Comparison { methods }),
        }
    }

    /// The method in question.
    pub fn first(&self) -> &Evaluation {
        &self.methods[0].1
    }

    /// Every score of every method: the array that `isg evaluate --json` prints.
    pub fn rows(&self) -> Vec<Scored<'_>> {
        (self.methods.iter())
            .flat_map(|(method, evaluation)| {
                evaluation.groups.iter().flat_map(move |group| {
                    let genes = evaluation.genes.iter().zip(&group.genes);
                    genes.map(move |(gene, score)| Scored {
                        row: Row::new(method, &group.project, group.part, gene, score),
                        class: score.class.map(ClassRow::from),
                    })
                })
            })
            .collect()
    }

    /// The results, gene by gene within each project.
    pub fn results(&self) -> Vec<GeneResult> {
        let projects = &self.first().projects;
        projects.iter().flat_map(|project| self.results_of(project)).collect()
    }

    /// What is pooled over all projects; nothing where there is one.
    pub fn results_over_projects(&self) -> Vec<GeneResult> {
        if self.first().projects.len() > 1 { self.results_of(ALL_PROJECTS) } else { Vec::new() }
    }

    fn results_of(&self, project: &str) -> Vec<GeneResult> {
        let find = |evaluation: &Evaluation, part: Part, gene: usize| -> GeneScore {
            evaluation.group(project, part).map(|group| group.genes[gene]).unwrap_or_default()
        };
        let first = self.first();
        let one = |gene: usize| {
            let (mean, pooled) = (find(first, Part::Mean, gene), find(first, Part::Pooled, gene));
            let others = self.methods[1..].iter().map(|(name, evaluation)| {
                let same = evaluation.genes.iter().position(|g| *g == first.genes[gene]);
                (format!("{name}{PEARSON}"), same.and_then(|gene| find(evaluation, Part::Mean, gene).pearson))
            });
            let other_aucs = self.methods[1..].iter().map(|(name, evaluation)| {
                let same = evaluation.genes.iter().position(|g| *g == first.genes[gene]);
                let class = same.and_then(|gene| find(evaluation, Part::Mean, gene).class);
                (name.clone(), class.and_then(|c| c.auc))
            });
            let classes = mean.class.zip(pooled.class);
            GeneResult {
                project: project.to_string(),
                gene: first.genes[gene].clone(),
                n: mean.n,
                pearson: mean.pearson,
                interval: mean.interval,
                p_value: mean.p,
                false_discovery_rate: mean.q,
                pooled_pearson: pooled.pearson,
                pooled_interval: pooled.interval,
                spearman: mean.spearman,
                mse: mean.mse,
                mse_scaled: mean.mse_scaled,
                others: others.collect(),
                label: classes.map(|(mean, pooled)| LabelResult::new(mean, pooled, other_aucs.collect())),
            }
        };
        (0..first.genes.len()).map(one).collect()
    }
}

/// One score as `evaluation.json` and `evaluation.csv` have it.
#[derive(Clone, Copy, Serialize)]
pub struct Row<'a> {
    pub method: &'a str,
    pub project: &'a str,
    pub fold: Part,
    /// Of a fold; `None` for a mean or a pool.
    pub repeat: Option<usize>,
    pub gene: &'a str,
    pub n: usize,
    pub pearson: Option<f64>,
    pub pearson_low: Option<f64>,
    pub pearson_high: Option<f64>,
    pub p: Option<f64>,
    pub q: Option<f64>,
    pub spearman: Option<f64>,
    pub mse: Option<f64>,
    pub mse_scaled: Option<f64>,
    pub r2: Option<f64>,
}

/// One score with what a label has beside it.
#[derive(Clone, Copy, Serialize)]
pub struct Scored<'a> {
    #[serde(flatten)]
    pub row: Row<'a>,
    #[serde(flatten)]
    pub class: Option<ClassRow>,
}

impl<'a> Row<'a> {
    fn new(method: &'a str, project: &'a str, fold: Part, gene: &'a str, score: &GeneScore) -> Row<'a> {
        Row {
            method,
            project,
            fold,
            repeat: if let Part::Fold { repeat, .. } = fold { Some(repeat) } else { None },
            gene,
            n: score.n,
            pearson: score.pearson,
            pearson_low: score.interval.map(|i| i.low),
            pearson_high: score.interval.map(|i| i.high),
            p: score.p,
            q: score.q,
            spearman: score.spearman,
            mse: score.mse,
            mse_scaled: score.mse_scaled,
            r2: score.r_squared,
        }
    }
}

/// What was found of one gene in one project, patients as observations: the mean over folds, with what stands beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GeneResult {
    pub project: String,
    pub gene: String,
    pub n: usize,
    /// Mean over the folds.
    pub pearson: Option<f64>,
    pub interval: Option<Interval>,
    pub p_value: Option<f64>,
    pub false_discovery_rate: Option<f64>,
    /// Over the project's patients of all folds together.
    pub pooled_pearson: Option<f64>,
    pub pooled_interval: Option<Interval>,
    pub spearman: Option<f64>,
    pub mse: Option<f64>,
    pub mse_scaled: Option<f64>,
    /// `NAME_pearson`: another method's mean over the same folds.
    /// Where the gene is a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelResult>,
    #[serde(flatten)]
    pub others: BTreeMap<String, Option<f64>>,
}

/// Writes `evaluation.json` and `evaluation.csv` into `dir`. Undefined numbers are null, and empty fields. Columns of labels
/// are there where one is.
pub fn write(dir: &Path, comparison: &Comparison) -> Result<()> {
    let rows = comparison.rows();
    let text = serde_json::to_string_pretty(&rows).map_err(|e| Error::io(dir, e.into()))?;
    let path = dir.join(EVALUATION_CSV);
    let mut out = csv::Writer::from_writer(Vec::new());
    let labels = rows.iter().any(|scored| scored.class.is_some());
    for Scored { row, class } in &rows {
        let (project, gene) = (escape::cell(row.project), escape::cell(row.gene));
        let row = Row { project: &project, gene: &gene, ..*row };
        let written = if labels { out.serialize((row, class.unwrap_or_default())) } else { out.serialize(row) };
        written.map_err(|e| Error::io(&path, e.into()))?;
    }
    let bytes = out.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
    atomic::write_bytes(&path, &bytes)?;
    atomic::write_bytes(dir.join(EVALUATION_JSON), format!("{text}\n").as_bytes())
}

/// The results as lines for a terminal: every gene of every project, then what is pooled over projects.
pub fn text(results: &[GeneResult], over_projects: &[GeneResult], unit: Unit) -> String {
    let several = !over_projects.is_empty();
    let mut out = String::new();
    let who = observations(unit);
    let within = if several { " within each project" } else { "" };
    let labels = with_label(results);
    if !labels.is_empty() {
        let _ = writeln!(out, "held-out {who}: area under the ROC curve{within}, mean over folds");
        class_tables::lines(&mut out, &labels, several);
        mean_line(&mut out, labels.iter().map(|(_, l)| l.auc), "labels", several);
    }
    let genes = without_label(results);
    if !genes.is_empty() {
        let _ = writeln!(out, "held-out {who}: correlation{within}, mean over folds");
        lines(&mut out, &genes, several);
        mean_line(&mut out, genes.iter().map(|r| r.pearson), "genes", several);
    }
    if several {
        let _ = writeln!(out, "\nall projects together: telling the projects apart counts as prediction here");
        if !labels.is_empty() {
            class_tables::lines(&mut out, &with_label(over_projects), false);
        }
        if !genes.is_empty() {
            lines(&mut out, &without_label(over_projects), false);
        }
    }
    out
}

fn with_label(results: &[GeneResult]) -> Vec<(&GeneResult, &LabelResult)> {
    results.iter().filter_map(|r| Some((r, r.label.as_ref()?))).collect()
}

fn without_label(results: &[GeneResult]) -> Vec<&GeneResult> {
    results.iter().filter(|r| r.label.is_none()).collect()
}

fn mean_line(out: &mut String, values: impl Iterator<Item = Option<f64>>, what: &str, several: bool) {
    let defined: Vec<f64> = values.flatten().collect();
    if defined.len() > 1 {
        let mean = defined.iter().sum::<f64>() / defined.len() as f64;
        let and_projects = if several { " and projects" } else { "" };
        let _ = writeln!(out, "mean over {what}{and_projects}: {mean:.3}");
    }
}

/// Of a column of names, the longest of which has so many letters.
pub(super) fn width(longest: Option<usize>, least: usize) -> usize {
    longest.unwrap_or(0).clamp(least, 40)
}

fn lines(out: &mut String, results: &[&GeneResult], with_project: bool) {
    let others: Vec<&str> =
        results.first().map_or(Vec::new(), |r| r.others.keys().map(|k| k.trim_end_matches("_pearson")).collect());
    let gene = width(results.iter().map(|r| r.gene.chars().count()).max(), 12);
    let project = width(results.iter().map(|r| r.project.chars().count()).max(), 8);
    if with_project {
        let _ = write!(out, "{:<project$} ", "project");
    }
    let titles = ["n", "PCC", "95 % interval", "p", "q", "pooled", "MSE", "scaled"];
    let [n, pcc, interval, p, q, pooled, mse, scaled] = titles;
    let _ =
        write!(out, "{:<gene$} {n:>4} {pcc:>6}  {interval:<14} {p:>7} {q:>7} {pooled:>6} {mse:>8} {scaled:>8}", "gene");
    others.iter().for_each(|name| {
        let _ = write!(out, " {name:>6}");
    });
    out.push('\n');
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    for r in results {
        if with_project {
            let _ = write!(out, "{:<project$} ", r.project);
        }
        let interval = r.interval.map_or("-".to_string(), |i| format!("{:.2} to {:.2}", i.low, i.high));
        let (pcc, pooled) = (number(r.pearson, 3), number(r.pooled_pearson, 3));
        let (p, q) = (number(r.p_value, 4), number(r.false_discovery_rate, 4));
        let (mse, scaled) = (number(r.mse, 4), number(r.mse_scaled, 4));
        let _ = write!(
            out,
            "{:<gene$} {:>4} {pcc:>6}  {interval:<14} {p:>7} {q:>7} {pooled:>6} {mse:>8} {scaled:>8}",
            r.gene, r.n
        );
        for (name, pearson) in others.iter().zip(r.others.values()) {
            let _ = write!(out, " {:>1$}", number(*pearson, 3), name.len().max(6));
        }
        out.push('\n');
    }
}

fn observations(unit: Unit) -> &'static str {
    match unit {
        Unit::Patient => "patients",
        Unit::Slide => "slides",
    }
}

/// What the numbers of [`text`] are, in plain words.
pub fn explanation(settings: &Settings, results: &[GeneResult]) -> String {
    let labels = if with_label(results).is_empty() { String::new() } else { class_tables::explanation(settings) };
    let who = observations(settings.unit);
    let p = match settings.unit {
        Unit::Slide => "No p: slides of one patient are not independent.".to_string(),
        Unit::Patient => format!(
            "p: one-sided, {} permutations of the patients' targets within project and fold; q: {}, over the genes of a project.",
            settings.permutations.draws,
            settings.false_discovery.name()
        ),
    };
    format!(
        "Intervals are of these predictions, by drawing patients within their project; how another training would have gone is \
         not in them.\n{p}\npooled: the folds together; scaled: MSE on the scale of the training targets; -: too few {who} ({} for a \
         correlation, {} for an interval), or nothing that varies.\n{labels}",
        stats::LEAST_FOR_CORRELATION,
        stats::LEAST_FOR_INTERVAL
    )
}
