//! Scores by gene, project and fold. Expected numbers are scipy's and numpy's (tools/peers/statistics_peers.py).

use approx::assert_relative_eq;
use isg::{
    eval::{
        metrics::{ALL_PROJECTS, Evaluation, GeneScore, Part, Prediction, Settings, Unit, evaluate},
        multiple::FalseDiscovery,
        permutation::Permutations,
        stats::{Bootstrap, pearson},
        tables::{self, Comparison, Method},
    },
    random::Philox,
};

fn settings() -> Settings {
    Settings {
        bootstrap: Bootstrap { resamples: 400, ..Bootstrap::default() },
        permutations: Permutations { draws: 2000, seed: 0 },
        ..Settings::default()
    }
}

fn prediction(project: &str, patient: usize, fold: usize, truth: Vec<f64>, predicted: Vec<f64>) -> Prediction {
    let patient = format!("{project}{patient:03}");
    let target_span = vec![f64::NAN; truth.len()];
    let slide = format!("{patient}-1");
    Prediction { slide, patient, project: project.into(), repeat: 0, fold, truth, predicted, target_span }
}

/// 24 patients in 3 folds and 2 projects; every third has two slides. Gene 0 is predicted, gene 1 is constant.
fn predictions() -> Vec<Prediction> {
    let mut out = Vec::new();
    for i in 0..24usize {
        for slide in 0..1 + usize::from(i % 3 == 0) {
            let truth = (i * 7 % 24) as f64 + 10.0 * (i % 2) as f64;
            let noise = ((i * 5 + slide * 11) % 13) as f64 - 6.0;
            let mut p = prediction(["A", "B"][i % 2], i, i / 2 % 3, vec![truth, 1.0], vec![truth + noise, 0.5 + noise]);
            p.slide = format!("p{i:02}-s{slide}");
            p.target_span = vec![2.0, 0.5];
            out.push(p);
        }
    }
    out
}

fn genes(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("G{i}")).collect()
}

fn score(e: &Evaluation, project: &str, part: Part, gene: usize) -> GeneScore {
    e.group(project, part).unwrap().genes[gene]
}

const fn fold(fold: usize) -> Part {
    Part::Fold { repeat: 0, fold }
}

#[test]
fn a_result_is_of_a_gene_in_a_project() {
    let rows = predictions();
    let e = evaluate(&genes(2), &rows, settings()).unwrap();
    assert_eq!(e.projects, ["A", "B"]);
    let shape: Vec<(&str, Part)> = e.groups.iter().map(|g| (g.project.as_str(), g.part)).collect();
    let parts = [Part::Mean, Part::Pooled, fold(0), fold(1), fold(2)];
    let wanted: Vec<_> = ["A", "B", ALL_PROJECTS].into_iter().flat_map(|p| parts.map(|part| (p, part))).collect();
    assert_eq!(shape, wanted, "each project, and what is pooled over projects last");
    for (project, part, n, r, rho, mse) in REFERENCE {
        let s = score(&e, project, part, 0);
        assert_eq!(s.n, n);
        assert_relative_eq!(s.pearson.unwrap(), r, max_relative = 1e-12);
        assert_relative_eq!(s.spearman.unwrap(), rho, max_relative = 1e-12);
        assert_relative_eq!(s.mse.unwrap(), mse, max_relative = 1e-12);
        assert_relative_eq!(s.mse_scaled.unwrap(), mse / 4.0, max_relative = 1e-12);
        let constant = score(&e, project, part, 1);
        assert_eq!((constant.pearson, constant.interval, constant.p, constant.q), (None, None, None, None));
        assert!(constant.mse.is_some() && constant.r_squared.is_none());
    }
    for project in ["A", "B", ALL_PROJECTS] {
        for part in [Part::Mean, Part::Pooled] {
            let s = score(&e, project, part, 0);
            let (interval, r) = (s.interval.unwrap(), s.pearson.unwrap());
            assert!(interval.low < r && r < interval.high, "{project} {part:?}: {interval:?} {r}");
            assert_eq!(s.q, s.p, "one defined test needs no correction");
        }
    }
    assert_relative_eq!(
        e.mean_pearson().unwrap(),
        (score(&e, "A", Part::Mean, 0).pearson.unwrap() + score(&e, "B", Part::Mean, 0).pearson.unwrap()) / 2.0
    );
    // The order of lines changes no bit.
    let turned: Vec<Prediction> = rows.iter().rev().cloned().collect();
    assert_eq!(evaluate(&genes(2), &turned, settings()).unwrap(), e);
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(single.install(|| evaluate(&genes(2), &rows, settings()).unwrap()), e);
    assert!(evaluate(&genes(1), &rows, settings()).is_err());
}

/// Project, part, patients, Pearson's and Spearman's correlation, mean squared error.
const REFERENCE: [(&str, Part, usize, f64, f64, f64); 12] = [
    ("A", Part::Mean, 12, 0.9292027147132208, 1.0, 10.6875),
    ("A", Part::Pooled, 12, 0.9212884348644979, 0.9300699300699302, 10.6875),
    ("A", fold(0), 4, 0.9015944599399357, 1.0, 8.8125),
    ("A", fold(2), 4, 0.92708120135366, 1.0, 10.5),
    ("B", Part::Mean, 12, 0.9439906937834781, 1.0, 13.020833333333334),
    ("B", Part::Pooled, 12, 0.8624066833274747, 0.8391608391608393, 13.020833333333334),
    ("B", fold(0), 4, 0.9828721869343219, 1.0, 12.5),
    ("B", fold(2), 4, 0.9216117159697118, 1.0, 17.75),
    (ALL_PROJECTS, Part::Mean, 24, 0.9430438306448901, 0.9801348241467688, 11.854166666666666),
    (ALL_PROJECTS, Part::Pooled, 24, 0.9283861401660457, 0.9275616506394454, 11.854166666666666),
    (ALL_PROJECTS, fold(0), 8, 0.9444668674803803, 0.9523809523809524, 10.65625),
    (ALL_PROJECTS, fold(2), 8, 0.9524398992522787, 0.9880235200593538, 14.125),
];

/// A predictor that knows the project and nothing else.
#[test]
fn knowing_the_project_is_no_prediction() {
    let noise = Philox::named(1, "noise").normals(240);
    let rows: Vec<Prediction> = (0..120)
        .map(|i| {
            let project = i % 2;
            let (truth, predicted) = (project as f64 + 0.3 * noise[2 * i], project as f64 + 0.3 * noise[2 * i + 1]);
            prediction(["A", "B"][project], i, i / 2 % 5, vec![truth], vec![predicted])
        })
        .collect();
    let e = evaluate(&genes(1), &rows, settings()).unwrap();
    let over_projects = score(&e, ALL_PROJECTS, Part::Pooled, 0);
    assert!(over_projects.pearson.unwrap() > 0.6);
    for project in ["A", "B", ALL_PROJECTS] {
        for part in [Part::Mean, Part::Pooled] {
            let p = score(&e, project, part, 0).p.unwrap();
            assert!(p > 0.01, "{project} {part:?}: p {p}: targets change places within the project alone");
        }
    }
    for project in ["A", "B"] {
        assert!(score(&e, project, Part::Mean, 0).pearson.unwrap().abs() < 0.3);
    }
}

/// What a fold's training mean is off by makes a useless predictor's pooled correlation negative; the null knows.
#[test]
fn p_is_uniform_where_nothing_is_predicted() {
    let (patients, folds, count) = (40usize, 5usize, 300usize);
    let truth: Vec<Vec<f64>> = (0..count).map(|g| Philox::named(g as u64, "truth").normals(patients)).collect();
    let noise: Vec<Vec<f64>> = (0..count).map(|g| Philox::named(g as u64, "predicted").normals(patients)).collect();
    let rows: Vec<Prediction> = (0..patients)
        .map(|i| {
            let fold = i % folds;
            let trained = |g: usize| {
                let rest: Vec<f64> = (0..patients).filter(|j| j % folds != fold).map(|j| truth[g][j]).collect();
                rest.iter().sum::<f64>() / rest.len() as f64
            };
            let values = (0..count).map(|g| truth[g][i]).collect();
            let predicted = (0..count).map(|g| trained(g) + 0.02 * noise[g][i]).collect();
            prediction("P", i, fold, values, predicted)
        })
        .collect();
    let e = evaluate(&genes(count), &rows, settings()).unwrap();
    let pooled = e.group("P", Part::Pooled).unwrap();
    let mean_r = pooled.mean_pearson().unwrap();
    assert!(mean_r < -0.2, "the bias is there: {mean_r}");
    for part in [Part::Mean, Part::Pooled] {
        let p: Vec<f64> = e.group("P", part).unwrap().genes.iter().map(|g| g.p.unwrap()).collect();
        for level in [0.05, 0.25, 0.5, 0.75] {
            let share = p.iter().filter(|p| **p <= level).count() as f64 / count as f64;
            let error = (level * (1.0 - level) / count as f64).sqrt();
            assert!((share - level).abs() < 4.0 * error, "{part:?}: {share} of p below {level}");
        }
    }
    // The least that so many draws can say.
    assert!(e.groups.iter().flat_map(|g| &g.genes).filter_map(|g| g.p).all(|p| (1.0 / 2001.0..=1.0).contains(&p)));
}

/// All 3! x 3! exchanges of two folds of three are drawn equally often: p is that of the list of all of them.
#[test]
fn p_agrees_with_the_list_of_all_exchanges() {
    let truth = [1.0, 2.0, 4.0, 0.5, 3.0, 2.5];
    let predicted = [1.2, 1.9, 2.0, 0.1, 2.0, 2.2];
    let rows: Vec<Prediction> = (0..6).map(|i| prediction("P", i, i / 3, vec![truth[i]], vec![predicted[i]])).collect();
    let e =
        evaluate(&genes(1), &rows, Settings { permutations: Permutations { draws: 20_000, seed: 1 }, ..settings() });
    let e = e.unwrap();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let statistic = |a: [usize; 3], b: [usize; 3]| {
        let t: Vec<f64> = a.iter().map(|&i| truth[i]).chain(b.iter().map(|&i| truth[3 + i])).collect();
        let of_fold = |f: usize| pearson(&t[3 * f..3 * f + 3], &predicted[3 * f..3 * f + 3]).unwrap();
        [(of_fold(0) + of_fold(1)) / 2.0, pearson(&t, &predicted).unwrap(), of_fold(0)]
    };
    let observed = statistic([0, 1, 2], [0, 1, 2]);
    let mut hits = [0.0; 3];
    for a in orders {
        for b in orders {
            let r = statistic(a, b);
            (0..3).for_each(|i| hits[i] += f64::from(u8::from(r[i] >= observed[i] - 1e-12)) / 36.0);
        }
    }
    for (part, p) in [Part::Mean, Part::Pooled, fold(0)].into_iter().zip(hits) {
        let ours = score(&e, "P", part, 0).p.unwrap();
        assert!((ours - p).abs() < 4.0 * (p * (1.0 - p) / 20_000.0).sqrt() + 1e-4, "{part:?}: {ours} for {p}");
    }
}

#[test]
fn few_patients_have_no_interval_and_fewer_no_correlation() {
    let rows = |n: usize, folds: usize| -> Vec<Prediction> {
        (0..n).map(|i| prediction("P", i, i % folds, vec![i as f64], vec![(i * i) as f64])).collect()
    };
    let of = |n: usize, folds: usize, part: Part| {
        score(&evaluate(&genes(1), &rows(n, folds), settings()).unwrap(), "P", part, 0)
    };
    for part in [Part::Mean, Part::Pooled, fold(0)] {
        let two = of(2, 1, part);
        assert_eq!((two.n, two.pearson, two.spearman, two.p, two.interval), (2, None, None, None, None));
        assert!(two.mse.is_some());
        let three = of(3, 1, part);
        assert!(three.pearson.is_some() && three.p.is_some() && three.interval.is_none());
        assert!(of(4, 1, part).interval.is_some());
    }
    // One patient a fold: none changes places, and no fold has a correlation.
    let alone = of(9, 9, Part::Pooled);
    assert!(alone.pearson.is_some() && alone.interval.is_some() && alone.p.is_none());
    assert_eq!(of(9, 9, Part::Mean).pearson, None);
    // A fold too small for an interval leaves the mean without one.
    let mean = of(11, 3, Part::Mean);
    assert!(mean.pearson.is_some() && mean.interval.is_none() && mean.p.is_some());
}

#[test]
fn repeats_are_averaged_by_patient_in_the_pool_and_kept_apart_in_the_mean() {
    let noise = Philox::named(2, "noise").normals(60);
    let truth = |i: usize| (i * 7 % 20) as f64;
    let row = |i: usize, repeat: usize, fold: usize| Prediction {
        repeat,
        ..prediction("P", i, fold, vec![truth(i)], vec![truth(i) + 4.0 * noise[20 * repeat + i]])
    };
    // Other folds in every repeat.
    let rows: Vec<Prediction> = (0..20).flat_map(|i| [row(i, 0, i % 2), row(i, 1, i / 10)]).collect();
    let e = evaluate(&genes(1), &rows, settings()).unwrap();
    let of = |keep: &dyn Fn(usize) -> bool, noise_of: &dyn Fn(usize) -> f64| {
        let some: Vec<usize> = (0..20).filter(|&i| keep(i)).collect();
        let (t, p): (Vec<f64>, Vec<f64>) = some.iter().map(|&i| (truth(i), truth(i) + 4.0 * noise_of(i))).unzip();
        pearson(&t, &p).unwrap()
    };
    let pooled = score(&e, "P", Part::Pooled, 0);
    assert_eq!(pooled.n, 20);
    let both = |i: usize| (noise[i] + noise[20 + i]) / 2.0;
    assert_relative_eq!(pooled.pearson.unwrap(), of(&|_| true, &both), max_relative = 1e-12);
    let folds: [f64; 4] = [
        of(&|i| i % 2 == 0, &|i| noise[i]),
        of(&|i| i % 2 == 1, &|i| noise[i]),
        of(&|i| i < 10, &|i| noise[20 + i]),
        of(&|i| i >= 10, &|i| noise[20 + i]),
    ];
    for (i, wanted) in folds.into_iter().enumerate() {
        let part = Part::Fold { repeat: i / 2, fold: i % 2 };
        let s = score(&e, "P", part, 0);
        assert_relative_eq!(s.pearson.unwrap(), wanted, max_relative = 1e-12);
        assert_eq!(s.n, 10);
    }
    let mean = score(&e, "P", Part::Mean, 0);
    assert_relative_eq!(mean.pearson.unwrap(), folds.iter().sum::<f64>() / 4.0, max_relative = 1e-12);
    assert!(mean.p.unwrap() < 0.01 && mean.interval.is_some() && pooled.p.unwrap() < 0.01);
    // Repeats with the same folds are as one cross-validation twice as good.
    let same: Vec<Prediction> = (0..20).flat_map(|i| [row(i, 0, i % 2), row(i, 1, i % 2)]).collect();
    let e = evaluate(&genes(1), &same, settings()).unwrap();
    assert!(score(&e, "P", Part::Mean, 0).p.unwrap() < 0.01);
}

#[test]
fn genes_measured_in_other_patients_are_scored_by_themselves() {
    let mut rows = predictions();
    for (i, row) in rows.iter_mut().enumerate() {
        row.truth.push(if i % 5 == 0 { f64::NAN } else { row.truth[0] });
        row.predicted.push(row.predicted[0]);
        row.target_span.push(f64::NAN);
    }
    let e = evaluate(&genes(3), &rows, settings()).unwrap();
    let kept: Vec<Prediction> = (rows.iter())
        .filter(|row| row.truth[2].is_finite())
        .map(|row| Prediction {
            truth: vec![row.truth[2]],
            predicted: vec![row.predicted[2]],
            target_span: vec![f64::NAN],
            ..row.clone()
        })
        .collect();
    let alone = evaluate(&genes(1), &kept, settings()).unwrap();
    let first = evaluate(&genes(2), &predictions(), settings()).unwrap();
    for part in [Part::Mean, Part::Pooled] {
        let (ours, theirs) = (score(&e, "A", part, 2), score(&alone, "A", part, 0));
        assert_eq!(
            (ours.n, ours.pearson, ours.interval, ours.p),
            (theirs.n, theirs.pearson, theirs.interval, theirs.p)
        );
        assert_eq!(ours.mse_scaled, None, "the scale is unknown");
        let (ours, theirs) = (score(&e, "A", part, 0), score(&first, "A", part, 0));
        assert_eq!((ours.pearson, ours.interval, ours.p), (theirs.pearson, theirs.interval, theirs.p));
    }
}

#[test]
fn slides_have_no_p() {
    let e = evaluate(&genes(2), &predictions(), Settings { unit: Unit::Slide, ..settings() }).unwrap();
    let pooled = score(&e, ALL_PROJECTS, Part::Pooled, 0);
    assert_eq!((pooled.n, pooled.p, pooled.q), (32, None, None));
    assert!(pooled.interval.is_some());
}

#[test]
fn contradictions_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<Prediction>)| {
        let mut rows = predictions();
        change(&mut rows);
        evaluate(&genes(2), &rows, settings()).map(drop).expect_err("a contradiction").to_string()
    };
    assert!(refused(&|rows| rows[0].fold = 2).contains("patient A000 is tested in folds"));
    assert!(refused(&|rows| rows[1].slide = rows[0].slide.clone()).contains("predicted twice"));
    assert!(refused(&|rows| rows[3].slide = rows[0].slide.clone()).contains("is of patient A000 and of patient"));
    assert!(
        refused(&|rows| rows[1] = Prediction { project: "B".into(), repeat: 1, ..rows[0].clone() }).contains("project")
    );
    let other_truth = refused(&|rows| {
        let mut again = rows[0].clone();
        (again.repeat, again.truth[0]) = (1, 77.0);
        rows.push(again);
    });
    assert!(other_truth.contains("gene G0") && other_truth.contains("77"), "{other_truth}");
    let name = refused(&|rows| rows.iter_mut().filter(|r| r.project == "B").for_each(|r| r.project = "all".into()));
    assert!(name.contains("rename"), "{name}");
}

#[test]
fn tables_hold_every_score_and_read_naturally() {
    let (rows, names) = (predictions(), genes(2));
    let weaker: Vec<Prediction> = rows
        .iter()
        .map(|r| Prediction { predicted: r.predicted.iter().rev().copied().collect(), ..r.clone() })
        .collect();
    let method = |name, predictions| Method { name, genes: &names, predictions };
    let by = Settings { false_discovery: FalseDiscovery::BenjaminiYekutieli, ..settings() };
    let c = Comparison::new(&[method("isg", &rows[..]), method("ridge", &weaker[..])], by).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tables::write(dir.path(), &c).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join(tables::EVALUATION_JSON)).unwrap()).unwrap();
    let json = json.as_array().unwrap();
    // Methods, groups, genes.
    assert_eq!(json.len(), 2 * 15 * 2);
    assert_eq!(
        (json[0]["project"].as_str(), json[0]["fold"].as_str(), json[0]["n"].as_u64()),
        (Some("A"), Some("mean"), Some(12))
    );
    assert_eq!(
        (json[4]["fold"].as_u64(), json[4]["repeat"].as_u64(), json[4]["method"].as_str()),
        (Some(0), Some(0), Some("isg"))
    );
    assert_eq!(json[29]["project"], "all");
    for key in ["pearson", "pearson_low", "pearson_high", "p", "q", "spearman", "mse", "mse_scaled", "r2"] {
        assert!(json[0][key].is_f64(), "{key}: {}", json[0]);
        assert!(json[0].get(key).is_some());
    }
    assert!(json[1]["pearson"].is_null() && json[1]["gene"] == "G1");
    let csv = std::fs::read_to_string(dir.path().join(tables::EVALUATION_CSV)).unwrap();
    let header = "method,project,fold,repeat,gene,n,pearson,pearson_low,pearson_high,p,q,spearman,mse,mse_scaled,r2";
    assert_eq!(csv.lines().next(), Some(header));
    assert!(csv.lines().nth(2).unwrap().starts_with("isg,A,mean,,G1,12,,,,,,,"), "{csv}");
    assert!(csv.lines().nth(5).unwrap().starts_with("isg,A,0,0,G0,4,") && !csv.contains("NaN"));

    let text = tables::text(&c.results(), &c.results_over_projects(), Unit::Patient);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("within each project") && lines[1].starts_with("project") && lines[1].ends_with("ridge"));
    assert!(
        lines[2].starts_with("A ")
            && lines[4].starts_with("B ")
            && lines[6].starts_with("mean over genes and projects: ")
    );
    assert!(lines[8].starts_with("all projects together"), "{text}");
    let one: Vec<Prediction> = rows.iter().filter(|r| r.project == "A").cloned().collect();
    let c = Comparison::new(&[method("isg", &one[..])], by).unwrap();
    let text = tables::text(&c.results(), &c.results_over_projects(), Unit::Patient);
    assert!(!text.contains("project"), "{text}");
    assert!(tables::explanation(&by, &[]).contains("Benjamini-Yekutieli"));
}
