//! Do two predictors differ? Arms that predicted the same patients are compared with one of them, the reference, in the statistic
//! of the headline: the mean over folds, within the project, of the correlation or, of a label, of the area under the ROC curve.
//!
//! Patients are drawn with replacement within their project, the same draws for every arm and gene, so that what is hard for
//! all arms cancels. An arm may have several runs (training seeds): its score is their mean. p-values are corrected for the number
//! of arms by Holm's rule; a test by formula on the pooled predictions stands beside them, Steiger's of correlations, DeLong's of
//! areas.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    path::Path,
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    classes::{Ranked, is_label},
    lanes::Block,
    layout::{Column, Design, Layout, mean_finite},
    metrics::{ALL_PROJECTS, Prediction, Unit},
    multiple::holm,
    paired,
    stats::{Bootstrap, Interval, LEAST_FOR_CORRELATION, LEAST_FOR_INTERVAL, quantile},
};
use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
    random::{Philox, fnv1a},
};

pub const COMPARISON_CSV: &str = "comparison.csv";

/// One training's held-out predictions.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub genes: &'a [String],
    pub predictions: &'a [Prediction],
}

/// What is compared: a method, an encoder, a setting; its runs differ in their seeds alone.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    pub name: String,
    pub runs: Vec<Run<'a>>,
}

/// What a score is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Pearson,
    /// Area under the ROC curve: of genes that are 0 or 1 for every patient.
    Auc,
}

impl Measure {
    fn of(column: &Column) -> Measure {
        if is_label(column) { Measure::Auc } else { Measure::Pearson }
    }

    pub fn name(self) -> &'static str {
        match self {
            Measure::Pearson => "PCC",
            Measure::Auc => "AUC",
        }
    }
}

/// An arm's difference from the reference in one gene of one project, or over all of them.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    pub arm: String,
    pub reference: String,
    /// [`ALL_PROJECTS`] where `gene` is `None`.
    pub project: String,
    /// `None`: the mean over all genes and projects.
    pub gene: Option<String>,
    /// Patients.
    pub n: usize,
    pub measure: Measure,
    /// The arm's, and its standard deviation over the runs where there are several.
    pub score: Option<f64>,
    pub score_sd: Option<f64>,
    pub reference_score: Option<f64>,
    pub reference_sd: Option<f64>,
    /// `score - reference_score` with its interval by paired bootstrap.
    pub delta: Option<f64>,
    pub interval: Option<Interval>,
    /// Two-sided, from the same draws: twice the smaller share of them on one side of zero.
    pub p: Option<f64>,
    /// After Holm's correction for the arms.
    pub p_holm: Option<f64>,
    /// By formula, on predictions pooled over folds: Steiger's test of correlations, DeLong's of areas; none of the mean over genes.
    pub formula_p: Option<f64>,
}

/// What the data allow to say of an arm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    /// The corrected p is not below 0.05.
    Undecided,
}

impl Difference {
    pub fn verdict(&self) -> Verdict {
        match (self.p_holm, self.delta) {
            (Some(p), Some(delta)) if p < 0.05 => {
                if delta > 0.0 {
                    Verdict::Better
                } else {
                    Verdict::Worse
                }
            }
            _ => Verdict::Undecided,
        }
    }
}

/// Every arm but `reference` against it, in order of the arms: the mean over all genes and projects (of correlations where there are
/// any), then gene by gene within each project.
///
/// # Errors
/// Fewer than two arms, no slide that all predicted, runs that say different things of a slide.
pub fn compare(arms: &[Arm], reference: usize, settings: Bootstrap) -> Result<Vec<Difference>> {
    if arms.len() < 2 || reference >= arms.len() {
        return Err(Error::Usage("a comparison needs two methods' predictions; name another run".into()));
    }
    let slides = shared_slides(arms)?;
    let held: Vec<Held> = arms.iter().map(|arm| Held::new(arm, &slides)).collect();
    let of_reference = &held[reference];
    let layout = &of_reference.layouts[0];
    let draws = Draws::new(layout, settings);
    let mut differences = Vec::new();
    for (arm, held) in held.iter().enumerate().filter(|(i, _)| *i != reference) {
        let name = |gene: Option<&str>, project: &str| Difference {
            arm: arms[arm].name.clone(),
            reference: arms[reference].name.clone(),
            project: project.to_string(),
            gene: gene.map(str::to_string),
            n: 0,
            measure: Measure::Pearson,
            score: None,
            score_sd: None,
            reference_score: None,
            reference_sd: None,
            delta: None,
            interval: None,
            p: None,
            p_holm: None,
            formula_p: None,
        };
        let genes: Vec<&String> = of_reference.genes.iter().copied().filter(|g| held.genes.contains(g)).collect();
        let mut sums = [Measure::Pearson, Measure::Auc].map(|measure| Sums::new(measure, settings.resamples));
        let mut of_genes = Vec::new();
        for (project, project_name) in layout.projects.iter().enumerate() {
            let one = |gene: &&String| Pair::new(held, of_reference, gene, project, &draws);
            let pairs: Vec<Pair> = genes.par_iter().map(one).collect();
            for (gene, pair) in genes.iter().zip(pairs) {
                sums.iter_mut().for_each(|sums| sums.add(&pair));
                of_genes.push(pair.difference(name(Some(gene), project_name), settings));
            }
        }
        let [of_correlations, of_areas] = sums;
        let sums = if of_correlations.count > 0 { of_correlations } else { of_areas };
        differences.push(sums.difference(name(None, ALL_PROJECTS), layout.patients(), settings));
        differences.extend(of_genes);
    }
    correct(&mut differences);
    Ok(differences)
}

/// Holm's correction over the arms, for every gene and project by itself.
fn correct(differences: &mut [Difference]) {
    let mut families: BTreeMap<(String, Option<String>), Vec<usize>> = BTreeMap::new();
    for (i, d) in differences.iter().enumerate() {
        families.entry((d.project.clone(), d.gene.clone())).or_default().push(i);
    }
    for family in families.into_values() {
        let p: Vec<Option<f64>> = family.iter().map(|&i| differences[i].p).collect();
        family.iter().zip(holm(&p)).for_each(|(&i, p)| differences[i].p_holm = p);
    }
}

/// The slides that every run of every arm predicted.
fn shared_slides<'a>(arms: &[Arm<'a>]) -> Result<BTreeSet<&'a str>> {
    let mut shared: Option<BTreeSet<&str>> = None;
    let mut first: HashMap<&str, (&str, &Arm, Run)> = HashMap::new();
    let mut of_slide: HashMap<&str, &Prediction> = HashMap::new();
    for arm in arms {
        for &run in &arm.runs {
            let columns: HashMap<&str, usize> = run.genes.iter().enumerate().map(|(i, g)| (g.as_str(), i)).collect();
            let mut slides = BTreeSet::new();
            for p in run.predictions {
                slides.insert(p.slide.as_str());
                let Some(before) = of_slide.get(p.slide.as_str()) else {
                    of_slide.insert(&p.slide, p);
                    first.insert(&p.slide, (&p.slide, arm, run));
                    continue;
                };
                let (_, other, other_run) = first[p.slide.as_str()];
                if (&before.patient, &before.project) != (&p.patient, &p.project) {
                    let (slide, a, b) = (&p.slide, &other.name, &arm.name);
                    return Err(Error::Usage(format!(
                        "slide {slide} is of patient {}, project {:?} in {a} and of patient {}, project {:?} in {b}; compare runs of one cohort",
                        before.patient, before.project, p.patient, p.project
                    )));
                }
                for (i, gene) in other_run.genes.iter().enumerate() {
                    let Some(&j) = columns.get(gene.as_str()) else { continue };
                    let (x, y) = (before.truth[i], p.truth[j]);
                    if x.is_finite() && y.is_finite() && (x - y).abs() > 1e-6 * x.abs().max(1.0) {
                        return Err(Error::Usage(format!(
                            "slide {}, gene {gene}: its truth is {x} in {} and {y} in {}; compare runs of one cohort and one transform",
                            p.slide, other.name, arm.name
                        )));
                    }
                }
            }
            shared = Some(match shared {
                None => slides,
                Some(before) => before.intersection(&slides).copied().collect(),
            });
        }
    }
    shared
        .filter(|slides| !slides.is_empty())
        .ok_or_else(|| Error::Usage("the runs have no slide in common; compare runs of one cohort".to_string()))
}

/// An arm's runs over the shared slides. Observations (patients) have the same numbers in all layouts of a comparison.
struct Held<'a> {
    /// Those of every run.
    genes: Vec<&'a String>,
    layouts: Vec<Layout<'a>>,
    columns: Vec<HashMap<&'a str, usize>>,
}

impl<'a> Held<'a> {
    fn new(arm: &Arm<'a>, slides: &BTreeSet<&str>) -> Held<'a> {
        let columns: Vec<HashMap<&str, usize>> =
            arm.runs.iter().map(|run| run.genes.iter().enumerate().map(|(i, g)| (g.as_str(), i)).collect()).collect();
        let everywhere = |gene: &&String| columns.iter().all(|of| of.contains_key(gene.as_str()));
        let genes = arm.runs[0].genes.iter().filter(everywhere).collect();
        let shared = |p: &&Prediction| slides.contains(p.slide.as_str());
        let layout = |run: &Run<'a>| Layout::of(run.predictions.iter().filter(shared).collect(), Unit::Patient);
        Held { genes, layouts: arm.runs.iter().map(layout).collect(), columns }
    }

    fn column(&self, run: usize, gene: &str) -> Column {
        self.layouts[run].column(self.columns[run][gene])
    }
}

/// How often each patient is drawn, resample by resample.
struct Draws {
    weights: Vec<Vec<u16>>,
    level: f64,
}

impl Draws {
    fn new(layout: &Layout, settings: Bootstrap) -> Draws {
        let stream = fnv1a(b"paired bootstrap");
        let one = |resample: usize| {
            let random = Philox::new(settings.seed, stream.wrapping_add(resample as u64));
            let mut weights = vec![0u16; layout.patients()];
            for project in 0..layout.projects.len() {
                let patients = layout.observations(Some(project));
                for i in patients.clone() {
                    let drawn = patients.start + random.below(i as u64, patients.len());
                    weights[drawn] = weights[drawn].saturating_add(1);
                }
            }
            weights
        };
        Draws { weights: (0..settings.resamples).into_par_iter().map(one).collect(), level: settings.level }
    }
}

/// Two arms on one gene of one project.
struct Pair {
    n: usize,
    measure: Measure,
    /// Score of every run.
    arm: Vec<f64>,
    reference: Vec<f64>,
    /// Differences of the means over runs in every resample.
    deltas: Vec<f64>,
    formula_p: Option<f64>,
}

impl Pair {
    fn new(arm: &Held, reference: &Held, gene: &str, project: usize, draws: &Draws) -> Pair {
        let columns = |held: &Held| (0..held.layouts.len()).map(|run| held.column(run, gene)).collect::<Vec<_>>();
        let (mut a, mut b) = (columns(arm), columns(reference));
        let known: Vec<bool> = (0..draws.weights.first().map_or(0, Vec::len))
            .map(|o| a.iter().chain(&b).all(|column| column.truth[o].is_finite()))
            .collect();
        a.iter_mut().chain(&mut b).for_each(|column| column.keep(&known));
        let measure = Measure::of(&b[0]);
        let statistics = |held: &Held, columns: &[Column]| -> Vec<Statistic> {
            let one = |(layout, column): (&Layout, &Column)| Statistic::new(measure, layout, column, project);
            held.layouts.iter().zip(columns).map(one).collect()
        };
        let (of_arm, of_reference) = (statistics(arm, &a), statistics(reference, &b));
        let mean = |all: &[Statistic], weights: &[u16]| mean_finite(all.iter().map(|s| s.value(weights)));
        let once = vec![1u16; known.len()];
        let n = reference.layouts[0].observations(Some(project)).filter(|&o| known[o]).count();
        let deltas = match n >= LEAST_FOR_INTERVAL {
            true => draws.weights.iter().map(|w| mean(&of_arm, w) - mean(&of_reference, w)).collect(),
            false => Vec::new(),
        };
        let observations = reference.layouts[0].observations(Some(project)).filter(|&o| known[o]);
        Pair {
            n,
            measure,
            arm: of_arm.iter().map(|s| s.value(&once)).collect(),
            reference: of_reference.iter().map(|s| s.value(&once)).collect(),
            deltas,
            formula_p: by_formula(measure, &a, &b, observations, draws.level),
        }
    }

    fn difference(self, named: Difference, settings: Bootstrap) -> Difference {
        let Pair { n, measure, .. } = self;
        let (score, score_sd) = mean_sd(&self.arm);
        let (reference_score, reference_sd) = mean_sd(&self.reference);
        let delta = score.zip(reference_score).map(|(a, b)| a - b);
        let (interval, p) = delta.map_or((None, None), |_| spread(&self.deltas, settings));
        let formula_p = delta.and(self.formula_p);
        let scores = Difference { measure, score, score_sd, reference_score, reference_sd, ..named };
        Difference { n, delta, interval, p, formula_p, ..scores }
    }
}

/// On predictions pooled over folds, averaged over repeats and runs.
fn by_formula(
    measure: Measure,
    a: &[Column],
    b: &[Column],
    observations: impl Iterator<Item = usize>,
    level: f64,
) -> Option<f64> {
    let mean =
        |columns: &[Column], o: usize| mean_finite(columns.iter().flat_map(|c| c.predicted.iter().map(|of| of[o])));
    let rows: Vec<[f64; 3]> = observations.map(|o| [b[0].truth[o], mean(a, o), mean(b, o)]).collect();
    let column = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f64>>();
    match measure {
        Measure::Pearson => paired::steiger(&column(0), &column(1), &column(2)).map(|test| test.p),
        Measure::Auc => {
            let positive: Vec<bool> = rows.iter().map(|row| row[0] == 1.0).collect();
            paired::delong(&column(1), &column(2), &positive, level).map(|test| test.p)
        }
    }
}

/// The mean over folds of a score, for any weights of the patients.
struct Statistic {
    design: Design,
    folds: Folds,
}

enum Folds {
    Correlations(Block),
    Areas(Vec<Ranked>),
}

impl Statistic {
    fn new(measure: Measure, layout: &Layout, column: &Column, project: usize) -> Statistic {
        let design = layout.design(column, layout.observations(Some(project)));
        let folds = match measure {
            Measure::Pearson => Folds::Correlations(Block::new(&design, &[column])),
            Measure::Auc => Folds::Areas(Ranked::of_cells(&design, column)),
        };
        Statistic { design, folds }
    }

    /// NaN where no fold has a score.
    fn value(&self, of_patient: &[u16]) -> f64 {
        let weights: Vec<u16> = self.design.members.iter().map(|&o| of_patient[o]).collect();
        let enough =
            |members: &[u32]| members.iter().filter(|&&i| weights[i as usize] > 0).count() >= LEAST_FOR_CORRELATION;
        match &self.folds {
            Folds::Correlations(block) => {
                let folds = &block.cells[..block.cells.len() - 1];
                mean_finite(folds.iter().filter(|cell| enough(cell.members())).map(|cell| cell.weighted(&weights)[0]))
            }
            Folds::Areas(folds) => mean_finite(folds.iter().filter_map(|fold| fold.weighted_auc(&weights))),
        }
    }
}

/// Sums over genes and projects for the mean over all of them.
struct Sums {
    measure: Measure,
    arm: Vec<f64>,
    reference: Vec<f64>,
    deltas: Vec<f64>,
    /// Genes with a difference.
    count: usize,
}

impl Sums {
    fn new(measure: Measure, resamples: usize) -> Sums {
        Sums { measure, arm: Vec::new(), reference: Vec::new(), deltas: vec![0.0; resamples], count: 0 }
    }

    fn add(&mut self, pair: &Pair) {
        let defined = |runs: &[f64]| runs.iter().all(|v| v.is_finite());
        if pair.measure != self.measure
            || pair.deltas.len() != self.deltas.len()
            || !defined(&pair.arm)
            || !defined(&pair.reference)
        {
            return;
        }
        let add = |sums: &mut Vec<f64>, values: &[f64]| {
            sums.resize(values.len(), 0.0);
            sums.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        };
        add(&mut self.arm, &pair.arm);
        add(&mut self.reference, &pair.reference);
        add(&mut self.deltas, &pair.deltas);
        self.count += 1;
    }

    fn difference(self, named: Difference, n: usize, settings: Bootstrap) -> Difference {
        let count = self.count as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|s| s / count).collect::<Vec<f64>>();
        let pair = Pair {
            n,
            measure: self.measure,
            arm: mean(self.arm),
            reference: mean(self.reference),
            deltas: if self.count == 0 { Vec::new() } else { mean(self.deltas) },
            formula_p: None,
        };
        pair.difference(named, settings)
    }
}

/// Mean, and where there are several the standard deviation. `None` where a run has no score.
fn mean_sd(runs: &[f64]) -> (Option<f64>, Option<f64>) {
    if runs.is_empty() || runs.iter().any(|v| !v.is_finite()) {
        return (None, None);
    }
    let n = runs.len() as f64;
    let mean = runs.iter().sum::<f64>() / n;
    let variance = runs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (Some(mean), (runs.len() > 1).then(|| variance.sqrt()))
}

/// The percentile interval and the two-sided p of zero. `None` where more than half of the draws have no difference.
fn spread(deltas: &[f64], settings: Bootstrap) -> (Option<Interval>, Option<f64>) {
    let mut values: Vec<f64> = deltas.iter().copied().filter(|v| v.is_finite()).collect();
    if values.is_empty() || values.len() * 2 < settings.resamples {
        return (None, None);
    }
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - settings.level) / 2.0;
    let interval = quantile(&values, tail).zip(quantile(&values, 1.0 - tail)).map(|(low, high)| Interval { low, high });
    let side = |count: usize| (1 + count) as f64 / (1 + values.len()) as f64;
    let (below, above) = (values.iter().filter(|v| **v <= 0.0).count(), values.iter().filter(|v| **v >= 0.0).count());
    (interval, Some((2.0 * side(below).min(side(above))).min(1.0)))
}

/// Writes [`csv()`].
pub fn write(path: &Path, differences: &[Difference]) -> Result<()> {
    atomic::write_bytes(path, csv(differences, path)?.as_bytes())
}

/// The differences as CSV, to be written to `path`; `gene` is empty in an arm's mean over genes and projects.
pub fn csv(differences: &[Difference], path: &Path) -> Result<String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::io(path, e.into());
    let header = [
        "arm",
        "reference",
        "project",
        "gene",
        "n",
        "measure",
        "score",
        "score_sd",
        "reference_score",
        "reference_sd",
        "delta",
        "low",
        "high",
        "p",
        "p_holm",
        "formula_p",
    ];
    out.write_record(header).map_err(failed)?;
    let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    for d in differences {
        let text = |text: &str| escape::cell(text).into_owned();
        let mut row =
            vec![text(&d.arm), text(&d.reference), text(&d.project), text(d.gene.as_deref().unwrap_or_default())];
        row.extend([d.n.to_string(), d.measure.name().to_string()]);
        let scores = [d.score, d.score_sd, d.reference_score, d.reference_sd, d.delta];
        let uncertainty = [d.interval.map(|i| i.low), d.interval.map(|i| i.high), d.p, d.p_holm, d.formula_p];
        row.extend(scores.into_iter().chain(uncertainty).map(number));
        out.write_record(row).map_err(failed)?;
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    String::from_utf8(bytes).map_err(Error::internal)
}

/// The differences as lines for a terminal, arm by arm, with the sentence that the data allow.
pub fn text(differences: &[Difference]) -> String {
    let mut out = String::new();
    for of_arm in differences.chunk_by(|a, b| a.arm == b.arm) {
        let Some(mean) = of_arm.iter().find(|d| d.gene.is_none()) else { continue };
        let _ = writeln!(out, "{} against {}: {}", mean.arm, mean.reference, sentence(mean));
        let _ = writeln!(
            out,
            "{:<12} {:<12} {:>4} {:>7} {:>9} {:>7}  {:<16} {:>7} {:>7} {:>8}",
            "project",
            "gene",
            "n",
            mean.measure.name(),
            "reference",
            "delta",
            "95 % interval",
            "p",
            "Holm",
            "formula"
        );
        for d in of_arm {
            let number = |v: Option<f64>, digits: usize| v.map_or("-".into(), |v| format!("{v:.digits$}"));
            let interval = d.interval.map_or("-".into(), |i| format!("{:+.3} to {:+.3}", i.low, i.high));
            let delta = d.delta.map_or("-".into(), |v| format!("{v:+.3}"));
            let (score, reference) = (number(d.score, 3), number(d.reference_score, 3));
            let [p, p_holm, formula] = [d.p, d.p_holm, d.formula_p].map(|p| number(p, 4));
            let gene = d.gene.as_deref().unwrap_or("mean");
            let _ = writeln!(
                out,
                "{:<12} {gene:<12} {:>4} {score:>7} {reference:>9} {delta:>7}  {interval:<16} {p:>7} {p_holm:>7} {formula:>8}",
                d.project, d.n
            );
        }
        out.push('\n');
    }
    out
}

/// What may be said of an arm's mean difference.
pub fn sentence(mean: &Difference) -> String {
    let (Some(delta), Some(interval)) = (mean.delta, mean.interval) else {
        return format!("too little to compare in {} patients", mean.n);
    };
    let seeds = match (mean.score_sd, mean.reference_sd) {
        (None, None) => "; one training each, so what another seed would give is not in the interval".to_string(),
        (a, b) => {
            let sd = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{v:.3}"));
            format!("; sd over seeds {} and {}", sd(a), sd(b))
        }
    };
    let found = match mean.verdict() {
        Verdict::Better => "better".to_string(),
        Verdict::Worse => "worse".to_string(),
        Verdict::Undecided => {
            format!("undecided: at this n a difference of about {:.2} would show", (interval.high - interval.low) / 2.0)
        }
    };
    format!("{delta:+.3} [{:+.3}, {:+.3}] in {} patients, {found}{seeds}", interval.low, interval.high, mean.n)
}
