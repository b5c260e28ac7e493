//! Expression tables: GDC's STAR counts, two-column files (FPKM-UQ, HTSeq), RSEM results and wide matrices.
//!
//! Which kind a file is, is read from its first line: the columns of STAR or RSEM by their names; two columns of which the
//! second holds numbers are one sample; everything else is a matrix (`wide.rs`). Values keep the table's scale.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        barcode::{Barcode, CptacName},
        findings::{Excluded, ExcludedKind},
        genes::{self, GeneName},
        merge::side_by_side,
        not_genes, wide,
    },
    error::{Error, Result},
    io::table::{Source, parse_number, plain_name},
};

/// What is measured, where a table holds several measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Tpm,
    Fpkm,
    /// Upper-quartile normalised, as HE2RNA.
    #[default]
    FpkmUq,
    /// Reads, not normalised.
    Counts,
}

impl Measure {
    /// Column names in STAR's and RSEM's tables, without punctuation.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Measure::Tpm => &["tpmunstranded", "tpm"],
            Measure::Fpkm => &["fpkmunstranded", "fpkm"],
            Measure::FpkmUq => &["fpkmuqunstranded", "fpkmuq"],
            Measure::Counts => &["unstranded", "expectedcount", "rawcount", "counts", "count"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Measure::Tpm => "tpm",
            Measure::Fpkm => "fpkm",
            Measure::FpkmUq => "fpkm_uq",
            Measure::Counts => "counts",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpressionFormat {
    #[default]
    Auto,
    /// GDC's augmented STAR counts, STAR's own `ReadsPerGene.out.tab`, RSEM's gene results: one sample.
    Star,
    /// Gene and number: one sample.
    TwoColumn,
    /// A matrix of genes and samples.
    Wide,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    #[default]
    Auto,
    GenesInRows,
    GenesInColumns,
}

/// How tables are read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    pub format: ExpressionFormat,
    pub orientation: Orientation,
    pub measure: Measure,
    /// Names in lower case as [`genes::wanted_names`] gives them: other genes are read over. `None` keeps all.
    pub wanted: Option<HashSet<String>>,
    /// Names of slides, patients and samples in lower case, which help to tell a matrix's rows from its columns.
    pub known_samples: HashSet<String>,
}

impl ReadOptions {
    pub(super) fn keeps(&self, name: &GeneName) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| genes::is_wanted(name, wanted))
    }
}

/// Who was sequenced.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sample {
    /// A barcode, a slide's name, or the file's name without its extension; as a sample sheet says where there is one.
    pub name: String,
    /// What the table itself calls it: its column, its row, or the file's name without its extension.
    pub column: String,
    pub barcode: Option<Barcode>,
    /// As a column of the table or a sample sheet says.
    pub patient: Option<String>,
    pub project: Option<String>,
    /// GDC's words, as "Primary Tumor".
    pub sample_type: Option<String>,
    pub path: PathBuf,
}

impl Sample {
    pub(super) fn named(name: &str, path: &Path) -> Sample {
        let (column, path) = (name.to_string(), path.to_path_buf());
        Sample { name: name.to_string(), column, barcode: Barcode::find(name), path, ..Sample::default() }
    }

    pub(super) fn cptac(&self) -> Option<CptacName> {
        let patient = self.patient.as_deref().and_then(CptacName::of);
        CptacName::of(&self.name).or(patient)
    }

    /// The patient as the table says, or as the barcode says.
    pub fn patient_name(&self) -> Option<String> {
        let of_barcode = || self.barcode.as_ref().map(Barcode::patient);
        self.patient.clone().or_else(of_barcode).or_else(|| self.cptac().map(|c| c.case))
    }
}

/// Expression of genes in samples, on the table's scale.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ExpressionTable {
    pub genes: Vec<GeneName>,
    pub samples: Vec<Sample>,
    /// `[samples, genes]`; NaN where the table has no value.
    pub values: Vec<f64>,
    /// Every gene the files name, also those not kept: for saying what a misspelt name may have meant.
    pub all_genes: Vec<GeneName>,
    /// Rows and columns that are no genes or no samples, and why.
    pub left_out: Vec<Excluded>,
}

impl ExpressionTable {
    /// Reads one file. See [`ReadOptions`] for what is told and what is detected.
    pub fn read(path: impl AsRef<Path>, options: &ReadOptions) -> Result<ExpressionTable> {
        let source = Source::open(path.as_ref())?;
        let format = match options.format {
            ExpressionFormat::Auto => detect(&source),
            given => given,
        };
        let mut table = match format {
            ExpressionFormat::Star => read_star(source, options),
            ExpressionFormat::TwoColumn => read_two_columns(source, options),
            ExpressionFormat::Wide | ExpressionFormat::Auto => wide::read(source, options),
        }?;
        if options.wanted.is_none() {
            table.leave_out_strangers();
        }
        Ok(table)
    }

    /// Leaves out what is no gene by its name, where nobody names the genes.
    fn leave_out_strangers(&mut self) {
        let reasons = not_genes::strangers(&self.genes);
        if reasons.iter().all(Option::is_none) {
            return;
        }
        let strange = self.genes.iter().zip(&reasons).filter_map(|(g, r)| Some((g, (*r)?)));
        self.left_out.extend(strange.map(|(g, reason)| Excluded::new(ExcludedKind::Gene, g.label(), reason)));
        let n = self.genes.len().max(1);
        let kept = |i: usize| reasons[i % n].is_none();
        self.values = self.values.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, v)| *v).collect();
        self.genes = self.genes.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, g)| g.clone()).collect();
    }

    /// Reads many files at once and puts their samples side by side. A gene that a file lacks is missing (NaN) there.
    pub fn read_all(paths: &[PathBuf], options: &ReadOptions) -> Result<ExpressionTable> {
        let tables: Vec<ExpressionTable> =
            paths.par_iter().map(|p| ExpressionTable::read(p, options)).collect::<Result<_>>()?;
        Ok(side_by_side(tables))
    }

    /// One sample's values.
    pub fn sample_values(&self, sample: usize) -> &[f64] {
        let n = self.genes.len();
        &self.values[sample * n..(sample + 1) * n]
    }

    /// Whether two samples have the same values, missing ones included.
    pub fn same_values(&self, a: usize, b: usize) -> bool {
        let pairs = self.sample_values(a).iter().zip(self.sample_values(b));
        pairs.into_iter().all(|(x, y)| x == y || (x.is_nan() && y.is_nan()))
    }

    /// One gene's values over the samples.
    pub fn gene_values(&self, gene: usize) -> Vec<f64> {
        (0..self.samples.len()).map(|s| self.values[s * self.genes.len() + gene]).collect()
    }
}

fn detect(source: &Source) -> ExpressionFormat {
    let header: Vec<String> = source.first.iter().map(|f| plain_name(f)).collect();
    let has = |name: &str| header.iter().any(|h| h == name);
    let star = has("unstranded") || has("tpmunstranded") || (has("expectedcount") && has("geneid"));
    let reads_per_gene = source.first.len() == 4 && source.first[0].starts_with("N_");
    if star || reads_per_gene {
        return ExpressionFormat::Star;
    }
    let number = |f: &String| parse_number(f).is_some();
    let measure = || MEASURE_NAMES.contains(&header[1].as_str()) || header[1].starts_with("fpkm");
    match source.first.as_slice() {
        [_, value] if number(value) || measure() => ExpressionFormat::TwoColumn,
        _ => ExpressionFormat::Wide,
    }
}

/// Headers of a second column that name a measure rather than a sample.
const MEASURE_NAMES: [&str; 10] = [
    "count",
    "counts",
    "htseqcounts",
    "tpm",
    "value",
    "expression",
    "rawcounts",
    "normalizedcount",
    "rpkm",
    "abundance",
];

/// A table with more genes is none. Arrays of methylation, the widest of their kind, have 900,000 probes.
pub(super) const MAX_GENES: usize = 2_000_000;

pub(super) fn too_many_genes(path: &Path) -> Error {
    Error::input(path, format!("names more than {MAX_GENES} genes"), "name a table of expression by gene")
}

/// Genes and values of one sample, in the file's order.
#[derive(Default)]
struct OneSample {
    genes: Vec<GeneName>,
    all_genes: Vec<GeneName>,
    values: Vec<f64>,
    left_out: Vec<Excluded>,
}

impl OneSample {
    /// Whether a row of this name is a gene's; lists it where it is not.
    fn is_gene(&mut self, label: &str) -> bool {
        let reason = not_genes::summary(label);
        self.left_out.extend(reason.map(|r| Excluded::new(ExcludedKind::Gene, label, r)));
        reason.is_none()
    }

    fn add(&mut self, name: GeneName, value: f64, options: &ReadOptions) {
        if options.wanted.is_some() {
            self.all_genes.push(name.clone());
        }
        if options.keeps(&name) {
            self.genes.push(name);
            self.values.push(value);
        }
    }

    fn table(self, path: &Path, options: &ReadOptions) -> Result<ExpressionTable> {
        let all_genes = if options.wanted.is_some() { self.all_genes } else { self.genes.clone() };
        if all_genes.is_empty() {
            return Err(Error::input(path, "holds no gene", "name an expression table"));
        }
        let samples = vec![Sample::named(&file_stem(path), path)];
        Ok(ExpressionTable { genes: self.genes, samples, values: self.values, all_genes, left_out: self.left_out })
    }
}

/// A file's name without the extensions of tables.
pub(super) fn file_stem(path: &Path) -> String {
    let mut name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for extension in [".gz", ".tsv", ".csv", ".txt", ".tab", ".counts", ".results"] {
        if name.len() > extension.len() && name.to_ascii_lowercase().ends_with(extension) {
            name.truncate(name.len() - extension.len());
        }
    }
    name
}

fn read_star(mut source: Source, options: &ReadOptions) -> Result<ExpressionTable> {
    let path = source.path().to_path_buf();
    let mut first = std::mem::take(&mut source.first);
    let header: Vec<String> = first.iter().map(|f| plain_name(f)).collect();
    let mut out = OneSample::default();
    let headless = first.first().is_some_and(|f| f.starts_with("N_"));
    let place = |names: &[&str]| names.iter().find_map(|n| header.iter().position(|h| h == n));
    let measure = if headless {
        (options.measure == Measure::Counts && first.len() > 1).then_some(1)
    } else {
        place(options.measure.columns())
    };
    let measure = measure.ok_or_else(|| {
        let names: Vec<&str> = [Measure::Tpm, Measure::Fpkm, Measure::FpkmUq, Measure::Counts]
            .into_iter()
            .filter(|m| if headless { *m == Measure::Counts } else { place(m.columns()).is_some() })
            .map(Measure::name)
            .collect();
        let problem = format!("has no column of {}", options.measure.name());
        let remedy =
            format!("choose measure = {}", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(" or "));
        Error::input(&path, problem, if names.is_empty() { "name GDC's STAR counts".to_string() } else { remedy })
    })?;
    let id = place(&["geneid", "gene", "ensemblid"]).unwrap_or(0);
    let symbol = place(&["genename", "genesymbol", "symbol"]).filter(|&c| c != id && !headless);
    let width = first.len();
    let mut fields = if headless { std::mem::take(&mut first) } else { Vec::new() };
    let mut more = headless || source.next_fields(&mut fields)?;
    while more {
        if out.is_gene(&fields[0]) {
            source.check_width(&mut fields, width)?;
            let mut name = GeneName::parse(&fields[id]);
            if let Some(symbol) = symbol.map(|c| fields[c].as_str()).filter(|s| !s.is_empty()) {
                name.symbol = Some(symbol.to_string());
            }
            let value = source.number(&fields[measure], &header[measure])?;
            out.add(name, value, options);
        }
        if out.genes.len().max(out.all_genes.len()) > MAX_GENES {
            return Err(too_many_genes(&path));
        }
        more = source.next_fields(&mut fields)?;
    }
    out.table(&path, options)
}

fn read_two_columns(mut source: Source, options: &ReadOptions) -> Result<ExpressionTable> {
    let path = source.path().to_path_buf();
    let mut fields = std::mem::take(&mut source.first);
    if fields.len() != 2 {
        let problem = format!("has {} columns", fields.len());
        return Err(Error::input(
            &path,
            problem,
            "a two_column table holds a gene and a number; set format = \"wide\"",
        ));
    }
    let mut out = OneSample::default();
    let is_header = parse_number(&fields[1]).is_none();
    let mut more = if is_header { source.next_fields(&mut fields)? } else { true };
    while more {
        source.check_width(&mut fields, 2)?;
        if out.is_gene(&fields[0]) {
            let value = source.number(&fields[1], "2")?;
            out.add(GeneName::parse(&fields[0]), value, options);
        }
        if out.genes.len().max(out.all_genes.len()) > MAX_GENES {
            return Err(too_many_genes(&path));
        }
        more = source.next_fields(&mut fields)?;
    }
    out.table(&path, options)
}
