//! The command line as a user meets it: help, one-sentence refusals, exit status, a whole small run that is killed and
//! goes on.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

fn isg(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isg")).args(args).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Draws a cohort of small slides whose run takes seconds.
fn tiny_cohort(dir: &Path, slides: usize) {
    let (folder, count) = (dir.to_string_lossy(), slides.to_string());
    let made = isg(&["synth", &folder, "--slides", &count, "--seed", "5", "--size-px", "512", "--quiet"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let config = dir.join("isg.toml");
    let text = fs::read_to_string(&config).expect("synth writes isg.toml");
    let tiny = "batch = 4\ncheckpoint_every_steps = 2\n\
                [train]\nepochs = 4\nmembers = 1\n[train.fine_tune]\nenabled = false\n[splits]\nfolds = 3\n";
    assert!(text.ends_with("[extractor]\nsteps = 1600\n"), "the template ends with the extractor's section: {text}");
    let text = text.replace("steps = 1600", "steps = 6");
    fs::write(&config, text + tiny).expect("a writable folder");
}

#[test]
fn every_command_explains_itself_with_examples() {
    let help = isg(&["--help"]);
    assert!(help.status.success());
    let text = stdout(&help);
    for command in ["slide", "score", "shannon", "synth", "extractor", "features", "train", "predict", "evaluate"]
        .into_iter()
        .chain(["report", "run", "demo", "doctor", "methods", "encode", "compare", "reproduce", "probe", "spots"])
        .chain(["scan", "learn", "status"])
    {
        assert!(text.contains(command), "{command} is not in the help");
        let own = isg(&[command, "--help"]);
        assert!(own.status.success(), "{command} --help: {}", stderr(&own));
    }
    let explained = [
        "score",
        "synth",
        "run",
        "predict",
        "evaluate",
        "demo",
        "doctor",
        "methods",
        "encode",
        "compare",
        "reproduce",
        "probe",
        "spots",
        "scan",
        "features",
        "train",
        "status",
    ];
    for command in explained {
        assert!(stdout(&isg(&[command, "--help"])).contains("Examples:"), "{command} --help shows no example");
    }
}

#[test]
fn what_cannot_be_done_is_one_sentence() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let broken = dir.path().join("broken.svs");
    fs::write(&broken, b"II*\0 no slide").expect("a writable folder");
    let empty = dir.path().join("empty.toml");
    fs::write(&empty, "seed = 1\n").expect("a writable folder");
    let unknown = dir.path().join("unknown.toml");
    fs::write(&unknown, "sede = 1\n[cohort]\nslides = \"s\"\nexpression = \"e\"\n").expect("a writable folder");
    let path = |p: &Path| p.to_string_lossy().into_owned();
    let refusals = [
        (vec!["slide".into(), "info".into(), path(&broken)], "broken.svs"),
        (vec!["slide".into(), "info".into(), path(&dir.path().join("none.svs"))], "none.svs"),
        (vec!["run".into(), path(&dir.path().join("none.toml"))], "none.toml"),
        (vec!["run".into(), path(&empty)], "[cohort]"),
        (vec!["run".into(), path(&unknown)], "sede"),
        (vec!["predict".into(), "--model".into(), path(dir.path()), path(&broken)], "config.toml"),
        (
            vec!["--device".into(), "abacus".into(), "predict".into(), "--model".into(), "m".into(), "s".into()],
            "abacus",
        ),
    ];
    for (args, named) in refusals {
        // Quiet: without it commands that compute say on which device first.
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--quiet"]).collect();
        let output = isg(&args);
        let text = stderr(&output);
        assert!(!output.status.success(), "{args:?} succeeded");
        assert!(text.contains(named), "{args:?} does not name {named}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{args:?} says more than one sentence: {text}");
    }
    assert_eq!(isg(&["nonsense"]).status.code(), Some(2));
}

#[test]
fn methods_and_encoders_are_listed() {
    let said: serde_json::Value = serde_json::from_str(&stdout(&isg(&["methods", "--json"]))).expect("JSON");
    let names = |of: &str| -> Vec<String> {
        let list = said[of].as_array().expect("a list");
        list.iter().map(|one| one["name"].as_str().expect("a name").to_string()).collect()
    };
    let methods = isg::mil::METHODS.iter().map(|spec| spec.name);
    let encoders = isg::encoder::ENCODERS.iter().map(|spec| spec.name);
    assert!(names("methods").iter().eq(methods) && names("encoders").iter().eq(encoders), "{said}");
    assert_eq!(said["methods"][0]["reads"]["cube"], true);
}

#[test]
fn doctor_speaks_json() {
    let found: serde_json::Value = serde_json::from_slice(&isg(&["doctor", "--json"]).stdout).expect("JSON");
    assert_eq!(found["devices"][0]["name"], "cpu");
    assert_eq!(found["devices"][0]["usable"], true);
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_numbers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    tiny_cohort(dir.path(), 12);
    let config = dir.path().join("isg.toml").to_string_lossy().into_owned();
    let run = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
        command.args(["run", &config, "--quiet", "--out"]).arg(out);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let whole = dir.path().join("whole");
    let status = run(&whole).status().expect("the binary runs");
    assert!(status.success(), "the whole run ended with {status}");

    // Killed again and again, each time a little later: whatever stage that hits, the next process goes on.
    let killed = dir.path().join("killed");
    let mut finished = false;
    for attempt in 1..60u64 {
        let mut child = run(&killed).spawn().expect("the binary runs");
        let deadline = std::time::Instant::now() + Duration::from_millis(250 * attempt);
        while std::time::Instant::now() < deadline && !finished {
            finished = child.try_wait().expect("a child process").is_some();
            std::thread::sleep(Duration::from_millis(10));
        }
        if finished {
            break;
        }
        child.kill().expect("a running child");
        child.wait().expect("a killed child");
    }
    assert!(finished, "the run never ended");
    for file in ["predictions.csv", "evaluation.csv"] {
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).expect("a finished run has it");
        assert_eq!(read(&whole), read(&killed), "{file} differs after kills");
    }

    // The finished run predicts other slides; one bad slide does not stop the others.
    let slide = fs::read_dir(dir.path().join("slides")).expect("slides").flatten().next().expect("a slide").path();
    let bad = dir.path().join("bad.tiff");
    fs::write(&bad, b"nothing").expect("a writable folder");
    let arguments = ["predict", "--quiet", "--model", &whole.to_string_lossy(), &bad.to_string_lossy()];
    let predicted = Command::new(env!("CARGO_BIN_EXE_isg")).args(arguments).arg(&slide).output().expect("it runs");
    assert_eq!(predicted.status.code(), Some(3), "{}", stderr(&predicted));
    assert!(stderr(&predicted).contains("bad.tiff"));
    assert_eq!(stdout(&predicted).lines().count(), 1 + 4, "a header and four genes");

    // By the run's threshold and draw: of a slide of the run the patches that the run kept.
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(whole.join("summary.json")).expect("a summary")).expect("JSON");
    let id = slide.file_stem().expect("a name").to_string_lossy().into_owned();
    let of_run = summary["kept"].as_array().expect("shares").iter().find(|kept| kept["slide"] == id.as_str());
    let kept = of_run.expect("a slide of the run")["kept"].to_string();
    assert!(stdout(&predicted).lines().skip(1).all(|line| line.ends_with(&format!(",{kept}"))), "{kept} kept");

    // A slide of another scale is refused, in a sentence that names both.
    let arguments = ["predict", "--quiet", "--mpp", "1.0", "--model", &whole.to_string_lossy()];
    let coarse = Command::new(env!("CARGO_BIN_EXE_isg")).args(arguments).arg(&slide).output().expect("it runs");
    let said = stderr(&coarse);
    assert!(coarse.status.code() != Some(0) && said.contains("1 µm/px") && said.contains("0.5"), "{said}");
}

#[test]
fn a_bad_slide_is_left_out_with_its_reason() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    tiny_cohort(dir.path(), 10);
    let mut slides: Vec<_> = fs::read_dir(dir.path().join("slides")).expect("slides").flatten().collect();
    slides.sort_by_key(|entry| entry.path());
    let victim = slides.pop().expect("a slide").path();
    let whole = fs::read(&victim).expect("a readable slide");
    fs::write(&victim, &whole[..whole.len() / 3]).expect("a writable slide");
    let config = dir.path().join("isg.toml").to_string_lossy().into_owned();
    let output = isg(&["run", &config, "--json", "--quiet"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON summary");
    assert_eq!(summary["slides"], 9);
    assert_eq!(summary["left_out"].as_array().map(Vec::len), Some(1), "{summary}");
    let report = fs::read_to_string(dir.path().join("run/report.html")).expect("a report");
    assert!(report.contains("LYMPH1"));
}
