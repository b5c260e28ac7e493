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

const CODE: &[&str] = &["src", "tests", "benches", "tools", "kernels", "examples"];

#[test]
fn no_file_is_longer_than_one_sitting() {
    let long = offenders(&sources(CODE, &["rs", "cu", "cuh", "py"]), |_, text| text.lines().count() > 800);
    assert!(long.is_empty(), "over 800 lines: {long:?}");
}

#[test]
fn every_module_says_what_it_does() {
    let silent =
        offenders(&sources(&["src", "tests", "examples"], &["rs"]), |_, text| !text.trim_start().starts_with("//!"));
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
        !name.starts_with("src/device/cuda") && text.contains(concat!("cudarc", "::"))
    });
    assert!(naming.is_empty(), "names cudarc: {naming:?}");
}

/// The rooms of `src/` from the top down, as ARCHITECTURE.md draws them. A module uses lower rows; within a row there is no cycle.
/// Modules joined by `+` are one: what a tensor is takes three files.
const ROOMS: &[&[&str]] = &[
    &["cli"],
    &["pipeline"],
    &["mil", "encoder", "extractor", "report", "synth"],
    &["select", "cohort", "eval", "slide", "nn", "optim", "io"],
    &["ops"],
    &["gemm", "cpu", "op+tape+tensor"],
    &["device"],
    &[
        "error",
        "escape",
        "dtype",
        "shape",
        "random",
        "progress",
        "preset",
        "image",
        "atomic",
        "math",
        "kmeans",
        "activation",
        "conv2d",
    ],
];

/// What `lib.rs` re-exports and which macros live at the root, by the module they come from.
const AT_ROOT: &[(&str, &str)] = &[
    ("Device", "device"),
    ("DType", "dtype"),
    ("Error", "error"),
    ("Result", "error"),
    ("Shape", "shape"),
    ("Tape", "tape"),
    ("Tensor", "tensor"),
    ("kernel_params", "device"),
    ("float_dispatch", "op"),
    ("element_dispatch", "op"),
    ("inlined", "cpu"),
    ("vectorised", "cpu"),
];

/// The code of a file without comments and without its unit tests, which may look anywhere.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of a `use` tree's branches: `a` and `d` of `{a::{b, c}, d}`, `a` of `a::b`.
fn first_names(tree: &str) -> Vec<String> {
    let name = |part: &str| part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = tree.strip_prefix('{') else {
        return Vec::from_iter(Some(name(tree)).filter(|name| !name.is_empty()));
    };
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            c if depth == 0 => part.push(c),
            _ => {}
        }
    }
    parts.push(part);
    parts.iter().map(|part| name(part.trim())).filter(|name| !name.is_empty()).collect()
}

/// The top-level modules a file names: `crate::x`, nested groups too, and `super::x` where that leaves its own.
fn modules_used(name: &str, code: &str) -> Vec<String> {
    let path: Vec<&str> = name.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let depth = path.len() - usize::from(path.last() == Some(&"mod"));
    let to_root = "super::".repeat(depth);
    let mut used = Vec::new();
    for root in ["crate::", &to_root] {
        for (at, _) in code.match_indices(root) {
            let inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let deeper = root != "crate::" && code[at + root.len()..].starts_with("super::");
            if !inside && !deeper {
                used.extend(first_names(&code[at + root.len()..]));
            }
        }
    }
    let of_root = |name: String| AT_ROOT.iter().find(|(item, _)| *item == name).map_or(name, |(_, m)| m.to_string());
    used.into_iter().map(of_root).collect()
}

#[test]
fn use_trees_are_read() {
    assert_eq!(first_names("{a::{b, c}, d, e::f}"), ["a", "d", "e"]);
    assert_eq!(first_names("ops::conv2d::Conv2d;"), ["ops"]);
    let code = code_of(
        "use crate::{\n    nn::{a, b}, // c\n    Tensor,\n};\n// use crate::cli;\nuse super::io::x;\nfn f() { crate::op::g() }\n",
    );
    assert_eq!(modules_used("src/tape.rs", &code), ["nn", "tensor", "op", "io"]);
    assert_eq!(modules_used("src/ops/sum.rs", &code), ["nn", "tensor", "op"]);
    assert_eq!(modules_used("src/ops/mod.rs", "use super::device::Device;"), ["device"]);
    assert_eq!(modules_used("src/a/b/c.rs", "use super::super::x; use super::super::super::y;"), ["y"]);
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
    use std::collections::{BTreeMap, BTreeSet};
    let room = |module: &str| {
        let found = ROOMS.iter().enumerate().find_map(|(row, rooms)| {
            let room = rooms.iter().find(|room| room.split('+').any(|name| name == module))?;
            Some((row, *room))
        });
        found.unwrap_or_else(|| panic!("src/{module}: has no place in ROOMS and in ARCHITECTURE.md"))
    };
    let mut wrong = BTreeSet::new();
    let mut beside: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, text) in sources(&["src"], &["rs"]) {
        let top = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        if ["lib", "bin"].contains(&top) {
            continue;
        }
        let (row, here) = room(top);
        for used in modules_used(&name, &code_of(&text)) {
            let (used_row, there) = room(&used);
            if used_row < row {
                wrong.insert(format!("{name} uses {used}, which stands above {top}"));
            } else if used_row == row && here != there {
                beside.entry(here).or_default().insert(there);
            }
        }
    }
    // Whatever uses nothing that is left goes; what stays is a cycle.
    while let Some(&free) = beside.keys().find(|room| beside[*room].iter().all(|used| !beside.contains_key(used))) {
        beside.remove(free);
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(beside.is_empty(), "cycles: {beside:?}");
}

/// Words of ours that the field has better ones for, and those.
const OUTGROWN: &[(&str, &str)] = &[
    ("multiprocessor", "SM"),
    ("multiprocessors", "SMs"),
    ("the processor", "the CPU"),
    ("the accelerator", "TMA"),
    ("three TF32 products", "3xTF32"),
    ("a bank twice", "bank conflict"),
    ("inner-major", "K-major"),
    ("outer-major", "MN-major"),
    ("inner axis of", "K"),
    ("few_rows", "skinny"),
    ("add_splits", "split-K reduction"),
    ("Facts", "DeviceProps"),
    ("Divisor", "FastDivmod"),
    ("RESIDENT", "MIN_BLOCKS_PER_SM"),
    ("EVERY_LANE", "FULL_MASK"),
    ("bent at zero", "piecewise linear"),
    ("a lane a row", "one lane per row"),
    ("a warp a row", "one warp per row"),
    ("a block a tile", "one block per tile"),
    ("bytes a lane", "B per lane"),
    ("recorded step", "captured step"),
    ("enlarge", "upsample"),
    ("enlarged", "upsampled"),
    ("stems", "modules"),
    ("the same bits", "bit-identical"),
    ("to the bit", "bit-identical, bit for bit"),
    ("goes on where", "resumes where"),
    ("perceptron", "MLP"),
    ("is no number", "is NaN"),
    ("are no numbers", "are NaN"),
    ("turn_cubes", "augment_cubes"),
];

#[test]
fn outgrown_words_do_not_come_back() {
    let mut found = Vec::new();
    for (name, text) in
        sources(&["kernels", "src", "benches", "tests", "tools/src", "tools/conformance"], &["rs", "cu", "cuh", "py"])
    {
        if name == "tests/tidy.rs" {
            continue;
        }
        for (word, better) in OUTGROWN {
            let whole = |(at, word): &(usize, &str)| {
                let letter = |c: char| c.is_alphanumeric() || c == '_';
                !text[..*at].ends_with(letter) && !text[at + word.len()..].starts_with(letter)
            };
            if let Some((at, _)) = text.match_indices(word).find(whole) {
                let line = text[..at].lines().count();
                found.push(format!("{name}:{line}: `{word}`; the field says {better}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
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
