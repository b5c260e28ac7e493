//! `predictions.csv`: one line per method, slide, gene, fold and repeat, a run's own or anybody's.
//!
//! Read liberally (separators, order and names of columns, folds called `fold0`), believed only where it does not contradict
//! itself: a text where a number belongs, a slide given twice with other values, a patient tested twice in one
//! cross-validation are errors that say where.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use super::{
    metrics::{self, Prediction},
    tables::Method,
};
use crate::{
    error::{Error, Result},
    escape,
    io::{
        atomic,
        table::{Source, find_column, require_column},
    },
};

const HEADER: [&str; 10] =
    ["method", "slide", "patient", "project", "repeat", "fold", "gene", "truth", "predicted", "target_span"];
const REMEDY: &str =
    "give the columns slide,patient,gene,truth,predicted and, where there are several, method,project,fold,repeat";

/// What a table of predictions holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PredictionTable {
    /// In order of appearance.
    pub genes: Vec<String>,
    pub predictions: Vec<Prediction>,
    /// Lines left out because their truth is missing or no finite number.
    pub without_truth: usize,
    /// Lines that say again what an earlier one said.
    pub repeated_lines: usize,
    /// Lines read.
    pub lines: usize,
}

impl PredictionTable {
    /// What is worth telling, one sentence each.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.without_truth > 0 {
            let (n, of) = (self.without_truth, self.lines);
            remarks.push(format!("{n} of {of} lines are left out: their truth is missing or no finite number"));
        }
        if self.repeated_lines > 0 {
            remarks.push(format!("{} lines repeat an earlier one and count once", self.repeated_lines));
        }
        remarks
    }
}

/// Writes `method,slide,patient,project,repeat,fold,gene,truth,predicted,target_span`, method by method. Truth is empty where
/// nothing was measured; `target_span` is what the fold divided its training targets by.
pub fn write(path: &Path, methods: &[Method]) -> Result<()> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::io(path, e.into());
    out.write_record(HEADER).map_err(failed)?;
    let number = |v: f64| if v.is_finite() { v.to_string() } else { String::new() };
    for Method { name, genes, predictions } in methods {
        let method = escape::cell(name);
        for p in *predictions {
            let (repeat, fold) = (p.repeat.to_string(), p.fold.to_string());
            let [slide, patient, project] = [&p.slide, &p.patient, &p.project].map(|text| escape::cell(text));
            for (i, gene) in genes.iter().enumerate() {
                let (truth, span) = (number(p.truth[i]), number(p.target_span[i]));
                let predicted = p.predicted[i].to_string();
                let gene = escape::cell(gene);
                let row = [&method, &slide, &patient, &project, &*repeat, &fold, &gene, &truth, &predicted, &span];
                out.write_record(row).map_err(failed)?;
            }
        }
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}

/// Where each value stands in a line.
struct Columns {
    method: Option<usize>,
    slide: usize,
    patient: usize,
    project: Option<usize>,
    repeat: Option<usize>,
    fold: Option<usize>,
    gene: usize,
    truth: usize,
    predicted: usize,
    target_span: Option<usize>,
}

impl Columns {
    fn find(path: &Path, header: &[String]) -> Result<Columns> {
        let column = |names: &[&str]| find_column(path, header, names);
        let required = |names: &[&str]| require_column(path, header, names);
        Ok(Columns {
            method: column(&["method", "model"])?,
            slide: required(&["slide", "wsi", "slide_id", "filename", "slide_name"])?,
            patient: required(&["patient", "patient_id", "case", "case_id", "submitter_id", "bcr_patient_barcode"])?,
            project: column(&["project", "project_id", "cohort", "cancer"])?,
            repeat: column(&["repeat", "repetition"])?,
            fold: column(&["fold", "test_fold", "cv_fold"])?,
            gene: required(&["gene", "gene_name", "gene_symbol", "gene_id"])?,
            truth: required(&["truth", "measured", "observed", "y_true", "target"])?,
            predicted: required(&["predicted", "prediction", "y_pred"])?,
            target_span: column(&["target_span"])?,
        })
    }
}

/// One line's values.
struct Line<'a> {
    source: &'a mut Source,
    fields: &'a [String],
}

impl Line<'_> {
    fn wrong(&self, column: &str, what: &str, remedy: &str) -> Error {
        let problem = format!("line {}, column {column} {what}", self.source.line());
        Error::input(self.source.path(), problem, remedy)
    }

    fn text(&self, name: &str, column: usize) -> Result<String> {
        match &self.fields[column] {
            empty if empty.is_empty() => Err(self.wrong(name, "is empty", "fill it in, or take the line out")),
            text => Ok(escape::uncell(text).to_string()),
        }
    }

    /// NaN where nothing was measured, infinite where a program wrote so.
    fn number(&mut self, column: usize) -> Result<f64> {
        let field = &self.fields[column];
        if let "inf" | "infinity" = field.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str() {
            return Ok(f64::INFINITY);
        }
        let name = self.source.first[column].clone();
        self.source.number(field, &name)
    }

    /// The number of a fold or repeat: `3`, `3.0` as pandas writes it, `fold3`, `fold_3`.
    fn ordinal(&self, name: &str, column: Option<usize>) -> Result<usize> {
        let Some(field) = column.map(|c| self.fields[c].as_str()) else { return Ok(0) };
        let digits = field.trim_start_matches(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ' '));
        let whole = digits.split_once('.').map_or(digits, |(whole, part)| match part.trim_matches('0') {
            "" => whole,
            _ => digits,
        });
        let negative = field.starts_with('-');
        whole.parse::<u32>().ok().filter(|_| !negative).map(|n| n as usize).ok_or_else(|| {
            let shown: String = field.chars().take(40).collect();
            self.wrong(name, &format!("holds {shown:?}"), &format!("number every {name} from 0, as 0 or {name}0"))
        })
    }
}

/// A slide's predictions in one fold while its genes come in.
struct Entry {
    prediction: Prediction,
    /// Line of every gene; 0 where there was none.
    lines: Vec<u64>,
}

/// One method's table while its lines come in.
#[derive(Default)]
struct Reading {
    table: PredictionTable,
    gene_numbers: HashMap<String, usize>,
    entries: BTreeMap<(usize, usize, String), Entry>,
}

/// Reads a table of one method, as [`read_methods`] does.
///
/// # Errors
/// `Input` where it holds several.
pub fn read(path: &Path) -> Result<PredictionTable> {
    match <[_; 1]>::try_from(read_methods(path)?) {
        Ok([(_, table)]) => Ok(table),
        Err(several) => {
            let problem = format!("holds predictions of {} methods", several.len());
            Err(Error::input(path, problem, "keep the lines of one"))
        }
    }
}

/// Reads what [`write()`] wrote, or another program in the same columns, method by method in order of appearance; `method`,
/// `project`, `fold`, `repeat` and `target_span` may be absent. A slide without a line for a gene has no truth for it. Errors
/// name the line.
pub fn read_methods(path: &Path) -> Result<Vec<(String, PredictionTable)>> {
    let mut source = Source::open(path)?;
    let mut fields = Vec::new();
    // The first row may add a name to the header.
    let mut more = source.next_row(&mut fields)?;
    let columns = Columns::find(path, &source.first)?;
    let nameless = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut methods: Vec<(String, Reading)> = Vec::new();
    while more {
        let mut line = Line { source: &mut source, fields: &fields };
        let name = columns.method.map_or(Ok(nameless.clone()), |c| line.text("method", c))?;
        let place = methods.iter().position(|(known, _)| *known == name).unwrap_or(methods.len());
        if place == methods.len() {
            methods.push((name, Reading::default()));
        }
        methods[place].1.add(&mut line, &columns)?;
        more = source.next_row(&mut fields)?;
    }
    if methods.is_empty() {
        return Err(Error::input(path, "holds no prediction", REMEDY));
    }
    methods.into_iter().map(|(name, reading)| Ok((name, reading.finish(path)?))).collect()
}

impl Reading {
    fn add(&mut self, line: &mut Line, columns: &Columns) -> Result<()> {
        let Reading { table, gene_numbers, entries } = self;
        table.lines += 1;
        let (at, path) = (line.source.line(), line.source.path().to_path_buf());
        let (slide, patient) = (line.text("slide", columns.slide)?, line.text("patient", columns.patient)?);
        let project = columns.project.map_or(String::new(), |c| escape::uncell(&line.fields[c]).to_string());
        let (repeat, fold) = (line.ordinal("repeat", columns.repeat)?, line.ordinal("fold", columns.fold)?);
        let gene = line.text("gene", columns.gene)?;
        let (truth, predicted) = (line.number(columns.truth)?, line.number(columns.predicted)?);
        if !predicted.is_finite() {
            return Err(line.wrong("predicted", "holds no finite number", "predict this slide again"));
        }
        let span = columns.target_span.map_or(Ok(f64::NAN), |c| line.number(c))?;
        if span <= 0.0 {
            return Err(line.wrong("target_span", "is not above zero", "leave it empty where it is unknown"));
        }
        table.without_truth += usize::from(!truth.is_finite());
        let truth = if truth.is_finite() { truth } else { f64::NAN };

        let next = gene_numbers.len();
        let number = *gene_numbers.entry(gene.clone()).or_insert_with(|| {
            table.genes.push(gene.clone());
            next
        });
        let entry = entries.entry((repeat, fold, slide.clone())).or_insert_with(|| Entry {
            prediction: Prediction {
                slide: slide.clone(),
                patient: patient.clone(),
                project: project.clone(),
                repeat,
                fold,
                truth: Vec::new(),
                predicted: Vec::new(),
                target_span: Vec::new(),
            },
            lines: Vec::new(),
        });
        let held = &mut entry.prediction;
        if (&held.patient, &held.project) != (&patient, &project) {
            let (a, b) = match held.patient == patient {
                true => (format!("project {:?}", held.project), format!("project {project:?}")),
                false => (format!("patient {}", held.patient), format!("patient {patient}")),
            };
            let before = entry.lines.iter().find(|l| **l > 0).copied().unwrap_or(0);
            let problem = format!("slide {slide} is of {a} (line {before}) and of {b} (line {at})");
            return Err(Error::input(&path, problem, "give every slide one patient and one project"));
        }
        if entry.lines.len() <= number {
            entry.lines.resize(number + 1, 0);
            for values in [&mut held.truth, &mut held.predicted, &mut held.target_span] {
                values.resize(number + 1, f64::NAN);
            }
        }
        let before = std::mem::replace(&mut entry.lines[number], at);
        let values = [&mut held.truth[number], &mut held.predicted[number], &mut held.target_span[number]];
        if before > 0 {
            let same = |(a, b): (&&mut f64, f64)| **a == b || a.is_nan() && b.is_nan();
            if !values.iter().zip([truth, predicted, span]).all(same) {
                let problem =
                    format!("slide {slide}, gene {gene} is given twice with other values, in lines {before} and {at}");
                return Err(Error::input(&path, problem, "keep one of the two; number repeats in a column repeat"));
            }
            table.repeated_lines += 1;
        }
        values.into_iter().zip([truth, predicted, span]).for_each(|(value, given)| *value = given);
        Ok(())
    }

    fn finish(self, path: &Path) -> Result<PredictionTable> {
        let Reading { mut table, entries, .. } = self;
        table.predictions = entries.into_values().map(|entry| entry.prediction).collect();
        for p in &mut table.predictions {
            for values in [&mut p.truth, &mut p.predicted, &mut p.target_span] {
                values.resize(table.genes.len(), f64::NAN);
            }
        }
        if let Some((problem, remedy)) = metrics::contradiction(&table.genes, &table.predictions) {
            return Err(Error::input(path, problem, remedy));
        }
        Ok(table)
    }
}
