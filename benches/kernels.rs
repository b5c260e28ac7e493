//! The kernels on a device: time, TFLOP/s and GB/s of every op of the registry at the sizes it names (`OpSpec::workloads`).
//!
//! ```text
//! cargo bench --bench kernels -- --device cuda [--only TEXT] [--dtype f32,tf32,bf16,f16] [--log FILE.jsonl]
//! cargo bench --bench kernels -- --list          the workloads as JSON, for tools/peers/gpu_ops.py
//! cargo bench --bench kernels -- --device emulator [--only TEXT] [--log FILE.jsonl]      counts instead of times
//! cargo bench --bench kernels -- --device cuda --only conv2d --profile    one run of each between marks for a profiler
//! ```
//!
//! Ten runs are recorded into one graph, so that launches cost what they cost in training; the time is the median of thirty
//! replays after five, over ten. Every run has operands of its own where they fit in 256 MiB, so that a second-level cache
//! does not flatter small ones. `flops` counts multiplications and additions of the definition; `bytes` is the fewest that
//! must move: every operand read once, every result written once. The emulator counts what each kernel of a forward run does
//! (`cargo tool model` makes times of it): a few blocks stand for all, unchecked, behind a first-level cache.

use std::{collections::BTreeMap, io::Write as _, time::Instant};

use isg::{
    DType, Device, Result, Tape, Tensor,
    device::{
        DeviceId, Precision,
        emulator::{Checks, Emulator, Options},
        nvtx,
    },
    op::{
        Draw, Input, OpSpec, Order,
        registry::{Bench, Workload},
    },
    random::Philox,
};
use serde_json::{Value, json};

/// Every workload of the registry that is meant for GPUs, whose name contains `only`, with its op.
fn workloads(only: &str) -> Vec<(&'static OpSpec, Workload)> {
    let all = isg::ops().flat_map(|spec| (spec.workloads)().into_iter().map(move |workload| (spec, workload)));
    all.filter(|(_, w)| w.bench == Bench::Gpu && w.name.contains(only)).collect()
}

/// How a run stores and multiplies numbers.
#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    dtype: DType,
    precision: Precision,
}

const MODES: [Mode; 4] = [
    Mode { name: "f32", dtype: DType::F32, precision: Precision::F32 },
    Mode { name: "tf32", dtype: DType::F32, precision: Precision::TF32 },
    Mode { name: "bf16", dtype: DType::Bf16, precision: Precision::F32 },
    Mode { name: "f16", dtype: DType::F16, precision: Precision::F32 },
];

/// Normal numbers: zeros would draw less power and flatter the clock.
fn normal(shape: isg::Shape, dtype: DType, seed: u64, device: &Device) -> Result<Tensor> {
    Tensor::random_normal(shape, dtype, device, Philox::named(seed, "bench"), 0)
}

fn operands(workload: &Workload, mode: Mode, seed: u64, device: &Device) -> Result<Vec<Tensor>> {
    let one = |(i, input): (usize, &Input)| {
        let (seed, count) = (seed * 16 + i as u64, input.shape.elems());
        let below = |bound: usize| {
            let random = Philox::named(seed, "bench");
            (0..count).map(move |i| random.below(i as u64, bound) as i32)
        };
        match input.draw {
            Draw::Index(bound) => Tensor::from_vec(below(bound).collect(), input.shape, device),
            Draw::Offsets(rows) => {
                let offsets = (0..count).map(|i| (i * rows / (count - 1)) as i32);
                Tensor::from_vec(offsets.collect(), input.shape, device)
            }
            Draw::Bytes => Tensor::from_vec(below(256).map(|v| v as u8).collect(), input.shape, device),
            _ => normal(input.shape, mode.dtype, seed, device),
        }
    };
    workload.inputs.iter().enumerate().map(one).collect()
}

/// The only result.
fn forward(workload: &Workload, x: &[Tensor]) -> Result<Tensor> {
    Ok((workload.run)(x)?.swap_remove(0))
}

/// The gradients of every float operand.
fn step(workload: &Workload, x: &[Tensor], dy: &Tensor) -> Result<Vec<Tensor>> {
    let x: Vec<Tensor> = x.to_vec();
    let floats = || x.iter().filter(|x| x.dtype().is_float());
    let tape = Tape::start();
    tape.watch(floats());
    let y = forward(workload, &x)?;
    let grads = tape.backward_from(&[(&y, dy.clone())])?;
    Ok(floats().filter_map(|x| grads.get(x).cloned()).collect())
}

/// Bytes of all operands.
fn bytes(x: &[Tensor]) -> usize {
    x.iter().map(|x| x.shape().elems() * x.dtype().bytes()).sum()
}

const RUNS: usize = 10;
const REPLAYS: usize = 30;

/// Sorted seconds of one run.
fn seconds(device: &Device, mut each: impl FnMut(usize) -> Result<Vec<Tensor>>) -> Result<Vec<f64>> {
    drop(each(0)?);
    device.sync()?;
    let mut all_runs = || -> Result<()> { (0..RUNS).try_for_each(|i| each(i).map(drop)) };
    let graph = device.capture(&mut all_runs).ok().map(|(graph, ())| graph);
    let mut times = Vec::with_capacity(REPLAYS);
    for replay in 0..REPLAYS + 5 {
        let start = Instant::now();
        match &graph {
            Some(graph) => graph.replay()?,
            None => all_runs()?,
        }
        device.sync()?;
        if replay >= 5 {
            times.push(start.elapsed().as_secs_f64() / RUNS as f64);
        }
        // A slow device, the CPU, gets fewer.
        if times.len() >= 3 && times.iter().sum::<f64>() * RUNS as f64 > 2.0 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn measure((spec, workload): &(&OpSpec, Workload), mode: Mode, device: &Device) -> Result<Vec<Value>> {
    device.set_precision(mode.precision);
    let mut sets = vec![operands(workload, mode, 0, device)?];
    let most = ((256 << 20) / bytes(&sets[0]).max(1)).clamp(1, RUNS);
    for seed in 1..most {
        sets.push(operands(workload, mode, seed as u64, device)?);
    }
    let y = forward(workload, &sets[0])?;
    let bytes = (bytes(&sets[0]) + bytes(std::slice::from_ref(&y))) as f64;
    let differentiated = spec.order != Order::None && y.dtype().is_float();
    let dy = differentiated.then(|| normal(y.shape(), y.dtype(), 99, device)).transpose()?;
    let mut rows = Vec::new();
    for (what, factor, dy) in [("forward", 1.0, None), ("step", 3.0, dy.as_ref())] {
        if what == "step" && dy.is_none() {
            continue;
        }
        let times = seconds(device, |i| match dy {
            None => Ok(vec![forward(workload, &sets[i % sets.len()])?]),
            Some(dy) => step(workload, &sets[i % sets.len()], dy),
        })?;
        let (median, flops, bytes) = (times[times.len() / 2], factor * workload.flops, factor * bytes);
        rows.push(json!({
            "library": concat!("isg ", env!("CARGO_PKG_VERSION")), "device": device.to_string(),
            "name": workload.name, "what": what, "dtype": mode.name,
            "median_us": median * 1e6, "low_us": times[times.len() / 10] * 1e6,
            "high_us": times[times.len() * 9 / 10] * 1e6, "flops": flops, "bytes": bytes,
            "tflop_s": flops / median / 1e12, "gb_s": bytes / median / 1e9,
        }));
    }
    Ok(rows)
}

/// A forward run and a step, launched one by one as the ranges around them say, while the profiler collects.
fn profile((spec, workload): &(&OpSpec, Workload), mode: Mode, device: &Device) -> Result<()> {
    device.set_precision(mode.precision);
    let x = operands(workload, mode, 0, device)?;
    let y = forward(workload, &x)?;
    let differentiated = spec.order != Order::None && y.dtype().is_float();
    let dy = differentiated.then(|| normal(y.shape(), y.dtype(), 99, device)).transpose()?;
    let run = || -> Result<()> {
        drop(forward(workload, &x)?);
        dy.iter().try_for_each(|dy| step(workload, &x, dy).map(drop))
    };
    run()?;
    device.set_profiled(true)?;
    {
        let _range = nvtx::range(&format!("{} {}", workload.name, mode.name));
        run()?;
    }
    device.set_profiled(false)
}

/// Of a block's share of the first level: what an A100 or an H100 has beside the shared memory of a tiled kernel, two or three
/// blocks an SM.
const L1_BYTES: u32 = 32 << 10;
/// Blocks that are run for all: enough that edges do not stand for the middle, few enough for 8192 cubed.
const MOST_BLOCKS: u32 = 8;
/// Work beyond which a launch of few, persistent blocks takes the emulator minutes.
const MOST_COUNTED_FLOPS: f64 = 3e11;

/// An emulated GPU that counts and checks nothing.
fn counting(seed: u64, most_blocks: u32) -> Result<Device> {
    let options = Options { checks: Checks::NONE, l1_bytes: L1_BYTES, most_blocks, ..Options::from_env(seed)? };
    Ok(Device::gpu(Emulator::new(&options)))
}

/// What a model of time asks of a kernel.
const COUNTS: [&str; 12] = [
    "blocks",
    "warps",
    "shared_bytes",
    "warp_instructions",
    "special",
    "mma_macs",
    "shared_wavefronts",
    "shared_ideal_wavefronts",
    "global_load_sectors",
    "global_store_sectors",
    "l2_sectors",
    "dram_sectors",
];

/// What the kernels of one forward run do, where the device counts.
fn count(workload: &Workload, mode: Mode, device: &Device) -> Result<Value> {
    device.set_precision(mode.precision);
    let x = operands(workload, mode, 0, device)?;
    device.take_counters();
    let y = forward(workload, &x)?;
    let kernels: Vec<Value> = (device.take_counters().into_iter())
        .map(|kernel| {
            let wanted = kernel.counts.iter().filter(|(name, _)| COUNTS.contains(name));
            let counts: BTreeMap<&str, u64> = wanted.copied().collect();
            json!({ "kernel": kernel.kernel, "launches": kernel.launches, "counts": counts })
        })
        .collect();
    Ok(json!({
        "library": concat!("isg ", env!("CARGO_PKG_VERSION")), "device": device.to_string(),
        "name": workload.name, "what": "forward", "dtype": mode.name, "kernels": kernels,
        "least_bytes": bytes(&x) + bytes(std::slice::from_ref(&y)), "multiplications": workload.flops / 2.0,
    }))
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.nth(1)
}

fn run() -> Result<()> {
    let only = argument("--only").unwrap_or_default();
    let chosen = workloads(&only);
    if std::env::args().any(|a| a == "--list") {
        for (spec, w) in chosen.iter().filter(|(_, w)| w.inputs.iter().all(|input| input.draw.is_float())) {
            let inputs: Vec<Vec<usize>> = w.inputs.iter().map(|input| input.shape.to_vec()).collect();
            let attributes = &w.attributes;
            println!(
                "{}",
                json!({ "name": w.name, "op": spec.name, "inputs": inputs, "attributes": attributes, "flops": w.flops })
            );
        }
        return Ok(());
    }
    let id = DeviceId::parse(&argument("--device").unwrap_or_else(|| "cuda".into()))?;
    let open = |most_blocks| match id {
        DeviceId::Emulator(seed) => counting(seed, most_blocks),
        real => real.open(),
    };
    let device = open(MOST_BLOCKS)?;
    let modes = argument("--dtype").unwrap_or_else(|| "bf16,tf32,f32".into());
    let mut log = match argument("--log") {
        Some(path) => Some(
            std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(|e| isg::Error::io(&path, e))?,
        ),
        None => None,
    };
    let mut write = |row: &Value| match &mut log {
        Some(log) => writeln!(log, "{row}").map_err(|e| isg::Error::io("the log", e)),
        None => Ok(()),
    };
    if !device.to_string().starts_with("emulator") {
        println!(
            "{:28} {:8} {:5} {:>11} {:>19} {:>9} {:>9}",
            "kernel", "", "", "median µs", "10 to 90 %", "TFLOP/s", "GB/s"
        );
    }
    for one in &chosen {
        let workload = &one.1;
        for mode in MODES.into_iter().filter(|mode| modes.split(',').any(|m| m == mode.name)) {
            if device.to_string().starts_with("emulator") {
                if workload.flops <= MOST_COUNTED_FLOPS {
                    // What few blocks leave unwritten may be an index of the next kernel: then all run.
                    let row = count(workload, mode, &device).or_else(|_| count(workload, mode, &open(0)?))?;
                    println!("{row}");
                    write(&row)?;
                }
                continue;
            }
            if std::env::args().any(|a| a == "--profile") {
                profile(one, mode, &device)?;
                continue;
            }
            for row in measure(one, mode, &device)? {
                let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
                println!(
                    "{:28} {:8} {:5} {:11.2} {:9.2}–{:9.2} {:9.2} {:9.1}",
                    workload.name,
                    row["what"].as_str().unwrap_or_default(),
                    mode.name,
                    number("median_us"),
                    number("low_us"),
                    number("high_us"),
                    number("tflop_s"),
                    number("gb_s"),
                );
                write(&row)?;
            }
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("kernels: {error}");
        std::process::exit(1);
    }
}
