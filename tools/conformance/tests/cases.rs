//! The cases that come along, through the command.

use std::{path::Path, process::Command};

fn passes(device: &str, dtype: &str) {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    assert!(std::fs::read_dir(&cases).expect("cases").count() > 90, "the small set is whole");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isg-conformance"));
    let done = command.args(["--device", device, "--dtype", dtype]).arg(&cases).output().expect("runs");
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{device} {dtype}: {}", said.concat());
}

#[test]
fn the_cpu_passes_every_case_that_comes_along() {
    passes("cpu", "f64");
    passes("cpu", "f32");
}

#[test]
fn the_kernels_pass_every_case_that_comes_along() {
    passes("emulator", "f32");
    passes("emulator", "bf16");
}
