//! Every barrier, wait, fence, commit and condition of our kernels is taken out of the PTX in turn, in the launches that the
//! registry's cases make; each time the emulator must object, or for a condition at least the result must change.
//!
//! `cargo test` plants what orders accesses, in f32 and bf16. `ISG_MUTANTS=all` plants conditions too, in every type and in
//! more launches each; its table goes to the file that `ISG_MUTANTS_TABLE` names, with a line for each fault that passed.
//! `ISG_OP` chooses ops as elsewhere.
//!
//! A condition that passes is not always a missing check: a branch around a faster path or around work on nothing may be
//! taken out without a trace. What orders accesses must be reported, or is listed here with the reason why not.

use std::{cell::RefCell, collections::BTreeMap, env, fmt::Write, rc::Rc};

use isg::{
    DType, Device, Result, Tape, Tensor,
    device::{Precision, driver::DeviceProps, kernel::FLOATS, modules},
    nn::builder::{Builder, Init},
    op::{Case, OpSpec, Order},
    ops::lerp::{lerp, lerp_by},
    optim::{Sgd, SgdConfig, adam},
    random::Philox,
    select::kernels::shannon::{batch, encode},
};

mod device;
#[path = "../tools/ptx-emulator/tests/harness/mutate.rs"]
mod mutate;

use device::{Found, Outcome, Plan, Saboteur};
use mutate::Safeguard;

use crate::{
    gpu::{has_hopper_kernels, on_emulator},
    ops::{chosen, draw, gradients, outputs, second_gradients},
    shannon::{contents, skewed},
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

const AMPERE: DeviceProps = DeviceProps { capability: (8, 0), num_sms: 108, shared_bytes: 163 << 10 };
const HOPPER: DeviceProps = DeviceProps { capability: (9, 0), num_sms: 132, shared_bytes: 227 << 10 };
/// One SM: every launch shape is the one for much work.
const fn small(props: DeviceProps) -> DeviceProps {
    DeviceProps { num_sms: 1, ..props }
}

fn device(seed: u64, props: DeviceProps, found: &Rc<RefCell<Found>>) -> Device {
    Device::gpu(Saboteur::new(seed, props, found))
}

/// The cases of one op in the types that have kernels, on GPUs that choose different kernels.
fn walk(spec: &OpSpec, everything: bool, found: &Rc<RefCell<Found>>) {
    let types = if everything { FLOATS } else { &FLOATS[..2] };
    let mut runs = Vec::new();
    for props in [AMPERE, small(AMPERE)] {
        runs.extend(types.iter().map(|dtype| (*dtype, props, false)));
        if everything {
            runs.push((DType::F32, props, true));
        }
    }
    if has_hopper_kernels(&spec) {
        for props in [HOPPER, small(HOPPER)] {
            runs.extend(types[1..].iter().map(|dtype| (*dtype, props, false)));
        }
    }
    for (seed, (dtype, props, tf32)) in (1..).zip(runs) {
        let device = device(seed, props, found);
        if tf32 {
            device.set_precision(Precision::Tf32 { min_macs: 0 });
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
                let mut builder = Builder::fresh(2, dtype, &device);
                let weight = builder.param("weight", [count], Init::Normal(1.0))?;
                let params = builder.finish()?;
                let tape = Tape::start();
                tape.watch([&weight]);
                let grads = tape.backward(&weight.mul(&b)?.sum_all()?)?;
                Sgd::new(&params, SgdConfig::default())?.step(&params, &grads, 0.5)?;
            }
        }
    }
    Ok(())
}

/// Scores of images, whose kernels take no float type.
fn scores(found: &Rc<RefCell<Found>>) -> Result<()> {
    // Those that repeat themselves most come first: they need most of what is planted.
    let of_size = |(width_px, height_px)| contents(width_px, height_px).into_iter().rev().map(|(_, image)| image);
    let sizes = [(1, 1), (5, 129), (129, 131)].map(|size| of_size(size).collect::<Vec<_>>());
    for (seed, images) in (20..).zip(sizes.into_iter().chain([vec![skewed()]])) {
        for image in images {
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

/// Faults that may pass, because what is taken out orders nothing that the rest does not order too: how the entry's name
/// begins and how it ends before its element type, the safeguard, which of its kind in the entry, and why.
const EQUIVALENT: &[(&str, &str, Safeguard, &[usize], &str)] = &[
    ("gemm_", "", Safeguard::Wait, &[2], LAST_GROUPS),
    ("linear_fwd", "", Safeguard::Wait, &[2], LAST_GROUPS),
    ("conv2d_", "", Safeguard::Wait, &[2], LAST_GROUPS),
    ("modulated_conv2d_", "", Safeguard::Wait, &[2], LAST_GROUPS),
    ("local_feature_updater_", "", Safeguard::Wait, &[2], LAST_GROUPS),
    ("gemm_", "_64x64", Safeguard::WarpBarrier, &[2, 4], LAST_READ),
    ("linear_fwd", "_64x64", Safeguard::WarpBarrier, &[2, 4], LAST_READ),
    ("conv2d_", "_64x64", Safeguard::WarpBarrier, &[2, 4], LAST_READ),
    ("modulated_conv2d_", "_64x64", Safeguard::WarpBarrier, &[2, 4], LAST_READ),
    ("modulated_conv2d_", "_fused_upsample", Safeguard::WarpBarrier, &[2], LAST_READ),
    ("gemm_", "_128x128", Safeguard::WarpBarrier, &[4, 8], LAST_READ),
    ("linear_fwd", "_128x128", Safeguard::WarpBarrier, &[4, 8], LAST_READ),
    ("conv2d_", "_128x128", Safeguard::WarpBarrier, &[4, 8], LAST_READ),
    ("modulated_conv2d_", "_128x128", Safeguard::WarpBarrier, &[4, 8], LAST_READ),
    ("segment_topk_mean_fwd", "", Safeguard::Barrier, &[2], OWN_SUM),
    ("mbconv_", "", Safeguard::Wait, &[2, 4], LAST_GROUPS),
    ("mbconv_expand_moments", "", Safeguard::Barrier, &[2], NOT_REUSED),
    ("mbconv_sm90_", "_fwd", Safeguard::Barrier, &[2], NOT_REUSED),
];
const LAST_GROUPS: &str = "the steps before waited for every group that copies something; those left are empty";
const NOT_REUSED: &str =
    "what comes next has shared memory of its own, and a barrier before the product's is written again";
const OWN_SUM: &str = "the only thread that goes on reads the sum that it wrote itself";
const LAST_READ: &str = "nobody writes to the warp's piece of shared memory after its last results were read";

/// Why the fault may pass, if it may.
fn excuse(entry: &str, safeguard: Safeguard, ordinal: usize) -> Option<&'static str> {
    let family = ["_f32", "_bf16", "_f16"].iter().find_map(|dtype| entry.strip_suffix(dtype)).unwrap_or(entry);
    let family = family.strip_suffix("_tf32").unwrap_or(family);
    let fits = |(start, end, s, ordinals, _): &&(&str, &str, Safeguard, &[usize], &str)| {
        family.starts_with(start) && family.ends_with(end) && *s == safeguard && ordinals.contains(&ordinal)
    };
    EQUIVALENT.iter().find(fits).map(|(.., why)| *why)
}

#[derive(Default)]
struct Row {
    planted: usize,
    reported: usize,
    wrong: usize,
    equivalent: usize,
    passed: usize,
    idle: usize,
}

/// What was found: a table of all kernels files, and a line for each fault that nobody saw.
fn tables(found: &Found) -> (String, Vec<String>) {
    let mut rows: BTreeMap<(&str, bool), Row> = BTreeMap::new();
    let mut missed = Vec::new();
    for kernel in &found.kernels {
        for site in &kernel.sites {
            let (mutant, entry, ordinal) = (&site.mutant, &kernel.entry, site.ordinal);
            let orders = mutant.safeguard.orders();
            let row = rows.entry((&kernel.file, !orders)).or_default();
            row.planted += 1;
            match &site.outcome {
                Outcome::Reported(_) => row.reported += 1,
                // Another result is no order that was found missing.
                Outcome::Wrong if !orders => row.wrong += 1,
                _ if site.excuse.is_some() => row.equivalent += 1,
                Outcome::Idle => row.idle += 1,
                outcome => {
                    row.passed += 1;
                    let place = kernel.body.source(mutant.line).unwrap_or_else(|| format!("PTX line {}", mutant.line));
                    missed.push(format!(
                        "{entry}: {:?} {ordinal} at {place} ({}): {outcome:?} in {} launches' {} steps",
                        mutant.safeguard, mutant.was, kernel.launches, site.steps
                    ));
                }
            }
        }
    }
    let mut text = format!(
        "{:24}{:12}{:>9}{:>9}{:>9}{:>12}{:>9}{:>9}\n",
        "kernels", "", "planted", "reported", "wrong", "equivalent", "passed", "idle"
    );
    let mut all = Row::default();
    for ((module, conditions), row) in &rows {
        let Row { planted, reported, wrong, equivalent, passed, idle } = row;
        let what = if *conditions { "conditions" } else { "orders" };
        writeln!(text, "{module:24}{what:12}{planted:9}{reported:9}{wrong:9}{equivalent:12}{passed:9}{idle:9}")
            .expect("a string");
        all.planted += planted;
        all.reported += reported;
        all.wrong += wrong;
        all.equivalent += equivalent;
        all.passed += passed;
        all.idle += idle;
    }
    let Row { planted, reported, wrong, equivalent, passed, idle } = all;
    writeln!(text, "{:36}{planted:9}{reported:9}{wrong:9}{equivalent:12}{passed:9}{idle:9}", "all").expect("a string");
    (text, missed)
}

#[test]
fn planted_faults_are_seen() {
    if !on_emulator() {
        return;
    }
    let everything = env::var("ISG_MUTANTS").is_ok_and(|value| value == "all");
    let only = env::var("ISG_OP").unwrap_or_default();
    let found = Found::new(Plan {
        conditions: everything,
        most_steps: 3_000_000,
        most_excused_steps: if everything { 600_000 } else { 0 },
    });
    for spec in chosen() {
        walk(spec, everything, &found);
    }
    if "updates".contains(&only) {
        updates(&found).expect("updates");
    }
    if "shannon".contains(&only) {
        scores(&found).expect("scores");
    }
    let found = found.borrow();
    let (table, missed) = tables(&found);
    println!("{table}");
    if let Ok(path) = env::var("ISG_MUTANTS_TABLE") {
        std::fs::write(&path, format!("{table}\n{}\n", missed.join("\n"))).expect("a writable file");
    }
    assert!(everything || missed.is_empty(), "{} faults that nobody saw:\n{missed:#?}", missed.len());
    if only.is_empty() {
        let launched: Vec<&str> = found.kernels.iter().filter(|k| k.launches > 0).map(|k| &*k.entry).collect();
        let entries = modules::ALL.iter().flat_map(|module| module.entries().expect("the shipped text"));
        let idle: Vec<String> = entries.filter(|name| !launched.contains(&name.as_str())).collect();
        assert!(!everything || idle.is_empty(), "entries that no case launches: {idle:?}");
    }
}
