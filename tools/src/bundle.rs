//! `cargo tool bundle`: one archive for a GPU node that has a driver and nothing else.
//!
//! It holds the program, the test and bench binaries, the numeric cases if they are given, the peers' scripts, and `run.sh`,
//! which runs any of them. The binaries need glibc and libgcc, which every distribution has; kernels are inside as PTX.
//!
//! A program linked here asks for the glibc of this machine. Clusters have older ones: `--zig 2.28` links for that of RHEL 8 with
//! `cargo zigbuild` (`pip install cargo-zigbuild`), which brings the symbols of every version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::glibc::{self, Version};

#[derive(clap::Args)]
pub struct Args {
    /// The archive.
    #[arg(long, default_value = "target/isg-bundle.tar.gz")]
    out: PathBuf,
    /// A folder of conformance cases to take along.
    #[arg(long)]
    cases: Option<PathBuf>,
    /// Link for this version of glibc, with `cargo zigbuild`.
    #[arg(long, value_name = "VERSION")]
    zig: Option<Version>,
    /// The newest version of glibc that the node is known to have; what asks for a newer one is refused.
    #[arg(long, value_name = "VERSION", default_value = "2.28")]
    glibc: Version,
}

/// What zig links for, with the version of glibc behind it.
const ZIG_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the node runs.
const RUN: &str = r#"#!/usr/bin/env bash
# test | conformance | bench | profile | all: everything isg can be asked on a GPU node. Needs a driver.
set -euo pipefail
cd "$(dirname "$0")"
what="${1:-all}"
device="${ISG_DEVICE:-cuda}"
name="$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 2>/dev/null | tr -c 'A-Za-z0-9\n' '-' || true)"
log="${ISG_LOG:-log/${name:-gpu}.jsonl}"
mkdir -p "$(dirname "$log")"
export ISG_DEVICE="$device"

doctor() { ./isg doctor; }
tests() { ./isg-tests --test-threads=1 gpu:: contract:: "${@}"; }
conformance() {
    [ -d cases ] || { echo "this bundle holds no cases"; return; }
    for dtype in f32 tf32 bf16 f16; do ./isg-conformance --device "$device" --dtype "$dtype" cases; done
}
bench() {
    ./isg-bench-kernels --device "$device" --log "$log" "$@"
    if python3 -c 'import torch' 2>/dev/null; then
        ./isg-bench-kernels --list | python3 peers/gpu_ops.py --log "$log"
    else
        echo "no PyTorch here: nothing to compare with"
    fi
}
profile() {
    if command -v nsys >/dev/null; then
        nsys profile -o log/nsys --force-overwrite true --cuda-graph-trace=node --trace=cuda,nvtx \
            --capture-range=cudaProfilerApi --capture-range-end=stop-shutdown \
            ./isg-bench-kernels --device "$device" --dtype bf16 --profile --only "${2:-matmul_2048}"
    fi
    if command -v ncu >/dev/null; then
        ncu -o log/ncu -f --set full --import-source yes --profile-from-start off \
            ./isg-bench-kernels --device "$device" --dtype bf16 --profile --only "${2:-matmul_2048}"
    fi
}
case "$what" in
    test) shift; doctor; tests "$@" ;;
    conformance) conformance ;;
    bench) shift; bench "$@" ;;
    profile) profile "$@" ;;
    all) doctor; tests; conformance; bench ;;
    *) sed -n 2p "$0"; exit 2 ;;
esac
"#;

pub fn run(args: &Args) -> Result<bool> {
    let stage = Path::new("target/bundle/isg");
    match fs::remove_dir_all(stage) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => bail!("{}: {e}", stage.display()),
        _ => fs::create_dir_all(stage.join("peers"))?,
    }
    let program = ["build", "--package", "isg", "--bin", "isg"];
    let conformance = ["build", "--package", "isg-conformance"];
    let tests = ["test", "--package", "isg", "--test", "main", "--no-run"];
    let kernels = ["bench", "--package", "isg", "--bench", "kernels", "--no-run"];
    let parts: [(&[&str], &str, &str); 4] = [
        (&program, "isg", "isg"),
        (&conformance, "isg-conformance", "isg-conformance"),
        (&tests, "main", "isg-tests"),
        (&kernels, "kernels", "isg-bench-kernels"),
    ];
    for (arguments, target, name) in parts {
        let built = executable(arguments, target, args.zig)?;
        let version = glibc_of(&built, args.glibc)?;
        println!("{name}: needs glibc {version}");
        fs::copy(&built, stage.join(name)).with_context(|| built.display().to_string())?;
    }
    for script in fs::read_dir("tools/peers")?.filter_map(|e| Some(e.ok()?.path())) {
        if let Some(name) = script.file_name().filter(|_| script.extension().is_some_and(|e| e == "py")) {
            fs::copy(&script, stage.join("peers").join(name))?;
        }
    }
    if let Some(cases) = &args.cases {
        fs::create_dir_all(stage.join("cases"))?;
        for case in fs::read_dir(cases).with_context(|| cases.display().to_string())? {
            let case = case?;
            fs::copy(case.path(), stage.join("cases").join(case.file_name()))?;
        }
    }
    let script = stage.join("run.sh");
    fs::write(&script, RUN)?;
    #[cfg(unix)]
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let status = Command::new("tar").arg("-czf").arg(&args.out).args(["-C", "target/bundle", "isg"]).status();
    ensure!(status.context("tar")?.success(), "tar could not write {}", args.out.display());
    println!("{}: {:.1} MB; on the node: tar -xzf it, isg/run.sh all", args.out.display(), megabytes(&args.out)?);
    Ok(true)
}

fn megabytes(path: &Path) -> Result<f64> {
    Ok(fs::metadata(path)?.len() as f64 / 1e6)
}

/// The newest version of glibc that a program asks for.
///
/// # Errors
/// It is newer than `most`.
fn glibc_of(program: &Path, most: Version) -> Result<Version> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let needed = glibc::needed(&bytes).with_context(|| program.display().to_string())?;
    let Some((newest, _)) = needed.last_key_value() else { return Ok(Version::default()) };
    let newer: Vec<String> =
        needed.range(most..).filter(|(version, _)| **version > most).flat_map(|(_, f)| f.clone()).collect();
    ensure!(
        newer.is_empty(),
        "{}: needs glibc {newest} ({}); link for {most} with --zig {most}, or say with --glibc {newest} that the node has it",
        program.display(),
        newer.join(", ")
    );
    Ok(*newest)
}

/// Builds in release mode and says where `target` lies.
fn executable(arguments: &[&str], target: &str, zig: Option<Version>) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    match zig {
        // Tests and benches are built alike: they differ in which target is named.
        Some(version) => {
            let what = arguments[1..].iter().filter(|argument| **argument != "--no-run");
            command.args(["zigbuild", "--release", "--target", &format!("{ZIG_TARGET}.{version}")]).args(what);
        }
        None => {
            command.args(arguments);
            if arguments[0] != "bench" {
                command.arg("--release");
            }
        }
    }
    command.arg("--message-format=json-render-diagnostics");
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    let messages = String::from_utf8_lossy(&output.stdout);
    let found = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let is_it = message["target"]["name"] == target;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    found.with_context(|| format!("cargo {} built no {target}", arguments.join(" ")))
}
