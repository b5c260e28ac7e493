//! What can be refused before work is, and `--dry-run` says what a run would do.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::Lab;

fn isg(lab: &Lab, config: &str, more: &[&str]) -> Output {
    let file = lab.path.join("changed.toml");
    fs::write(&file, config).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
    command.args(["run", "--device", "cpu", "--out"]).arg(lab.path.join("planned")).arg(file).args(more);
    command.output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_plan_is_printed_and_nothing_is_done() {
    let lab = Lab::new();
    let output = isg(&lab, super::CONFIG, &["--dry-run", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&plan["slides"], &plan["patients"]), (&super::SLIDES.into(), &lab_patients(&lab).into()));
    assert_eq!(plan["patches"]["to_score"], 8 * 16);
    assert_eq!(plan["patches"]["kept_expected"], 8 * 13, "84 % of 16 lie above the mean less a deviation");
    assert_eq!(plan["features_bytes"], 8 * 13 * (6 * (4 + 2 * 4) + 24));
    assert_eq!(plan["folds"].as_array().map(Vec::len), Some(2));
    assert_eq!(plan["refused"], Value::Null);
    assert!(plan["parameters"]["global_extractor"].as_u64() > Some(100));
    let two = Value::from(2);
    let methods: Vec<_> =
        plan["methods"].as_array().expect("a list").iter().map(|m| (&m["name"], &m["networks"])).collect();
    assert_eq!(methods, ["isg", "ridge", "mean-mlp", "colour"].map(Value::from).each_ref().map(|name| (name, &two)));
    assert!(plan["methods"][0]["parameters"].as_u64() > Some(100));
    let written = names(&lab.path.join("planned"));
    assert!(written.iter().all(|name| ["excluded.csv", "matching.csv"].contains(&name.as_str())), "{written:?}");
    let text = isg(&lab, super::CONFIG, &["--dry-run"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("128 to score, about 104 expected"), "{text}");
}

#[test]
fn a_configuration_is_found_by_whatever_path() {
    let lab = Lab::new();
    let folder = lab.path.parent().expect("a folder");
    std::os::unix::fs::symlink(&lab.path, folder.join("link")).expect("writable");
    let mut seen = Vec::new();
    for (number, (from, config)) in [
        (folder, "cohort/run.toml"),
        (&lab.path, "run.toml"),
        (&lab.path, "./../cohort/run.toml"),
        (folder, "link/run.toml"),
        (&lab.path.join("slides"), "../run.toml"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.join(format!("out{number}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
        command.args(["features", "--quiet", "--device", "cpu", "--out"]).arg(&out).arg(config).current_dir(from);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{config}: {}", stderr(&output));
        let text = fs::read_to_string(out.join("config.toml")).expect("a configuration");
        let settings: Vec<String> =
            text.lines().filter(|l| !l.starts_with("out = ") && !l.starts_with('#')).map(str::to_string).collect();
        let features = super::files(&out.join("features"));
        seen.push((settings, features));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "the same bytes whatever way a path was written");
}

fn lab_patients(lab: &Lab) -> usize {
    let table = fs::read_to_string(lab.path.join("expression.tsv")).expect("a table");
    table.lines().next().expect("a header").split('\t').count() - 1
}

#[test]
fn what_cannot_end_well_is_refused_before_it_begins() {
    let lab = Lab::new();
    let with = |from: &str, to: &str| {
        assert!(super::CONFIG.contains(from), "{from}");
        super::CONFIG.replace(from, to)
    };
    fs::write(lab.path.join("half.pth"), b"PK\x03\x04 half a file").expect("writable");
    fs::write(lab.path.join("splits.csv"), "patient,fold\nnobody,1\n").expect("writable");
    let cases = [
        (with("folds = 2", "folds = 0"), "folds = 0"),
        (with("folds = 2", "folds = 1"), "folds = 1"),
        (with("folds = 2", "folds = 100"), "give 2 to"),
        (with("folds = 2", "folds = 2\nfile = \"splits.csv\""), "splits.csv"),
        (with("genes = [\"LYMPH1\"]", "genes = [\"NOGENE\"]"), "NOGENE"),
        (with("genes = [\"LYMPH1\"]", "genes = [\"LYMPH1\"]\nproject = \"NOPROJECT\""), "NOPROJECT"),
        (with("expression = \"expression.tsv\"", "expression = \"expression.tsv\"\ngenes = \"NOGENE\""), "NOGENE"),
        (
            with("image_px = 8", "image_px = 32")
                .replace("weights = \"none\"", "weights = \"no.pth\"")
                .replace("channels = [4, 4]", "channels = [4, 4, 4, 4]")
                .replace("head_pool_px = [1]", "head_pool_px = [1, 1, 1]"),
            "no.pth",
        ),
        (with("sigma = -1.0", "sigma = 1.0\nselector = \"dexined\"\ndexined.weights = \"half.pth\""), "half.pth"),
        (with("sigma = -1.0", "sigma = 1.0\nselector = \"dexined\"\ndexined.weights = \"none.pth\""), "none.pth"),
    ];
    for (config, words) in cases {
        for more in [&["--quiet"][..], &["--quiet", "--dry-run"]] {
            let output = isg(&lab, &config, more);
            let text = stderr(&output);
            assert!(!output.status.success() && text.contains(words), "{words} {more:?}: {text}");
            assert_eq!(text.trim().lines().count(), 1, "{text}");
            if more.len() == 2 {
                assert_eq!(output.status.code(), Some(1), "{words}");
            }
            let written = names(&lab.path.join("planned"));
            assert!(written.iter().all(|name| name.ends_with(".csv")), "{words}: {written:?}");
        }
    }
}
