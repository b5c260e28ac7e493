//! What every kernel does on the emulator, held against `tests/counters/<op>.txt`: a kernel that touches more sectors, meets
//! more bank conflicts or issues more instructions is a failed test, on a machine without a GPU.
//!
//! Counts are exact and depend on nothing but the PTX and the launch. After a change that is meant, `ISG_UPDATE=counters
//! cargo test counters::` writes them anew; the difference is part of the review.

use std::{collections::BTreeSet, env, fmt::Write, fs, path::PathBuf};

use isg::{
    DType, Device,
    device::emulator::{Checks, Emulator, Options},
    op::{OpSpec, Order},
};

use crate::ops::{chosen, draw, gradients, outputs};

/// The counters worth a line: what makes a kernel slow.
const HELD: &[&str] = &[
    "warp_instructions",
    "divergent_branches",
    "barriers",
    "mma_macs",
    "special",
    "global_load_requests",
    "global_load_sectors",
    "global_load_ideal_sectors",
    "global_store_requests",
    "global_store_sectors",
    "global_store_ideal_sectors",
    "shared_wavefronts",
    "shared_ideal_wavefronts",
    "local_accesses",
    "atomics",
    "atomic_serialised",
];

fn counted(spec: &OpSpec) -> String {
    // Checks cost time and count nothing; approximate results do not change what is counted.
    let options = Options { perturb: false, checks: Checks::NONE, ..Options::default() };
    let device = Device::gpu(Emulator::new(&options));
    let mut text = String::new();
    for case in (spec.cases)() {
        for dtype in [DType::F32, DType::Bf16] {
            let ran = draw(&case, dtype, &device).and_then(|x| {
                outputs(&case, &x)?;
                if spec.order != Order::None && !case.wrt.is_empty() {
                    gradients(&case, &x)?;
                }
                Ok(())
            });
            ran.unwrap_or_else(|error| panic!("{} {}: {error}", spec.name, case.name));
            for kernel in device.take_counters() {
                write!(text, "{} {dtype} {}x{}:", case.name, kernel.kernel, kernel.launches).expect("a string");
                for (name, value) in kernel.counts.iter().filter(|(name, value)| HELD.contains(name) && *value > 0) {
                    write!(text, " {name}={value}").expect("a string");
                }
                text.push('\n');
            }
        }
    }
    text
}

#[test]
fn kernels_do_no_more_than_they_did() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/counters");
    let update = env::var("ISG_UPDATE").is_ok_and(|what| what == "counters");
    let mut changed = Vec::new();
    for spec in chosen().filter(|spec| !spec.kernels.is_empty()) {
        let path = folder.join(format!("{}.txt", spec.name));
        let now = counted(spec);
        if update {
            fs::create_dir_all(&folder).and_then(|()| fs::write(&path, now)).expect("tests/counters is writable");
            continue;
        }
        let before = fs::read_to_string(&path).unwrap_or_default();
        let (was, is): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
        changed.extend(was.difference(&is).map(|line| format!("{} was {line}", spec.name)));
        changed.extend(is.difference(&was).map(|line| format!("{} is  {line}", spec.name)));
    }
    assert!(
        changed.is_empty(),
        "{} lines differ; after a change that is meant: ISG_UPDATE=counters cargo test counters::\n{}",
        changed.len(),
        changed.join("\n")
    );
}
