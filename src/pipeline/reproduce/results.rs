//! What the arms of a table gave: cells as the paper prints them, paired differences from the reference, and the sentence that
//! the data allow.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::Serialize;

use super::arms::{PaperAverage, TablePlan};
use crate::{
    error::{Error, Result},
    escape,
    eval::{
        compare::{self, Arm, Difference, Verdict},
        metrics::{Evaluation, GeneScore, Part},
        predictions::PredictionTable,
        stats::{Bootstrap, Interval},
    },
    io::atomic,
};

/// One arm's training with one seed.
pub struct Trained {
    pub seed: u64,
    pub table: PredictionTable,
    pub evaluation: Evaluation,
    /// Seconds of each stage.
    pub seconds: BTreeMap<String, f64>,
}

/// What became of an arm.
pub enum Outcome {
    Trained(Vec<Trained>),
    /// It cannot be run as configured, in one sentence.
    Skipped(String),
}

/// A finished table.
#[derive(Debug, Serialize)]
pub struct TableResult {
    pub number: u8,
    pub title: String,
    pub note: String,
    pub reference: String,
    /// Project and gene of every cell of a row.
    pub columns: Vec<(String, String)>,
    pub rows: Vec<RowResult>,
    /// Every arm against the reference.
    pub differences: Vec<Difference>,
    /// What may be said, one sentence each.
    pub findings: Vec<String>,
}

/// One arm's row.
#[derive(Debug, Serialize)]
pub struct RowResult {
    pub arm: String,
    pub title: String,
    /// As [`TableResult::columns`]; empty for an arm that was not run.
    pub cells: Vec<Cell>,
    /// Mean over the cells, and its standard deviation over the seeds.
    pub average: Option<f64>,
    pub average_sd: Option<f64>,
    /// Mean squared error on the scale of the training targets, mean over the cells.
    pub l2: Option<f64>,
    pub paper: Option<PaperAverage>,
    pub seeds: usize,
    /// Seconds of each stage of the first seed's run, those it spent itself: what an earlier arm had made took none.
    pub seconds: BTreeMap<String, f64>,
    /// Why it was not run.
    pub skipped: Option<String>,
}

/// Correlation of a gene in a project: the mean over folds, averaged over seeds; its interval is the first seed's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cell {
    /// Of a label, the area under the ROC curve.
    pub pearson: Option<f64>,
    pub interval: Option<Interval>,
    /// The paper's number, where the cohort has its project and gene.
    pub paper: Option<f64>,
}

/// Gathers a table from its arms.
pub fn gather(plan: &TablePlan, outcomes: &[Outcome], settings: Bootstrap) -> Result<TableResult> {
    let trained: Vec<(usize, &[Trained])> = (outcomes.iter().enumerate())
        .filter_map(|(i, outcome)| match outcome {
            Outcome::Trained(runs) => Some((i, runs.as_slice())),
            Outcome::Skipped(_) => None,
        })
        .collect();
    let columns = trained.first().map_or(Vec::new(), |(_, runs)| {
        let Evaluation { genes, projects, .. } = &runs[0].evaluation;
        projects.iter().flat_map(|project| genes.iter().map(|gene| (project.clone(), gene.clone()))).collect()
    });
    let rows: Vec<RowResult> = (plan.arms.iter().zip(outcomes))
        .map(|(arm, outcome)| {
            let (runs, skipped): (&[Trained], _) = match outcome {
                Outcome::Trained(runs) => (runs, None),
                Outcome::Skipped(why) => (&[], Some(why.clone())),
            };
            row(arm, runs, skipped, &columns)
        })
        .collect();
    let arms: Vec<Arm> = (trained.iter())
        .map(|&(i, runs)| Arm {
            name: plan.arms[i].name.clone(),
            runs: runs
                .iter()
                .map(|run| compare::Run { genes: &run.table.genes, predictions: &run.table.predictions })
                .collect(),
        })
        .collect();
    // Where the reference could not be run, the first that could takes its place.
    let reference = arms.iter().position(|arm| arm.name == plan.reference).or((!arms.is_empty()).then_some(0));
    let differences = match reference {
        Some(reference) if arms.len() > 1 => compare::compare(&arms, reference, settings)?,
        _ => Vec::new(),
    };
    let findings = findings(plan, &rows, &differences);
    Ok(TableResult {
        number: plan.number,
        title: plan.title.to_string(),
        note: plan.note.to_string(),
        reference: reference.map_or(plan.reference, |i| &arms[i].name).to_string(),
        columns,
        rows,
        differences,
        findings,
    })
}

fn row(arm: &super::arms::Arm, runs: &[Trained], skipped: Option<String>, columns: &[(String, String)]) -> RowResult {
    let of_paper = super::paper::METHODS.iter().chain(&super::paper::SELECTORS).find(|row| row.name == arm.title);
    let score = |run: &Trained, (project, gene): &(String, String)| {
        let number = run.evaluation.genes.iter().position(|g| g == gene)?;
        run.evaluation.group(project, Part::Mean).map(|group| group.genes[number])
    };
    let mean = |values: Vec<Option<f64>>| -> Option<f64> {
        let defined: Option<Vec<f64>> = values.into_iter().collect();
        defined.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
    };
    let value = |score: &GeneScore| score.class.map_or(score.pearson, |class| class.auc);
    let interval = |score: &GeneScore| score.class.map_or(score.interval, |class| class.interval);
    let cell = |column: &(String, String)| Cell {
        pearson: mean(runs.iter().map(|run| score(run, column).and_then(|s| value(&s))).collect()),
        interval: runs.first().and_then(|run| score(run, column)).and_then(|s| interval(&s)),
        paper: of_paper.and_then(|row| {
            let at = super::paper::COLUMNS.iter().position(|(project, gene)| {
                column.0.to_uppercase().trim_start_matches("TCGA-") == *project && column.1 == *gene
            })?;
            Some(row.pearson[at])
        }),
    };
    // Of the cells that are defined.
    let over_cells = |run: &Trained| {
        let values: Vec<f64> = columns.iter().filter_map(|c| score(run, c).and_then(|s| value(&s))).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let averages: Vec<f64> = runs.iter().filter_map(over_cells).collect();
    let n = averages.len() as f64;
    let average = (!averages.is_empty()).then(|| averages.iter().sum::<f64>() / n);
    let average_sd = average
        .filter(|_| averages.len() > 1)
        .map(|mean| (averages.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt());
    let l2 = |run: &Trained| {
        let of: Vec<f64> = columns.iter().filter_map(|c| score(run, c).and_then(|s| s.mse_scaled)).collect();
        (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
    };
    RowResult {
        arm: arm.name.clone(),
        title: arm.title.clone(),
        cells: if runs.is_empty() { Vec::new() } else { columns.iter().map(cell).collect() },
        average,
        average_sd,
        l2: mean(runs.iter().map(l2).collect()),
        paper: arm.paper,
        seeds: runs.len(),
        seconds: runs.first().map_or_else(BTreeMap::new, |run| run.seconds.clone()),
        skipped,
    }
}

/// What the paper claims by its averages, against what is found here.
fn findings(plan: &TablePlan, rows: &[RowResult], differences: &[Difference]) -> Vec<String> {
    let of_reference = rows.iter().find(|row| row.arm == plan.reference);
    let claimed = of_reference.and_then(|row| row.paper).map(|paper| paper.pearson);
    let mut out = Vec::new();
    let (mut holds, mut fails, mut undecided) = (0, 0, 0);
    for d in differences.iter().filter(|d| d.gene.is_none()) {
        let mut sentence = format!("{} against {}: {}", d.arm, d.reference, compare::sentence(d));
        let row = rows.iter().find(|row| row.arm == d.arm);
        if let (Some(paper), Some(claimed)) = (row.and_then(|row| row.paper), claimed) {
            let difference = paper.pearson - claimed;
            let word = match (d.verdict(), difference < 0.0) {
                (Verdict::Undecided, _) => {
                    undecided += 1;
                    "is undecided here"
                }
                (Verdict::Worse, true) | (Verdict::Better, false) => {
                    holds += 1;
                    "holds here"
                }
                _ => {
                    fails += 1;
                    "does not hold here"
                }
            };
            let _ = write!(sentence, ". The paper's {difference:+.3} {word}");
        }
        out.push(sentence + ".");
    }
    if holds + fails + undecided > 0 {
        let n = differences.first().map_or(0, |d| d.n);
        out.insert(
            0,
            format!(
                "Of the paper's {} orderings around {}, {holds} hold, {fails} do not and {undecided} are undecided at n = {n} patients.",
                holds + fails + undecided,
                plan.reference
            ),
        );
    }
    out
}

/// `results.csv`: every score of every arm and seed.
pub fn write_scores(path: &Path, tables: &[(TablePlan, Vec<Outcome>)]) -> Result<()> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::io(path, e.into());
    out.write_record(["table", "arm", "seed", "project", "gene", "fold", "n", "pearson", "mse", "mse_scaled"])
        .map_err(failed)?;
    let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    for (plan, outcomes) in tables {
        for (arm, outcome) in plan.arms.iter().zip(outcomes) {
            let Outcome::Trained(runs) = outcome else { continue };
            for run in runs {
                for group in &run.evaluation.groups {
                    let fold = match group.part {
                        Part::Mean => "mean".to_string(),
                        Part::Pooled => "pooled".to_string(),
                        Part::Fold { repeat: 0, fold } => fold.to_string(),
                        Part::Fold { repeat, fold } => format!("{repeat}.{fold}"),
                    };
                    for (gene, score) in run.evaluation.genes.iter().zip(&group.genes) {
                        let text = |text: &str| escape::cell(text).into_owned();
                        let head = [plan.number.to_string(), text(&arm.name), run.seed.to_string()];
                        let place = [text(&group.project), text(gene), fold.clone(), score.n.to_string()];
                        let values = [score.pearson, score.mse, score.mse_scaled].map(number);
                        out.write_record(head.iter().chain(&place).chain(&values)).map_err(failed)?;
                    }
                }
            }
        }
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}

/// `comparison.csv` of all tables, the table's number in front.
pub fn write_differences(path: &Path, tables: &[TableResult]) -> Result<()> {
    let mut text = String::new();
    for table in tables {
        let of_table = compare::csv(&table.differences, path)?;
        let mut lines = of_table.lines();
        let header = lines.next().unwrap_or_default();
        if text.is_empty() {
            let _ = writeln!(text, "table,{header}");
        }
        lines.for_each(|line| {
            let _ = writeln!(text, "{},{line}", table.number);
        });
    }
    atomic::write_bytes(path, text.as_bytes())
}

/// A table as lines for a terminal.
pub fn text(table: &TableResult) -> String {
    let mut out = format!("table {}: {}\n", table.number, table.title);
    let width = table.rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0).max(8);
    let _ = writeln!(
        out,
        "{:<width$} {:>7} {:>7} {:>8} {:>7}  delta against {}",
        "arm", "PCC", "seeds", "L2", "paper", table.reference
    );
    for row in &table.rows {
        if let Some(why) = &row.skipped {
            let _ = writeln!(out, "{:<width$} not run: {why}", row.title);
            continue;
        }
        let number = |v: Option<f64>, digits: usize| v.map_or("-".into(), |v| format!("{v:.digits$}"));
        let seeds = row.average_sd.map_or("-".into(), |sd| format!("±{sd:.3}"));
        let mean = table.differences.iter().find(|d| d.arm == row.arm && d.gene.is_none());
        let delta = mean
            .and_then(|d| Some((d.delta?, d.interval?, d.p_holm?)))
            .map_or(String::new(), |(delta, i, p)| format!("{delta:+.3} [{:+.3}, {:+.3}], p {p:.3}", i.low, i.high));
        let (average, l2, paper) = (number(row.average, 3), number(row.l2, 4), number(row.paper.map(|p| p.pearson), 3));
        let _ = writeln!(out, "{:<width$} {average:>7} {seeds:>7} {l2:>8} {paper:>7}  {delta}", row.title);
    }
    if let Some(first) = table.findings.first() {
        let _ = writeln!(out, "{first}");
    }
    out
}
