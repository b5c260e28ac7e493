//! Instructions that compilers write rarely.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use ptx_emulator::{LaunchShape, Options};
use small::{kernel, run};

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
