//! What a launch can say beside blocks and threads, and what kernels can ask the system for.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use ptx_emulator::{FaultKind, LaunchShape, Options};
use small::{Outcome, kernel, run};

fn under(text: &str, shape: &LaunchShape, seed: u64) -> Outcome {
    run(text, shape, Options { seed, ..Options::default() })
}

/// `grid.sync()` as cooperative groups writes it, between stores and loads of all blocks.
fn grid_sync() -> String {
    kernel(
        "mov.u32 %r10, %envreg1; mov.u32 %r11, %envreg2;
        mov.b64 %d5, {%r11, %r10};
        mov.u32 %r12, %nctaid.x;
        mul.wide.u32 %d6, %r4, 4; add.u64 %d6, %d6, %d1;
        @%p1 st.global.u32 [%d6], 1;
        barrier.sync 0;
        @!%p1 bra WAITED;
        sub.u32 %r13, %r12, 1; sub.u32 %r13, 0x80000000, %r13;
        setp.eq.u32 %p2, %r4, 0; selp.b32 %r13, %r13, 1, %p2;
        atom.add.release.gpu.u32 %r14, [%d5+4], %r13;
        W: ld.acquire.gpu.u32 %r15, [%d5+4];
        xor.b32 %r15, %r15, %r14;
        setp.ge.s32 %p3, %r15, 0;
        @%p3 bra W;
        WAITED:
        barrier.sync 0;
        add.u32 %r16, %r4, 1; rem.u32 %r16, %r16, %r12;
        mul.wide.u32 %d7, %r16, 4; add.u64 %d7, %d7, %d1;
        ld.global.u32 %r17, [%d7];
        @%p1 st.global.u32 [%d6+256], %r17;",
    )
}

#[test]
fn grids_whose_blocks_wait_for_each_other() {
    let shape = LaunchShape { cooperative: true, ..LaunchShape::new([7, 1, 1], [64, 1, 1]) };
    for seed in 0..5 {
        let found = under(&grid_sync(), &shape, seed);
        assert_eq!(found.report, None);
        assert_eq!(&found.y[64..71], &[1; 7]);
        let plain = under(&grid_sync(), &LaunchShape { cooperative: false, ..shape }, seed);
        assert_eq!(plain.report.expect("no workspace").kind, FaultKind::OutOfBounds);
    }
    let much = LaunchShape { grid: [132 * 32 + 1, 1, 1], ..shape };
    let refused = under(&kernel(""), &much, 0).report.expect("too many blocks");
    assert_eq!(refused.kind, FaultKind::Launch);
    assert!(refused.message.contains("fit on the device at once"), "{refused}");
    assert_eq!(under(&kernel(""), &LaunchShape { cooperative: false, ..much }, 0).report, None);
}

#[test]
fn clusters_of_the_launch() {
    let text = kernel(
        "mov.u32 %r5, %cluster_nctarank; mov.u32 %r6, %cluster_ctarank;
        mul.wide.u32 %d3, %r4, 8; add.u64 %d3, %d3, %d1;
        @%p1 st.global.v2.u32 [%d3], {%r5, %r6};",
    );
    let shape = LaunchShape { cluster: Some([4, 1, 1]), ..LaunchShape::new([8, 1, 1], [32, 1, 1]) };
    let found = under(&text, &shape, 3);
    assert_eq!(found.report, None);
    assert_eq!(&found.y[..16], &[4, 0, 4, 1, 4, 2, 4, 3, 4, 0, 4, 1, 4, 2, 4, 3]);
    let odd = under(&text, &LaunchShape { grid: [6, 1, 1], ..shape }, 3).report.expect("no multiple");
    assert_eq!(odd.kind, FaultKind::Launch);
    let fixed = text.replace("(.param .u64 y)", "(.param .u64 y) .reqnctapercluster 2, 1, 1");
    assert_eq!(under(&fixed, &shape, 3).report.expect("another size").kind, FaultKind::Launch);
    assert_eq!(under(&fixed, &LaunchShape { cluster: None, ..shape }, 3).y[0], 2);
}

#[test]
fn shared_memory_of_the_system() {
    let text = |offset: u32| {
        kernel(&format!(
            "mov.u32 %r5, %reserved_smem_offset_1; add.u32 %r5, %r5, {offset};
            @%p1 st.shared.u32 [%r5], 6; bar.sync 0; ld.shared.u32 %r6, [%r5]; st.global.u32 [%d2], %r6;"
        ))
    };
    let shape = LaunchShape::new([1; 3], [64, 1, 1]);
    let found = under(&text(284), &shape, 1);
    assert_eq!((found.report, found.y[63]), (None, 6));
    assert_eq!(under(&text(4096), &shape, 1).report.expect("past it").kind, FaultKind::OutOfBounds);
}

/// `printf("%d of %s: %5.2f\n", thread, "t", 0.5)`, and its result stored.
fn printing(after: &str) -> String {
    let text = kernel(
        "@!%p1 bra E;
        .local .align 8 .b8 arguments[24];
        mov.u64 %d5, arguments; cvta.local.u64 %d6, %d5;
        mov.u64 %d7, name; cvta.global.u64 %d7, %d7;
        st.local.u32 [%d5], 42; st.local.u64 [%d5+8], %d7; mov.f64 %d8, 0d3FE0000000000000; st.local.u64 [%d5+16], %d8;
        mov.u64 %d9, format; cvta.global.u64 %d9, %d9;
        { .param .b64 param0; .param .b64 param1; .param .b32 retval0;
        st.param.b64 [param0], %d9; st.param.b64 [param1], %d6;
        call.uni (retval0), vprintf, (param0, param1);
        ld.param.b32 %r5, [retval0]; }
        AFTER
        E:",
    );
    let bytes = |s: &str| s.bytes().chain([0]).map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    let (format, name) = ("%d of %s: %5.2f\n", "t");
    let constants = format!(
        ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
        .global .align 1 .b8 format[{}] = {{{}}};\n.global .align 1 .b8 name[2] = {{{}}};\n.visible .entry",
        format.len() + 1,
        bytes(format),
        bytes(name)
    );
    text.replace("AFTER", after).replacen(".visible .entry", &constants, 1)
}

#[test]
fn printing_returns_a_number() {
    let shape = LaunchShape::new([2, 1, 1], [32, 1, 1]);
    let found = under(&printing("st.global.u32 [%d2], %r5;"), &shape, 1);
    assert_eq!((found.report, found.y[0]), (None, 3));
    assert_eq!(found.printed, "42 of t:  0.50\n".repeat(2));
    // Other results of calls that nobody wrote are still seen.
    let wrong = printing("{ .param .b32 nothing; ld.param.b32 %r6, [nothing]; } st.global.u32 [%d2], %r6;");
    assert_eq!(under(&wrong, &shape, 1).report.expect("unwritten").kind, FaultKind::Uninitialised);
}

#[test]
fn cores_change_no_report() {
    // Blocks from the sixteenth on write past the end; the first of them in the order of the seed is to blame.
    let beyond = kernel("mul.wide.u32 %d5, %r4, 256; add.u64 %d5, %d5, %d2; st.global.u32 [%d5], %r1;");
    // Every eighth block writes to the same place: who is found out depends on who comes second.
    let race =
        kernel("and.b32 %r5, %r4, 7; mul.wide.u32 %d5, %r5, 128; add.u64 %d5, %d5, %d2; st.global.u32 [%d5], %r4;");
    let shape = LaunchShape::new([64, 1, 1], [32, 1, 1]);
    for (text, kind) in [(beyond, FaultKind::OutOfBounds), (race, FaultKind::Race)] {
        for seed in 0..8 {
            let alone = under(&text, &shape, seed);
            assert_eq!(alone.report.as_ref().map(|report| report.kind), Some(kind));
            for _ in 0..4 {
                let many = run(&text, &shape, Options { seed, threads: 4, ..Options::default() });
                assert_eq!((many.report, many.y), (alone.report.clone(), alone.y.clone()));
            }
        }
    }
}
