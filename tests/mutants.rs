//! Every barrier, wait, fence, commit and condition of our kernels is taken out of the PTX in turn, in the launches that the
//! registry's cases make; each time the emulator must object, or for a condition at least the result must change.
//!
//! `cargo test` plants what orders accesses, in one element type after another; `ISG_MUTANTS=all` plants conditions too,
//! in more launches each, and prints a table. `ISG_OP` chooses ops as elsewhere. What may pass is in
//! `tests/mutants/equivalent.txt`, with the reason.

use std::{cell::RefCell, collections::BTreeMap, env, fmt::Write, rc::Rc};

use isg::{
    DType, Device, Result, Tensor,
    device::{
        Precision,
        driver::Facts,
        kernel::{FLOATS, modules},
    },
    op::{Case, OpSpec, Order},
    ops::shannon::{batch, encode},
    optim::{adam, lerp, lerp_by},
    random::Philox,
};

mod device;
#[path = "../tools/ptx-emulator/tests/harness/mutate.rs"]
mod mutate;

use device::{Found, Outcome, Plan, Saboteur};

use crate::{
    ops::{chosen, draw, gradients, outputs, second_gradients},
    shannon::contents,
};

/// Runs a case with all the gradients it has.
fn run(spec: &OpSpec, case: &Case, dtype: DType, device: &Device) -> Result<()> {
    let x = draw(case, dtype, device)?;
    outputs(case, &x)?;
    if spec.order != Order::None && !case.wrt.is_empty() {
        gradients(case, &x)?;
        if spec.order == Order::Any {
            second_gradients(case, &x)?;
        }
    }
    Ok(())
}

const AMPERE: Facts = Facts { capability: (8, 0), multiprocessors: 108, shared_bytes: 163 << 10 };
const HOPPER: Facts = Facts { capability: (9, 0), multiprocessors: 132, shared_bytes: 227 << 10 };
/// One multiprocessor: every launch shape is the one for much work.
const fn small(facts: Facts) -> Facts {
    Facts { multiprocessors: 1, ..facts }
}

fn device(seed: u64, facts: Facts, found: &Rc<RefCell<Found>>) -> Device {
    Device::gpu(Saboteur::new(seed, facts, found))
}

/// The cases of one op in the types that have kernels, on GPUs that choose different kernels.
fn walk(spec: &OpSpec, everything: bool, found: &Rc<RefCell<Found>>) {
    let types = if everything { FLOATS } else { &FLOATS[..2] };
    let mut runs = Vec::new();
    for facts in [AMPERE, small(AMPERE)] {
        runs.extend(types.iter().map(|dtype| (*dtype, facts, false)));
        if everything {
            runs.push((DType::F32, facts, true));
        }
    }
    if matches!(spec.name, "matmul" | "linear") {
        for facts in [HOPPER, small(HOPPER)] {
            runs.extend(types[1..].iter().map(|dtype| (*dtype, facts, false)));
        }
    }
    for (seed, (dtype, facts, tf32)) in (1..).zip(runs) {
        let device = device(seed, facts, found);
        if tf32 {
            device.set_precision(Precision::Tf32 { from_multiplications: 0 });
        }
        for case in (spec.cases)() {
            run(spec, &case, dtype, &device).unwrap_or_else(|e| panic!("{} {} {dtype}: {e}", spec.name, case.name));
        }
    }
}

/// The kernels of optimisers, which are no ops.
fn updates(found: &Rc<RefCell<Found>>) -> Result<()> {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let device = device(8, AMPERE, found);
        for count in [1, 255, 1003] {
            let make =
                |name: &str, dtype| Tensor::from_f64(&Philox::named(1, name).uniforms(count), [count], dtype, &device);
            let (a, b) = (make("a", dtype)?, make("b", dtype)?);
            lerp(&[&a, &b], &[&make("c", dtype)?, &make("d", dtype)?], 0.25)?;
            lerp_by(&[&a], &[&b], &Tensor::full(0.5, [1], DType::F32, &device)?)?;
            if dtype == DType::F32 {
                let step = adam::AdamStep {
                    lr: 0.002,
                    beta1: 0.9,
                    beta2: 0.99,
                    eps: 1e-8,
                    weight_decay: 0.01,
                    decoupled: count > 1,
                    step: 3,
                };
                adam::update(&step, &a, &b, &make("m", dtype)?, &make("v", dtype)?)?;
            }
        }
    }
    Ok(())
}

/// Scores of images, whose kernels take no float type.
fn scores(found: &Rc<RefCell<Found>>) -> Result<()> {
    for (seed, (width_px, height_px)) in (20..).zip([(1, 1), (5, 129), (129, 131)]) {
        for (_, image) in contents(width_px, height_px) {
            let device = device(seed, AMPERE, found);
            let pixels = batch(std::slice::from_ref(&image), &device)?;
            pixels.shannon_bits()?;
            pixels.shannon_order0()?;
            pixels.shannon_jpeg(80)?;
            encode(&image, &device)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Row {
    planted: usize,
    reported: usize,
    wrong: usize,
    passed: usize,
    idle: usize,
}

/// What was found: a table of all kernels files, and a line for each fault that nobody saw.
fn tables(found: &Found) -> (String, Vec<String>) {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut survivors = Vec::new();
    for kernel in &found.kernels {
        let row = rows.entry(&kernel.stem).or_default();
        let mut ordinals = BTreeMap::new();
        for site in &kernel.sites {
            let ordinal = ordinals.entry(site.mutant.safeguard).or_insert(0);
            *ordinal += 1;
            row.planted += 1;
            let seen = match &site.outcome {
                Outcome::Reported(_) => {
                    row.reported += 1;
                    true
                }
                Outcome::Wrong => {
                    row.wrong += 1;
                    !site.mutant.safeguard.orders()
                }
                Outcome::Passed => {
                    row.passed += 1;
                    false
                }
                Outcome::Idle => {
                    row.idle += 1;
                    false
                }
            };
            if !seen {
                let (entry, mutant) = (&kernel.entry, &site.mutant);
                let source = kernel.body.source(mutant.line).unwrap_or_default();
                survivors.push(format!(
                    "{entry}\t{:?}\t{ordinal}\t{:?}\t{source}\t{}:{}",
                    mutant.safeguard, site.outcome, mutant.line, mutant.was
                ));
            }
        }
    }
    let mut text =
        format!("{:24}{:>9}{:>9}{:>9}{:>9}{:>9}\n", "kernels", "planted", "reported", "wrong", "passed", "idle");
    for (stem, Row { planted, reported, wrong, passed, idle }) in rows {
        writeln!(text, "{stem:24}{planted:9}{reported:9}{wrong:9}{passed:9}{idle:9}").expect("a string");
    }
    (text, survivors)
}

#[test]
fn planted_faults_are_seen() {
    let everything = env::var("ISG_MUTANTS").is_ok_and(|value| value == "all");
    let plan = Plan { guards: everything, most_steps: if everything { 2_000_000 } else { 300_000 } };
    let found = Found::new(plan);
    for spec in chosen() {
        let start = std::time::Instant::now();
        walk(spec, everything, &found);
        eprintln!("{} {:?}", spec.name, start.elapsed());
    }
    if env::var("ISG_OP").is_ok_and(|op| op == "updates") || env::var("ISG_OP").map_or(true, |op| op.is_empty()) {
        updates(&found).expect("updates");
    }
    if env::var("ISG_OP").is_ok_and(|op| op == "scores") || env::var("ISG_OP").map_or(true, |op| op.is_empty()) {
        scores(&found).expect("scores");
    }
    let found = found.borrow();
    let (table, survivors) = tables(&found);
    println!("{table}");
    println!("{}", survivors.join("\n"));
    let launched: Vec<&str> = found.kernels.iter().filter(|k| k.launches > 0).map(|k| &*k.entry).collect();
    for (stem, text) in modules() {
        for name in text.split(".visible .entry ").skip(1).filter_map(|rest| rest.split('(').next()) {
            if !launched.contains(&name) {
                println!("never launched: {stem} {name}");
            }
        }
    }
}
