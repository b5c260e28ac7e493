//! What the emulator must object to, one small kernel each, beside the same kernel done right.

use ptx_emulator::{FaultKind, Gpu, Module, Options};

/// A kernel of one block. `%r1` is the thread, `%p1` holds for thread 0, `%r2` is the address of 1024 bytes of shared
/// memory, `%r3` that of an mbarrier, `%d1` that of 1024 bytes of written global memory.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .extern .shared .align 16 .b8 dynamic[];\n
        .visible .entry t(.param .u64 y)\n{{
        .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %d<16>;
        .shared .align 16 .b8 s[1024];
        .shared .align 8 .b64 m;
        mov.u32 %r1, %tid.x;
        setp.eq.u32 %p1, %r1, 0;
        mov.u32 %r2, s;
        mov.u32 %r3, m;
        ld.param.u64 %d1, [y];
        {body}
        ret;\n}}\n"
    )
}

/// What it gives with so many threads, dynamic shared memory of 64 bytes, under several seeds, which must agree.
fn outcome(body: &str, threads: u32) -> Option<FaultKind> {
    let text = kernel(body);
    let module = Module::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let found: Vec<Option<FaultKind>> = (0..8)
        .map(|seed| {
            let mut gpu = Gpu::new(Options { seed, max_warp_instructions: 100_000, ..Options::default() });
            let y = gpu.alloc(1024).expect("memory");
            gpu.fill(y, 1, 1024).expect("own memory");
            let result = gpu.launch(&module, "t", [1, 1, 1], [threads, 1, 1], 64, &y.to_le_bytes());
            result.err().map(|fault| fault.kind())
        })
        .collect();
    assert!(found.iter().all(|kind| *kind == found[0]), "seeds disagree: {found:?}\n{text}");
    found[0]
}

#[test]
fn barriers_reached_by_part_of_the_block() {
    assert_eq!(outcome("bar.sync 0; bar.sync 0;", 64), None);
    assert_eq!(outcome("@%p1 bar.sync 0;", 64), Some(FaultKind::Divergence));
    assert_eq!(outcome("@%p1 bra E; bar.sync 0; E: bar.sync 0;", 64), Some(FaultKind::Divergence));
    assert_eq!(outcome("@%p1 bra E; bar.sync 0; E:", 64), None, "threads that have ended are not waited for");
    let some = "setp.lt.u32 %p2, %r1, 32;";
    // The second warp stands at another barrier, for ever.
    assert_eq!(outcome(&format!("{some} @%p2 bar.sync 1; bar.sync 0;"), 64), Some(FaultKind::Deadlock));
    assert_eq!(outcome(&format!("{some} @%p2 bar.sync 1, 32; bar.sync 0;"), 64), None);
    assert_eq!(outcome(&format!("{some} @%p2 bar.sync 1, 64; @!%p2 bar.sync 1, 96;"), 64), Some(FaultKind::Divergence));
    // One warp counts one more.
    assert_eq!(outcome(&format!("bar.sync 1, 64; {some} @%p2 bar.sync 1, 64;"), 64), Some(FaultKind::Deadlock));
    assert_eq!(outcome("bar.sync 1, 24;", 64), Some(FaultKind::Operand));
}

#[test]
fn shared_memory_beyond_what_the_launch_gives() {
    let store = |offset: u32| format!("mov.u32 %r4, dynamic; @%p1 st.shared.u32 [%r4+{offset}], 1;");
    assert_eq!(outcome(&store(60), 32), None);
    assert_eq!(outcome(&store(64), 32), Some(FaultKind::OutOfBounds));
    let copy = |offset: u32| {
        format!("mov.u32 %r4, dynamic; @%p1 cp.async.ca.shared.global [%r4+{offset}], [%d1], 16; cp.async.wait_all;")
    };
    assert_eq!(outcome(&copy(48), 32), None);
    assert_eq!(outcome(&copy(64), 32), Some(FaultKind::OutOfBounds));
}

const INIT: &str = "@%p1 mbarrier.init.shared.b64 [%r3], 1; fence.mbarrier_init.release.cluster; bar.sync 0;";

fn wait(parity: u32) -> String {
    format!("W{parity}: mbarrier.try_wait.parity.shared.b64 %p3, [%r3], {parity}; @!%p3 bra W{parity};")
}

#[test]
fn mbarriers_used_wrongly() {
    let operand = Some(FaultKind::Operand);
    let arrive = "@%p1 mbarrier.arrive.shared.b64 _, [%r3];";
    assert_eq!(outcome(&[INIT, arrive, &wait(0)].concat(), 64), None);
    assert_eq!(outcome(arrive, 32), operand, "never initialised");
    assert_eq!(outcome(&wait(0), 32), operand, "never initialised");
    assert_eq!(outcome(&format!("{INIT} @%p1 mbarrier.inval.shared.b64 [%r3]; bar.sync 0; {arrive}"), 32), operand);
    let expect = "@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r3], 64;";
    let again = "bar.sync 0; @%p1 mbarrier.init.shared.b64 [%r3], 1;";
    assert_eq!(outcome(&[INIT, expect, again].concat(), 32), operand, "initialised again in use");
    assert_eq!(outcome(&[INIT, arrive, &wait(0), again].concat(), 32), None, "initialised again between phases");
    assert_eq!(outcome(&format!("{INIT} @%p1 mbarrier.arrive.shared.b64 _, [%r3], 2;"), 32), operand, "too often");
    assert_eq!(outcome(&format!("{INIT} @%p1 st.shared.u64 [%r3], 5; {arrive}"), 32), operand, "overwritten");
    let much = "@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r3], 4194304;";
    assert_eq!(outcome(&[INIT, much].concat(), 32), operand, "more bytes than it counts");
}

/// A bulk copy of 64 bytes whose barrier is told to expect so many, and what follows.
fn bulk(expected: u32, then: &str) -> String {
    let copy = "@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%d1], 64, [%r3];";
    format!("{INIT} @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r3], {expected}; {copy} {then}")
}

#[test]
fn bulk_copies_that_nobody_waits_for_or_counts_wrong() {
    let load = "ld.shared.u32 %r5, [%r2];";
    assert_eq!(outcome(&bulk(64, &[&wait(0), load].concat()), 32), None);
    assert_eq!(outcome(&bulk(64, load), 32), Some(FaultKind::AsyncHazard), "read too early");
    assert_eq!(outcome(&bulk(64, ""), 32), Some(FaultKind::AsyncHazard), "the block ends before");
    assert_eq!(outcome(&bulk(80, &wait(0)), 32), Some(FaultKind::Deadlock), "more expected than come");
    assert_eq!(outcome(&bulk(48, &wait(0)), 32), Some(FaultKind::Deadlock), "fewer expected than come");
    let out = "st.shared.u32 [%r2], 1; fence.proxy.async; bar.sync 0;
        @%p1 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r2], 16; cp.async.bulk.commit_group;";
    assert_eq!(
        outcome(&["mov.u32 %r6, 0; shl.b32 %r6, %r1, 2; add.u32 %r2, %r2, %r6;", out].concat(), 4),
        Some(FaultKind::AsyncHazard),
        "the source goes with the block"
    );
    assert_eq!(
        outcome(&["shl.b32 %r6, %r1, 2; add.u32 %r2, %r2, %r6;", out, "cp.async.bulk.wait_group.read 0;"].concat(), 4),
        None
    );
}

#[test]
fn copies_of_threads_used_before_the_wait() {
    let copy = "@%p1 cp.async.ca.shared.global [%r2], [%d1], 16; cp.async.commit_group;";
    let load = "@%p1 ld.shared.u32 %r5, [%r2];";
    assert_eq!(outcome(&[copy, "cp.async.wait_group 0;", load].concat(), 32), None);
    assert_eq!(outcome(&[copy, load].concat(), 32), Some(FaultKind::AsyncHazard));
    assert_eq!(outcome(&[copy, "cp.async.wait_group 1;", load].concat(), 32), Some(FaultKind::AsyncHazard));
    let other = "ld.shared.u32 %r5, [%r2];";
    assert_eq!(outcome(&[copy, "cp.async.wait_group 0;", other].concat(), 32), Some(FaultKind::Race), "no barrier");
    assert_eq!(outcome(&[copy, "cp.async.wait_group 0; bar.sync 0;", other].concat(), 32), None);
}

#[test]
fn what_a_product_of_a_warpgroup_reads_is_not_written_before_its_wait() {
    // Two products read one tile of A; waiting for the first says nothing of the second.
    let products = |wait: u32| {
        let product = |sums: &str| {
            format!(
                "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{{sums}}}, %d2, %d3, 0, 1, 1, 0, 0;
                wgmma.commit_group.sync.aligned;"
            )
        };
        format!(
            ".reg .f32 %f<8>; .shared .align 1024 .b8 tiles[4096];
            mov.u32 %r4, tiles; shl.b32 %r5, %r1, 4; add.u32 %r5, %r5, %r4; mov.u32 %r6, 0x3f803f80;
            st.shared.v4.b32 [%r5], {{%r6, %r6, %r6, %r6}}; st.shared.v4.b32 [%r5+2048], {{%r6, %r6, %r6, %r6}};
            fence.proxy.async.shared::cta; bar.sync 0;
            shr.u32 %r6, %r4, 4; cvt.u64.u32 %d2, %r6; or.b64 %d2, %d2, 0x1000080000; add.s64 %d3, %d2, 128;
            wgmma.fence.sync.aligned; {} {}
            wgmma.wait_group.sync.aligned {wait}; bar.sync 0; @%p1 st.shared.u32 [%r4], 5;
            wgmma.wait_group.sync.aligned 0;",
            product("%f0, %f1, %f2, %f3"),
            product("%f4, %f5, %f6, %f7")
        )
    };
    assert_eq!(outcome(&products(0), 128), None);
    assert_eq!(outcome(&products(1), 128), Some(FaultKind::AsyncHazard));
    assert_eq!(outcome(&products(2), 128), Some(FaultKind::AsyncHazard));
}

#[test]
fn bulk_reductions_meet_what_is_there() {
    let body = "shl.b32 %r6, %r1, 2; add.u32 %r2, %r2, %r6; mov.b32 %r5, 0f40400000; st.shared.u32 [%r2], %r5;
        fence.proxy.async; bar.sync 0;
        @%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%d1], [%r2], 128;
        @%p1 cp.reduce.async.bulk.global.shared::cta.bulk_group.max.u32 [%d1+128], [%r2], 128;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let text = kernel(body);
    let module = Module::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut gpu = Gpu::new(Options::default());
    let y = gpu.alloc(1024).expect("memory");
    gpu.write(y, &[1f32.to_le_bytes(); 256].concat()).expect("own memory");
    // Two blocks: reductions do not race with each other.
    gpu.launch(&module, "t", [2, 1, 1], [32, 1, 1], 64, &y.to_le_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = [0; 256];
    gpu.read(y, &mut bytes).expect("own memory");
    let words: Vec<f32> = bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    assert_eq!((words[..32].to_vec(), words[32..].to_vec()), (vec![7.0; 32], vec![3.0; 32]));
}

#[test]
fn unknown_modifiers_are_refused() {
    for line in ["ld.global.sideways.u32 %r5, [%d1];", "st.shared.twice.u32 [%r2], %r1;", "ld.fast.u32 %r5, [%d1];"] {
        assert!(Module::load(&kernel(line)).is_err(), "{line}");
    }
}
