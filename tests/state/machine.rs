//! A sick machine ends a run with one sentence, and no slide is blamed; a signal ends it with everything saved.
#![cfg(unix)]

use std::{
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::{Lab, artefacts, differing};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_device_that_fails_is_no_fault_of_the_slides() {
    let lab = Lab::new();
    // The kernels of the score trap at once.
    let kernels = lab.path.join("kernels");
    fs::create_dir(&kernels).expect("writable");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/ptx");
    let mut traps = 0;
    for (name, text) in super::files(&shipped) {
        let text = String::from_utf8(text).expect("PTX is text");
        if name.extension().is_some_and(|e| e == "ptx") && name.to_string_lossy().contains("shannon") {
            let trapped = text.replace("\n{\n", "\n{\ntrap;\n");
            traps += usize::from(trapped != text);
            fs::write(kernels.join(name.file_name().expect("a name")), trapped).expect("writable");
        }
    }
    assert!(traps > 0, "no kernel was found to break");
    let out = lab.path.join("sick");
    let config = fs::read_to_string(lab.path.join("run.toml")).expect("a configuration");
    fs::write(lab.path.join("run.toml"), config.replace("patch_px = 64", "patch_px = 64\ncodec = \"lz\""))
        .expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
    command.args(["run", "--quiet", "--device", "emulator", "--out"]).arg(&out).arg(lab.path.join("run.toml"));
    let output = command.env("ISG_PTX", &kernels).output().expect("the binary runs");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("trap") && !text.contains("slide is usable") && !text.contains("panicked"), "{text}");
    assert!(!out.join("left_out.json").exists(), "no slide was blamed");
}

/// A limit on the size of files stands for a full disk: writes fail in the middle of a file.
#[test]
fn a_full_disk_ends_the_run_and_costs_nothing_that_is_done() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("full"));
    let run = |limit: &str| {
        let isg = env!("CARGO_BIN_EXE_isg");
        let folder = lab.path.display();
        let run = format!("exec {isg} train --quiet --device cpu --out {folder}/full {folder}/run.toml");
        Command::new("bash").args(["-c", &format!("ulimit -f {limit}; {run}")]).output().expect("bash runs")
    };
    // In blocks of 1024 bytes: room for the configuration and the scores, not for an extractor.
    let bytes = |name: &str| fs::metadata(lab.path.join("run").join(name)).expect("a file").len();
    let limit = bytes("extractor/local/extractor.safetensors") / 1024 - 1;
    assert!(bytes("config.toml") < limit * 1024, "a limit of {limit} kB");
    let output = run(&limit.to_string());
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    assert!(text.contains("too large") && text.contains("full/"), "{text}");
    assert!(!super::files(&out).keys().any(|p| p.to_string_lossy().contains(".isg-")), "a failed write leaves nothing");
    let output = run("unlimited");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(differing(&lab.fresh(&config), &artefacts(&out)).is_empty());
}

#[test]
fn signals_save_and_stop() {
    let lab = Lab::new();
    let text = super::CONFIG
        .replace("steps = 4", "steps = 200000")
        .replace("checkpoint_every_steps = 2", "checkpoint_every_steps = 100000");
    fs::write(lab.path.join("long.toml"), text).expect("writable");
    // What the test itself was told to ignore, its children ignore too.
    let state = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = state.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    for (signal, status) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        if ignored.unwrap_or(0) >> (status - 129) & 1 == 1 {
            println!("{signal} is ignored here");
            continue;
        }
        let out = lab.path.join(signal);
        let mut command = Command::new(env!("CARGO_BIN_EXE_isg"));
        command.args(["run", "--quiet", "--device", "cpu", "--out"]).arg(&out).arg(lab.path.join("long.toml"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let curve = out.join("extractor/global/metrics.jsonl");
        let begun = || fs::metadata(&curve).is_ok_and(|m| m.len() > 1000);
        for _ in 0..6000 {
            if begun() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(status), "{signal}: {}", stderr(&output));
        assert!(stderr(&output).contains("again"), "{signal}: {}", stderr(&output));
        let saved = fs::read_dir(out.join("extractor/global/checkpoints")).expect("checkpoints").count();
        assert_eq!(saved, 1, "{signal} saves what was done");
    }
}

#[test]
fn a_pipe_in_place_of_a_slide_is_left_out_at_once() {
    let lab = Lab::new();
    let slide = lab.slides()[1].clone();
    fs::remove_file(&slide).expect("a slide");
    assert!(Command::new("mkfifo").arg(&slide).status().expect("mkfifo runs").success());
    let config = lab.config();
    lab.finish(&config, &lab.path.join("run"));
    let left_out = fs::read_to_string(lab.path.join("run/left_out.json")).expect("a list");
    let id = slide.file_stem().and_then(|s| s.to_str()).expect("a name");
    let listed =
        left_out.contains(id) || fs::read_to_string(lab.path.join("run/excluded.csv")).is_ok_and(|t| t.contains(id));
    assert!(listed, "{left_out}");
}
