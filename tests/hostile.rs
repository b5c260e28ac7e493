//! The command in hostile surroundings: outputs that are closed, full or the input itself, names that terminals obey,
//! configurations and variables that make no sense. Always one sentence and a status, never a panic.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use isg::image::RgbImage;

const BINARY: &str = env!("CARGO_BIN_EXE_isg");

fn isg(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A slide of one level.
fn slide(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    RgbImage::filled(64, 48, [200, 120, 160]).write_png(&path).expect("a writable folder");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder in UTF-8")
}

/// Runs the command in a shell that redirects its outputs.
#[cfg(target_os = "linux")]
fn redirected(args: &str, redirection: &str) -> Output {
    let line = format!("\"{BINARY}\" {args} {redirection}");
    Command::new("sh").arg("-c").arg(line).output().expect("a shell")
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_is_closed_or_full_is_a_failure_and_no_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let slide = slide(folder.path(), "slide.png");
    let info = format!("slide info {}", text(&slide));
    for (args, redirection, said) in [
        (info.as_str(), ">/dev/full", "standard output: No space left"),
        (info.as_str(), ">&-", "standard output: it is closed"),
        ("doctor --json", ">/dev/full", "standard output"),
        ("--help", ">/dev/full", ""),
        (&format!("score {} --device cpu", text(&slide)), ">/dev/full", "standard output"),
        // Nowhere to say it: the status alone tells.
        ("slide info nothing.svs", "2>/dev/full", ""),
        ("slide info nothing.svs", "2>&-", ""),
        (&info, ">/dev/full 2>/dev/full", ""),
    ] {
        let output = redirected(args, redirection);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args} {redirection}: {message}");
        assert!(message.contains(said) && message.lines().count() <= 1, "{args} {redirection}: {message}");
    }
    // What is not needed may be closed.
    assert_eq!(redirected(&info, "2>&-").status.code(), Some(0));
    assert_eq!(redirected(&info, ">/dev/null").status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_output_is_never_the_input_and_links_and_devices_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = slide(folder.path(), "in.png");
    let [link, hard, other] = ["link.png", "hard.png", "other.png"].map(|name| folder.path().join(name));
    std::os::unix::fs::symlink("in.png", &link).expect("links work here");
    fs::hard_link(&input, &hard).expect("one file system");
    let before = fs::read(&input).expect("a slide");
    for out in [&input, &link, &hard] {
        for args in [
            vec!["slide", "thumbnail", text(&input), "--out", text(out)],
            vec!["score", text(&input), "--device", "cpu", "--quiet", "--map", text(out)],
            vec!["shannon", "encode", "--device", "cpu", "--quiet", text(&input), text(out)],
        ] {
            let output = isg(&args);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            assert!(stderr(&output).contains("input"), "{args:?}: {}", stderr(&output));
        }
    }
    assert_eq!(fs::read(&input).expect("still there"), before);

    fs::write(&other, "old").expect("a writable folder");
    let far = folder.path().join("far.png");
    std::os::unix::fs::symlink("other.png", &far).expect("links work here");
    assert!(isg(&["slide", "thumbnail", text(&input), "--out", text(&far)]).status.success());
    assert!(far.is_symlink() && fs::read(&other).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG")));
    assert!(isg(&["slide", "thumbnail", text(&input), "--out", "/dev/null"]).status.success());
    assert!(!fs::metadata("/dev/null").expect("a device").is_file());
    let piped = isg(&["slide", "thumbnail", text(&input), "--out", "/dev/stdout"]);
    assert!(piped.status.success() && piped.stdout.starts_with(b"\x89PNG"));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let slide = slide(folder.path(), "slide.png");
    for threads in ["0", "100000", "18446744073709551615"] {
        let output = isg(&["slide", "info", text(&slide), "--threads", threads]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("from 1 to 1024"), "{}", stderr(&output));
    }
    let mut command = Command::new(BINARY);
    command.args(["score", text(&slide), "--device", "cpu"]).env("ISG_PTX", "/no/such/folder");
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("named by ISG_PTX"), "{}", stderr(&output));
    // One line of 100 KB: where and what, not the line.
    let config = folder.path().join("long.toml");
    fs::write(&config, format!("seed = [{}", "\"abc\", ".repeat(15_000))).expect("a writable folder");
    let output = isg(&["run", text(&config), "--quiet"]);
    let message = stderr(&output);
    assert!(!output.status.success() && message.contains("line 1, column") && message.len() < 500, "{message}");
    fs::write(&config, format!("{} = 1\n", "k".repeat(100_000))).expect("a writable folder");
    let message = stderr(&isg(&["run", text(&config), "--quiet"]));
    assert!(message.len() < 3000, "{} bytes", message.len());
}

#[cfg(unix)]
#[test]
fn control_characters_of_names_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let evil = "e\x1b]0;owned\x07\nvil";
    let good = slide(folder.path(), &format!("{evil}.png"));
    let bad = folder.path().join(format!("{evil}.svs"));
    fs::write(&bad, "no slide").expect("a writable folder");
    for args in [
        vec!["slide", "info", text(&good)],
        vec!["slide", "info", "--json", text(&good)],
        vec!["slide", "info", text(&bad)],
        vec!["score", "--device", "cpu", text(&bad)],
        vec!["run", text(&bad)],
    ] {
        let output = isg(&args);
        for bytes in [&output.stdout, &output.stderr] {
            let unfit = bytes.iter().find(|&&b| b < 0x20 && b != b'\n' && b != b'\t');
            assert_eq!(unfit, None, "{args:?}: {}", String::from_utf8_lossy(bytes));
        }
    }
    assert!(stderr(&isg(&["slide", "info", text(&bad)])).contains("e\\x1b]0;owned\\x07\\nvil.svs: is a text file"));
}
