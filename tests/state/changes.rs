//! A matrix of changes, each made to a finished run and to one that was killed, against a fresh directory.

use std::{fs, path::Path};

use isg::{
    nn::precision::ComputePrecision,
    pipeline::{RunConfig, Stage},
    progress::Silent,
    select::Selectors,
};

use super::{KilledAfter, Lab, artefacts, differing, reseeded, run};

/// A change of the configuration, of the cohort, or of both.
type Change = (&'static str, fn(&mut RunConfig), fn(&Lab));

fn both(config: &mut RunConfig, change: impl Fn(&mut isg::extractor::config::ExtractorConfig)) {
    change(&mut config.extractor.global);
    change(&mut config.extractor.local);
}

fn order0() -> Selectors {
    toml::from_str("codec = \"order0\"").expect("a selector's parameters")
}

const NO: fn(&mut RunConfig) = |_| {};
const NOTHING: fn(&Lab) = |_| {};

const CHANGES: &[Change] = &[
    ("selector", |c| c.select.selector = "gradient".into(), NOTHING),
    ("codec", |c| c.select.selectors = order0(), NOTHING),
    ("threshold", |c| c.select.sigma = Some(0.2), NOTHING),
    ("top", |c| (c.select.sigma, c.select.top) = (None, Some(5)), NOTHING),
    ("most patches", |c| c.select.most_patches = 6, NOTHING),
    ("least patches", |c| (c.select.sigma, c.select.least_patches) = (Some(9.0), 3), NOTHING),
    ("each slide's own threshold", |c| c.select.scope = isg::select::Scope::Slide, NOTHING),
    ("a scale", |c| c.select.mpp = Some(0.6), NOTHING),
    ("local_px", |c| c.select.local_px = 16, NOTHING),
    ("patch_px", |c| c.select.patch_px = 32, NOTHING),
    ("more steps", |c| both(c, |e| e.steps = 5), NOTHING),
    ("fewer steps", |c| both(c, |e| e.steps = 3), NOTHING),
    ("weights of the loss", |c| c.extractor.local.loss.adversarial = 0.0, NOTHING),
    ("a seed", |c| c.extractor.global.seed = 4, NOTHING),
    ("every seed", |c| *c = reseeded(c, 9), NOTHING),
    ("genes", |c| c.cohort.genes = vec!["GLAND1".into(), "LYMPH1".into()], NOTHING),
    ("folds", |c| c.splits.folds = 3, NOTHING),
    ("members", |c| c.train.members = 2, NOTHING),
    ("precision of the extractors", |c| both(c, |e| e.precision = ComputePrecision::Tf32), NOTHING),
    ("precision of the networks", |c| c.train.precision = ComputePrecision::F32, NOTHING),
    ("epochs", |c| c.train.epochs = 3, NOTHING),
    ("tuning", |c| c.train.fine_tune.epochs = 2, NOTHING),
    ("no tuning", |c| c.train.fine_tune.enabled = false, NOTHING),
    ("raw features", |c| c.train.standardise_features = false, NOTHING),
    (
        "raw features of another extractor",
        |c| {
            c.train.standardise_features = false;
            c.extractor.global.seed = 4;
        },
        NOTHING,
    ),
    ("targets", |c| c.cohort.transform = isg::cohort::targets::Transform::Log2p1, NOTHING),
    ("another slide of the same name", NO, |lab| {
        let slides = lab.slides();
        fs::copy(&slides[0], &slides[1]).expect("writable");
    }),
    ("a slide removed", NO, |lab| fs::remove_file(&lab.slides()[2]).expect("a slide")),
    ("one byte of the expression", NO, |lab| {
        let table = lab.path.join("expression.tsv");
        let text = fs::read_to_string(&table).expect("a table");
        let line = text.lines().nth(1).expect("a gene");
        let digit = line.rfind(|c: char| c.is_ascii_digit()).expect("a number");
        let other = if line.as_bytes()[digit] == b'7' { "3" } else { "7" };
        let changed = format!("{}{other}{}", &line[..digit], &line[digit + 1..]);
        fs::write(&table, text.replace(line, &changed)).expect("writable");
    }),
];

/// Compares a run that goes on in `out` with a fresh one.
fn assert_as_fresh(
    lab: &Lab,
    config: &RunConfig,
    out: &Path,
    expected: &super::BTreeMap<super::PathBuf, Vec<u8>>,
    name: &str,
) {
    lab.finish(config, out);
    let wrong = differing(expected, &artefacts(out));
    assert!(wrong.is_empty(), "{name}: {wrong:?} are not those of a fresh run");
}

#[test]
fn after_a_change_a_finished_or_killed_run_is_worth_a_fresh_one() {
    for (number, (name, configure, rearrange)) in CHANGES.iter().enumerate() {
        let lab = Lab::new();
        // Killed somewhere between the first slide and the last network, before anything changes.
        let (before, killed) = (lab.config(), lab.path.join("killed"));
        let steps = [3, 9, 13, 19, 25, 28][number % 6];
        assert!(KilledAfter::run(steps, &before, &killed), "{name}: {steps} steps were the whole run");
        let unchanged = artefacts(&lab.path.join("run"));
        let mut config = lab.config();
        configure(&mut config);
        rearrange(&lab);
        let expected = lab.fresh(&config);
        assert!(!differing(&expected, &unchanged).is_empty(), "{name} changes nothing: the test is empty");
        assert_as_fresh(&lab, &config, &lab.path.join("run"), &expected, &format!("{name}, from a finished run"));
        assert_as_fresh(&lab, &config, &killed, &expected, &format!("{name}, from a run killed after {steps} steps"));
    }
}

#[test]
fn what_is_undone_is_as_if_it_had_never_been() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("run"));
    let expected = artefacts(&out);
    let victim = lab.slides()[3].clone();
    let bytes = fs::read(&victim).expect("a slide");
    fs::remove_file(&victim).expect("a slide");
    lab.finish(&config, &out);
    assert!(!differing(&expected, &artefacts(&out)).is_empty());
    fs::write(&victim, bytes).expect("writable");
    assert_as_fresh(&lab, &config, &out, &expected, "a slide removed and restored");
    let other = reseeded(&config, 8);
    assert!(KilledAfter::run(9, &other, &out), "killed in between");
    assert_as_fresh(&lab, &config, &out, &expected, "a change that was begun and taken back");
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let lab = Lab::new();
    let out = lab.path.join("run");
    let modified = |out: &Path| {
        let times = super::files(out).into_keys().filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
        times
            .map(|path| (out.join(&path).metadata().and_then(|m| m.modified()).expect("a time"), path))
            .collect::<Vec<_>>()
    };
    let before = modified(&out);
    // However paths are written, wherever the run is begun, and whatever does not decide numbers.
    let moved = lab.path.join("elsewhere");
    fs::create_dir(&moved).expect("writable");
    let text = fs::read_to_string(lab.path.join("run.toml")).expect("a configuration");
    let text =
        text.replace("\"slides\"", "\"../cohort/./slides\"").replace("\"expression.tsv\"", "\"../expression.tsv\"");
    let text =
        text.replace("\"../cohort/./slides\"", "\"../slides/../slides\"").replace("checkpoint_s = 0", "parallel = 1");
    fs::write(moved.join("run.toml"), text).expect("writable");
    let config = RunConfig::read(&moved.join("run.toml")).expect("a configuration");
    assert_eq!(config.cohort.slides, lab.config().cohort.slides);
    lab.finish(&config, &out);
    assert_eq!(modified(&out), before);
}

#[test]
fn results_are_kept_while_they_are_whole_and_of_the_same_inputs() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("run"));
    let report = || fs::read(out.join("report.html")).expect("a report");
    run(&config, &out, Stage::Report, &Silent).expect("a run");
    let (first, evaluation) = (report(), fs::read(out.join("evaluation.json")).expect("an evaluation"));
    let summary = run(&config, &out, Stage::Report, &Silent).expect("a run").expect("a summary");
    assert_eq!((report(), summary.slides), (first, super::SLIDES), "nothing changed");
    // A table that was edited is written again.
    fs::write(out.join("evaluation.json"), b"{}").expect("writable");
    run(&config, &out, Stage::Report, &Silent).expect("a run");
    assert_eq!(fs::read(out.join("evaluation.json")).expect("an evaluation"), evaluation);
    // Results of other inputs are gone as soon as a run knows its inputs.
    let other = reseeded(&config, 8);
    run(&other, &out, Stage::Scan, &Silent).expect("a run");
    assert!(["report.html", "predictions.csv", "summary.json"].iter().all(|name| !out.join(name).exists()));
}

#[test]
fn leftovers_of_killed_processes_go() {
    let lab = Lab::new();
    let out = lab.path.join("run");
    let ours = ["features/.isg-a1B2c3", "model/isg/fold-0/member-0/.isg-zzzzzz", ".isg-000000", "slides/.isg-Qwerty"];
    let checkpoint = out.join("extractor/local/checkpoints/tmp-step-000004");
    fs::create_dir_all(&checkpoint).expect("writable");
    ours.iter().for_each(|name| fs::write(out.join(name), b"half").expect("writable"));
    let theirs = [lab.path.join(".isg-a1B2c3"), out.join("notes.txt"), out.join("features/.isg-notes.txt")];
    theirs.iter().for_each(|path| fs::write(path, b"mine").expect("writable"));
    let config = lab.config();
    lab.finish(&config, &out);
    assert!(ours.iter().all(|name| !out.join(name).exists()) && !checkpoint.exists());
    assert!(theirs.iter().all(|path| path.exists()));
}
