//! The `[cohort]` part of a run's configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    cohort::{
        expression::{ExpressionFormat, Measure, Orientation},
        labels::LabelLow,
        targets::{TableScale, Transform},
    },
    error::{Error, Result},
};

/// How slides find their expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchBy {
    /// By the slide's own name, then by sample (barcode without vial, as HE2RNA), then by patient where sample types do not
    /// contradict. Names match whole, but for case and R's `make.names`, or by a recognised scheme.
    #[default]
    Auto,
    /// By the slide's name or its sample only.
    Sample,
    /// By patient: any of the patient's samples.
    Patient,
}

/// Which slides, which expression or labels, which targets. Every key has a default but `slides` and one of `expression`
/// and `labels`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CohortConfig {
    /// Files, folders, patterns, or tables with the columns `slide,patient[,site,mpp,project,sample]`.
    #[serde(deserialize_with = "one_or_many")]
    pub slides: Vec<String>,
    /// Files, folders or patterns of expression tables.
    #[serde(deserialize_with = "one_or_many")]
    pub expression: Vec<String>,
    /// A table of patients and classes that is predicted instead of expression: see [`crate::cohort::labels`].
    pub labels: Option<PathBuf>,
    /// What becomes of MSI-L patients.
    pub label_low: LabelLow,
    pub expression_format: ExpressionFormat,
    pub orientation: Orientation,
    /// Which column of tables that hold several measures.
    pub measure: Measure,
    /// GDC sample sheet.
    pub sample_sheet: Option<PathBuf>,
    /// GDC manifest of the expression files: what is missing or cut short is reported.
    pub manifest: Option<PathBuf>,
    /// Symbols or Ensembl ids. Empty: all genes whose median over the cohort is not zero, as HE2RNA.
    #[serde(deserialize_with = "one_or_many")]
    pub genes: Vec<String>,
    /// Table of Ensembl ids and symbols, for expression tables that hold ids alone.
    pub gene_map: Option<PathBuf>,
    /// The scale the table's values are on.
    pub table_scale: TableScale,
    pub transform: Transform,
    #[serde(rename = "match")]
    pub match_by: MatchBy,
    /// Leave out slides and samples that are known to be no primary tumour.
    pub primary_tumour_only: bool,
    /// Projects that count as one, e.g. `TCGA-LUAD = "LUNG"`, `TCGA-LUSC = "LUNG"`.
    pub project_groups: BTreeMap<String, String>,
    /// Leave out genes without a value in more than this part of the samples.
    pub max_missing_fraction: f64,
}

impl Default for CohortConfig {
    fn default() -> CohortConfig {
        CohortConfig {
            slides: Vec::new(),
            expression: Vec::new(),
            labels: None,
            label_low: LabelLow::Drop,
            expression_format: ExpressionFormat::Auto,
            orientation: Orientation::Auto,
            measure: Measure::FpkmUq,
            sample_sheet: None,
            manifest: None,
            genes: Vec::new(),
            gene_map: None,
            table_scale: TableScale::Linear,
            transform: Transform::Log10p1,
            match_by: MatchBy::Auto,
            primary_tumour_only: true,
            project_groups: BTreeMap::new(),
            max_missing_fraction: 0.2,
        }
    }
}

impl CohortConfig {
    /// What the slides are matched with, in words.
    pub(super) fn wanted(&self) -> &'static str {
        if self.labels.is_some() { "label" } else { "expression" }
    }

    /// Refuses what contradicts itself, or names nothing.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |problem: &str| Err(Error::Usage(problem.to_string()));
        match (&self.labels, self.expression.is_empty()) {
            _ if self.slides.is_empty() => wrong("the cohort names no slides; set cohort.slides"),
            (None, true) => wrong("the cohort names no expression; set cohort.expression, or cohort.labels"),
            (Some(_), false) => {
                wrong("cohort.expression and cohort.labels are both given; a run predicts one of the two")
            }
            (Some(_), true) if !self.genes.is_empty() => {
                wrong("cohort.genes is given, and labels have none; leave it out")
            }
            _ => Ok(()),
        }
    }

    /// The configuration of a folder laid out as `isg synth` writes it: `slides/` (or `slides.csv`), `expression.tsv` (or
    /// `expression.csv`, packed or not, or a folder `expression/`), and a sample sheet if there is one.
    pub fn of_folder(folder: impl AsRef<Path>) -> Result<CohortConfig> {
        let folder = folder.as_ref();
        let find = |names: &[&str]| names.iter().map(|n| folder.join(n)).find(|p| p.exists());
        let needed = |names: &[&str]| {
            find(names).ok_or_else(|| {
                Error::input(folder, format!("holds no {}", names[0]), "give slides and expression in a configuration")
            })
        };
        let tables = ["expression.tsv", "expression.csv", "expression.tsv.gz", "expression.csv.gz", "expression"];
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        let images = folder.join("slides");
        let mut slides = vec![text(needed(&["slides.csv", "slides.tsv", "slides"])?)];
        if images.is_dir() && slides[0] != text(images.clone()) {
            slides.push(text(images)); // where the files that a table lists lie
        }
        Ok(CohortConfig {
            slides,
            expression: vec![text(needed(&tables)?)],
            sample_sheet: find(&["sample_sheet.tsv", "gdc_sample_sheet.tsv", "sample_sheet.csv"]),
            ..CohortConfig::default()
        })
    }

    /// Makes relative paths relative to `base`, the folder of the configuration file.
    pub fn resolve(&mut self, base: &Path) {
        for path in self.slides.iter_mut().chain(&mut self.expression) {
            if Path::new(path).is_relative() {
                *path = base.join(&*path).to_string_lossy().into_owned();
            }
        }
        let files = [&mut self.labels, &mut self.sample_sheet, &mut self.manifest, &mut self.gene_map];
        for path in files.into_iter().flatten() {
            if path.is_relative() {
                *path = base.join(&*path);
            }
        }
    }
}

/// `key = "one"` or `key = ["one", "two"]`.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
