//! What a probe of spots found, as JSON and as text.

use std::{fmt::Write as _, path::Path};

use serde::Serialize;

use super::{Options, Target};
use crate::{
    cohort::spots::{Section, SpotTable},
    eval::{blocks::Correlation, stats::Interval},
};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub folder: String,
    pub target: Target,
    pub window_px: usize,
    /// Genes probed in every fold, at most.
    pub genes: usize,
    /// Genes that the tables name.
    pub genes_counted: usize,
    pub patients: usize,
    pub sections: Vec<SectionReport>,
    pub splits: Vec<Split>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SectionReport {
    pub name: String,
    pub patient: String,
    pub spots: usize,
}

/// One way of holding out.
#[derive(Clone, Debug, Serialize)]
pub struct Split {
    /// `patient` or `section`.
    pub held_out: &'static str,
    pub rows: Vec<Row>,
    /// Rows against `colour`, on the same draws.
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub features: String,
    /// Numbers a spot.
    pub width: usize,
    #[serde(flatten)]
    pub mean: Correlation,
    pub interval: Option<Interval>,
    pub partial_interval: Option<Interval>,
    pub sections: Vec<(String, Correlation)>,
    pub genes: Vec<GeneScore>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GeneScore {
    pub gene: String,
    /// Sections that it has a correlation in.
    pub sections: usize,
    pub pearson: Option<f64>,
    pub partial: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub features: String,
    pub against: String,
    pub delta: f64,
    pub interval: Option<Interval>,
    pub partial_delta: Option<f64>,
    pub partial_interval: Option<Interval>,
}

impl Report {
    pub(super) fn new(dir: &Path, table: &SpotTable, options: &Options) -> Report {
        let section =
            |s: &Section| SectionReport { name: s.name.clone(), patient: s.patient.clone(), spots: s.spots.len() };
        Report {
            folder: dir.display().to_string(),
            target: options.target,
            window_px: options.window_px,
            genes: options.genes,
            genes_counted: table.genes.len(),
            patients: table.patients().len(),
            sections: table.sections.iter().map(section).collect(),
            splits: Vec::new(),
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |v| format!("{v:.3}"))
}

fn range(interval: Option<Interval>) -> String {
    interval.map_or("-".to_string(), |i| format!("{:.3} to {:.3}", i.low, i.high))
}

/// The report as lines for a terminal, with columns for the genes named in `shown` that were probed.
pub fn text(report: &Report, shown: &[String]) -> String {
    let mut out = String::new();
    let spots: usize = report.sections.iter().map(|s| s.spots).sum();
    let _ = writeln!(
        out,
        "{}: {} sections of {} patients, {spots} spots, {} genes counted",
        report.folder,
        report.sections.len(),
        report.patients,
        report.genes_counted
    );
    for split in &report.splits {
        let who = match split.held_out {
            "patient" => "each patient held out",
            _ => "each section held out, others of its patient trained on: within one tumour",
        };
        let genes: Vec<&String> = shown.iter().filter(|g| split.rows.iter().any(|r| r.gene(g).is_some())).collect();
        let width = split.rows.iter().map(|r| r.features.chars().count()).max().unwrap_or(0).clamp(8, 40);
        let _ = writeln!(
            out,
            "\n{who}: mean over {} genes of the correlation within a section, mean over sections",
            report.genes
        );
        let _ = write!(
            out,
            "{:<width$} {:>5} {:>6}  {:<16} {:>7}  {:<16}",
            "features", "d", "PCC", "95 % interval", "partial", "95 % interval"
        );
        genes.iter().for_each(|gene| {
            let _ = write!(out, " {gene:>7}");
        });
        out.push('\n');
        for row in &split.rows {
            let (pcc, partial) = (number(row.mean.pearson), number(row.mean.partial));
            let (interval, partial_interval) = (range(row.interval), range(row.partial_interval));
            let _ = write!(
                out,
                "{:<width$} {:>5} {pcc:>6}  {interval:<16} {partial:>7}  {partial_interval:<16}",
                row.features, row.width
            );
            for gene in &genes {
                let _ = write!(out, " {:>1$}", number(row.gene(gene).and_then(|g| g.pearson)), gene.len().max(7));
            }
            out.push('\n');
        }
        for d in &split.differences {
            let _ = writeln!(out, "{} - {}: {:+.3} ({})", d.features, d.against, d.delta, range(d.interval));
        }
    }
    out.push_str(
        "\nIntervals draw blocks of spots within each section. partial: given the logarithm of a spot's total count, which \
         the row depth is.\n",
    );
    out
}

impl Row {
    fn gene(&self, name: &str) -> Option<&GeneScore> {
        self.genes.iter().find(|g| g.gene == name)
    }
}
