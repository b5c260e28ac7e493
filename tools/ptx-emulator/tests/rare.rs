//! Instructions that compilers write rarely.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use ptx_emulator::{FaultKind, LaunchShape, Options};
use small::{kernel, run, verdict};

/// What one warp leaves in y.
fn warp(body: &str) -> Vec<u32> {
    let found = run(&kernel(body), &LaunchShape::new([1; 3], [32, 1, 1]), Options::default());
    assert_eq!(found.report.map(|r| r.to_string()), None, "{body}");
    found.y
}

/// What every lane of a warp stores.
fn value(body: &str) -> u32 {
    let y = warp(&format!("{body}; st.global.u32 [%d2], %r5;"));
    assert!(y[..32].iter().all(|v| *v == y[0]), "{body}");
    y[0]
}

#[test]
fn integers() {
    assert_eq!(value("mov.u32 %r6, 0x81000003; mul24.lo.u32 %r5, %r6, 5"), 15);
    assert_eq!(value("mov.u32 %r6, 0x81000003; mad24.lo.u32 %r5, %r6, 5, 2"), 17);
    assert_eq!(value("mov.u32 %r6, 0x30002; mov.u32 %r7, 0x04030201; dp2a.lo.u32.u32 %r5, %r6, %r7, 10"), 18);
    assert_eq!(value("mov.u32 %r6, 0x30002; mov.u32 %r7, 0x04030201; dp2a.hi.u32.u32 %r5, %r6, %r7, 10"), 28);
    assert_eq!(value("mov.u32 %r6, 22; fns.b32 %r5, %r6, 0, 2"), 2);
    assert_eq!(value("mov.u32 %r6, 255; szext.clamp.u32 %r5, %r6, 4"), 15);
    assert_eq!(value("mov.u32 %r6, 8; szext.wrap.s32 %r5, %r6, 4"), -8i32 as u32);
}

#[test]
fn masks_and_packed_bytes() {
    assert_eq!(value("mov.u32 %r6, 4; mov.u32 %r7, 3; bmsk.clamp.b32 %r5, %r6, %r7"), 0x70);
    let bytes = "mov.u32 %r6, 0x01ff7f80; mov.u32 %r7, 0x02020201; mov.u32 %r8, 0;";
    assert_eq!(value(&format!("{bytes} vadd4.u32.u32.u32 %r5, %r6, %r7, %r8")), 0x0301_8181);
    assert_eq!(value(&format!("{bytes} vsub4.u32.u32.u32 %r5, %r6, %r7, %r8")), 0xfffd_7d7f);
    assert_eq!(value(&format!("{bytes} vmin4.u32.u32.u32 %r5, %r6, %r7, %r8")), 0x0102_0201);
    assert_eq!(value(&format!("{bytes} vmax4.u32.u32.u32 %r5, %r6, %r7, %r8")), 0x02ff_7f80);
    assert_eq!(value(&format!("{bytes} vabsdiff4.u32.u32.u32 %r5, %r6, %r7, %r8")), 0x01fd_7d7f);
    assert_eq!(
        value("mov.u32 %r6, 0x04060810; mov.u32 %r7, 0x04040404; vavrg4.u32.u32.u32 %r5, %r6, %r7, %r7"),
        0x0405_060a
    );
}

#[test]
fn hints_change_nothing() {
    let hints = "createpolicy.fractional.L2::evict_last.b64 %d9, 1.0; prefetchu.L1 [%d1]; discard.global.L2 [%d1], 128;
        applypriority.global.L2::evict_normal [%d1], 128; griddepcontrol.launch_dependents; griddepcontrol.wait;
        prefetch.global.L2 [%d1]; nanosleep.u32 20; brkpt; pmevent 1";
    assert_eq!(value(&format!("mov.u32 %r5, 4; {hints}")), 4);
}

#[test]
fn one_lane_of_a_warp() {
    assert_eq!(value("elect.sync %r6|%p2, -1; vote.sync.ballot.b32 %r5, %p2, -1"), 1);
}

#[test]
fn addresses() {
    assert_eq!(value("st.shared.u32 [%r2], 3; getctarank.shared::cluster.u32 %r5, %r3"), 0);
    assert_eq!(value("ldu.global.u32 %r5, [%d1+512]; add.u32 %r5, %r5, 4"), 4);
}

#[test]
fn matrices_move_and_come_back() {
    let y = warp(
        "and.b32 %r5, %r1, 7; shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r3;
        movmatrix.sync.aligned.m8n8.trans.b16 %r6, %r1;
        stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {%r6};
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r7}, [%r5];
        st.global.u32 [%d2], %r7;",
    );
    assert_eq!(y[..32], std::array::from_fn::<u32, 32, _>(|lane| lane as u32));
}

#[test]
fn fragments_of_the_cuda_api() {
    let y = warp(
        "mov.u32 %r5, 0x3c003c00; st.shared.v4.b32 [%r3], {%r5, %r5, %r5, %r5};
        shl.b32 %r6, %r1, 4; add.u32 %r6, %r6, %r3; bar.warp.sync -1; st.shared.v4.b32 [%r6], {%r5, %r5, %r5, %r5};
        bar.warp.sync -1; mov.u32 %r7, 16; mov.f32 %f9, 0f40000000;
        wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r10, %r11, %r12, %r13, %r14, %r15, %r16, %r17}, [%r3], %r7;
        wmma.load.b.sync.aligned.col.m16n16k16.shared.f16 {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27}, [%r3], %r7;
        wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8},
            {%r10, %r11, %r12, %r13, %r14, %r15, %r16, %r17}, {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27},
            {%f9, %f9, %f9, %f9, %f9, %f9, %f9, %f9};
        wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%d1], {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8}, %r7;",
    );
    assert!(y[..256].iter().all(|v| f32::from_bits(*v) == 18.0), "{:?}", &y[..8]);
}

#[test]
fn room_taken_while_running() {
    // Each lane takes four bytes more than the one before it, and gives all of it back.
    let y = warp(
        "add.u32 %r5, %r1, 1; shl.b32 %r6, %r5, 2; cvt.u64.u32 %d9, %r6;
        stacksave.u64 %d12; alloca.u64 %d10, %d9, 16; mov.u32 %r7, 0;
        L: mul.wide.u32 %d11, %r7, 4; add.u64 %d11, %d11, %d10; st.local.u32 [%d11], %r7;
        add.u32 %r7, %r7, 1; setp.lt.u32 %p2, %r7, %r5; @%p2 bra L;
        mul.wide.u32 %d11, %r1, 4; add.u64 %d11, %d11, %d10; ld.local.u32 %r8, [%d11];
        stackrestore.u64 %d12; alloca.u64 %d13, 16, 16; setp.eq.u64 %p3, %d13, %d10; selp.u32 %r9, 1000, 0, %p3;
        add.u32 %r8, %r8, %r9; st.global.u32 [%d2], %r8;",
    );
    assert_eq!(y[..32], std::array::from_fn::<u32, 32, _>(|lane| lane as u32 + 1000));
    let judged = |body: &str| verdict(&kernel(body), 1, 32);
    assert_eq!(judged("alloca.u64 %d10, 20000, 16;"), Some(FaultKind::OutOfBounds), "more than a stack holds");
    let load = "alloca.u64 %d11, 16, 16; ld.local.u32 %r5, [%d11]; st.global.u32 [%d2], %r5;";
    assert_eq!(judged(load), Some(FaultKind::Uninitialised));
    let before = "stacksave.u64 %d12; alloca.u64 %d10, 16, 16; st.local.u32 [%d10], 1; stackrestore.u64 %d12;";
    assert_eq!(judged(&format!("{before} {load}")), Some(FaultKind::Uninitialised), "given back and taken again");
    // What a function takes is given back when it returns: eight times 4096 bytes are too many for one stack.
    let function = ".func taking() { .reg .b64 %d<2>; alloca.u64 %d1, 4096, 16; ret; }\n.visible .entry";
    let calls = "mov.u32 %r7, 0; L: call taking; add.u32 %r7, %r7, 1; setp.lt.u32 %p2, %r7, 8; @%p2 bra L;";
    assert_eq!(verdict(&kernel(calls).replacen(".visible .entry", function, 1), 1, 32), None);
    let here = calls.replace("call taking;", "alloca.u64 %d9, 4096, 16;");
    assert_eq!(judged(&here), Some(FaultKind::OutOfBounds));
}

/// A tensor map made in shared memory out of zeros, published at y + 2048, and a copy by it: 4 x 4 of 8 x 6 words, from
/// column 2 and row 3 on.
fn made_by_the_kernel(zeros: &str, fields: &str) -> String {
    kernel(&format!(
        ".shared .align 128 .b8 map[128]; .shared .align 128 .b8 box[128]; .shared .align 8 .b64 arrived;
        st.global.u32 [%d2], %r1; add.u32 %r5, %r1, 32; @%p4 bra N; st.global.u32 [%d2+128], %r5; N:
        fence.proxy.async; mov.u32 %r6, map; shl.b32 %r7, %r1, 2; add.u32 %r7, %r7, %r6; {zeros}
        mov.u32 %r8, arrived; @%p1 mbarrier.init.shared.b64 [%r8], 1; fence.mbarrier_init.release.cluster; bar.sync 0;
        @!%p1 bra M;
        tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r6], %d1;
        tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%r6], 0, 4;
        tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%r6], 1, 4;
        tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%r6], 0, 8;
        tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%r6], 1, 6;
        tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%r6], 0, 32;
        tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%r6], 0, 1;
        tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%r6], 1, 1;
        tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [%r6], 2;
        tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [%r6], 0;
        tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%r6], 0;
        tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [%r6], 0; {fields}
        M: bar.warp.sync -1; add.u64 %d4, %d1, 2048;
        tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%d4], [%r6], 128;
        fence.proxy.tensormap::generic.acquire.gpu [%d4], 128;
        @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r8], 64; mov.u32 %r9, box;
        @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r9], [%d4, {{2, 3}}], [%r8];
        W: mbarrier.try_wait.parity.shared.b64 %p3, [%r8], 0; @!%p3 bra W;
        setp.gt.u32 %p5, %r1, 15; @%p5 bra E; shl.b32 %r7, %r1, 2; add.u32 %r9, %r9, %r7; ld.shared.u32 %r5, [%r9];
        st.global.u32 [%d2+1024], %r5; E:"
    ))
    .replacen("setp.eq.u32 %p1, %r1, 0;", "setp.eq.u32 %p1, %r1, 0; setp.gt.u32 %p4, %r1, 15;", 1)
}

#[test]
fn tensor_maps_made_by_kernels() {
    let (zeros, rank) = ("st.shared.u32 [%r7], 0;", "tensormap.replace.tile.rank.shared::cta.b1024.b32 [%r6], 1;");
    let found = run(&made_by_the_kernel(zeros, rank), &LaunchShape::new([1; 3], [32, 1, 1]), Options::default());
    assert_eq!(found.report.map(|r| r.to_string()), None);
    let expected = |n: u32| if n / 4 < 3 { 8 * (3 + n / 4) + 2 + n % 4 } else { 0 };
    assert_eq!(found.y[256..272], std::array::from_fn::<u32, 16, _>(|n| expected(n as u32)));
    let judged = |zeros: &str, rank: &str| verdict(&made_by_the_kernel(zeros, rank), 1, 32);
    assert_eq!(judged("", rank), Some(FaultKind::Uninitialised), "the rest of the map");
    assert_eq!(judged(zeros, ""), Some(FaultKind::Operand), "a map without a rank");
    let low = "tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%r6], 0, 8;";
    assert_eq!(judged(zeros, &format!("{rank} {low}")), Some(FaultKind::Operand), "a stride of 8 bytes");
}
