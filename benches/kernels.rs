//! The kernels on a device: time, TFLOP/s and GB/s of every family at the shapes the models give it.
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
//! must move: every operand read once, every result written once. The emulator counts what a forward run does of all that
//! (`ISG_EMULATOR_CHECKS=none` makes it quick), and passes over what would take it minutes.

use std::{collections::BTreeMap, io::Write as _, time::Instant};

use isg::{
    DType, Device, Result, Shape, Tape, Tensor,
    activation::{Activation, ActivationParams},
    device::{Precision, nvtx},
    ops::{
        conv2d::Conv2d,
        modulated_conv2d::{ModulatedConv2d, Resampling},
        upfirdn2d::{Filter, Upfirdn2d},
    },
    random::Philox,
};
use serde_json::{Value, json};

type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

struct Workload {
    name: String,
    /// What tools/peers/gpu_ops.py runs, with `attributes`.
    op: &'static str,
    attributes: Value,
    inputs: Vec<Shape>,
    /// Of the forward pass; a step, with the gradients of all operands, takes three times as many in products.
    flops: f64,
    run: Run,
}

fn shape(extents: &[usize]) -> Shape {
    Shape::from(extents)
}

fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    let mut add = |name: String, op, attributes, inputs: Vec<Shape>, flops: f64, run: Run| {
        all.push(Workload { name, op, attributes, inputs, flops, run });
    };
    for n in [512, 1024, 2048, 4096, 8192] {
        let flops = 2.0 * (n as f64).powi(3);
        let square = shape(&[n, n]);
        add(
            format!("matmul_{n}"),
            "matmul",
            json!({}),
            vec![square, square],
            flops,
            Box::new(|x| x[0].matmul(&x[1], false, false)),
        );
    }
    for (name, [rows, inner, out]) in [
        ("vit_qkv", [4096, 384, 1152]),
        ("vit_fc1", [4096, 384, 1536]),
        ("mbconv_expand", [16384, 512, 2048]),
        ("mbconv_project", [16384, 2048, 512]),
        ("style", [8, 512, 512]),
    ] {
        let inputs = vec![shape(&[rows, inner]), shape(&[out, inner]), shape(&[out])];
        let flops = 2.0 * (rows * inner * out) as f64;
        let run: Run = Box::new(|x| x[0].linear(&x[1], Some(&x[2])));
        add(format!("linear_{name}"), "linear", json!({}), inputs, flops, run);
    }
    for (name, x, k, r, stride, padding) in [
        ("32px_c512_3x3", [8, 32, 32, 512], 512, 3, 1, 1),
        ("256px_c64_3x3", [8, 256, 256, 64], 64, 3, 1, 1),
        ("64px_c256_3x3_s2", [8, 64, 64, 256], 512, 3, 2, 1),
        ("256px_c3_1x1", [8, 256, 256, 3], 64, 1, 1, 0),
        ("alexnet_11x11_s4", [8, 256, 256, 3], 64, 11, 4, 2),
    ] {
        let [n, h, w, c] = x;
        let out = |extent: usize| (extent + 2 * padding - r) / stride + 1;
        let flops = 2.0 * (n * out(h) * out(w) * k * r * r * c) as f64;
        let conv = Conv2d { stride, padding, ..Conv2d::default() };
        let run: Run = Box::new(move |x| x[0].conv2d(&x[1], None, conv));
        let attributes = json!({ "stride": stride, "padding": padding });
        add(format!("conv2d_{name}"), "conv2d", attributes, vec![shape(&x), shape(&[k, r, r, c])], flops, run);
    }
    for (name, x) in [("8px_c2048", [256, 8, 8, 2048]), ("64px_c96", [16, 64, 64, 96])] {
        let flops = 18.0 * x.iter().product::<usize>() as f64;
        let run: Run = Box::new(|x| x[0].depthwise_conv2d(&x[1], 1, 1));
        add(
            format!("depthwise_{name}_3x3"),
            "depthwise_conv2d",
            json!({ "stride": 1, "padding": 1 }),
            vec![shape(&x), shape(&[3, 3, x[3]])],
            flops,
            run,
        );
    }
    let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0]).expect("four taps");
    for (name, x, up) in [("64px_c256", [8, 64, 64, 256], 1), ("up_128px_c128", [8, 128, 128, 128], 2)] {
        let [n, h, w, c] = x;
        let resampling = Resampling { up, down: 1, padding: 1, filter: filter.clone() };
        let conv = ModulatedConv2d { demodulate: true, resampling };
        let inputs = vec![shape(&x), shape(&[c, 3, 3, c]), shape(&[n, c])];
        let flops = 18.0 * (n * h * w * c * c) as f64;
        let run: Run = Box::new(move |x| x[0].modulated_conv2d(&x[1], &x[2], &conv));
        add(format!("modulated_{name}"), "modulated_conv2d", json!({ "up": up }), inputs, flops, run);
    }
    for (name, x, up, down, padding) in [
        ("blur", [8, 256, 256, 64], 1, 1, [2, 1, 2, 1]),
        ("up", [8, 128, 128, 64], 2, 1, [2, 1, 2, 1]),
        ("down", [8, 256, 256, 64], 1, 2, [1, 1, 1, 1]),
    ] {
        let resample = Upfirdn2d { up, down, padding, ..Upfirdn2d::default() };
        let outputs = x.iter().product::<usize>() * up * up / (down * down);
        let filter = filter.clone();
        let run: Run = Box::new(move |x| x[0].upfirdn2d(&filter, resample));
        let attributes = json!({ "up": up, "down": down, "padding": padding });
        add(format!("upfirdn2d_{name}"), "upfirdn2d", attributes, vec![shape(&x)], 32.0 * outputs as f64, run);
    }
    let image = [8, 256, 256, 64];
    let elements = image.iter().product::<usize>() as f64;
    let run: Run = Box::new(|x| {
        x[0].bias_act(
            Some(&x[1]),
            Activation::LeakyRelu,
            ActivationParams { alpha: 0.2, gain: 2f64.sqrt(), clamp: Some(256.0) },
        )
    });
    add("bias_act".into(), "bias_act", json!({}), vec![shape(&image), shape(&[64])], 4.0 * elements, run);
    for (batch, length) in [(16, 256), (4, 1024), (1, 4096)] {
        let heads = shape(&[batch, 6, length, 64]);
        let flops = 4.0 * (batch * 6 * length * length * 64) as f64;
        let run: Run = Box::new(|x| x[0].attention(&x[1], &x[2], 0.125));
        add(format!("attention_b{batch}_l{length}"), "attention", json!({}), vec![heads; 3], flops, run);
    }
    for (rows, cols) in [(16384, 384), (16384, 2048)] {
        let flops = 8.0 * (rows * cols) as f64;
        let affine = shape(&[cols]);
        let run: Run = Box::new(|x| x[0].layer_norm(&x[1], &x[2], 1e-6));
        add(
            format!("layer_norm_{cols}"),
            "layer_norm",
            json!({}),
            vec![shape(&[rows, cols]), affine, affine],
            flops,
            run,
        );
        let run: Run = Box::new(|x| x[0].softmax());
        add(format!("softmax_{cols}"), "softmax", json!({}), vec![shape(&[rows, cols])], flops, run);
    }
    let batch = vec![shape(&[64, 32, 32, 256]), shape(&[256]), shape(&[256])];
    let run: Run = Box::new(|x| Ok(x[0].batch_norm2d_train(&x[1], &x[2], 1e-5)?[0].clone()));
    add("batch_norm2d".into(), "batch_norm2d", json!({}), batch, 8.0 * (64 * 32 * 32 * 256) as f64, run);
    let (patches, grid, width) = (256, 8, 512);
    let square = shape(&[width, width]);
    let (cube, vector, cells) =
        (shape(&[patches, grid, grid, width]), shape(&[patches, width]), shape(&[grid * grid, width]));
    let rows = (patches * grid * grid * width) as f64;
    let run: Run = Box::new(|x| x[0].local_feature_updater(&x[1], &x[2], &x[3], &x[4], &x[5]));
    let inputs = vec![cube, vector, cells, square, square, square];
    add("local_feature_updater".into(), "local_feature_updater", json!({}), inputs, 6.0 * rows * width as f64, run);
    let run: Run = Box::new(|x| x[0].global_feature_updater(&x[1], &x[2], &x[3], &x[4]));
    add(
        "global_feature_updater".into(),
        "global_feature_updater",
        json!({}),
        vec![cube, vector, cells, square, square],
        2.0 * rows + 4.0 * (patches * width * width) as f64,
        run,
    );
    all
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
fn normal(extents: Shape, mode: Mode, seed: u64, device: &Device) -> Result<Tensor> {
    Tensor::random_normal(extents, mode.dtype, device, Philox::named(seed, "bench"), 0)
}

fn operands(workload: &Workload, mode: Mode, seed: u64, device: &Device) -> Result<Vec<Tensor>> {
    let one = |(i, extents): (usize, &Shape)| normal(*extents, mode, seed * 16 + i as u64, device);
    workload.inputs.iter().enumerate().map(one).collect()
}

/// The gradients of every operand.
fn step(run: &Run, x: &[Tensor], dy: &Tensor) -> Result<Vec<Tensor>> {
    let tape = Tape::start();
    tape.watch(x);
    let y = run(x)?;
    let grads = tape.backward_from(&[(&y, dy.clone())])?;
    Ok(x.iter().filter_map(|x| grads.get(x).cloned()).collect())
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

fn measure(workload: &Workload, mode: Mode, device: &Device) -> Result<Vec<Value>> {
    device.set_precision(mode.precision);
    let elements: usize = workload.inputs.iter().map(Shape::elems).sum();
    let sets = (256 << 20) / (elements * mode.dtype.bytes()).max(1);
    let sets =
        (0..sets.clamp(1, RUNS)).map(|i| operands(workload, mode, i as u64, device)).collect::<Result<Vec<_>>>()?;
    let y = (workload.run)(&sets[0])?;
    let dy = normal(y.shape(), mode, 99, device)?;
    let bytes = ((elements + y.shape().elems()) * mode.dtype.bytes()) as f64;
    let mut rows = Vec::new();
    for (what, factor) in [("forward", 1.0), ("step", 3.0)] {
        let times = seconds(device, |i| match what {
            "forward" => Ok(vec![(workload.run)(&sets[i % sets.len()])?]),
            _ => step(&workload.run, &sets[i % sets.len()], &dy),
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

/// A forward run and a step, launched one by one as the ranges params them say, while the profiler collects.
fn profile(workload: &Workload, mode: Mode, device: &Device) -> Result<()> {
    device.set_precision(mode.precision);
    let x = operands(workload, mode, 0, device)?;
    let dy = normal((workload.run)(&x)?.shape(), mode, 99, device)?;
    drop(step(&workload.run, &x, &dy)?);
    device.set_profiled(true)?;
    {
        let _range = nvtx::range(&format!("{} {}", workload.name, mode.name));
        drop((workload.run)(&x)?);
        drop(step(&workload.run, &x, &dy)?);
    }
    device.set_profiled(false)
}

/// Work of a forward run beyond which the emulator is not asked for it.
const MOST_COUNTED_FLOPS: f64 = 3e9;

/// What one forward run does, where the device counts. `moved_bytes` are whole sectors between the num_sms and
/// memory, caches taken away.
fn count(workload: &Workload, mode: Mode, device: &Device) -> Result<Value> {
    device.set_precision(mode.precision);
    let x = operands(workload, mode, 0, device)?;
    device.take_counters();
    let y = (workload.run)(&x)?;
    let mut sums = BTreeMap::new();
    for kernel in device.take_counters() {
        *sums.entry("launches").or_default() += kernel.launches;
        for (name, value) in kernel.counts {
            *sums.entry(name).or_default() += value;
        }
    }
    let sum = |name| sums.get(name).copied().unwrap_or(0u64);
    let elements = x.iter().map(|x| x.shape().elems()).sum::<usize>() + y.shape().elems();
    Ok(json!({
        "library": concat!("isg ", env!("CARGO_PKG_VERSION")), "device": device.to_string(),
        "name": workload.name, "what": "forward", "dtype": mode.name,
        "launches": sum("launches"), "warp_instructions": sum("warp_instructions"),
        "least_bytes": elements * mode.dtype.bytes(),
        "moved_bytes": 32 * (sum("global_load_sectors") + sum("global_store_sectors")),
        "shared_wavefronts": sum("shared_wavefronts"), "shared_ideal_wavefronts": sum("shared_ideal_wavefronts"),
        "multiplications": workload.flops / 2.0, "mma_multiplications": sum("mma_macs"),
    }))
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.nth(1)
}

fn run() -> Result<()> {
    let only = argument("--only").unwrap_or_default();
    let chosen: Vec<Workload> = workloads().into_iter().filter(|w| w.name.contains(&only)).collect();
    if std::env::args().any(|a| a == "--list") {
        for w in &chosen {
            let inputs: Vec<Vec<usize>> = w.inputs.iter().map(|s| s.to_vec()).collect();
            println!(
                "{}",
                json!({ "name": w.name, "op": w.op, "inputs": inputs, "attributes": w.attributes, "flops": w.flops })
            );
        }
        return Ok(());
    }
    let device = Device::named(&argument("--device").unwrap_or_else(|| "cuda".into()))?;
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
    for workload in &chosen {
        for mode in MODES.into_iter().filter(|mode| modes.split(',').any(|m| m == mode.name)) {
            if device.to_string().starts_with("emulator") {
                if workload.flops <= MOST_COUNTED_FLOPS {
                    let row = count(workload, mode, &device)?;
                    println!("{row}");
                    write(&row)?;
                }
                continue;
            }
            if std::env::args().any(|a| a == "--profile") {
                profile(workload, mode, &device)?;
                continue;
            }
            for row in measure(workload, mode, &device)? {
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
