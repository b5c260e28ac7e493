//! Folds and target scales: whatever the patients, sites and seeds.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use std::collections::{BTreeMap, BTreeSet, HashSet};

use isg::cohort::{
    Fold, Scaling, SplitConfig, SplitPatient, Splits, Stratify, TargetScaler, Transform, targets::TableScale,
};
use proptest::prelude::*;

use super::write;

fn patients(n: usize, sites: usize) -> Vec<SplitPatient> {
    (0..n)
        .map(|i| SplitPatient {
            id: format!("TCGA-{:02}-{i:04}", i % sites),
            site: Some(format!("{:02}", i % sites)),
            project: Some(["LUAD", "LUSC"][usize::from(i % 5 == 0)].to_string()),
            label: None,
        })
        .collect()
}

/// Disjoint sets, tests that partition the patients, a tenth for validation.
fn check(splits: &Splits, patients: &[SplitPatient], config: &SplitConfig) -> Result<(), TestCaseError> {
    let all: BTreeSet<&str> = patients.iter().map(|p| p.id.as_str()).collect();
    let mut tested = Vec::new();
    prop_assert_eq!(splits.folds.len(), config.folds);
    for fold in &splits.folds {
        let sets = [&fold.train, &fold.valid, &fold.test];
        let union: HashSet<&str> = sets.iter().flat_map(|s| s.iter().map(String::as_str)).collect();
        prop_assert_eq!(union.len(), sets.iter().map(|s| s.len()).sum::<usize>(), "no patient is in two sets");
        prop_assert_eq!(union.len(), all.len(), "every patient is in one");
        prop_assert!(!fold.train.is_empty() && !fold.test.is_empty());
        let rest = all.len() - fold.test.len();
        let wanted = (rest as f64 * config.valid_fraction).round();
        if config.stratify == Stratify::SitePreserved {
            let sites = |ids: &[String]| ids.iter().map(|id| id[..7].to_string()).collect::<HashSet<_>>();
            let rest: HashSet<String> = sites(&fold.train).union(&sites(&fold.valid)).cloned().collect();
            prop_assert!(rest.len() < 2 || sites(&fold.train).is_disjoint(&sites(&fold.valid)), "of other sites");
            prop_assert!(!fold.valid.is_empty());
        } else {
            // One more where a small project would have none.
            prop_assert!((fold.valid.len() as f64 - wanted.max(1.0)).abs() <= 1.0);
        }
        tested.extend(fold.test.iter().map(String::as_str));
    }
    prop_assert_eq!(tested.len(), all.len());
    prop_assert_eq!(tested.into_iter().collect::<BTreeSet<_>>(), all);
    Ok(())
}

proptest! {
    #[test]
    fn folds_partition_patients(n in 5..120usize, folds in 2..6usize, seed: u64, sites in 5..12usize, kind in 0..4usize) {
        let stratify = [Stratify::None, Stratify::Site, Stratify::Project, Stratify::SitePreserved][kind];
        let config = SplitConfig { folds, seed, stratify, ..SplitConfig::default() };
        let patients = patients(n, sites.min(n));
        let splits = Splits::draw(&patients, &config).unwrap();
        check(&splits, &patients, &config)?;
        // The same whichever way the table was sorted, and however often a patient has a slide.
        let mut turned: Vec<SplitPatient> = patients.iter().rev().cloned().collect();
        turned.push(patients[0].clone());
        prop_assert_eq!(&Splits::draw(&turned, &config).unwrap(), &splits);
        if stratify != Stratify::SitePreserved {
            let sizes: Vec<usize> = splits.folds.iter().map(|f| f.test.len()).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }
}

#[test]
fn sites_are_spread_or_kept_whole() {
    let patients = patients(100, 8);
    let site_of: BTreeMap<&str, &str> = patients.iter().map(|p| (p.id.as_str(), p.site.as_deref().unwrap())).collect();
    let config = SplitConfig { stratify: Stratify::Site, seed: 1, ..SplitConfig::default() };
    let spread = Splits::draw(&patients, &config).unwrap();
    for fold in &spread.folds {
        let mut per_site: BTreeMap<&str, usize> = BTreeMap::new();
        fold.test.iter().for_each(|p| *per_site.entry(site_of[p.as_str()]).or_default() += 1);
        assert_eq!(per_site.len(), 8, "every site is in every fold");
        assert!(per_site.values().all(|n| (1..=4).contains(n)), "{per_site:?}");
    }
    let config = SplitConfig { stratify: Stratify::SitePreserved, ..config };
    let whole = Splits::draw(&patients, &config).unwrap();
    let mut seen = HashSet::new();
    for fold in &whole.folds {
        let sites: HashSet<&str> = fold.test.iter().map(|p| site_of[p.as_str()]).collect();
        assert!(sites.iter().all(|s| seen.insert(*s)), "a site is tested in one fold only");
    }
    let few = SplitConfig { folds: 9, ..config };
    assert!(Splits::draw(&patients, &few).unwrap_err().to_string().contains("8 sites"));
}

/// HE2RNA watches every project while it trains: the small ones too.
#[test]
fn every_project_has_validation_patients_where_it_can() {
    let mut patients = patients(100, 8);
    patients.iter_mut().for_each(|p| p.project = Some("LARGE".into()));
    patients.iter_mut().take(5).for_each(|p| p.project = Some("SMALL".into()));
    let project_of: BTreeMap<&str, &str> =
        patients.iter().map(|p| (p.id.as_str(), p.project.as_deref().unwrap())).collect();
    for stratify in [Stratify::None, Stratify::Project, Stratify::Site] {
        let splits = Splits::draw(&patients, &SplitConfig { stratify, ..SplitConfig::default() }).unwrap();
        for fold in &splits.folds {
            let small = |ids: &[String]| ids.iter().filter(|id| project_of[id.as_str()] == "SMALL").count();
            assert!(small(&fold.valid) >= 1 || small(&fold.train) < 2, "{stratify:?}: {fold:?}");
            assert!((7..=9).contains(&fold.valid.len()), "{stratify:?}: {}", fold.valid.len());
        }
    }
    let none = SplitConfig { valid_fraction: 0.0, ..SplitConfig::default() };
    assert!(Splits::draw(&patients, &none).unwrap().folds.iter().all(|f| f.valid.is_empty()));
}

/// Codes of one hospital are one site; who validates is of other hospitals than who trains.
#[test]
fn institutions_are_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let patients = patients(60, 12); // codes 00 to 11
    let table = (0..12).map(|i| format!("{i};Hospital {}\r\n", i / 2)).collect::<String>();
    let read = |table: &str| {
        let institutions = Some(write(dir.path(), "sites.csv", table));
        let config =
            SplitConfig { folds: 3, stratify: Stratify::SitePreserved, institutions, ..SplitConfig::default() };
        Splits::new(&patients, &config)
    };
    // A spreadsheet has dropped the codes' zeros, and uses semicolons.
    let (splits, remarks) = read(&format!("\u{feff}TSS Code;Source Site\r\n{table}")).unwrap();
    assert!(remarks.is_empty(), "{remarks:?}");
    let hospitals =
        |ids: &[String]| ids.iter().map(|id| id[5..7].parse::<usize>().unwrap() / 2).collect::<HashSet<_>>();
    for fold in &splits.folds {
        let sets = [&fold.train, &fold.valid, &fold.test].map(|ids| hospitals(ids));
        assert_eq!(sets.iter().map(HashSet::len).sum::<usize>(), 6, "each hospital is in one set: {sets:?}");
        assert!(sets.iter().all(|s| !s.is_empty()));
    }
    let (_, remarks) = read("code,institution\n00,North\n01,North\n").unwrap();
    assert!(remarks[0].contains("lacks 10 site codes (02, 03, "), "{remarks:?}");
    let error = read("code,institution\n00,North\n0,South\n").unwrap_err().to_string();
    assert!(error.contains("lines 2 and 3: 00 is North and South"), "{error}");
    assert!(read("code,town\n00,North\n").unwrap_err().to_string().contains("has no column institution"));
}

#[test]
fn seeds_matter_and_too_few_patients_are_refused() {
    let patients = patients(30, 3);
    let draw = |seed| Splits::draw(&patients, &SplitConfig { seed, ..SplitConfig::default() }).unwrap();
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert!(Splits::draw(&patients[..4], &SplitConfig::default()).is_err());
    let odd = SplitConfig { valid_fraction: 1.5, ..SplitConfig::default() };
    assert!(Splits::draw(&patients, &odd).is_err());
    // HE2RNA's proportions: of 8,725 patients 1,745 test, 698 validate.
    let many = self::patients(8725, 30);
    let splits = Splits::draw(&many, &SplitConfig::default()).unwrap();
    let sizes: Vec<_> = splits.folds.iter().map(|f| (f.train.len(), f.valid.len(), f.test.len())).collect();
    assert_eq!(sizes, [(6282, 698, 1745); 5]);
}

#[test]
fn splits_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let patients = patients(10, 2);
    let read = |text: &str, name: &str| {
        let config = SplitConfig { file: Some(write(dir.path(), name, text)), ..SplitConfig::default() };
        Splits::new(&patients, &config)
    };
    let rows = |fold: &dyn Fn(usize) -> String| {
        patients.iter().enumerate().map(|(i, p)| format!("{},{}\r\n", p.id, fold(i))).collect::<String>()
    };
    let (splits, remarks) =
        read(&format!("\u{feff}patient,fold\r\n{}", rows(&|i| (i % 3 + 1).to_string())), "a.csv").unwrap();
    assert!(remarks.is_empty());
    assert_eq!(splits.folds.len(), 3);
    assert_eq!(splits.folds[0].test.len(), 4);
    assert_eq!(splits.folds[0].valid.len(), 1);

    // Written and read again.
    let path = dir.path().join("again.json");
    splits.write(&path).unwrap();
    assert_eq!(read(&std::fs::read_to_string(&path).unwrap(), "b.json").unwrap().0, splits);

    let with_sets = "Case ID\tfold\tset\nTCGA-00-0000\tx\ttrain\nTCGA-01-0001\tx\tval\nTCGA-00-0002\tx\ttest\n";
    let (splits, remarks) = read(with_sets, "c.tsv").unwrap();
    assert_eq!(splits.folds[0].valid, ["TCGA-01-0001"]);
    assert!(remarks[0].contains("7 of the cohort's patients are in no fold"), "{remarks:?}");

    let strangers = format!("patient,fold\nNOBODY,1\n{}", rows(&|i| (i % 2).to_string()));
    let (_, remarks) = read(&strangers, "d.csv").unwrap();
    assert!(remarks[0].contains("1 patients are not in the cohort"), "{remarks:?}");
    let map: String = patients.iter().enumerate().map(|(i, p)| format!(",\"{}\": {}", p.id, i % 2)).collect();
    assert_eq!(read(&format!("{{{}}}", &map[1..]), "e.json").unwrap().0.folds.len(), 2);

    let respelt =
        format!("patient;fold\n{}", rows(&|i| (i % 2).to_string()).replace(',', ";").replace('-', ".").to_lowercase());
    let (splits, remarks) = read(&respelt, "m.csv").unwrap();
    assert_eq!(splits.folds[0].test, ["TCGA-00-0000", "TCGA-00-0002", "TCGA-00-0004", "TCGA-00-0006", "TCGA-00-0008"]);
    assert!(remarks[0].contains("10 patients are spelt otherwise"), "{remarks:?}");

    for (name, text, wanted) in [
        ("f.csv", "patient,fold\nTCGA-00-0000,1\nTCGA-00-0000,2\n", "is in two folds"),
        ("g.csv", "patient,age\nTCGA-00-0000,1\n", "lacks a column"),
        ("h.csv", "patient,fold\nTCGA-00-0000,\n", "lacks its patient or fold"),
        ("i.csv", "patient,fold,set\nTCGA-00-0000,1,tset\n", "\"tset\" is unknown"),
        ("j.json", "{\"folds\": [3]}", "is no fold"),
        ("k.json", r#"[{"train": ["TCGA-00-0000"], "test": ["TCGA-00-0000"]}]"#, "is in two of its sets"),
        ("l.csv", "patient,fold\nNOBODY,1\n", "no patient of the cohort"),
    ] {
        let error = read(text, name).err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        assert!(error.contains(wanted) && error.contains(name), "{error}");
    }
}

#[test]
fn scales_are_fitted_on_training_rows_and_undone() {
    let rows = [vec![1.0, 5.0, -2.0], vec![3.0, 5.0, 0.0], vec![2.0, 5.0, 4.0]];
    for scaling in [Scaling::None, Scaling::MinMax, Scaling::Standard] {
        let scaler = TargetScaler::fit(scaling, rows.iter().map(Vec::as_slice)).unwrap();
        let restored: TargetScaler = serde_json::from_str(&serde_json::to_string(&scaler).unwrap()).unwrap();
        assert_eq!(restored, scaler);
        for row in &rows {
            let mut scaled = row.clone();
            scaler.transform(&mut scaled);
            assert!(scaled.iter().all(|v| v.is_finite()));
            if scaling == Scaling::MinMax {
                assert!(scaled.iter().all(|v| (0.0..=1.0).contains(v)), "{scaled:?}");
                assert_eq!(scaled[1], 0.0, "a constant gene");
            }
            scaler.inverse(&mut scaled);
            row.iter().zip(&scaled).for_each(|(a, b)| assert_abs_diff_eq!(a, b, epsilon = 1e-12));
        }
    }
    assert!(TargetScaler::fit(Scaling::MinMax, []).is_err());
    let uneven = [vec![1.0], vec![1.0, 2.0]];
    assert!(TargetScaler::fit(Scaling::MinMax, uneven.iter().map(Vec::as_slice)).is_err());
}

#[test]
fn transforms_know_the_tables_scale() {
    let near = |a: f64, b: f64| assert_relative_eq!(a, b, epsilon = 1e-12, max_relative = 1e-12);
    near(Transform::Log10p1.apply(999.0, TableScale::Linear).unwrap(), 3.0);
    near(Transform::Log2p1.apply(7.0, TableScale::Linear).unwrap(), 3.0);
    near(Transform::Log10p1.apply(10.0, TableScale::Log2p1).unwrap(), 1024f64.log10());
    near(Transform::Log2p1.apply(3.0, TableScale::Log10p1).unwrap(), 1000f64.log2());
    near(Transform::Log10p1.apply(2.0, TableScale::Lnp1).unwrap(), 2.0 / std::f64::consts::LN_10);
    assert_eq!(Transform::None.apply(-3.5, TableScale::Linear), Some(-3.5));
    assert_eq!(Transform::Log10p1.apply(-0.5, TableScale::Linear), None);
    for transform in [Transform::None, Transform::Log10p1, Transform::Log2p1] {
        near(transform.inverse(transform.apply(123.4, TableScale::Linear).unwrap()), 123.4);
    }
}

#[test]
fn repeats_are_drawn_anew_and_test_everybody_once() {
    let patients = patients(30, 5);
    let config = SplitConfig { folds: 3, repeats: 2, ..SplitConfig::default() };
    let splits = Splits::draw(&patients, &config).unwrap();
    assert_eq!(splits.numbers(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    let once = Splits::draw(&patients, &SplitConfig { repeats: 1, ..config.clone() }).unwrap();
    assert_eq!(splits.folds[..3], once.folds, "the first repeat is what one pass would be");
    let tested = |folds: &[Fold]| -> Vec<String> {
        let mut ids: Vec<String> = folds.iter().flat_map(|f| f.test.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(tested(&splits.folds[..3]), tested(&splits.folds[3..]));
    assert_eq!(tested(&splits.folds[3..]).len(), 30);
    assert_ne!(splits.folds[0].test, splits.folds[3].test);
    assert!(
        Splits::draw(&patients, &SplitConfig { repeats: 0, ..config }).unwrap_err().to_string().contains("repeats")
    );

    // Written and read they are the same.
    let dir = tempfile::tempdir().unwrap();
    splits.write(dir.path().join("splits.json")).unwrap();
    let given = SplitConfig { file: Some(dir.path().join("splits.json")), ..SplitConfig::default() };
    assert_eq!(Splits::new(&patients, &given).unwrap().0, splits);
}

#[test]
fn a_given_patient_is_tested_once_in_every_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let patients: Vec<SplitPatient> =
        ["a", "b", "c", "d"].map(|id| SplitPatient { id: id.into(), site: None, project: None, label: None }).to_vec();
    let read = |name: &str, text: &str| {
        let path = write(dir.path(), name, text);
        let config = SplitConfig { file: Some(path), valid_fraction: 0.0, ..SplitConfig::default() };
        Splits::new(&patients, &config).map(|(splits, _)| {
            let tests = splits.folds.iter().map(|f| f.test.concat()).collect::<Vec<_>>();
            (splits.numbers(), tests)
        })
    };
    let fold = |train: &str, test: &str, repeat: &str| {
        let list = |ids: &str| ids.chars().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
        format!("{{\"train\": [{}], \"test\": [{}]{repeat}}}", list(train), list(test))
    };
    let json = |folds: &[String]| format!("{{\"folds\": [{}]}}", folds.join(","));
    // Two whole passes one after the other need no number.
    let numbers = vec![(0, 0), (0, 1), (1, 0), (1, 1)];
    let passes = [fold("cd", "ab", ""), fold("ab", "cd", ""), fold("bd", "ac", ""), fold("ac", "bd", "")];
    let tests: Vec<String> = ["ab", "cd", "ac", "bd"].map(String::from).to_vec();
    assert_eq!(read("passes.json", &json(&passes)).unwrap(), (numbers.clone(), tests.clone()));
    let mixed = [
        fold("bd", "ac", ",\"repeat\": 1"),
        fold("cd", "ab", ""),
        fold("ab", "cd", ""),
        fold("ac", "bd", ",\"repeat\": 1"),
    ];
    assert_eq!(read("mixed.json", &json(&mixed)).unwrap(), (numbers.clone(), tests.clone()));
    let rows = "patient,repeat,fold\na,1,0\nb,1,0\nc,1,1\nd,1,1\na,2,0\nc,2,0\nb,2,1\nd,2,1\n";
    assert_eq!(read("rows.csv", rows).unwrap(), (numbers, tests));
    // A patient more than once, and not everybody: nobody can know what is meant.
    let twice = [fold("cd", "ab", ""), fold("ab", "cd", ""), fold("cd", "a", "")];
    for text in [json(&twice), json(&[fold("bc", "ad", ",\"repeat\": 1"), fold("c", "bd", ",\"repeat\": 1")])] {
        let message = read("twice.json", &text).unwrap_err().to_string();
        assert!(
            message.contains("is tested in folds 0 and") && message.contains("repeat") && !message.contains('\n'),
            "{message}"
        );
    }
    let message = read("twice.csv", "patient,fold\na,0\nb,0\nc,1\nd,1\na,1\n").unwrap_err().to_string();
    assert!(message.contains("patient a is in two folds"), "{message}");
}
