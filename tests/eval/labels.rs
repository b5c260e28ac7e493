//! Scores of labels: areas under ROC curves by fold and in the pool, their intervals, operating points.

use approx::assert_relative_eq;
use isg::{
    eval::{
        metrics::{Part, Prediction, Settings, Unit, evaluate},
        paired,
        permutation::Permutations,
        stats::{Bootstrap, bootstrap_interval, roc_auc},
        tables::{self, Comparison, Method},
    },
    random::Philox,
};

fn settings() -> Settings {
    Settings {
        bootstrap: Bootstrap { resamples: 600, ..Bootstrap::default() },
        permutations: Permutations { draws: 500, seed: 0 },
        ..Settings::default()
    }
}

/// `n` patients of one project in `folds` folds, every third positive; a positive scores `shift` higher on average.
fn cohort(n: usize, folds: usize, shift: f64, seed: u64) -> Vec<Prediction> {
    let noise = Philox::named(seed, "label scores").normals(n);
    (0..n)
        .map(|i| {
            let truth = f64::from(u8::from(i % 3 == 0));
            Prediction {
                slide: format!("p{i:03}-1"),
                patient: format!("p{i:03}"),
                project: "A".into(),
                repeat: 0,
                fold: i / 3 % folds,
                truth: vec![truth],
                predicted: vec![truth * shift + noise[i]],
                target_span: vec![1.0],
            }
        })
        .collect()
}

fn split(rows: &[Prediction], fold: Option<usize>) -> (Vec<f64>, Vec<bool>) {
    let of_fold = rows.iter().filter(|p| fold.is_none_or(|f| p.fold == f));
    of_fold.map(|p| (p.predicted[0], p.truth[0] == 1.0)).unzip()
}

fn labels() -> Vec<String> {
    vec!["msi".to_string()]
}

#[test]
fn areas_are_those_of_the_folds_their_mean_and_the_pool() {
    let rows = cohort(120, 4, 1.2, 3);
    let e = evaluate(&labels(), &rows, settings()).unwrap();
    let class = |part| e.group("A", part).unwrap().genes[0].class.unwrap();
    let mut sum = 0.0;
    let mut variance = 0.0;
    for fold in 0..4 {
        let (scores, positive) = split(&rows, Some(fold));
        let found = class(Part::Fold { repeat: 0, fold });
        let (auc, of_fold) = paired::auc_variance(&scores, &positive).unwrap();
        assert_relative_eq!(found.auc.unwrap(), auc, epsilon = 1e-14);
        assert_eq!(found.positives, 10);
        let point = paired::sensitivity_at_specificity(&scores, &positive, 0.95).unwrap();
        assert_eq!((found.sensitivity, found.threshold), (Some(point.sensitivity), Some(point.threshold)));
        sum += auc;
        variance += of_fold;
    }
    let (mean, half) = (class(Part::Mean), 1.959963984540054 * (variance / 16.0).sqrt());
    assert_relative_eq!(mean.auc.unwrap(), sum / 4.0, epsilon = 1e-14);
    assert_relative_eq!(mean.delong.unwrap().low, sum / 4.0 - half, epsilon = 1e-9);
    assert_eq!((mean.positives, mean.threshold), (40, None));
    let (scores, positive) = split(&rows, None);
    let pooled = class(Part::Pooled);
    assert_relative_eq!(pooled.auc.unwrap(), roc_auc(&scores, &positive).unwrap(), epsilon = 1e-14);
    // The bootstrap by weights against one by repetition: other draws, the same distribution.
    let by_repetition = bootstrap_interval(120, Bootstrap { resamples: 4000, seed: 9, level: 0.95 }, |draw| {
        let pick = |i: &usize| (scores[*i], positive[*i]);
        let (scores, positive): (Vec<f64>, Vec<bool>) = draw.iter().map(pick).unzip();
        roc_auc(&scores, &positive)
    })
    .unwrap();
    let interval = pooled.interval.unwrap();
    assert!((interval.low - by_repetition.low).abs() < 0.02 && (interval.high - by_repetition.high).abs() < 0.02);
    assert!((interval.low - pooled.delong.unwrap().low).abs() < 0.03);
}

#[test]
fn intervals_of_a_useless_score_hold_a_half_as_often_as_they_say() {
    let bootstrap = Bootstrap { resamples: 300, ..Bootstrap::default() };
    let few = Settings { bootstrap, permutations: Permutations { draws: 1, seed: 0 }, ..Settings::default() };
    let (mut delong, mut bootstrap, runs) = (0, 0, 200);
    for seed in 0..runs {
        let e = evaluate(&labels(), &cohort(90, 3, 0.0, seed), few).unwrap();
        let class = e.group("A", Part::Mean).unwrap().genes[0].class.unwrap();
        let holds = |i: isg::eval::stats::Interval| usize::from(i.low <= 0.5 && i.high >= 0.5);
        delong += holds(class.delong.unwrap());
        bootstrap += holds(class.interval.unwrap());
    }
    // 95 % of 200 with a standard error of 3.1; both are known to be a little short at 10 positives a fold.
    assert!((178..=199).contains(&delong), "DeLong {delong} of {runs}");
    assert!((174..=199).contains(&bootstrap), "bootstrap {bootstrap} of {runs}");
}

#[test]
fn what_is_no_label_has_no_area() {
    let with = |change: &dyn Fn(usize, &mut Prediction)| {
        let mut rows = cohort(30, 3, 1.0, 1);
        rows.iter_mut().enumerate().for_each(|(i, p)| change(i, p));
        let e = evaluate(&labels(), &rows, settings()).unwrap();
        e.group("A", Part::Mean).unwrap().genes[0].class
    };
    assert!(with(&|_, _| {}).is_some());
    assert!(
        with(&|i, p| if i == 4 {
            p.truth[0] = 0.5
        })
        .is_none(),
        "a value between the classes"
    );
    assert!(with(&|_, p| p.truth[0] = 1.0).is_none(), "one class alone");
    assert!(
        with(&|i, p| if i == 3 {
            p.truth[0] = f64::NAN
        })
        .is_some(),
        "a missing label"
    );
    // Classes that are apart leave DeLong's formula nothing to count.
    let apart = with(&|_, p| p.predicted[0] = p.truth[0]).unwrap();
    assert_eq!((apart.auc, apart.delong, apart.sensitivity), (Some(1.0), None, Some(1.0)));
}

/// Slides of one patient are averaged before anything is counted; with slides as observations DeLong's formula does not hold.
#[test]
fn a_patient_counts_once() {
    let one = cohort(60, 3, 1.0, 5);
    let mut two = one.clone();
    two.extend(one.iter().map(|p| Prediction { slide: format!("{}b", p.slide), ..p.clone() }));
    let class = |rows: &[Prediction], unit| {
        let e = evaluate(&labels(), rows, Settings { unit, ..settings() }).unwrap();
        e.group("A", Part::Pooled).unwrap().genes[0].class.unwrap()
    };
    assert_eq!(class(&one, Unit::Patient), class(&two, Unit::Patient));
    let slides = class(&two, Unit::Slide);
    assert_eq!((slides.positives, slides.delong), (40, None));
    let (a, b) = (class(&one, Unit::Slide).interval.unwrap(), slides.interval.unwrap());
    assert!((a.low - b.low).abs() < 0.02, "patients are drawn with all their slides: {a:?} {b:?}");
}

#[test]
fn tables_show_labels_as_labels() {
    let rows = cohort(60, 3, 1.0, 5);
    let (names, useless) = (labels(), cohort(60, 3, 0.0, 6));
    let methods = [
        Method { name: "isg", genes: &names, predictions: &rows },
        Method { name: "ridge", genes: &names, predictions: &useless },
    ];
    let comparison = Comparison::new(&methods, settings()).unwrap();
    let results = comparison.results();
    let text = tables::text(&results, &comparison.results_over_projects(), Unit::Patient);
    assert!(text.contains("area under the ROC curve") && !text.contains("correlation"), "{text}");
    let label = results[0].label.as_ref().unwrap();
    assert!(text.contains(&format!("{:.3}", label.auc.unwrap())) && text.contains("ridge"), "{text}");
    assert!(label.other_aucs["ridge"].unwrap() < label.auc.unwrap());
    let again: tables::GeneResult = serde_json::from_str(&serde_json::to_string(&results[0]).unwrap()).unwrap();
    assert_eq!(again, results[0]);
    let dir = tempfile::tempdir().unwrap();
    tables::write(dir.path(), &comparison).unwrap();
    let csv = std::fs::read_to_string(dir.path().join(tables::EVALUATION_CSV)).unwrap();
    assert!(
        csv.lines()
            .next()
            .unwrap()
            .ends_with("positives,auc,auc_low,auc_high,delong_low,delong_high,sensitivity,specificity,threshold")
    );
}
