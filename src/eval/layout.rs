//! Predictions as a table: observations (patients, or slides) by repeat and fold, and what may change places with what.

use std::{collections::BTreeMap, ops::Range};

use super::metrics::{Prediction, Unit};

/// All predictions of an evaluation, observations in the order of their project's and patient's names.
pub(super) struct Layout<'a> {
    /// Sorted, so that the order of lines in a file changes no digit.
    rows: Vec<&'a Prediction>,
    observation_of: Vec<usize>,
    pub projects: Vec<&'a str>,
    /// Project of every observation; ascending.
    project_of: Vec<usize>,
    /// Patient of every observation; ascending.
    patient_of: Vec<usize>,
    /// Repeat and fold, ascending: what was tested at once.
    pub folds: Vec<(usize, usize)>,
    repeats: Vec<usize>,
    /// `[repeat][observation]`: index into `folds`.
    fold_of: Vec<Vec<Option<usize>>>,
}

/// What was measured and predicted of one gene.
pub(super) struct Column {
    /// Per observation; NaN where not measured.
    pub truth: Vec<f64>,
    /// `[repeat][observation]`; NaN where not predicted or not measured.
    pub predicted: Vec<Vec<f64>>,
    /// `[repeat][observation]`: error on the scale of the fold's training targets; NaN where that is unknown.
    pub scaled_error: Vec<Vec<f64>>,
}

impl<'a> Layout<'a> {
    pub fn new(predictions: &'a [Prediction], unit: Unit) -> Layout<'a> {
        Layout::of(predictions.iter().collect(), unit)
    }

    /// Of some predictions.
    pub fn of(mut rows: Vec<&'a Prediction>, unit: Unit) -> Layout<'a> {
        rows.sort_by_key(|p| (&p.project, &p.patient, &p.slide, p.repeat, p.fold));
        let mut projects: Vec<&str> = rows.iter().map(|p| p.project.as_str()).collect();
        projects.dedup();
        let mut folds: Vec<(usize, usize)> = rows.iter().map(|p| (p.repeat, p.fold)).collect();
        folds.sort_unstable();
        folds.dedup();
        let mut repeats: Vec<usize> = folds.iter().map(|f| f.0).collect();
        repeats.dedup();

        let (mut observation_of, mut project_of, mut patient_of) = (Vec::new(), Vec::new(), Vec::new());
        let mut last: Option<&Prediction> = None;
        for &row in &rows {
            let same_project = last.is_some_and(|l| l.project == row.project);
            let same_patient = same_project && last.is_some_and(|l| l.patient == row.patient);
            if !same_patient || unit == Unit::Slide && last.is_some_and(|l| l.slide != row.slide) {
                let (project, patient) = (project_of.last().copied(), patient_of.last().copied());
                project_of.push(project.map_or(0, |p: usize| p + usize::from(!same_project)));
                patient_of.push(patient.map_or(0, |p: usize| p + usize::from(!same_patient)));
            }
            observation_of.push(project_of.len() - 1);
            last = Some(row);
        }
        let mut fold_of = vec![vec![None; project_of.len()]; repeats.len()];
        for (row, &observation) in rows.iter().zip(&observation_of) {
            let repeat = repeats.partition_point(|r| *r < row.repeat);
            fold_of[repeat][observation] = Some(folds.partition_point(|f| *f < (row.repeat, row.fold)));
        }
        Layout { rows, observation_of, projects, project_of, patient_of, folds, repeats, fold_of }
    }

    /// Number of patients, where they are the observations.
    pub fn patients(&self) -> usize {
        self.project_of.len()
    }

    /// Observations of a project; `None`: of all.
    pub fn observations(&self, project: Option<usize>) -> Range<usize> {
        match project {
            None => 0..self.project_of.len(),
            Some(p) => self.project_of.partition_point(|q| *q < p)..self.project_of.partition_point(|q| *q <= p),
        }
    }

    /// The folds in which some of these observations were tested.
    pub fn folds_of(&self, observations: Range<usize>) -> Vec<usize> {
        let mut folds: Vec<usize> =
            self.fold_of.iter().flat_map(|of| &of[observations.clone()]).filter_map(|f| *f).collect();
        folds.sort_unstable();
        folds.dedup();
        folds
    }

    /// One gene. A patient's truth is the mean over their slides, their prediction the mean over the slides of a repeat.
    pub fn column(&self, gene: usize) -> Column {
        let (observations, repeats) = (self.project_of.len(), self.repeats.len());
        let mut truth = vec![Mean::default(); observations];
        let mut predicted = vec![vec![Mean::default(); observations]; repeats];
        let mut scaled_error = predicted.clone();
        let mut last_slide: Option<&str> = None;
        for (row, &o) in self.rows.iter().zip(&self.observation_of) {
            let (t, p) = (row.truth[gene], row.predicted[gene]);
            if !t.is_finite() || !p.is_finite() {
                continue;
            }
            // Rows are sorted: the repeats of a slide stand together, and its truth counts once.
            if last_slide != Some(&row.slide) {
                truth[o].add(t);
                last_slide = Some(&row.slide);
            }
            let repeat = self.repeats.partition_point(|r| *r < row.repeat);
            predicted[repeat][o].add(p);
            scaled_error[repeat][o].add((p - t) / row.target_span[gene]);
        }
        let values = |means: &Vec<Mean>| means.iter().map(Mean::value).collect::<Vec<f64>>();
        Column {
            truth: values(&truth),
            predicted: predicted.iter().map(values).collect(),
            scaled_error: scaled_error.iter().map(values).collect(),
        }
    }

    /// Where a gene is known among these observations; genes of the same pattern share their permutations.
    pub fn pattern(&self, column: &Column, observations: Range<usize>) -> Vec<bool> {
        column.predicted.iter().flat_map(|of| &of[observations.clone()]).map(|v| v.is_finite()).collect()
    }

    /// What is compared for the genes of one pattern, which `column` is an example of.
    pub fn design(&self, column: &Column, observations: Range<usize>) -> Design {
        let members: Vec<usize> = observations.filter(|&o| column.truth[o].is_finite()).collect();
        let repeats = self.repeats.len();
        let fold = |r: usize, o: usize| self.fold_of[r][o].filter(|_| column.predicted[r][o].is_finite());
        let groups = |key: &dyn Fn(usize) -> Vec<Option<usize>>| -> Vec<Vec<u32>> {
            let mut groups: BTreeMap<Vec<Option<usize>>, Vec<u32>> = BTreeMap::new();
            for (i, &o) in members.iter().enumerate() {
                groups.entry(key(o)).or_default().push(i as u32);
            }
            groups.into_values().collect()
        };
        let by_project = groups(&|o| vec![Some(self.project_of[o])]);
        let by_fold = |r: usize| groups(&|o| vec![Some(self.project_of[o]), fold(r, o)]);
        let together = groups(&|o| {
            let folds = (0..repeats).map(|r| fold(r, o));
            std::iter::once(Some(self.project_of[o])).chain(folds).collect()
        });
        let same_folds = (0..repeats).all(|r| by_fold(r).len() == together.len());

        let mut cells = Vec::new();
        for (number, &(repeat, _)) in self.folds.iter().enumerate() {
            let r = self.repeats.partition_point(|x| *x < repeat);
            let tested: Vec<u32> =
                (0..members.len() as u32).filter(|&i| fold(r, members[i as usize]) == Some(number)).collect();
            if !tested.is_empty() {
                cells.push(Cell { fold: number, repeat: r, members: tested, whole: same_folds });
            }
        }
        let mut patients: Vec<usize> = members.iter().map(|&o| self.patient_of[o]).collect();
        patients.dedup();
        let patient = members.iter().map(|&o| patients.partition_point(|p| *p < self.patient_of[o]) as u32).collect();
        Design {
            patient,
            exchangeable: if same_folds { together } else { by_project.clone() },
            by_project,
            by_fold: (0..repeats).map(by_fold).collect(),
            cells,
            members,
        }
    }
}

impl Column {
    /// Forgets what was measured and predicted of the other observations.
    pub fn keep(&mut self, known: &[bool]) {
        for values in self.predicted.iter_mut().chain(&mut self.scaled_error).chain([&mut self.truth]) {
            values.iter_mut().zip(known).filter(|(_, known)| !**known).for_each(|(value, _)| *value = f64::NAN);
        }
    }
}

/// The observations that the genes of one pattern have in a project (or in all), and how they hang together. All numbers
/// but `members` count these observations from 0.
pub(super) struct Design {
    /// Observations of the [`Layout`].
    pub members: Vec<usize>,
    /// Patient of each, ascending from 0.
    pub patient: Vec<u32>,
    /// Sets within which targets may change places: a project's patients that are tested together in every repeat. Where
    /// repeats have other folds, all patients of a project.
    pub exchangeable: Vec<Vec<u32>>,
    pub by_project: Vec<Vec<u32>>,
    /// `[repeat]`: sets of one project and fold.
    pub by_fold: Vec<Vec<Vec<u32>>>,
    /// One per fold of every repeat.
    pub cells: Vec<Cell>,
}

/// What was tested at once.
pub(super) struct Cell {
    /// Index into [`Layout::folds`].
    pub fold: usize,
    /// Index of its repeat.
    pub repeat: usize,
    pub members: Vec<u32>,
    /// No exchange leads in or out of it.
    pub whole: bool,
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / self.count as f64 }
    }
}

/// Mean of the finite values; NaN where there are none.
pub(super) fn mean_finite(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut mean = Mean::default();
    values.into_iter().filter(|v| v.is_finite()).for_each(|v| mean.add(v));
    mean.value()
}
