//! Scores of held-out predictions. The unit of a result is a gene in a project: whoever can tell two cancers apart predicts
//! every gene that differs between them, which says nothing about either.
//!
//! The headline is the mean over folds of the correlation within the project, as HE2RNA reports it; beside it stands the
//! correlation of the project's patients pooled over the folds, into which the folds' own offsets enter. What is counted over
//! all projects together is named `all` and comes last.
//!
//! Patients are the observations: a patient's prediction is the mean over their slides, and in the pool over the repeats of
//! the cross-validation too. With slides as observations there are no p-values, since slides of a patient are not independent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    classes::{self, ClassScore, ClassScores},
    lanes::{Block, LANES},
    layout::{Column, Design, Layout, mean_finite},
    multiple::FalseDiscovery,
    permutation::{self, NullHits, Permutations},
    resampling::{self, Intervals},
    stats::{self, Bootstrap, Interval, LEAST_FOR_CORRELATION},
};
use crate::error::{Error, Result};

/// What stands in a project's place where all are counted together.
pub const ALL_PROJECTS: &str = "all";

/// One held-out slide: what was measured (NaN where it was not) and what was predicted, per gene, on the same scale.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Prediction {
    pub slide: String,
    pub patient: String,
    pub project: String,
    /// Which pass through the whole cross-validation; 0 where there is one.
    pub repeat: usize,
    pub fold: usize,
    pub truth: Vec<f64>,
    pub predicted: Vec<f64>,
    /// What one unit of the scale that the fold's networks were trained on is on this one, per gene; NaN where unknown.
    pub target_span: Vec<f64>,
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

/// Over which held-out observations a score is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// The mean over the folds of what each gives by itself.
    Mean,
    /// All folds together, a patient's repeats averaged.
    Pooled,
    Fold {
        repeat: usize,
        fold: usize,
    },
}

/// `"mean"`, `"pooled"` or the fold's number.
impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Part::Mean => serializer.serialize_str("mean"),
            Part::Pooled => serializer.serialize_str("pooled"),
            Part::Fold { fold, .. } => serializer.serialize_u64(*fold as u64),
        }
    }
}

/// Scores of one gene over one group of observations. What is undefined is `None`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct GeneScore {
    /// Observations.
    pub n: usize,
    pub pearson: Option<f64>,
    pub interval: Option<Interval>,
    /// By permutation, against a positive correlation.
    pub p: Option<f64>,
    /// p after the correction for the genes of the same group.
    pub q: Option<f64>,
    pub spearman: Option<f64>,
    pub mse: Option<f64>,
    /// Mean squared error on the scale of the training targets.
    pub mse_scaled: Option<f64>,
    pub r_squared: Option<f64>,
    /// Where the gene is a label: 0 or 1 for everybody.
    pub class: Option<ClassScore>,
}

/// The genes' scores in a project (or [`ALL_PROJECTS`]) over one part of its observations.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupScores {
    pub project: String,
    pub part: Part,
    /// As [`Evaluation::genes`].
    pub genes: Vec<GeneScore>,
}

impl GroupScores {
    /// Mean correlation over the genes that have one.
    pub fn mean_pearson(&self) -> Option<f64> {
        stats::mean_defined(self.genes.iter().map(|g| g.pearson))
    }
}

/// How an evaluation is done.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    pub unit: Unit,
    pub false_discovery: FalseDiscovery,
    pub bootstrap: Bootstrap,
    pub permutations: Permutations,
    /// Where labels' sensitivities are counted.
    pub specificity: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            unit: Unit::default(),
            false_discovery: FalseDiscovery::default(),
            bootstrap: Bootstrap::default(),
            permutations: Permutations::default(),
            specificity: 0.95,
        }
    }
}

/// All scores of one method.
#[derive(Clone, PartialEq, Debug)]
pub struct Evaluation {
    pub settings: Settings,
    pub genes: Vec<String>,
    /// In order of name.
    pub projects: Vec<String>,
    /// Project by project, the mean over folds first, then the pool, then the folds; [`ALL_PROJECTS`] last.
    pub groups: Vec<GroupScores>,
}

impl Evaluation {
    pub fn group(&self, project: &str, part: Part) -> Option<&GroupScores> {
        self.groups.iter().find(|group| group.project == project && group.part == part)
    }

    /// Mean over genes and projects of the headline.
    pub fn mean_pearson(&self) -> Option<f64> {
        let of_projects = self.projects.iter().filter_map(|project| self.group(project, Part::Mean));
        stats::mean_defined(of_projects.flat_map(|group| &group.genes).map(|gene| gene.pearson))
    }
}

/// Genes scored at a time: bounds the memory of whole transcriptomes.
const GENES_AT_ONCE: usize = 512;

/// Scores held-out predictions. Errors where a prediction has another number of genes than named, and where predictions
/// contradict each other.
pub fn evaluate(genes: &[String], predictions: &[Prediction], settings: Settings) -> Result<Evaluation> {
    let fits =
        |p: &Prediction| [&p.truth, &p.predicted, &p.target_span].iter().all(|values| values.len() == genes.len());
    if let Some(p) = predictions.iter().find(|p| !fits(p)) {
        let message = format!("{}: {} predictions for {} genes", p.slide, p.predicted.len(), genes.len());
        return Err(Error::shape("evaluate", message));
    }
    if let Some((problem, remedy)) = contradiction(genes, predictions) {
        return Err(Error::Usage(format!("{problem}; {remedy}")));
    }
    let layout = Layout::new(predictions, settings.unit);
    let one = layout.projects.len() == 1;
    // One project is all projects: its scores are given under both names.
    let wanted = (0..layout.projects.len()).map(Some).chain((!one).then_some(None));
    let mut results: Vec<ProjectScores> = wanted.map(|p| ProjectScores::new(&layout, p, settings)).collect();
    for first in (0..genes.len()).step_by(GENES_AT_ONCE) {
        let batch = first..(first + GENES_AT_ONCE).min(genes.len());
        let columns: Vec<Column> = batch.into_par_iter().map(|gene| layout.column(gene)).collect();
        results.iter_mut().for_each(|scores| scores.add(&layout, &columns));
    }
    let mut groups: Vec<GroupScores> = results.into_iter().flat_map(ProjectScores::finish).collect();
    if one && layout.projects[0] != ALL_PROJECTS {
        let again = groups.clone().into_iter().map(|group| GroupScores { project: ALL_PROJECTS.into(), ..group });
        groups.extend(again);
    }
    let projects = layout.projects.iter().map(|p| p.to_string()).collect();
    Ok(Evaluation { settings, genes: genes.to_vec(), projects, groups })
}

/// What two predictions cannot both say, and the remedy.
pub fn contradiction(genes: &[String], predictions: &[Prediction]) -> Option<(String, &'static str)> {
    let mut of_slide: HashMap<&str, &Prediction> = HashMap::new();
    let mut folds: HashMap<(usize, &str), usize> = HashMap::new();
    let mut tested: HashSet<(usize, &str)> = HashSet::new();
    let mut projects: BTreeSet<&str> = BTreeSet::new();
    for p in predictions {
        projects.insert(&p.project);
        let slide = &p.slide;
        let first = *of_slide.entry(slide).or_insert(p);
        if first.patient != p.patient {
            let problem = format!("slide {slide} is of patient {} and of patient {}", first.patient, p.patient);
            return Some((problem, "give every slide one patient"));
        }
        if first.project != p.project {
            let problem = format!("slide {slide} is of project {:?} and of project {:?}", first.project, p.project);
            return Some((problem, "give every slide one project"));
        }
        let fold = *folds.entry((p.repeat, &p.patient)).or_insert(p.fold);
        if fold != p.fold {
            let problem =
                format!("patient {} is tested in folds {fold} and {} of the same cross-validation", p.patient, p.fold);
            return Some((
                problem,
                "number the repeats of the cross-validation in a column repeat, or keep one of the two",
            ));
        }
        if !tested.insert((p.repeat, slide)) {
            return Some((format!("slide {slide} is predicted twice in fold {fold}"), "keep one of the two"));
        }
        let differs = |&gene: &usize| {
            let both = first.predicted[gene].is_finite() && p.predicted[gene].is_finite();
            let (a, b) = (first.truth[gene], p.truth[gene]);
            both && a != b && !(a.is_nan() && b.is_nan())
        };
        if let Some(gene) = (0..genes.len()).find(differs) {
            let (a, b) = (first.truth[gene], p.truth[gene]);
            let (gene, repeat) = (&genes[gene], p.repeat);
            let problem = format!(
                "slide {slide}, gene {gene}: its truth is {a} in repeat {} and {b} in repeat {repeat}",
                first.repeat
            );
            return Some((problem, "give a slide and gene one truth"));
        }
    }
    let taken = projects.len() > 1 && projects.contains(ALL_PROJECTS);
    taken.then(|| {
        (format!("one of several projects is called {ALL_PROJECTS}"), "that stands for all together: rename it")
    })
}

/// The scores of one project while its genes come in.
struct ProjectScores {
    /// `None`: all projects.
    project: Option<usize>,
    settings: Settings,
    /// Folds of the layout in which the project was tested.
    folds: Vec<usize>,
    /// Mean, pool, then the folds.
    groups: Vec<GroupScores>,
}

impl ProjectScores {
    fn new(layout: &Layout, project: Option<usize>, settings: Settings) -> ProjectScores {
        let folds = layout.folds_of(layout.observations(project));
        let numbered = folds.iter().map(|&f| layout.folds[f]).map(|(repeat, fold)| Part::Fold { repeat, fold });
        let name = project.map_or(ALL_PROJECTS, |p| layout.projects[p]);
        let groups = [Part::Mean, Part::Pooled]
            .into_iter()
            .chain(numbered)
            .map(|part| GroupScores { project: name.to_string(), part, genes: Vec::new() })
            .collect();
        ProjectScores { project, settings, folds, groups }
    }

    fn add(&mut self, layout: &Layout, columns: &[Column]) {
        let observations = layout.observations(self.project);
        let mut patterns: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for (gene, column) in columns.iter().enumerate() {
            patterns.entry(layout.pattern(column, observations.clone())).or_default().push(gene);
        }
        let mut scores: Vec<Vec<GeneScore>> = vec![Vec::new(); columns.len()];
        for genes in patterns.into_values() {
            let of_pattern: Vec<&Column> = genes.iter().map(|&g| &columns[g]).collect();
            let design = layout.design(of_pattern[0], observations.clone());
            let blocks: Vec<Block> = of_pattern.par_chunks(LANES).map(|genes| Block::new(&design, genes)).collect();
            let intervals = resampling::intervals(&design, &blocks, self.settings.bootstrap);
            let tested = self.settings.unit == Unit::Patient && self.settings.permutations.draws > 0;
            let hits = tested.then(|| permutation::hits(&design, &blocks, self.settings.permutations));
            let of_genes = of_pattern.par_iter().enumerate().map(|(i, column)| {
                let (block, lane) = (i / LANES, i % LANES);
                self.of_gene(&design, column, &intervals[block][lane], hits.as_ref().map(|h| &h[block][lane]))
            });
            let of_genes: Vec<Vec<GeneScore>> = of_genes.collect();
            genes.into_iter().zip(of_genes).for_each(|(gene, of_gene)| scores[gene] = of_gene);
        }
        for of_gene in scores {
            self.groups.iter_mut().zip(of_gene).for_each(|(group, score)| group.genes.push(score));
        }
    }

    /// One score per group.
    fn of_gene(
        &self,
        design: &Design,
        column: &Column,
        intervals: &Intervals,
        hits: Option<&NullHits>,
    ) -> Vec<GeneScore> {
        let draws = self.settings.permutations.draws as f64;
        let p_value = |count: Option<u32>, members: &[u32]| {
            Some((1.0 + f64::from(count?)) / (1.0 + draws)).filter(|_| permutation::moves(design, members))
        };
        let labels: Option<ClassScores> =
            classes::is_label(column).then(|| classes::scores(design, column, &self.settings));
        let mut folds = vec![GeneScore::default(); self.folds.len()];
        for (i, cell) in design.cells.iter().enumerate() {
            let Ok(place) = self.folds.binary_search(&cell.fold) else { continue };
            let members = || cell.members.iter().map(|&i| design.members[i as usize]);
            let predicted = &column.predicted[cell.repeat];
            let score = score(
                &members().map(|o| column.truth[o]).collect::<Vec<_>>(),
                &members().map(|o| predicted[o]).collect::<Vec<_>>(),
                members().map(|o| column.scaled_error[cell.repeat][o]),
            );
            folds[place] = GeneScore {
                interval: score.pearson.and(intervals.cells[i]),
                p: score.pearson.and(p_value(hits.map(|h| h.cells[i]), &cell.members)),
                class: labels.as_ref().map(|l| l.cells[i]),
                ..score
            };
        }
        let members = || design.members.iter().copied();
        let over_repeats = |values: &[Vec<f64>], o: usize| mean_finite(values.iter().map(|of| of[o]));
        // An error of unknown scale in one repeat makes the patient's unknown.
        let scaled = |o: usize| {
            let known = (0..column.predicted.len()).filter(|&r| column.predicted[r][o].is_finite());
            let (sum, n) = known.fold((0.0, 0usize), |(s, n), r| (s + column.scaled_error[r][o], n + 1));
            sum / n as f64
        };
        let pool = score(
            &members().map(|o| column.truth[o]).collect::<Vec<_>>(),
            &members().map(|o| over_repeats(&column.predicted, o)).collect::<Vec<_>>(),
            members().map(scaled),
        );
        let everyone: Vec<u32> = (0..design.members.len() as u32).collect();
        let pooled = GeneScore {
            interval: pool.pearson.and(intervals.cells.last().copied().flatten()),
            p: pool.pearson.and(p_value(hits.and_then(|h| h.cells.last().copied()), &everyone)),
            class: labels.as_ref().map(|l| l.pooled),
            ..pool
        };
        let mean = |value: fn(&GeneScore) -> Option<f64>| stats::mean_defined(folds.iter().map(value));
        let pearson = mean(|s| s.pearson);
        let mean = GeneScore {
            n: pool.n,
            pearson,
            interval: pearson.and(intervals.mean),
            p: pearson.and(p_value(hits.map(|h| h.mean), &everyone)),
            q: None,
            spearman: mean(|s| s.spearman),
            mse: mean(|s| s.mse),
            mse_scaled: mean(|s| s.mse_scaled),
            r_squared: mean(|s| s.r_squared),
            class: labels.as_ref().map(|l| l.mean),
        };
        [mean, pooled].into_iter().chain(folds).collect()
    }

    fn finish(mut self) -> Vec<GroupScores> {
        for group in &mut self.groups {
            let p: Vec<Option<f64>> = group.genes.iter().map(|gene| gene.p).collect();
            let q = self.settings.false_discovery.adjust(&p);
            group.genes.iter_mut().zip(q).for_each(|(gene, q)| gene.q = q);
        }
        self.groups
    }
}

/// The plain statistics of pairs.
fn score(truth: &[f64], predicted: &[f64], scaled_errors: impl Iterator<Item = f64>) -> GeneScore {
    let n = truth.len();
    let enough = n >= LEAST_FOR_CORRELATION;
    let scaled: f64 = scaled_errors.map(|e| e * e).sum::<f64>() / n as f64;
    GeneScore {
        n,
        pearson: stats::pearson(truth, predicted).filter(|_| enough),
        spearman: stats::spearman(truth, predicted).filter(|_| enough),
        mse: stats::mean_squared_error(truth, predicted),
        mse_scaled: Some(scaled).filter(|v| v.is_finite()),
        r_squared: stats::r_squared(truth, predicted).filter(|_| enough),
        ..GeneScore::default()
    }
}
