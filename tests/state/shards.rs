//! Many processes do one run: the bytes are those of one, whatever was killed, and what cannot be done yet is refused in a sentence.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::AtomicU64,
};

use isg::{
    Result,
    device::DeviceId,
    io::claim::Claim,
    pipeline::{
        Access, Run, RunConfig, Stage,
        shards::{self, Done},
        status::status,
    },
    progress::{Progress, Silent},
};
use serde_json::Value;

use super::{KilledAfter, Lab, artefacts, differing};

/// Opens the run in `out` beside others and does a part of it.
fn part(
    config: &RunConfig,
    out: &Path,
    does: impl FnOnce(&Run, &dyn Progress) -> Result<Done>,
    progress: &dyn Progress,
) -> Result<Done> {
    let config = RunConfig { out: out.to_path_buf(), ..config.clone() };
    does(&Run::open_for("a part", Access::Shared, config, progress)?, progress)
}

fn scan(config: &RunConfig, out: &Path, shard: &str) -> Result<Done> {
    part(config, out, |run, p| shards::scan(run, shard.parse().expect("a part"), DeviceId::Cpu, p), &Silent)
}

fn features(config: &RunConfig, out: &Path, shard: &str) -> Result<Done> {
    part(config, out, |run, p| shards::features(run, shard.parse().expect("a part"), DeviceId::Cpu, p), &Silent)
}

fn train(config: &RunConfig, out: &Path, fold: usize) -> Result<Done> {
    part(config, out, |run, p| shards::train(run, fold, None, DeviceId::Cpu, p), &Silent)
}

/// Calls `does` with each of these at the same time.
fn at_once<T: Sync, R: Send>(of: &[T], does: impl Fn(&T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = of.iter().map(|one| scope.spawn(|| does(one))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn total(done: Vec<Result<Done>>, of: fn(&Done) -> usize) -> usize {
    done.iter().map(|one| of(one.as_ref().expect("a part"))).sum()
}

/// When every file below these folders of a run was written.
fn written(out: &Path, folders: &[&str]) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let mut found = BTreeMap::new();
    for folder in folders {
        for name in super::files(&out.join(folder)).into_keys() {
            let path = out.join(folder).join(name);
            let kept = ["json", "safetensors"].iter().any(|ending| path.extension().is_some_and(|e| e == *ending));
            if kept && !path.ends_with("index.json") && !path.ends_with("model.json") {
                found.insert(path.clone(), fs::metadata(&path).and_then(|m| m.modified()).expect("a time"));
            }
        }
    }
    found
}

#[test]
fn shards_make_the_bytes_of_one_process() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("shared"));
    let scanned = at_once(&["1/3", "2/3", "3/3"], |shard| scan(&config, &out, shard));
    assert_eq!(total(scanned, |done| done.here), super::SLIDES, "no slide is done twice");
    super::run(&config, &out, Stage::Extractors, &Silent).expect("encoders");
    let encoded = at_once(&["1/2", "2/2"], |shard| features(&config, &out, shard));
    let used = total(encoded, |done| done.here);
    assert!(used > 4, "{used}");
    let methods = config.methods().count();
    let trained = at_once(&[0, 1], |fold| train(&config, &out, *fold));
    assert_eq!(total(trained, |done| done.here), 2 * methods);
    let again = train(&config, &out, 1).expect("it is there");
    assert_eq!((again.here, again.elsewhere), (methods, 0));

    let parts = written(&out, &["slides", "features", "model"]);
    assert!(parts.len() > super::SLIDES + used + 2 * methods);
    lab.finish(&config, &out);
    assert_eq!(written(&out, &["slides", "features", "model"]), parts, "what is gathered is not made again");
    let differ = differing(&artefacts(&lab.path.join("run")), &artefacts(&out));
    assert!(differ.is_empty(), "{differ:?}");
    let left = super::files(&out).into_keys().filter(|path| path.extension().is_some_and(|e| e == "lock"));
    let left: Vec<PathBuf> = left.filter(|path| path.parent() != Some(Path::new(""))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_work_of_a_killed_shard_is_done_by_another() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("killed"));
    // Of the first slide's patches; of the third's, sixteen a slide.
    for steps in [5, 40] {
        let progress = KilledAfter(AtomicU64::new(steps));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            part(&config, &out, |run, p| shards::scan(run, "1/2".parse().expect("a part"), DeviceId::Cpu, p), &progress)
        }));
        assert!(killed.is_err(), "after {steps} steps");
    }
    // A file that it was writing is left alone: it might be another shard's.
    let left = out.join("slides/.isg-Ab3xYz");
    fs::write(&left, b"half a slide").expect("writable");
    // One that is at work now is passed over, and so is its temporary file.
    let busy = lab.slides()[6].file_stem().expect("a name").to_string_lossy().into_owned();
    let claim = Claim::take(&out.join("slides").join(format!("{busy}.json"))).expect("locks").expect("nobody else");
    let done = scan(&config, &out, "2/2").expect("a shard");
    assert_eq!((done.elsewhere, done.here + done.found, done.left_out), (1, super::SLIDES - 1, 0), "{done:?}");
    assert!(done.found >= 1 && left.exists(), "{done:?}");
    let refused = features(&config, &out, "1/1").expect_err("one slide is not scored").to_string();
    assert!(refused.contains("1 of 8 slides") && refused.contains(&busy) && refused.contains("isg scan"), "{refused}");
    drop(claim);
    let done = scan(&config, &out, "1/2").expect("a shard");
    assert_eq!((done.here, done.found, done.elsewhere), (1, super::SLIDES - 1, 0));
    lab.finish(&config, &out);
    assert!(differing(&artefacts(&lab.path.join("run")), &artefacts(&out)).is_empty());
    assert!(!left.exists(), "a run alone tidies up");
}

#[test]
fn what_cannot_be_done_yet_names_the_command_that_makes_it() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("early"));
    let refusal = |outcome: Result<Done>, words: &str| {
        let message = outcome.expect_err(words).to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{words}: {message}");
    };
    refusal(features(&config, &out, "1/2"), "`isg scan`");
    refusal(train(&config, &out, 0), "`isg scan`");
    scan(&config, &out, "1/1").expect("scores");
    refusal(features(&config, &out, "1/2"), "`isg learn`");
    super::run(&config, &out, Stage::Extractors, &Silent).expect("encoders");
    refusal(train(&config, &out, 0), "`isg features`");
    features(&config, &out, "2/2").expect("features");
    refusal(train(&config, &out, 2), "give --fold 0 to 1");
    // A changed configuration: what is there is of another one.
    let other = super::reseeded(&config, 9);
    refusal(features(&other, &out, "1/2"), "`isg learn`");

    let open = |access, config: &RunConfig| {
        let config = RunConfig { out: out.clone(), ..config.clone() };
        Run::open_for("a test", access, config, &Silent)
    };
    let words = |opened: Result<Run>| opened.map(drop).expect_err("refused").to_string();
    let alone = open(Access::Alone, &config).expect("nobody else");
    assert!(words(open(Access::Shared, &config)).contains("another process works"));
    drop(alone);
    let shared = open(Access::Shared, &config).expect("nobody else");
    let beside = open(Access::Shared, &config).expect("shards only");
    assert!(words(open(Access::Alone, &config)).contains("shards work in this run directory"));
    assert!(words(open(Access::Shared, &other)).contains("differs"));
    drop((shared, beside));
    open(Access::Alone, &other).expect("nobody else");
}

fn isg(lab: &Lab, args: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
    command.args(args).arg(lab.path.join("run.toml")).args(["--device", "cpu", "--threads", "1", "--out"]).arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn processes_that_begin_together_share_a_new_run() {
    let lab = Lab::new();
    let out = lab.path.join("processes");
    let shards = ["1/3", "2/3", "3/3"];
    let begin = |shard: &&str| {
        isg(&lab, &["scan", "--quiet", "--json", "--shard", shard], &out).spawn().expect("the binary runs")
    };
    let children: Vec<_> = shards.iter().map(begin).collect();
    let done: Vec<Value> =
        children.into_iter().map(|child| json(&child.wait_with_output().expect("it ends"))).collect();
    let here: u64 = done.iter().filter_map(|one| one["here"].as_u64()).sum();
    assert_eq!(here, super::SLIDES as u64, "{done:?}");

    // The rest, with a log for machines.
    let output = isg(&lab, &["train", "--log-json"], &out).output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let ended = |stage: &str| lines.iter().any(|line| line["event"] == "end" && line["stage"] == stage);
    assert!(["scoring", "extractor", "features", "isg"].into_iter().all(ended), "{log}");
    assert!(lines.iter().all(|line| line["time"].as_str().is_some_and(|time| time.ends_with('Z'))), "{log}");
    assert!(differing(&artefacts(&lab.path.join("run")), &artefacts(&out)).is_empty());
    let refused = isg(&lab, &["train", "--log-json", "--fold", "9"], &out).output().expect("the binary runs");
    let last: Value = serde_json::from_slice(refused.stderr.split(|b| *b == b'\n').rev().nth(1).expect("a line"))
        .expect("a line of JSON");
    assert!(refused.status.code() == Some(2) && last["event"] == "error", "{last}");
}

#[test]
fn a_status_says_how_far_a_run_is_and_who_works_on_it() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("run"));
    let before = super::files(&out);
    let finished = status(&out).expect("a run");
    assert_eq!(super::files(&out), before, "asking changes nothing");
    assert_eq!(finished.stage, Some(Stage::Report), "the template ends before the report");
    assert_eq!((finished.slides.done, finished.slides.total), (8, 8));
    assert_eq!(finished.features.done, finished.features.total);
    assert!(finished.extractors.iter().all(|learning| learning.finished));
    assert!(finished.extractors.iter().filter_map(|l| l.steps).all(|steps| (steps.done, steps.total) == (4, 4)));
    assert_eq!(finished.methods.len(), config.methods().count());
    assert!(finished.methods.iter().all(|method| (method.networks.done, method.networks.total) == (2, 2)));
    assert!(finished.last.is_some_and(|last| last.record["train_loss"].is_number() && out.join(&last.curve).exists()));
    assert!(finished.working.is_empty() && finished.seconds.contains_key("scan"));

    let new = lab.path.join("new");
    let message = status(&new).expect_err("no run").to_string();
    assert!(message.contains("holds no run"), "{message}");
    let open = RunConfig { out: new.clone(), ..config.clone() };
    let run = Run::open_for("scan 1/2", Access::Shared, open, &Silent).expect("a run");
    let begun = status(&new).expect("a run");
    assert_eq!((begun.stage, begun.slides.done, begun.slides.total), (Some(Stage::Scan), 0, 8));
    let [worker] = &begun.working[..] else { panic!("{:?}", begun.working) };
    assert_eq!((worker.work.as_str(), worker.process), ("scan 1/2", std::process::id()));
    // Nobody was kept from anything by the asking.
    shards::scan(&run, "1/2".parse().expect("a part"), DeviceId::Cpu, &Silent).expect("scores");
    drop(run);
    let scanned = status(&new).expect("a run");
    assert_eq!((scanned.stage, scanned.slides.done), (Some(Stage::Extractors), 8));
    assert!(scanned.working.is_empty());

    let printed = Command::new(env!("CARGO_BIN_EXE_isg")).arg("status").arg(&out).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(text.contains("8 of 8 scored") && text.contains("nobody works on it"), "{text}");
    let printed = Command::new(env!("CARGO_BIN_EXE_isg")).args(["status", "--json"]).arg(&out).output();
    assert_eq!(json(&printed.expect("the binary runs"))["slides"]["total"], 8);
}
