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
    /// Empty for [`matrix_loops`].
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
    Case { name: "mma_loop", text: "", grid: [4, 1, 1], block: [128, 1, 1], buffers: &[512], scalars: &[] },
    Case { name: "wgmma_loop", text: "", grid: [2, 1, 1], block: [128, 1, 1], buffers: &[512], scalars: &[] },
];

/// A loop of `mma.sync` and one of `wgmma` as large products have them: 64 rows, 256 columns, 64 deep, operands in shared memory.
fn matrix_loops() -> String {
    let list =
        |from: usize, count: usize| (from..from + count).map(|n| format!("%f{n}")).collect::<Vec<_>>().join(", ");
    let products: String = (0..4)
        .map(|step| {
            format!(
                "add.s64 %d3, %d1, {0}; add.s64 %d4, %d2, {0};\n\
                 wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {{{1}}}, %d3, %d4, 1, 1, 1, 0, 0;\n",
                2 * step,
                list(0, 128)
            )
        })
        .collect();
    let mma: String = (0..8)
        .map(|n| {
            let sums = list(4 * n, 4);
            format!(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{sums}}}, {{%r5, %r6, %r7, %r8}}, {{%r{}, %r9}}, {{{sums}}};\n",
                5 + n % 4
            )
        })
        .collect();
    let zeros: String = (0..128).map(|n| format!("mov.f32 %f{n}, 0f00000000;\n")).collect();
    let begin = format!(
        "{{\n.reg .pred %p<3>; .reg .b32 %r<16>; .reg .b64 %d<8>; .reg .f32 %f<128>;\nmov.u32 %r1, %tid.x; mov.u32 %r2, 0; \
         mov.b32 %r5, 0x3f803f00; mov.b32 %r6, 0xbf003e80; mov.b32 %r7, 0x3f00bf80; mov.b32 %r8, 0x3e803f80; mov.b32 %r9, 0x3f803f80;\n{zeros}"
    );
    let end = "add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 64; @%p1 bra again;\n\
               ld.param.u64 %d6, [y]; mul.wide.u32 %d7, %r1, 4; add.s64 %d6, %d6, %d7; st.global.f32 [%d6], %f0; ret;\n}\n";
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry mma_loop(.param .u64 y)\n{begin}again:\n{mma}{end}\
         .visible .entry wgmma_loop(.param .u64 y)\n{begin}.shared .align 1024 .b8 tiles[40960];\n\
         mov.u32 %r10, tiles; shl.b32 %r11, %r1, 4; add.u32 %r10, %r10, %r11; mov.u32 %r11, 0;\n\
         fill: st.shared.v4.b32 [%r10], {{%r5, %r6, %r7, %r8}}; add.u32 %r10, %r10, 2048; add.u32 %r11, %r11, 1; \
         setp.lt.u32 %p2, %r11, 20; @%p2 bra fill;\n\
         fence.proxy.async.shared::cta; bar.sync 0;\n\
         mov.u32 %r10, tiles; shr.u32 %r10, %r10, 4; cvt.u64.u32 %d1, %r10; or.b64 %d1, %d1, 0x4000004000010000; \
         add.s64 %d2, %d1, 512;\n\
         again: wgmma.fence.sync.aligned;\n{products}wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n{end}"
    )
}

fn run(case: &Case, checks: Checks) -> (Counters, f64) {
    let loops = if case.text.is_empty() { matrix_loops() } else { String::new() };
    let module = Module::load(if case.text.is_empty() { &loops } else { case.text }).expect("a valid text");
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
    println!(
        "{:20} {:>10} {:>16} {:>16} {:>22} {:>22}",
        "kernel", "M instr", "all checks, M/s", "bounds only, M/s", "all checks, GMAC/s", "bounds only, GMAC/s"
    );
    for case in CASES.iter().filter(|c| only.as_ref().is_none_or(|o| c.name.contains(o.as_str()))) {
        let (counters, checked) = run(case, Checks::ALL);
        let (_, bare) = run(case, Checks::NONE);
        let n = counters.thread_instructions as f64 / 1e6;
        let g = counters.mma_macs as f64 / 1e9;
        println!(
            "{:20} {n:10.1} {:16.0} {:16.0} {:22.2} {:22.2}",
            case.name,
            n / checked,
            n / bare,
            g / checked,
            g / bare
        );
    }
}
