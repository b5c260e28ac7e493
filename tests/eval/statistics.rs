//! Expected numbers are scipy 1.17's, unless a closed form is given.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use isg::eval::{
    multiple::{benjamini_hochberg, benjamini_yekutieli, holm},
    paired::{bootstrap, delong, sensitivity_at_specificity, steiger},
    permutation::p_values,
    stats::{
        Alternative, Bootstrap, bootstrap_interval, correlation_p_value, fisher_interval, incomplete_beta,
        mean_squared_error, normal_quantile, pearson, quantile, r_squared, ranks, roc_auc, roc_auc_interval, spearman,
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

/// statsmodels 0.14's multipletests.
#[test]
fn corrections_for_many_tests() {
    let p = [0.01, 0.04, 0.03, 0.005, 0.5, 0.2, 0.03].map(Some);
    let close = |ours: Vec<Option<f64>>, wanted: [f64; 7]| {
        ours.iter()
            .zip(wanted)
            .for_each(|(ours, wanted)| assert_relative_eq!(ours.unwrap(), wanted, max_relative = 1e-12));
    };
    close(benjamini_hochberg(&p), BH);
    close(benjamini_yekutieli(&p), BY);
    close(holm(&p), HOLM);
    assert_eq!(benjamini_yekutieli(&[None, Some(0.2), None]), [None, Some(0.2), None], "one test needs no correction");
    assert_eq!(holm(&[Some(0.9), None, Some(0.8)]), [Some(1.0), None, Some(1.0)]);
}

const BH: [f64; 7] = [0.035, 0.056, 0.0525, 0.035, 0.5, 0.23333333333333336, 0.0525];
const BY: [f64; 7] = [0.09075, 0.14519999999999997, 0.136125, 0.09075, 1.0, 0.605, 0.136125];
const HOLM: [f64; 7] = [0.06, 0.15, 0.15, 0.035, 0.5, 0.4, 0.15];

#[test]
fn permuted_statistics_as_high_as_the_observed_one_are_hits() {
    // The observed value itself counts, and so does a tie that rounding broke.
    assert_eq!(p_values(0.5, &[0.5 - 1e-13, 0.4, -0.6, 0.7]), (3.0 / 5.0, 4.0 / 5.0));
    assert_eq!(p_values(0.9, &[]), (1.0, 1.0));
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

/// Two predictors of the same ten patients; numbers by numpy from the formulas' definitions.
#[test]
fn two_predictors_are_compared() {
    const OTHER: [f64; 10] = [2.0, 2.4, 2.2, 4.9, 3.0, 2.9, 5.5, 2.0, 1.9, 3.3];
    let s = steiger(&X, &Y, &OTHER).unwrap();
    assert_relative_eq!(s.z, STEIGER[0], max_relative = 1e-12);
    assert_relative_eq!(s.p, STEIGER[1], max_relative = 1e-10);
    assert_relative_eq!(s.t, STEIGER[2], max_relative = 1e-12);
    assert_relative_eq!(s.p_williams, STEIGER[3], max_relative = 1e-10);
    assert_eq!(steiger(&X, &Y, &Y), None, "one prediction twice");
    let positive = [false, true, false, true, true, false, true, false, false, true];
    let d = delong(&Y, &OTHER, &positive, 0.95).unwrap();
    for (ours, wanted) in
        [d.auc, d.variance, d.interval.low, d.interval.high, d.other, d.variance_other, d.covariance, d.z, d.p]
            .iter()
            .zip(DELONG)
    {
        assert_relative_eq!(*ours, wanted, max_relative = 1e-10);
    }
    assert_relative_eq!(d.auc, roc_auc(&Y, &positive).unwrap(), max_relative = 1e-14);
    assert_eq!(delong(&Y, &OTHER, &[true; 10], 0.95), None);
    let point = sensitivity_at_specificity(&Y, &positive, 0.8).unwrap();
    assert_eq!((point.threshold, point.specificity, point.sensitivity), (2.9, 0.8, 1.0));
    assert_eq!(sensitivity_at_specificity(&[1.0, 1.0], &[true, false], 0.5), None);
    let (delta, deltas, interval) =
        bootstrap(&X, &Y, &OTHER, &[(0..10).collect(), (0..10).map(|i| i / 2).collect()], 0.95).unwrap();
    assert_eq!(deltas[0], delta);
    assert!(interval.low <= interval.high && bootstrap(&X, &Y, &OTHER, &[vec![3; 10]], 0.95).is_none());
}

const STEIGER: [f64; 4] = [0.09810087354996834, 0.9218521938813364, 0.09900270094376146, 0.9239116337423857];
const DELONG: [f64; 9] = [
    0.9199999999999999,
    0.008799999999999999,
    0.73613908076454,
    1.0,
    0.96,
    0.003199999999999999,
    0.0003999999999999994,
    -0.3779644730092276,
    0.7054569861112732,
];

/// The reference cases of everything here that they have, to the last digits.
#[test]
fn conformance_cases_of_methods() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/methods");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("no ../shared/conformance here: the numbers above stand in for it");
        return;
    };
    let mut seen = std::collections::BTreeSet::new();
    for path in entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        let file = isg::io::safetensors::SafetensorsFile::open(&path).unwrap();
        let get = |name: &str| file.get(name).unwrap().to_f64();
        let one = |name: &str| get(&format!("out.{name}"))[0];
        let some = |name: &str| get(name).into_iter().map(Some).collect::<Vec<Option<f64>>>();
        let close = |ours: f64, name: &str, tolerance: f64| {
            let wanted = one(name);
            assert!(
                (ours - wanted).abs() <= tolerance * wanted.abs().max(1e-10),
                "{path:?} {name}: {ours} for {wanted}"
            );
        };
        let all_close = |ours: &[Option<f64>], name: &str| {
            for (ours, wanted) in ours.iter().zip(get(name)) {
                assert_relative_eq!(ours.unwrap(), wanted, max_relative = 1e-12);
            }
        };
        let rows = |name: &str| -> Vec<Vec<usize>> {
            let view = file.get(name).unwrap();
            let n = view.shape[1];
            view.to_f64().chunks(n).map(|row| row.iter().map(|i| *i as usize).collect()).collect()
        };
        let op = file.metadata_value("op").unwrap_or_default().to_string();
        match op.as_str() {
            "benjamini_hochberg" => all_close(&benjamini_hochberg(&some("in.p")), "out.q"),
            "benjamini_yekutieli" => all_close(&benjamini_yekutieli(&some("in.p")), "out.q"),
            "holm" => all_close(&holm(&some("in.p")), "out.adjusted"),
            "steiger" => {
                let s = steiger(&get("in.truth"), &get("in.first"), &get("in.second")).unwrap();
                for (ours, name) in
                    [(s.first, "r_first"), (s.second, "r_second"), (s.between, "r_between"), (s.z, "z"), (s.t, "t")]
                {
                    close(ours, name, 1e-11);
                }
                close(s.p, "p", 1e-9);
                close(s.p_williams, "p_williams", 1e-9);
            }
            "delong" => {
                let positive: Vec<bool> = get("in.label").iter().map(|l| *l == 1.0).collect();
                let d = delong(&get("in.score"), &get("in.other"), &positive, 0.95).unwrap();
                let numbers =
                    [d.auc, d.variance, d.interval.low, d.interval.high, d.other, d.variance_other, d.covariance, d.z];
                let names = ["auc", "variance", "low", "high", "auc_other", "variance_other", "covariance", "z"];
                numbers.into_iter().zip(names).for_each(|(ours, name)| close(ours, name, 1e-11));
                close(d.p, "p", 1e-9);
            }
            "paired_bootstrap" => {
                let (truth, first, second) = (get("in.truth"), get("in.first"), get("in.second"));
                let (delta, deltas, interval) =
                    bootstrap(&truth, &first, &second, &rows("in.resamples"), 0.95).unwrap();
                for (ours, wanted) in deltas.iter().zip(get("out.deltas")) {
                    assert_abs_diff_eq!(ours, &wanted, epsilon = 1e-13);
                }
                for (ours, name) in [(delta, "delta"), (interval.low, "low"), (interval.high, "high")] {
                    close(ours, name, 1e-10);
                }
            }
            "permutation_p" => {
                let (truth, predicted) = (get("in.truth"), get("in.prediction"));
                let r = |order: &Vec<usize>| {
                    pearson(&order.iter().map(|&i| truth[i]).collect::<Vec<f64>>(), &predicted).unwrap()
                };
                let null: Vec<f64> = rows("in.permutations").iter().map(r).collect();
                let (greater, two_sided) = p_values(pearson(&truth, &predicted).unwrap(), &null);
                close(greater, "p_greater", 1e-12);
                close(two_sided, "p_two_sided", 1e-12);
            }
            "sensitivity_at_specificity" => {
                let attributes: serde_json::Value =
                    serde_json::from_str(file.metadata_value("attrs").unwrap()).unwrap();
                let positive: Vec<bool> = get("in.label").iter().map(|l| *l == 1.0).collect();
                let wanted = attributes["specificity"].as_f64().unwrap();
                let point = sensitivity_at_specificity(&get("in.score"), &positive, wanted).unwrap();
                close(point.sensitivity, "sensitivity", 1e-12);
                close(point.specificity, "specificity", 1e-12);
                close(point.threshold, "threshold", 1e-12);
            }
            _ => continue,
        }
        seen.insert(op);
    }
    assert_eq!(seen.len(), 8, "every statistic has a case: {seen:?}");
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
