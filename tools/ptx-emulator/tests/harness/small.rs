//! Small kernels written out, and what the emulator says of them under several seeds.

use ptx_emulator::{FaultKind, Gpu, LaunchShape, Module, Options, Report};

/// A kernel `t(.param .u64 y)` whose `%d1` is y, `%r1` the thread, `%r2` the address of 1024 bytes of shared memory `s` plus
/// four times the thread, `%r3` that of `s` alone, `%r4` the block, `%d2` y plus four times the thread, and `%p1` thread 0.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry t(.param .u64 y)\n{{
        .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .f32 %f<32>; .reg .b64 %d<32>;
        .shared .align 16 .b8 s[1024];
        mov.u32 %r1, %tid.x;
        mov.u32 %r4, %ctaid.x;
        setp.eq.u32 %p1, %r1, 0;
        mov.u32 %r3, s;
        shl.b32 %r2, %r1, 2;
        add.u32 %r2, %r2, %r3;
        ld.param.u64 %d1, [y];
        mul.wide.u32 %d2, %r1, 4;
        add.u64 %d2, %d1, %d2;
        {body}
        ret;\n}}\n"
    )
}

/// What came of a launch: the report that ended it, the notes, what was printed, and y.
pub struct Outcome {
    pub report: Option<Report>,
    pub notes: Vec<Report>,
    pub printed: String,
    pub y: Vec<u32>,
}

/// Runs `t` on 4096 bytes of zeros.
pub fn run(text: &str, shape: &LaunchShape, options: Options) -> Outcome {
    let module = Module::load(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut gpu = Gpu::new(Options { max_warp_instructions: 400_000, ..options });
    let y = gpu.alloc_named(4096, "y").expect("memory");
    gpu.fill(y, 0, 4096).expect("own memory");
    let result = gpu.launch_as(&module, "t", shape, &y.to_le_bytes());
    let mut bytes = vec![0; 4096];
    gpu.read(y, &mut bytes).expect("own memory");
    Outcome {
        report: result.err().map(|fault| fault.report().clone()),
        notes: gpu.notes().to_vec(),
        printed: gpu.take_printed(),
        y: bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
    }
}

/// What all seeds agree on.
pub fn verdict(text: &str, blocks: u32, threads: u32) -> Option<FaultKind> {
    let shape = LaunchShape::new([blocks, 1, 1], [threads, 1, 1]);
    let found: Vec<_> = (0..8).map(|seed| run(text, &shape, Options { seed, ..Options::default() }).report).collect();
    let kind = |report: &Option<Report>| report.as_ref().map(|r| r.kind);
    if !found.iter().all(|report| kind(report) == kind(&found[0])) {
        let all: Vec<String> = found.iter().map(|r| r.as_ref().map_or("clean".into(), Report::to_string)).collect();
        panic!("seeds disagree:\n{}\n{text}", all.join("\n"));
    }
    kind(&found[0])
}

/// The right version runs clean, the wrong one is reported as that.
pub fn right_and_wrong(right: &str, wrong: &str, kind: FaultKind, (blocks, threads): (u32, u32)) {
    let shape = LaunchShape::new([blocks, 1, 1], [threads, 1, 1]);
    for (text, expected) in [(right, None), (wrong, Some(kind))] {
        let text = kernel(text);
        let found = verdict(&text, blocks, threads);
        let report = run(&text, &shape, Options::default()).report;
        assert_eq!(found, expected, "{}\n{text}", report.map_or("clean".into(), |r| r.to_string()));
    }
}
