//! What chooses a network's epoch: its error and correlation on validation slides.

use crate::eval::stats;

/// A validation slide, on the scale of the training targets.
pub(super) struct Validated<'a> {
    pub project: &'a str,
    pub truth: Vec<f64>,
    pub predicted: Vec<f64>,
}

/// Mean over the genes of the squared error, and mean over genes and projects of the correlation within the project: over
/// projects together, telling one cancer from another would pass for prediction. A project counts for a gene where three of
/// its slides have values that differ; a network that says the same of all of them has correlation 0 there.
pub(super) fn scores(slides: &[Validated], genes: &[usize]) -> (Option<f64>, Option<f64>) {
    let mut projects: Vec<&str> = slides.iter().map(|s| s.project).collect();
    projects.sort_unstable();
    projects.dedup();
    let pairs = |gene: usize, project: Option<&str>| -> (Vec<f64>, Vec<f64>) {
        let of_project = slides.iter().filter(|s| project.is_none_or(|p| s.project == p));
        of_project.map(|s| (s.truth[gene], s.predicted[gene])).filter(|(truth, _)| truth.is_finite()).unzip()
    };
    let error = |&gene: &usize| {
        let (truth, predicted) = pairs(gene, None);
        stats::mean_squared_error(&truth, &predicted)
    };
    let correlation = |gene: usize, project: &str| {
        let (truth, predicted) = pairs(gene, Some(project));
        let varies = truth.windows(2).any(|w| w[0] != w[1]);
        let counts = truth.len() >= stats::LEAST_FOR_CORRELATION && varies;
        counts.then(|| stats::pearson(&truth, &predicted).unwrap_or(0.0))
    };
    let each = genes.iter().flat_map(|&gene| projects.iter().map(move |project| correlation(gene, project)));
    (stats::mean_defined(genes.iter().map(error)), stats::mean_defined(each))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_projects_apart_is_no_validation_score() {
        let slide =
            |project, truth: f64, predicted: f64| Validated { project, truth: vec![truth], predicted: vec![predicted] };
        // Within A the order is right, within B it is turned round; B is far above A in both.
        let slides: Vec<Validated> = (0..4)
            .flat_map(|i| {
                [slide("A", f64::from(i), f64::from(i)), slide("B", 100.0 + f64::from(i), 100.0 - f64::from(i))]
            })
            .collect();
        let (error, correlation) = scores(&slides, &[0]);
        assert_eq!(error, Some(7.0));
        assert!(correlation.is_some_and(|r| r.abs() < 1e-12), "{correlation:?}");
        // Two slides of a project have no correlation; a constant prediction of a varying target has none worth having.
        let few: Vec<Validated> = (0..3).map(|i| slide("A", f64::from(i), 1.0)).chain([slide("B", 0.0, 0.0)]).collect();
        assert_eq!(scores(&few, &[0]).1, Some(0.0));
        assert_eq!(scores(&few[2..], &[0]).1, None);
    }
}
