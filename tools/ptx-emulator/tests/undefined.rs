//! Values that nobody defined may be held and moved about, but must not decide anything.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use ptx_emulator::{
    FaultKind::{AsyncHazard, Divergence, OutOfBounds, Uninitialised},
    LaunchShape, Options,
};
use small::{kernel, right_and_wrong, run, verdict};

/// A product of 16 by 16 halves with a matrix of ones; rows from the eighth on are written only if asked for.
fn ragged(rows: &str, stores: &str) -> String {
    format!(
        "and.b32 %r5, %r1, 15; mul.lo.u32 %r6, %r5, 32; add.u32 %r6, %r6, %r3;
        setp.lt.u32 %p2, %r5, {rows};
        @%p2 st.shared.v4.u32 [%r6], {{0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00}};
        @%p2 st.shared.v4.u32 [%r6+16], {{0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00}};
        bar.warp.sync -1;
        shr.u32 %r7, %r1, 4; shl.b32 %r7, %r7, 4; add.u32 %r7, %r7, %r6;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r7];
        mov.u32 %r14, 0x3c003c00;
        mov.f32 %f1, 0f00000000;
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f2, %f3, %f4, %f5}}, {{%r10, %r11, %r12, %r13}},
            {{%r14, %r14}}, {{%f1, %f1, %f1, %f1}};
        {stores}"
    )
}

#[test]
fn rows_of_a_ragged_tile_whose_products_are_not_stored() {
    let upper = "st.global.v2.f32 [%d2], {%f2, %f3};".replace("%d2", "%d3");
    let at = "mul.wide.u32 %d3, %r1, 8; add.u64 %d3, %d3, %d1;";
    let lower = "st.global.v2.f32 [%d3+512], {%f4, %f5};";
    let right = ragged("8", &format!("{at} {upper}"));
    right_and_wrong(&right, &ragged("8", &format!("{at} {upper} {lower}")), Uninitialised, (1, 32));
    let text = kernel(&ragged("16", &format!("{at} {upper} {lower}")));
    let found = run(&text, &LaunchShape::new([1; 3], [32, 1, 1]), Options::default());
    assert_eq!(found.report, None);
    assert_eq!((found.y[0], found.y[128]), (16f32.to_bits(), 16f32.to_bits()));
    // Through shared memory, as epilogues do, and stored by part of the lanes.
    let staged = |guard: &str| {
        format!(
            "{at} bar.warp.sync -1; st.shared.f32 [%r2], %f4; st.shared.f32 [%r2+128], %f2; bar.warp.sync -1;
            ld.shared.f32 %f6, [%r2]; ld.shared.f32 %f7, [%r2+128]; setp.lt.u32 %p3, %r1, 16;
            {guard} add.f32 %f7, %f7, %f6; st.global.f32 [%d3], %f7;"
        )
    };
    let never = ragged("8", &staged("setp.gt.u32 %p3, %r1, 99; @%p3"));
    right_and_wrong(&never, &ragged("8", &staged("@%p3")), Uninitialised, (1, 32));
}

/// A load of shared memory that nobody wrote but for the first four lanes' words, and what follows.
fn partly(then: &str) -> String {
    format!("setp.lt.u32 %p2, %r1, 4; @%p2 st.shared.u32 [%r2], %r1; ld.shared.u32 %r5, [%r2]; {then}")
}

#[test]
fn undefined_values_in_addresses_branches_atomics_and_stores() {
    let cases = [
        ("st.global.u32 [%d2], %r5;", "a store"),
        ("add.u32 %r6, %r5, 1; mov.u32 %r7, %r6; st.global.u32 [%d2], %r7;", "through registers"),
        ("and.b32 %r6, %r5, 15; add.u32 %r6, %r6, %r3; st.shared.u8 [%r6], %r1;", "an address"),
        ("setp.gt.u32 %p3, %r5, 7; @%p3 bra E; mov.u32 %r6, 1; E:", "a branch"),
        ("setp.gt.u32 %p3, %r5, 7; @%p3 st.global.u32 [%d2], %r1;", "a guard"),
        ("red.global.add.u32 [%d1], %r5;", "an atomic"),
        ("shfl.sync.bfly.b32 %r6, %r5, 1, 31, -1; st.global.u32 [%d2], %r6;", "a shuffle"),
        ("setp.gt.u32 %p3, %r5, 7; vote.sync.ballot.b32 %r6, %p3, -1; @%p1 st.global.u32 [%d2], %r6;", "a vote"),
        ("cvt.u64.u32 %d3, %r5; shl.b64 %d3, %d3, 1; st.global.u64 [%d1], %d3;", "wider registers"),
        ("st.shared.u32 [%r2+512], %r5; ld.shared.u32 %r6, [%r2+512]; st.global.u32 [%d2], %r6;", "shared memory"),
    ];
    for (wrong, what) in cases {
        assert_eq!(verdict(&kernel(&partly(wrong)), 1, 32), Some(Uninitialised), "{what}");
    }
    let fine = [
        "mov.u32 %r6, %r5; add.u32 %r6, %r6, 3;",
        "selp.b32 %r6, %r5, 0, %p2; st.global.u32 [%d2], %r6;",
        "@%p2 st.global.u32 [%d2], %r5;",
        "setp.gt.u32 %p3, %r5, 7; and.pred %p3, %p3, %p2; @%p3 st.global.u32 [%d2], %r1;",
        "st.shared.u32 [%r2+512], %r5; bar.warp.sync -1; st.shared.u32 [%r2+512], 1; ld.shared.u32 %r6, [%r2+512];
         st.global.u32 [%d2], %r6;",
        "mov.u32 %r5, 3; st.global.u32 [%d2], %r5;",
    ];
    for right in fine {
        assert_eq!(verdict(&kernel(&partly(right)), 1, 32), None, "{right}");
    }
}

#[test]
fn reports_name_the_load_and_the_memory() {
    let text = kernel(&partly("add.u32 %r5, %r5, 1; st.global.u32 [%d2], %r5;"));
    let report = run(&text, &LaunchShape::new([1; 3], [32, 1, 1]), Options::default()).report.expect("a report");
    assert_eq!((report.thread, report.address), (Some([4, 0, 0]), Some(16)));
    assert!(
        report.allocation.as_ref().is_some_and(|name| name.contains("shared s (1024 bytes), offset 16")),
        "{report}"
    );
    assert!(report.message.contains("nobody wrote") && report.message.contains("global memory"), "{report}");
    assert!(report.instruction.starts_with("st.global"), "{report}");
}

#[test]
fn shuffles_from_lanes_that_take_no_part() {
    // Sixteen lanes are left; the upper eight of them take values from lanes that are gone.
    let reduced = |stores: &str| {
        format!(
            "setp.ge.u32 %p2, %r1, 16; @%p2 bra E;
            shfl.sync.down.b32 %r5, %r1, 8, 31, 0xffff;
            add.u32 %r6, %r5, %r1;
            {stores}
            E:"
        )
    };
    let all = "st.global.u32 [%d2], %r6;";
    let lower = "setp.lt.u32 %p3, %r1, 8; @%p3 st.global.u32 [%d2], %r6;";
    right_and_wrong(&reduced(lower), &reduced(all), Divergence, (1, 32));
    let exited =
        |mask: &str, stores: &str| reduced(stores).replace("@%p2 bra E;", "@%p2 exit;").replace("0xffff", mask);
    right_and_wrong(&exited("0xffff", lower), &exited("-1", all), Divergence, (1, 32));
}

#[test]
fn overruns_from_one_shared_array_into_the_next() {
    let two = |index: u32| {
        format!(
            ".shared .align 4 .b8 a[128]; .shared .align 4 .b8 b[128];
            mov.u32 %r5, a; mov.u32 %r6, b; shl.b32 %r7, %r1, 2; add.u32 %r5, %r5, %r7; add.u32 %r6, %r6, %r7;
            st.shared.u32 [%r5+{index}], %r1; st.shared.u32 [%r6], %r1;"
        )
    };
    right_and_wrong(&two(0), &two(4), OutOfBounds, (1, 32));
    let read = |index: u32| format!("{} ld.shared.u32 %r8, [%r5+{index}];", two(0));
    right_and_wrong(&read(0), &read(4), OutOfBounds, (1, 32));
    let copy = |at: u32| {
        format!(
            "{} bar.warp.sync -1; @%p1 cp.async.ca.shared.global [%r5+{at}], [%d1], 16; cp.async.wait_all;",
            two(0).replace(".align 4", ".align 16")
        )
    };
    right_and_wrong(&copy(112), &copy(128), OutOfBounds, (1, 32));
    let before = |index: i32| format!("{} bar.warp.sync -1; @%p1 st.shared.u32 [%r6+{index}], 1;", two(0));
    right_and_wrong(&before(0), &before(-4), OutOfBounds, (1, 32));
}

#[test]
fn copies_of_threads_and_the_asynchronous_proxy() {
    let out = |fence: &str| {
        format!(
            "@%p1 cp.async.ca.shared.global [%r3], [%d1], 16; cp.async.wait_all; {fence} bar.sync 0;
            @%p1 cp.async.bulk.global.shared::cta.bulk_group [%d1+1024], [%r3], 16;
            cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;"
        )
    };
    right_and_wrong(&out("fence.proxy.async.shared::cta;"), &out(""), AsyncHazard, (1, 32));
    let shape = LaunchShape::new([1; 3], [32, 1, 1]);
    let report = run(&kernel(&out("")), &shape, Options::default()).report.expect("a report");
    assert!(report.message.contains("cp.async of threads"), "{report}");
}

#[test]
fn five_stages_in_the_room_of_four() {
    let stages = |count: u32| {
        let copy = |n: u32| {
            format!("cp.async.ca.shared.global [%r2+{}], [%d2+{}], 4; cp.async.commit_group;\n", n % 4 * 128, n * 128)
        };
        let prefetch: String = (0..count).map(copy).collect();
        format!("{prefetch} cp.async.wait_group 0; ld.shared.u32 %r5, [%r2]; st.global.u32 [%d2+2048], %r5;")
    };
    right_and_wrong(&stages(4), &stages(5), AsyncHazard, (1, 32));
}
