//! House rules as a test: what ARCHITECTURE.md promises about the sources, checked on every run.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `dir` with one of the extensions, as (path relative to the root, text).
fn sources(dirs: &[&str], extensions: &[&str]) -> Vec<(String, String)> {
    let mut pending: Vec<PathBuf> = dirs.iter().map(|dir| root().join(dir)).collect();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a readable folder");
            let skip = |p: &Path| p.ends_with("target") || p.ends_with("corpus");
            pending.extend(entries.flatten().map(|entry| entry.path()).filter(|p| !skip(p)));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            let name = path.strip_prefix(root()).expect("under the root").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("UTF-8 text")));
        }
    }
    assert!(!found.is_empty(), "no sources under {dirs:?}");
    found.sort();
    found
}

fn offenders(files: &[(String, String)], breaks: impl Fn(&str, &str) -> bool) -> Vec<String> {
    files.iter().filter(|(name, text)| breaks(name, text)).map(|(name, _)| name.clone()).collect()
}

const CODE: &[&str] = &["src", "tests", "benches", "tools", "kernels"];

#[test]
fn no_file_is_longer_than_one_sitting() {
    let long = offenders(&sources(CODE, &["rs", "cu", "cuh", "py"]), |_, text| text.lines().count() > 800);
    assert!(long.is_empty(), "over 800 lines: {long:?}");
}

#[test]
fn every_module_says_what_it_does() {
    let silent = offenders(&sources(&["src", "tests"], &["rs"]), |_, text| !text.trim_start().starts_with("//!"));
    assert!(silent.is_empty(), "no module documentation: {silent:?}");
}

#[test]
fn only_the_dispatch_point_matches_on_the_device_kind() {
    let matching = offenders(&sources(&["src"], &["rs"]), |name, text| {
        let allowed = ["src/op.rs", "src/tensor.rs"].contains(&name) || name.starts_with("src/device/");
        !allowed && (text.contains("Kind::Gpu") || text.contains("Storage::Device"))
    });
    assert!(matching.is_empty(), "matches on the device kind: {matching:?}");
}

#[test]
fn slides_and_devices_know_nothing_of_tensors() {
    let knowing = offenders(&sources(&["src/slide", "src/device"], &["rs"]), |_, text| {
        ["crate::tensor", "crate::tape", "crate::op", "crate::shape", "crate::Tensor"].iter().any(|w| text.contains(w))
    });
    assert!(knowing.is_empty(), "names tensors: {knowing:?}");
}

#[test]
fn one_file_talks_to_nvidias_driver() {
    let naming = offenders(&sources(&["src"], &["rs"]), |name, text| {
        name != "src/device/cuda.rs" && text.contains(concat!("cudarc", "::"))
    });
    assert!(naming.is_empty(), "names cudarc: {naming:?}");
}

#[test]
fn printing_does_not_panic() {
    // What these macros do when standard output is closed or full.
    let macros = [concat!("println", "!("), concat!("print", "!("), concat!("dbg", "!(")];
    let printing = offenders(&sources(&["src"], &["rs"]), |_, text| macros.iter().any(|name| text.contains(name)));
    assert!(printing.is_empty(), "prints past cli/output.rs: {printing:?}");
}

#[test]
fn dependencies_point_one_way() {
    // A folder may use only what stands below it.
    let layers: &[(&str, &[&str])] = &[
        (
            "src/ops",
            &[
                "crate::nn",
                "crate::optim",
                "crate::extractor",
                "crate::mil",
                "crate::pipeline",
                "crate::slide",
                "crate::cohort",
                "crate::cli",
            ],
        ),
        (
            "src/nn",
            &[
                "crate::extractor",
                "crate::mil",
                "crate::pipeline",
                "crate::cohort",
                "crate::slide",
                "crate::cli",
                "crate::report",
            ],
        ),
        (
            "src/optim",
            &[
                "crate::extractor",
                "crate::mil",
                "crate::pipeline",
                "crate::cohort",
                "crate::slide",
                "crate::cli",
                "crate::report",
            ],
        ),
        (
            "src/slide",
            &[
                "crate::extractor",
                "crate::mil",
                "crate::pipeline",
                "crate::cohort",
                "crate::select",
                "crate::cli",
                "crate::report",
                "crate::ops",
            ],
        ),
        (
            "src/select",
            &["crate::extractor", "crate::mil", "crate::pipeline", "crate::cohort", "crate::cli", "crate::report"],
        ),
        ("src/cohort", &["crate::extractor", "crate::mil", "crate::pipeline", "crate::cli", "crate::report"]),
        ("src/extractor", &["crate::cli", "crate::pipeline", "crate::mil"]),
        ("src/mil", &["crate::cli", "crate::pipeline"]),
        ("src/pipeline", &["crate::cli"]),
        ("src/report", &["crate::cli"]),
    ];
    for (layer, above) in layers {
        let reaching = offenders(&sources(&[layer], &["rs"]), |_, text| above.iter().any(|w| text.contains(w)));
        assert!(reaching.is_empty(), "{layer} reaches above itself: {reaching:?}");
    }
}

#[test]
fn names_say_what_things_are() {
    let vague = ["utils", "helpers", "helper", "manager", "misc"];
    let named = offenders(&sources(CODE, &["rs"]), |name, _| {
        Path::new(name).file_stem().and_then(|s| s.to_str()).is_some_and(|stem| vague.contains(&stem))
    });
    assert!(named.is_empty(), "vague names: {named:?}");
}

#[test]
fn no_unfinished_work_is_left_behind() {
    let markers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let unfinished =
        offenders(&sources(CODE, &["rs", "cu", "cuh", "py"]), |_, text| markers.iter().any(|m| text.contains(m)));
    assert!(unfinished.is_empty(), "unfinished: {unfinished:?}");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies && line.contains('=') {
            assert!(line.contains('#'), "no reason beside `{line}`");
        }
    }
}
