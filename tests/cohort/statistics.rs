//! Expected numbers are scipy 1.17's, unless a closed form is given.

use approx::assert_relative_eq;
use isg::eval::{
    metrics::{Prediction, Unit, evaluate, write_scores_csv},
    stats::{
        Alternative, Bootstrap, benjamini_hochberg, bootstrap_interval, correlation_p_value, fisher_interval,
        incomplete_beta, mean_squared_error, normal_quantile, pearson, quantile, r_squared, ranks, roc_auc,
        roc_auc_interval, spearman,
    },
};
use proptest::prelude::*;

const X: [f64; 10] = [2.1, 3.4, 1.9, 5.6, 4.4, 2.2, 7.1, 3.3, 0.4, 6.0];
const Y: [f64; 10] = [1.0, 2.9, 2.5, 4.1, 4.4, 1.2, 5.9, 3.7, 1.1, 3.2];

#[test]
fn correlations_and_their_p_values() {
    let r = pearson(&X, &Y).unwrap();
    assert_relative_eq!(r, 0.8588989413461068, max_relative = 1e-14);
    let p = |r, n, alternative| correlation_p_value(r, n, alternative).unwrap();
    assert_relative_eq!(p(r, 10, Alternative::TwoSided), 0.0014574784817984118, max_relative = 1e-12);
    assert_relative_eq!(p(r, 10, Alternative::Greater), 0.0007287392408992059, max_relative = 1e-12);
    let interval = fisher_interval(r, 10, 0.95).unwrap();
    assert_relative_eq!(interval.low, 0.4992711956641959, max_relative = 1e-12);
    assert_relative_eq!(interval.high, 0.9660821537036185, max_relative = 1e-12);
    let rho = spearman(&X, &Y).unwrap();
    assert_relative_eq!(rho, 0.8303030303030302, max_relative = 1e-14);
    assert_relative_eq!(p(rho, 10, Alternative::TwoSided), 0.002940227023279509, max_relative = 1e-12);
    for (r, n, two_sided, greater) in [
        (0.1, 50, 0.4895925517611764, 0.2447962758805882),
        (0.9, 100, 4.063405277490808e-37, 2.031702638745404e-37),
        (-0.3, 20, 0.1987577173445536, 0.9006211413277232),
        (0.02, 10000, 0.045505662655075926, 0.022752831327537963),
        (0.999, 30, 2.4337102825768608e-39, 1.2168551412884304e-39),
    ] {
        assert_relative_eq!(p(r, n, Alternative::TwoSided), two_sided, max_relative = 1e-10);
        assert_relative_eq!(p(r, n, Alternative::Greater), greater, max_relative = 1e-10);
    }
}

#[test]
fn ties_share_ranks() {
    let x = [1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.0, 8.0];
    let y = [3.0, 1.0, 4.0, 4.0, 4.0, 6.0, 9.0, 2.0];
    assert_eq!(ranks(&x).unwrap(), [1.0, 2.5, 2.5, 4.0, 6.0, 6.0, 6.0, 8.0]);
    assert_eq!(ranks(&[0.0, -0.0, 1.0]).unwrap(), [1.5, 1.5, 3.0]);
    assert_relative_eq!(spearman(&x, &y).unwrap(), 0.30189276325597664, max_relative = 1e-14);
}

#[test]
fn the_incomplete_beta_function() {
    for (a, b, x, value) in [
        (0.5, 0.5, 0.3, 0.36901011956554536),
        (2.0, 3.0, 0.5, 0.6875),
        (10.0, 0.5, 0.9, 0.15164090963470994),
        (500.0, 0.5, 0.99, 0.0015273578790529906),
        (5000.0, 0.5, 0.9999, 0.3173105072579534),
        (1.0, 1.0, 0.25, 0.25),
        (49.0, 0.5, 0.2, 5.0473655110048576e-36),
        (0.5, 3.0, 0.001, 0.05925318951594623),
    ] {
        assert_relative_eq!(incomplete_beta(a, b, x), value, max_relative = 1e-10);
    }
    assert_eq!((incomplete_beta(2.0, 3.0, 0.0), incomplete_beta(2.0, 3.0, 1.0)), (0.0, 1.0));
    assert_relative_eq!(normal_quantile(0.025), 1.9599639845400545, max_relative = 1e-12);
    assert_relative_eq!(normal_quantile(1e-10), 6.361340902404056, max_relative = 1e-12);
}

#[test]
fn what_is_undefined_is_none() {
    assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
    assert_eq!(pearson(&[0.1; 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), None);
    assert_eq!(pearson(&[1.0], &[1.0]), None);
    assert_eq!(pearson(&[1.0, 2.0], &[1.0]), None);
    assert_eq!(pearson(&[1.0, f64::NAN], &[1.0, 2.0]), None);
    assert_eq!(spearman(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]), None);
    assert_eq!(correlation_p_value(0.5, 2, Alternative::TwoSided), None);
    assert_eq!(fisher_interval(0.5, 3, 0.95), None);
    assert_eq!(roc_auc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(roc_auc(&[1.0, f64::NAN], &[true, false]), None);
    assert_eq!(r_squared(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(mean_squared_error(&[], &[]), None);
    assert_eq!(quantile(&[], 0.5), None);
    // Huge and tiny numbers neither overflow nor vanish.
    assert_relative_eq!(pearson(&[1e300, -1e300, 5e299], &[3e-300, 1e-300, 2.5e-300]).unwrap(), 1.0, epsilon = 1e-12);
}

#[test]
fn errors_and_false_discovery() {
    assert_eq!(mean_squared_error(&[1.0, 2.0], &[2.0, 4.0]), Some(2.5));
    assert_relative_eq!(r_squared(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0]).unwrap(), 0.5);
    let p = [Some(0.01), Some(0.04), None, Some(0.03), Some(0.005), Some(0.5), Some(0.2)];
    let q = benjamini_hochberg(&p);
    let expected = [Some(0.03), Some(0.06), None, Some(0.06), Some(0.03), Some(0.5), Some(0.24)];
    for (q, expected) in q.iter().zip(expected) {
        match (q, expected) {
            (Some(q), Some(e)) => assert_relative_eq!(*q, e, max_relative = 1e-12),
            (q, e) => assert_eq!(*q, e),
        }
    }
}

#[test]
fn bootstrap_intervals_cover_and_repeat() {
    let settings = Bootstrap { resamples: 2000, level: 0.95, seed: 5 };
    let mean = |draw: &[usize]| Some(draw.iter().map(|&i| X[i]).sum::<f64>() / draw.len() as f64);
    let interval = bootstrap_interval(X.len(), settings, mean).unwrap();
    // The bootstrap of a mean is close to mean ± 1.96 standard errors (3.64 ± 1.26 here).
    assert_relative_eq!(interval.low, 2.42, epsilon = 0.12);
    assert_relative_eq!(interval.high, 4.86, epsilon = 0.12);
    assert_eq!(bootstrap_interval(X.len(), settings, mean), Some(interval));
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(single.install(|| bootstrap_interval(X.len(), settings, mean)), Some(interval));
    let other = bootstrap_interval(X.len(), Bootstrap { seed: 6, ..settings }, mean);
    assert_ne!(other, Some(interval));
    assert_eq!(bootstrap_interval(3, settings, |_| None), None);
    assert_eq!(bootstrap_interval(0, settings, mean), None);

    let positive: Vec<bool> = (0..40).map(|i| i % 3 == 0).collect();
    let scores: Vec<f64> = (0..40).map(|i| f64::from(i % 3 == 0) + f64::from(i * 7 % 11) / 6.0).collect();
    let auc = roc_auc(&scores, &positive).unwrap();
    let interval = roc_auc_interval(&scores, &positive, settings).unwrap();
    assert!(interval.low < auc && auc < interval.high && interval.high <= 1.0, "{interval:?} {auc}");
}

/// The reference cases of both statistics, to the last digits.
#[test]
fn conformance_cases() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/cases");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("no ../shared/conformance here: scipy's numbers above stand in for it");
        return;
    };
    let mut seen = 0;
    for path in entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        let file = isg::io::safetensors::SafetensorsFile::open(&path).unwrap();
        let get = |name: &str| file.get(name).unwrap().to_f64();
        match file.metadata_value("op") {
            Some("pearson") => {
                let (x, y, r) = (get("in.x"), get("in.y"), get("out.r"));
                for (gene, expected) in r.iter().enumerate() {
                    let column = |v: &[f64]| v.iter().skip(gene).step_by(r.len()).copied().collect::<Vec<f64>>();
                    assert_relative_eq!(pearson(&column(&x), &column(&y)).unwrap(), expected, max_relative = 1e-12);
                }
            }
            Some("roc_auc") => {
                let positive: Vec<bool> = get("in.label").iter().map(|l| *l == 1.0).collect();
                assert_relative_eq!(
                    roc_auc(&get("in.score"), &positive).unwrap(),
                    get("out.auc")[0],
                    max_relative = 1e-14
                );
            }
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 2, "cases of both statistics");
}

fn predictions() -> Vec<Prediction> {
    // 24 patients in 4 folds and 2 projects; every third has two slides. Gene 0 is predicted, gene 1 is constant.
    let mut out = Vec::new();
    for i in 0..24usize {
        for slide in 0..1 + usize::from(i % 3 == 0) {
            let truth = (i * 7 % 24) as f64;
            let noise = ((i * 5 + slide * 11) % 13) as f64 - 6.0;
            out.push(Prediction {
                slide: format!("p{i:02}-s{slide}"),
                patient: format!("p{i:02}"),
                project: ["A", "B"][i % 2].to_string(),
                fold: i % 4,
                truth: vec![truth, 1.0],
                predicted: vec![truth + noise, 0.5 + noise],
            });
        }
    }
    out
}

#[test]
fn evaluation_by_gene_fold_and_project() {
    let genes = ["G".to_string(), "constant".to_string()];
    let rows = predictions();
    let e = evaluate(&genes, &rows, Unit::Patient, Bootstrap::default()).unwrap();
    assert_eq!(e.pooled.genes[0].n, 24);
    assert_eq!((e.folds.len(), e.projects.len()), (4 + 2 * 4, 2));
    let gene = &e.pooled.genes[0];
    // By hand: patients with two slides enter with the mean of their predictions.
    let (mut truth, mut predicted) = (Vec::new(), Vec::new());
    for i in 0..24 {
        let of_patient: Vec<&Prediction> = rows.iter().filter(|p| p.patient == format!("p{i:02}")).collect();
        truth.push(of_patient[0].truth[0]);
        predicted.push(of_patient.iter().map(|p| p.predicted[0]).sum::<f64>() / of_patient.len() as f64);
    }
    assert_eq!(gene.pearson, pearson(&truth, &predicted));
    assert!(gene.pearson.unwrap() > 0.7);
    let interval = gene.pearson_interval.unwrap();
    assert!(interval.low < gene.pearson.unwrap() && gene.pearson.unwrap() < interval.high);
    assert!(gene.p_one_sided.unwrap() < 1e-4);
    assert_eq!(gene.false_discovery_rate, gene.p_one_sided, "one defined test needs no correction");
    let constant = &e.pooled.genes[1];
    assert_eq!((constant.pearson, constant.pearson_interval, constant.p_one_sided), (None, None, None));
    assert!(constant.mse.is_some() && constant.r_squared.is_none());
    assert_eq!(e.pooled.mean_pearson(), gene.pearson);
    let by_fold: Vec<f64> = e.folds[..4].iter().map(|f| f.genes[0].pearson.unwrap()).collect();
    assert_relative_eq!(e.fold_means()[0].unwrap(), by_fold.iter().sum::<f64>() / 4.0);
    assert_eq!(e.fold_means()[1], None);
    let by_slide = evaluate(&genes, &rows, Unit::Slide, Bootstrap::default()).unwrap();
    assert_eq!(by_slide.pooled.genes[0].n, 32);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scores.csv");
    write_scores_csv(&path, &e).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 1 + 2 * (1 + 2 + 12));
    assert!(text.lines().nth(2).unwrap().starts_with("all,all,constant,24,,,,,,,,"));
    assert!(!text.contains("NaN"));
    assert!(evaluate(&genes[..1], &rows, Unit::Patient, Bootstrap::default()).is_err());
}

proptest! {
    #[test]
    fn pearson_is_invariant_and_bounded(
        pairs in prop::collection::vec((-1e3..1e3f64, -1e3..1e3f64), 2..60),
        scale in 1e-3..1e3f64,
        shift in -1e3..1e3f64,
    ) {
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        if let Some(r) = pearson(&x, &y) {
            prop_assert!((-1.0..=1.0).contains(&r));
            prop_assert_eq!(pearson(&y, &x), Some(r));
            let moved: Vec<f64> = x.iter().map(|v| v * scale + shift).collect();
            let spread = x.iter().fold(0.0f64, |m, v| m.max((v - x[0]).abs()));
            if spread > 1.0 {
                prop_assert!((pearson(&moved, &y).unwrap_or(r) - r).abs() < 1e-6);
            }
            let p = correlation_p_value(r, x.len(), Alternative::TwoSided);
            prop_assert!(p.is_none_or(|p| (0.0..=1.0).contains(&p)));
        }
    }

    #[test]
    fn auc_counts_pairs(rows in prop::collection::vec((0..12i32, any::<bool>()), 2..80)) {
        let scores: Vec<f64> = rows.iter().map(|(s, _)| f64::from(*s)).collect();
        let positive: Vec<bool> = rows.iter().map(|(_, p)| *p).collect();
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (i, &a) in scores.iter().enumerate() {
            for (j, &b) in scores.iter().enumerate() {
                if positive[i] && !positive[j] {
                    pairs += 1.0;
                    wins += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                }
            }
        }
        let auc = roc_auc(&scores, &positive);
        prop_assert_eq!(auc.is_some(), pairs > 0.0);
        if let Some(auc) = auc {
            prop_assert!((auc - wins / pairs).abs() < 1e-12);
        }
    }

    #[test]
    fn false_discovery_rates_keep_order(p in prop::collection::vec(0.0..=1.0f64, 1..50)) {
        let q = benjamini_hochberg(&p.iter().copied().map(Some).collect::<Vec<_>>());
        for i in 0..p.len() {
            prop_assert!(q[i].unwrap() >= p[i] && q[i].unwrap() <= 1.0);
            for j in 0..p.len() {
                prop_assert!(p[i] > p[j] || q[i].unwrap() <= q[j].unwrap());
            }
        }
    }
}
