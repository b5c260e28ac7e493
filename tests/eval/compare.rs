//! Arms against arms: what is one predictor's advantage over another on the same patients, and when is it none.

use approx::assert_relative_eq;
use isg::{
    eval::{
        compare::{Arm, Difference, Measure, Run, Verdict, compare, text},
        metrics::{Part, Prediction, Settings, evaluate},
        stats::Bootstrap,
    },
    random::Philox,
};

const FOLDS: usize = 3;

/// `n` patients of each project; each predictor is the truth, times its strength, plus noise that all share and noise of its own.
fn arms_of(seed: u64, n: usize, projects: &[&str], strengths: &[f64]) -> Vec<Vec<Prediction>> {
    let random = Philox::named(seed, "arms");
    let mut position = 0;
    let mut normal = || {
        position += 1;
        random.normal4(position)[0]
    };
    let mut arms = vec![Vec::new(); strengths.len()];
    for (number, project) in projects.iter().enumerate() {
        for i in 0..n {
            let truth: Vec<f64> = (0..2).map(|gene| normal() + 5.0 * (number + gene) as f64).collect();
            let shared: Vec<f64> = (0..2).map(|_| normal()).collect();
            for (arm, strength) in arms.iter_mut().zip(strengths) {
                let predicted =
                    truth.iter().zip(&shared).map(|(t, s)| strength * t + 0.7 * s + 0.7 * normal()).collect();
                let (slide, patient) = (format!("{project}{i}"), format!("{project}{i}"));
                let target_span = vec![f64::NAN; 2];
                let (project, truth) = (project.to_string(), truth.clone());
                arm.push(Prediction {
                    slide,
                    patient,
                    project,
                    repeat: 0,
                    fold: i % FOLDS,
                    truth,
                    predicted,
                    target_span,
                });
            }
        }
    }
    arms
}

fn genes() -> Vec<String> {
    vec!["G".to_string(), "H".to_string()]
}

fn named<'a>(genes: &'a [String], arms: &'a [(&str, Vec<&'a [Prediction]>)]) -> Vec<Arm<'a>> {
    let arm = |(name, runs): &(&str, Vec<&'a [Prediction]>)| Arm {
        name: name.to_string(),
        runs: runs.iter().map(|predictions| Run { genes, predictions }).collect(),
    };
    arms.iter().map(arm).collect()
}

fn settings(seed: u64) -> Bootstrap {
    Bootstrap { resamples: 400, seed, ..Bootstrap::default() }
}

fn mean(differences: &[Difference]) -> &Difference {
    differences.iter().find(|d| d.gene.is_none()).unwrap()
}

#[test]
fn differences_are_those_of_the_headline_correlations() {
    let (genes, arms) = (genes(), arms_of(1, 30, &["A", "B"], &[1.0, 0.5]));
    let found =
        compare(&named(&genes, &[("weak", vec![&arms[1]]), ("strong", vec![&arms[0]])]), 0, settings(0)).unwrap();
    assert_eq!(found.len(), 1 + 2 * 2);
    let scored = [&arms[0], &arms[1]].map(|p| evaluate(&genes, p, Settings::default()).unwrap());
    for d in &found[1..] {
        let gene = genes.iter().position(|g| Some(g) == d.gene.as_ref()).unwrap();
        let [strong, weak] =
            [0, 1].map(|i| scored[i].group(&d.project, Part::Mean).unwrap().genes[gene].pearson.unwrap());
        assert_relative_eq!(d.score.unwrap(), strong, epsilon = 1e-12);
        assert_relative_eq!(d.reference_score.unwrap(), weak, epsilon = 1e-12);
        assert_relative_eq!(d.delta.unwrap(), strong - weak, epsilon = 1e-12);
        assert_eq!(d.n, 30);
    }
    let average = found[1..].iter().map(|d| d.delta.unwrap()).sum::<f64>() / 4.0;
    assert_relative_eq!(mean(&found).delta.unwrap(), average, epsilon = 1e-12);
    assert_eq!((mean(&found).n, mean(&found).verdict()), (60, Verdict::Better));
    assert!(text(&found).contains("strong against weak"), "{}", text(&found));
}

/// Where truths are 0 and 1, areas under ROC curves are what differs, and DeLong's test stands beside them.
#[test]
fn differences_of_labels_are_those_of_areas() {
    let (genes, mut arms) = (genes(), arms_of(4, 40, &["A"], &[1.0, 0.4]));
    for prediction in arms.iter_mut().flatten() {
        let above = |(gene, t): (usize, &f64)| f64::from(u8::from(*t > 5.0 * gene as f64));
        prediction.truth = prediction.truth.iter().enumerate().map(above).collect();
    }
    let found =
        compare(&named(&genes, &[("weak", vec![&arms[1]]), ("strong", vec![&arms[0]])]), 0, settings(0)).unwrap();
    assert_eq!(found.len(), 1 + 2);
    let scored = [&arms[0], &arms[1]].map(|p| evaluate(&genes, p, Settings::default()).unwrap());
    for d in &found[1..] {
        let gene = genes.iter().position(|g| Some(g) == d.gene.as_ref()).unwrap();
        let area = |i: usize| scored[i].group("A", Part::Mean).unwrap().genes[gene].class.unwrap().auc.unwrap();
        assert_eq!(d.measure, Measure::Auc);
        assert_relative_eq!(d.score.unwrap(), area(0), epsilon = 1e-12);
        assert_relative_eq!(d.delta.unwrap(), area(0) - area(1), epsilon = 1e-12);
        assert!((0.0..=1.0).contains(&d.formula_p.unwrap()));
        let interval = d.interval.unwrap();
        assert!(interval.low < d.delta.unwrap() && d.delta.unwrap() < interval.high);
    }
    assert_eq!(mean(&found).measure, Measure::Auc);
    assert!(text(&found).contains("AUC"), "{}", text(&found));
}

#[test]
fn pairing_takes_out_what_is_hard_for_both() {
    let (genes, arms) = (genes(), arms_of(2, 60, &["A"], &[1.0, 0.9]));
    let paired = compare(&named(&genes, &[("a", vec![&arms[0]]), ("b", vec![&arms[1]])]), 0, settings(0)).unwrap();
    let alone = arms.iter().map(|p| evaluate(&genes, p, Settings::default()).unwrap()).map(|e| {
        let interval = e.group("A", Part::Mean).unwrap().genes[0].interval.unwrap();
        interval.high - interval.low
    });
    let unpaired = alone.map(|width| width * width).sum::<f64>().sqrt();
    let interval = paired[1].interval.unwrap();
    assert!(interval.high - interval.low < 0.85 * unpaired, "{interval:?} against {unpaired}");
}

/// Under no difference the p-value of the mean is below 0.05 about one time in twenty; a real difference is found.
#[test]
fn p_values_are_honest() {
    let genes = genes();
    let rejected = |strengths: &[f64]| {
        let hits = (0..120).filter(|&seed| {
            let arms = arms_of(100 + seed, 30, &["A"], strengths);
            let found =
                compare(&named(&genes, &[("a", vec![&arms[0]]), ("b", vec![&arms[1]])]), 0, settings(seed)).unwrap();
            mean(&found).p.unwrap() < 0.05
        });
        hits.count()
    };
    // Binomial(120, 0.05): 6 expected, 15 has probability 0.001; the percentile bootstrap of 30 patients is a little short.
    let null = rejected(&[0.8, 0.8]);
    assert!((1..=15).contains(&null), "{null} of 120");
    let real = rejected(&[1.2, 0.5]);
    assert!(real > 90, "{real} of 120");
}

#[test]
fn seeds_of_an_arm_are_averaged_and_their_spread_is_said() {
    let (genes, arms) = (genes(), arms_of(3, 40, &["A"], &[0.8, 0.8, 0.8, 0.8]));
    let found = compare(
        &named(&genes, &[("x", vec![&arms[0], &arms[1]]), ("y", vec![&arms[2]]), ("z", vec![&arms[3], &arms[2]])]),
        0,
        settings(0),
    )
    .unwrap();
    assert_eq!(found.iter().filter(|d| d.gene.is_none()).map(|d| d.arm.as_str()).collect::<Vec<_>>(), ["y", "z"]);
    let y = mean(&found);
    assert!(y.score_sd.is_none() && y.reference_sd.unwrap() > 0.0);
    // Two arms: Holm doubles the smaller p at most.
    let p: Vec<f64> = found.iter().filter(|d| d.gene.is_none()).map(|d| d.p.unwrap()).collect();
    let holm = found.iter().filter(|d| d.gene.is_none()).map(|d| d.p_holm.unwrap());
    let smallest = p.iter().copied().fold(1.0, f64::min);
    assert_relative_eq!(holm.fold(1.0, f64::min), (2.0 * smallest).min(1.0), epsilon = 1e-12);
    // An arm against itself differs in nothing.
    let same = compare(&named(&genes, &[("x", vec![&arms[0]]), ("y", vec![&arms[0]])]), 0, settings(0)).unwrap();
    assert_eq!((mean(&same).delta, mean(&same).p, mean(&same).verdict()), (Some(0.0), Some(1.0), Verdict::Undecided));
}

#[test]
fn only_patients_of_both_count_and_contradictions_are_refused() {
    let (genes, mut arms) = (genes(), arms_of(4, 30, &["A"], &[1.0, 0.5]));
    arms[0].truncate(20);
    arms[1][3].truth[1] = f64::NAN;
    let both = |arms: &[Vec<Prediction>]| {
        compare(&named(&genes, &[("a", vec![&arms[0]]), ("b", vec![&arms[1]])]), 0, settings(0))
    };
    let found = both(&arms).unwrap();
    assert_eq!(found[1..].iter().map(|d| d.n).collect::<Vec<_>>(), [20, 19]);
    let refused = |arms: &[Vec<Prediction>], word: &str| {
        let message = both(arms).map(drop).expect_err(word).to_string();
        assert!(message.contains(word) && !message.contains('\n'), "{message}");
    };
    let mut other = arms.clone();
    other[1][0].truth[0] += 0.5;
    refused(&other, "its truth is");
    let mut other = arms.clone();
    other[1][0].patient = "somebody".into();
    refused(&other, "somebody");
    let mut other = arms.clone();
    other[1].iter_mut().for_each(|p| p.slide = format!("other-{}", p.slide));
    refused(&other, "no slide in common");
}
