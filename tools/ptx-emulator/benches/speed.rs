//! Checked thread-instructions a second on one core, kernel by kernel, with and without the optional checks.
//! `cargo bench -p ptx-emulator`; the numbers of the README come from here.

use std::time::Instant;

use ptx_emulator::{Checks, Counters, Gpu, Module, Options};

const SGEMM: &str = include_str!("sgemm.ptx");
const ELEMENTWISE: &str = include_str!("../tests/kernels/elementwise.ptx");
const REDUCTIONS: &str = include_str!("../tests/kernels/reductions.ptx");
const MATRICES: &str = include_str!("../tests/kernels/matrices.ptx");

/// Seconds this thread has computed, others' use of the machine left out; wall time where the system does not say.
fn seconds(begin: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.map_or_else(|| begin.elapsed().as_secs_f64(), |n| n / 1e9)
}

/// Of so many measurements the median counts.
const SAMPLES: usize = 5;
/// A measurement lasts at least this long.
const LEAST_SECONDS: f64 = 0.1;

struct Case {
    name: &'static str,
    text: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    /// Bytes of its buffers, in the order of its pointer parameters.
    buffers: &'static [u64],
    /// What follows or precedes them, by place in the parameter list.
    scalars: &'static [(usize, u32)],
}

const CASES: &[Case] = &[
    Case {
        name: "sgemm",
        text: SGEMM,
        grid: [4, 4, 1],
        block: [256, 1, 1],
        buffers: &[256 * 256 * 4; 3],
        scalars: &[(3, 256)],
    },
    Case {
        name: "matmul_tiled",
        text: MATRICES,
        grid: [16, 16, 1],
        block: [16, 16, 1],
        buffers: &[256 * 256 * 4; 3],
        scalars: &[(3, 256), (4, 256), (5, 256)],
    },
    Case {
        name: "matmul_pipelined",
        text: MATRICES,
        grid: [16, 16, 1],
        block: [16, 16, 1],
        buffers: &[256 * 256 * 4; 3],
        scalars: &[(3, 256)],
    },
    Case {
        name: "matmul_tensor_core",
        text: MATRICES,
        grid: [32, 16, 1],
        block: [32, 1, 1],
        buffers: &[256 * 256 * 2, 256 * 256 * 2, 256 * 512 * 4],
        scalars: &[(3, 256), (4, 256)],
    },
    Case {
        name: "softmax",
        text: REDUCTIONS,
        grid: [256, 1, 1],
        block: [96, 1, 1],
        buffers: &[256 * 1024 * 4; 2],
        scalars: &[(2, 1024)],
    },
    Case {
        name: "saxpy",
        text: ELEMENTWISE,
        grid: [256, 1, 1],
        block: [256, 1, 1],
        buffers: &[1 << 20; 2],
        scalars: &[(0, 1 << 18), (1, 0x4040_0000)],
    },
    Case {
        name: "histogram",
        text: REDUCTIONS,
        grid: [64, 1, 1],
        block: [256, 1, 1],
        buffers: &[1 << 20, 1024],
        scalars: &[(2, 1 << 20)],
    },
];

fn run(case: &Case, checks: Checks) -> (Counters, f64) {
    let module = Module::load(case.text).expect("a valid text");
    let mut gpu = Gpu::new(Options { checks, ..Options::default() });
    let entry = module.entry(case.name).expect("an entry of that name");
    let mut params = vec![0u8; entry.param_bytes as usize];
    let mut buffers = case.buffers.iter();
    for (place, param) in entry.params.iter().enumerate() {
        let value = match case.scalars.iter().find(|(at, _)| *at == place) {
            Some((_, value)) => value.to_le_bytes().to_vec(),
            None => {
                let bytes = *buffers.next().expect("a buffer for each pointer");
                let address = gpu.alloc(bytes).expect("memory");
                gpu.fill(address, 1, bytes).expect("a fresh buffer");
                address.to_le_bytes().to_vec()
            }
        };
        params[param.offset as usize..][..value.len()].copy_from_slice(&value);
    }
    let begin = Instant::now();
    let mut all = Vec::new();
    let mut counters = Counters::default();
    for _ in 0..SAMPLES {
        // The system counts in ticks of some milliseconds.
        let (start, mut launches, mut spent) = (seconds(begin), 0, 0.0);
        while spent < LEAST_SECONDS {
            let launched = gpu.launch(&module, case.name, case.grid, case.block, 0, &params);
            counters = launched.unwrap_or_else(|e| panic!("{e}"));
            launches += 1;
            spent = seconds(begin) - start;
        }
        all.push(spent / f64::from(launches));
    }
    all.sort_by(f64::total_cmp);
    (counters, all[SAMPLES / 2])
}

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    println!("{:20} {:>10} {:>22} {:>22}", "kernel", "M instr", "all checks, M/s", "bounds only, M/s");
    for case in CASES.iter().filter(|c| only.as_ref().is_none_or(|o| c.name.contains(o.as_str()))) {
        let (counters, checked) = run(case, Checks::ALL);
        let (_, bare) = run(case, Checks::NONE);
        let n = counters.thread_instructions as f64 / 1e6;
        println!("{:20} {n:10.1} {:22.0} {:22.0}", case.name, n / checked, n / bare);
    }
}
