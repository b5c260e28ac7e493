//! Every op of the registry on a device with kernels: the emulator, or with `ISG_DEVICE=cuda` a GPU.
//!
//! The judge is the CPU device in f64 on the same rounded inputs. On the emulator every access is checked, fresh memory is
//! poisoned, and each element type runs under another seed: another order of blocks and warps, other errors of approximate
//! instructions. `ISG_OP=conv2d` runs the cases of the ops whose name contains that.

use std::{env, rc::Rc};

use isg::{
    DType, Device, Error, Result, Tape, Tensor,
    device::{
        Precision,
        cuda::{Cuda, jit::complaint},
        driver::Driver,
        emulator::{Emulator, Options},
        loads,
        module::Arch,
        modules,
    },
    op::{Case, OpSpec, Order},
    ops::lerp::lerp,
    random::Philox,
};

use crate::ops::{accepted, bits, chosen, compare, draw, every_case, gradients, outputs, second_gradients, values};

pub(crate) fn on_emulator() -> bool {
    env::var("ISG_DEVICE").map_or(true, |name| name.is_empty() || name.starts_with("emulator"))
}

fn device(seed: u64) -> Device {
    match env::var("ISG_DEVICE") {
        Ok(name) if !on_emulator() => Device::named(&name).unwrap_or_else(|error| panic!("{error}")),
        _ => Device::gpu(Emulator::new(&Options { seed, ..Options::default() })),
    }
}

/// The same values in f64 on the CPU.
fn judged(x: &[Tensor]) -> Result<Vec<Tensor>> {
    let cpu = Device::cpu();
    let wide = |t: &Tensor| {
        let t = t.to_device(&cpu)?;
        if t.dtype().is_float() { t.cast(DType::F64) } else { Ok(t) }
    };
    x.iter().map(wide).collect()
}

/// Outputs and gradients that are not those of f64 on the CPU.
fn differences(spec: &OpSpec, case: &Case, device: &Device, dtype: DType, limits: (f64, f64)) -> Result<Vec<String>> {
    // Gradients that cancel to nothing have no digits to compare.
    let floors = if dtype == DType::F32 { (1e-10, 0.5) } else { (1e-2, 0.5) };
    let x = draw(case, dtype, device)?;
    let wide = judged(&x)?;
    let mut found = compare("output", &outputs(case, &x)?, &outputs(case, &wide)?, limits.0, floors.0);
    if spec.order != Order::None && !case.wrt.is_empty() {
        let (ours, reference) = (values(&gradients(case, &x)?)?, values(&gradients(case, &wide)?)?);
        found.extend(compare("gradient", &ours, &reference, limits.1, floors.1));
    }
    Ok(found)
}

fn agrees_with_double(device: &Device, dtype: DType, limits: (f64, f64)) {
    every_case(|spec, case| differences(spec, case, device, dtype, limits));
}

#[test]
fn f32_agrees_with_double() {
    agrees_with_double(&device(0), DType::F32, accepted(DType::F32));
}

#[test]
fn tf32_agrees_with_double() {
    let device = device(1);
    device.set_precision(Precision::Tf32 { min_macs: 0 });
    agrees_with_double(&device, DType::F32, (3e-3, 1e-2));
}

#[test]
fn bf16_agrees_with_double() {
    agrees_with_double(&device(2), DType::Bf16, accepted(DType::Bf16));
}

#[test]
fn f16_agrees_with_double() {
    agrees_with_double(&device(3), DType::F16, accepted(DType::F16));
}

/// A GPU of one SM: launch shapes made for much work, which the cases are too small for elsewhere.
#[test]
fn small_gpus_agree_with_double() {
    if !on_emulator() {
        return;
    }
    for (seed, dtype) in [(8, DType::F32), (9, DType::Bf16)] {
        let options = Options { seed, num_sms: 1, ..Options::default() };
        let device = Device::gpu(Emulator::new(&options));
        agrees_with_double(&device, dtype, accepted(dtype));
    }
}

/// Whether compute capability 9.0 has kernels of its own for the op.
pub(crate) fn has_hopper_kernels(spec: &&OpSpec) -> bool {
    spec.kernels.iter().any(|kernel| kernel.module.arch == Arch::SM_90A)
}

#[test]
fn hopper_products_agree_with_double() {
    if !on_emulator() {
        return;
    }
    // On one SM a block has many tiles, one after another.
    for (seed, dtype, num_sms) in [(6, DType::Bf16, 0), (7, DType::F16, 0), (6, DType::Bf16, 1)] {
        let options = Options { seed, capability: (9, 0), num_sms, ..Options::default() };
        let device = Device::gpu(Emulator::new(&options));
        for spec in chosen().filter(has_hopper_kernels) {
            for case in (spec.cases)() {
                let found = differences(spec, &case, &device, dtype, accepted(dtype))
                    .unwrap_or_else(|error| panic!("{} {}: {error}", spec.name, case.name));
                assert!(found.is_empty(), "{} {}: {found:?}", spec.name, case.name);
            }
        }
    }
}

/// The penalty on gradients needs the gradient of the gradient: the same kernels, once more.
#[test]
fn gradients_of_gradients_agree_with_double() {
    let device = device(4);
    every_case(|spec, case| {
        if spec.order != Order::Any || case.wrt.is_empty() {
            return Ok(Vec::new());
        }
        let x = draw(case, DType::F32, &device)?;
        let (ours, reference) = (second_gradients(case, &x)?, second_gradients(case, &judged(&x)?)?);
        Ok(compare("second gradient", &ours, &reference, 1e-3, 1e-1))
    });
}

/// Whatever the order of blocks and warps, and whatever memory held before.
#[test]
fn every_run_gives_the_same_bits() {
    let exact = |seed| match on_emulator() {
        true => Device::gpu(Emulator::new(&Options { seed, perturb: false, ..Options::default() })),
        false => device(seed),
    };
    let (one, other) = (exact(11), exact(12));
    every_case(|spec, case| {
        let (a, b) = (bits(case, spec, &one)?, bits(case, spec, &other)?);
        let same = a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| a.to_bits() == b.to_bits());
        Ok(if same { Vec::new() } else { vec!["two runs differ".to_string()] })
    });
}

/// A training step recorded once and replayed does what it does op by op: the same parameters after every step.
#[test]
fn recorded_steps_do_what_steps_do() {
    let device = device(5);
    let run = |recorded: bool| -> Result<Vec<Vec<f64>>> {
        let random = |i: u64, shape: [usize; 2]| {
            Tensor::from_f64(&Philox::named(i, "graph").normals(shape[0] * shape[1]), shape, DType::F32, &device)
        };
        let (x, target) = (random(0, [9, 33])?, random(1, [9, 7])?);
        let weights = [random(2, [33, 18])?, random(3, [18, 7])?];
        let step = || -> Result<()> {
            let tape = Tape::start();
            tape.watch(&weights);
            let hidden = x.matmul(&weights[0], false, false)?.square()?;
            let difference = hidden.matmul(&weights[1], false, false)?.sub(&target)?;
            let loss = difference.square()?.sum_all()?;
            let grads = tape.backward(&loss)?;
            let targets: Vec<Tensor> = weights.to_vec();
            for weight in &targets {
                let grad = grads.get(weight).ok_or_else(|| Error::NotOnTape("a weight".to_string()))?;
                // w <- 0.999 w + 0.001 (w - 0.001 g), in place.
                lerp(&[weight], &[&weight.sub(&grad.scale(1e-3)?)?], 1e-3)?;
            }
            Ok(())
        };
        let mut seen = Vec::new();
        step()?;
        let mut graph = None;
        for _ in 0..3 {
            match (recorded, &graph) {
                (false, _) => step()?,
                (true, None) => {
                    let (recording, ()) = device.capture(step)?;
                    recording.replay()?;
                    graph = Some(recording);
                }
                (true, Some(recording)) => recording.replay()?,
            }
            seen.extend(values(&weights)?);
        }
        Ok(seen)
    };
    let (eager, replayed) = (run(false).expect("steps"), run(true).expect("replays"));
    assert!(eager == replayed, "a replay differs from a step");
    assert!(eager[0] != eager[2], "steps change the weights");
}

/// Random numbers of a captured step are new at every replay: those that the following steps would draw.
#[test]
fn replays_draw_the_numbers_of_the_following_steps() {
    let device = device(6);
    let random = Philox::named(7, "replays");
    let draw = |step: u32| -> Result<Vec<Tensor>> {
        let x = Tensor::random_normal([37], DType::F32, &device, random, step)?;
        Ok(vec![x.dropout(0.3, random, step)?, x])
    };
    let eager: Vec<_> = (4..7).map(|step| values(&draw(step)?)).collect::<Result<_>>().expect("draws");
    draw(4).expect("loads the kernels");
    let (graph, drawn) = device.capture(|| draw(4)).expect("a recording");
    for expected in eager {
        graph.replay().expect("replayed");
        assert_eq!(values(&drawn).expect("read"), expected);
    }
}

/// A module loaded while a step is captured would be loaded by whoever replays it first, for seconds.
#[test]
fn a_capture_loads_nothing() {
    let device = device(7);
    let x = Tensor::from_vec(vec![0.5f32; 40], [4, 10], &device).expect("memory");
    let step = || x.softmax();
    let message = device.capture(step).err().expect("softmax was never launched").to_string();
    assert!(message.contains("softmax") && message.contains("first time"), "{message}");
    let eager = step().expect("launched");
    let (graph, captured) = device.capture(step).expect("a capture");
    graph.replay().expect("replayed");
    assert_eq!(captured.to_vec::<f32>().expect("read"), eager.to_vec::<f32>().expect("read"));
}

/// The GPU that `ISG_DEVICE` names.
fn cuda() -> Rc<Cuda> {
    let index = env::var("ISG_DEVICE").ok().and_then(|name| name.split_once(':')?.1.parse().ok()).unwrap_or(0);
    Cuda::open(index).unwrap_or_else(|error| panic!("{error}"))
}

/// What a training preloads is there before its first launch.
/// A forward pass and its gradient, whose launches depend on sizes and types.
fn small_step(device: &Device) -> Result<Vec<f32>> {
    let x = Tensor::full(0.5, [70, 33], DType::F32, device)?.cast(DType::Bf16)?;
    let w = Tensor::full(0.25, [33, 9], DType::Bf16, device)?;
    let tape = Tape::start();
    tape.watch([&w]);
    let loss = x.matmul(&w, false, false)?.square()?.mean_all()?;
    tape.backward(&loss)?.get(&w).expect("watched").cast(DType::F32)?.to_vec()
}

#[test]
fn a_rehearsal_asks_for_what_the_work_launches() {
    assert!(Device::cpu().rehearse(small_step).expect("ends").is_empty());
    let device = Device::named("emulator").expect("always there");
    let rehearsed = device.rehearse(small_step).expect("ends");
    assert!(device.take_counters().is_empty(), "a rehearsal runs nothing");
    small_step(&device).expect("runs");
    let mut launched: Vec<String> = device.take_counters().into_iter().map(|counters| counters.kernel).collect();
    let mut named: Vec<String> = rehearsed.into_iter().map(|(_, name)| name).collect();
    launched.sort();
    named.sort();
    assert_eq!(named, launched);
    assert!(named.len() >= 5, "{named:?}");
}

#[test]
fn preloaded_kernels_are_not_loaded_again() {
    if on_emulator() {
        return; // Nothing is compiled there.
    }
    let cuda = cuda();
    let device = Device::gpu(cuda.clone());
    device.preload(small_step).expect("loaded");
    let loaded = cuda.loaded();
    assert!(loaded >= 5);
    small_step(&device).expect("runs");
    assert_eq!(cuda.loaded(), loaded);
}

/// A device that another run, or another device of this one, has compiled for loads what is on disk.
#[test]
fn images_of_compiled_kernels_are_found_again() {
    if on_emulator() || env::var_os("ISG_CACHE").is_some_and(|value| value == "off") {
        return;
    }
    for seed in [14, 15] {
        Tensor::full(1.0, [3], DType::F32, &device(seed)).and_then(|x| x.square()).expect("runs");
    }
    let found = |load: &loads::Load| load.entry == "unary_square_f32" && load.origin == loads::Origin::Cached;
    assert!(loads::all().iter().any(found), "{}", loads::report(loads::all()));
}

/// The driver's own compiler may need other registers than the pinned assembler; it must not spill where that one did not.
#[test]
fn the_drivers_compiler_takes_every_kernel_without_spills() {
    if on_emulator() {
        return; // The assemblers' verdict is part of `cargo tool ptx`.
    }
    let cuda = cuda();
    let budget: toml::Table = include_str!("../kernels/budget.toml").parse().expect("a budget");
    let mut problems = Vec::new();
    for module in modules::ALL.iter().filter(|module| module.arch.runs_on(cuda.props().capability)) {
        for name in module.entries().expect("the shipped text") {
            let compiled = cuda.entry(module, &name).and_then(|entry| cuda.attributes(entry));
            let allowed = budget[module.name][&*name]["stack_bytes"].as_integer().expect("a number");
            match compiled {
                Ok(Some(found)) if i64::from(found.local_bytes) <= allowed => {}
                Ok(found) => problems.push(format!("{name}: {found:?}, {allowed} local bytes allowed")),
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    // Another test may have loaded kernels on an emulator, which compiles none.
    let loads: Vec<_> = loads::all().into_iter().filter(|load| load.origin != loads::Origin::Interpreted).collect();
    let complaint = |load: &loads::Load| Some(format!("{}: {}", load.entry, complaint(&load.log)?));
    problems.extend(loads.iter().filter_map(complaint));
    assert!(!loads.is_empty() && loads.iter().all(|load| !load.log.is_empty()), "the compiler's log is captured");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
