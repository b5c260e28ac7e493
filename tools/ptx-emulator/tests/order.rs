//! What orders accesses and what only seems to: each fault beside the same kernel done right.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use ptx_emulator::{FaultKind::Race, LaunchShape, Options};
use small::{kernel, right_and_wrong, run, verdict};

/// Block 0 leaves data and raises a flag, block 1 waits for the flag and reads the data.
fn handed_on(before_barrier: &str, after_barrier: &str, flag: &str, wait: &str, then: &str) -> String {
    format!(
        "setp.ne.u32 %p2, %r4, 0;
        @%p2 bra READER;
        st.global.u32 [%d2+64], %r1;
        {before_barrier}
        bar.sync 0;
        {after_barrier}
        @%p1 {flag}
        bra.uni END;
        READER:
        @!%p1 bra READ;
        W: {wait}
        setp.eq.u32 %p3, %r10, 0;
        @%p3 bra W;
        {then}
        READ:
        bar.sync 0;
        ld.global.u32 %r11, [%d2+64];
        END:"
    )
}

const RELAXED: &str = "atom.relaxed.gpu.global.add.u32 %r9, [%d1], 1;";
const RELAXED_WAIT: &str = "ld.relaxed.gpu.global.u32 %r10, [%d1];";

#[test]
fn barriers_carry_sequentially_consistent_fences() {
    for fence in ["membar.gl;", "fence.sc.gpu;"] {
        let right = handed_on(fence, "", RELAXED, RELAXED_WAIT, fence);
        right_and_wrong(&right, &handed_on("", "", RELAXED, RELAXED_WAIT, fence), Race, (2, 64));
    }
}

#[test]
fn fences_that_acquire_and_release_order_what_comes_before_them() {
    let fence = "fence.acq_rel.gpu;";
    let right = handed_on("", fence, RELAXED, RELAXED_WAIT, fence);
    // Before the barrier such a fence of every thread is part of no release by thread 0.
    right_and_wrong(&right, &handed_on(fence, "", RELAXED, RELAXED_WAIT, fence), Race, (2, 64));
    let release = "atom.release.gpu.global.add.u32 %r9, [%d1], 1;";
    let acquire = "ld.acquire.gpu.global.u32 %r10, [%d1];";
    right_and_wrong(&handed_on("", "", release, acquire, ""), &handed_on("", "", RELAXED, acquire, ""), Race, (2, 64));
}

/// Each lane stores, and reads what its neighbour stored.
fn neighbours(between: &str, space: &str, at: &str, next: &str) -> String {
    format!(
        "add.u32 %r5, %r1, 1; and.b32 %r5, %r5, 31;
        shl.b32 %r6, %r5, 2; add.u32 %r6, %r6, %r3;
        mul.wide.u32 %d3, %r5, 4; add.u64 %d3, %d3, %d1;
        st.{space}.u32 [{at}], %r1;
        {between}
        ld.{space}.u32 %r7, [{next}];
        st.global.u32 [%d2+512], %r7;"
    )
}

#[test]
fn shuffles_and_votes_do_not_order_memory() {
    let right = neighbours("bar.warp.sync -1;", "shared", "%r2", "%r6");
    for between in [
        "",
        "shfl.sync.idx.b32 %r8, %r1, 0, 31, -1;",
        "vote.sync.ballot.b32 %r8, %p1, -1;",
        "match.any.sync.b32 %r8, %r1, -1;",
        "redux.sync.add.u32 %r8, %r1, -1;",
        "membar.cta;",
    ] {
        right_and_wrong(&right, &neighbours(between, "shared", "%r2", "%r6"), Race, (1, 32));
    }
    right_and_wrong(
        &neighbours("bar.sync 0;", "shared", "%r2", "%r6"),
        &neighbours("", "shared", "%r2", "%r6"),
        Race,
        (1, 32),
    );
}

#[test]
fn lanes_exchange_through_global_memory_with_a_barrier_only() {
    let right = neighbours("bar.warp.sync -1;", "global", "%d2", "%d3");
    for between in ["", "shfl.sync.idx.b32 %r8, %r1, 0, 31, -1;", "membar.gl;"] {
        right_and_wrong(&right, &neighbours(between, "global", "%d2", "%d3"), Race, (1, 32));
    }
    // Read first, overwritten by another lane then.
    let shifted = |between: &str| {
        format!("ld.global.u32 %r7, [%d2+4]; {between} st.global.u32 [%d2], %r7; st.global.u32 [%d2], %r1;")
    };
    right_and_wrong(&shifted("bar.warp.sync -1;"), &shifted(""), Race, (1, 32));
    let own = "st.global.u32 [%d2], %r1; ld.global.u32 %r7, [%d2]; st.global.u32 [%d2], %r7;";
    assert_eq!(verdict(&kernel(own), 1, 32), None, "its own");
}

#[test]
fn a_message_inside_a_warp() {
    let message = |fence: &str| {
        format!(
            "setp.ne.u32 %p2, %r1, 0;
            @%p2 bra R;
            st.global.u32 [%d1+256], 7; {fence} st.relaxed.gpu.global.u32 [%d1], 1;
            bra.uni E;
            R: ld.relaxed.gpu.global.u32 %r10, [%d1]; setp.eq.u32 %p3, %r10, 0; @%p3 bra R;
            fence.acq_rel.gpu;
            ld.global.u32 %r11, [%d1+256];
            E:"
        )
    };
    right_and_wrong(&message("fence.acq_rel.gpu;"), &message(""), Race, (1, 2));
}

#[test]
fn atomics_of_a_warp_beside_its_plain_accesses() {
    let count = |between: &str| {
        format!(
            "@%p1 st.shared.u32 [%r3], 0; bar.warp.sync -1;
            red.shared.add.u32 [%r3], 1;
            {between}
            ld.shared.u32 %r7, [%r3];
            st.global.u32 [%d2], %r7;"
        )
    };
    right_and_wrong(&count("bar.warp.sync -1;"), &count(""), Race, (1, 32));
    // Different lanes, one after the other, to one place.
    let twice = |between: &str| {
        format!(
            "setp.eq.u32 %p2, %r1, 1; @%p1 st.shared.u32 [%r3], 3; {between} @%p2 st.shared.u32 [%r3], 4; bar.warp.sync -1;"
        )
    };
    right_and_wrong(&twice("bar.warp.sync -1;"), &twice(""), Race, (1, 32));
}

/// The block that comes second adds up what both have left.
fn last_block(fence: &str) -> String {
    format!(
        "mul.wide.u32 %d4, %r4, 4; add.u64 %d4, %d4, %d1;
        @%p1 st.volatile.global.u32 [%d4+256], 5;
        {fence}
        mov.u32 %r9, 9;
        @%p1 atom.global.add.u32 %r9, [%d1], 1;
        @%p1 st.shared.u32 [%r3], %r9;
        bar.sync 0;
        ld.shared.u32 %r9, [%r3];
        setp.ne.u32 %p2, %r9, 1;
        @%p2 bra E;
        ld.volatile.global.u32 %r10, [%d1+256];
        ld.volatile.global.u32 %r11, [%d1+260];
        E:"
    )
}

#[test]
fn volatile_is_no_fence() {
    right_and_wrong(&last_block("membar.gl;"), &last_block(""), Race, (2, 64));
    let halves = |between: &str| {
        format!(
            "st.volatile.shared.u32 [%r2], %r1; st.volatile.shared.u32 [%r2+64], 0;
            {between}
            ld.volatile.shared.u32 %r5, [%r2]; ld.volatile.shared.u32 %r6, [%r2+32];
            {between}
            add.u32 %r5, %r5, %r6; st.volatile.shared.u32 [%r2], %r5;"
        )
    };
    right_and_wrong(&halves("bar.warp.sync 0xffff;"), &halves(""), Race, (1, 16));
}

#[test]
fn volatile_words_polled_alone_are_fine() {
    // A flag that carries its own value, seen late or early.
    let text = "setp.ne.u32 %p2, %r4, 0; @%p2 bra R; @%p1 st.volatile.global.u32 [%d1], 3; bra.uni E;
        R: ld.volatile.global.u32 %r10, [%d1]; setp.eq.u32 %p3, %r10, 0; @%p3 bra R; E:";
    assert_eq!(verdict(&kernel(text), 2, 32), None);
}

#[test]
fn the_read_only_path_is_for_what_nobody_writes() {
    let bump = |load: &str| format!("{load} %r5, [%d2]; add.u32 %r5, %r5, 1; st.global.u32 [%d2], %r5;");
    right_and_wrong(&bump("ld.global.u32"), &bump("ld.global.nc.u32"), Race, (1, 32));
    let again = |load: &str| format!("st.global.u32 [%d2], %r1; bar.sync 0; {load} %r5, [%d2];");
    right_and_wrong(&again("ld.global.u32"), &again("ld.global.nc.u32"), Race, (1, 64));
    let apart = "ld.global.nc.u32 %r5, [%d2]; add.u32 %r5, %r5, 1; st.global.u32 [%d2+1024], %r5;";
    assert_eq!(verdict(&kernel(apart), 1, 32), None);
}

/// A maximum by compare-and-swap, from a plain first read, in global or shared memory.
fn swap_loop(end: &str) -> String {
    format!(
        "mad.lo.u32 %r8, %r4, 64, %r1;
        ld.global.u32 %r5, [%d1];
        L: setp.ge.u32 %p2, %r5, %r8;
        @%p2 bra E;
        {end}
        setp.eq.u32 %p3, %r6, %r5;
        mov.u32 %r5, %r6;
        @!%p3 bra L;
        E:"
    )
}

#[test]
fn plain_guesses_of_compare_and_swap_loops_are_noted() {
    let text = kernel(&swap_loop("atom.global.cas.b32 %r6, [%d1], %r5, %r8;"));
    let shape = LaunchShape::new([4, 1, 1], [64, 1, 1]);
    let mut noted = 0;
    for seed in 0..6 {
        let found = run(&text, &shape, Options { seed, ..Options::default() });
        assert_eq!(found.report, None);
        assert_eq!(found.y[0], 4 * 64 - 1);
        assert!(found.notes.iter().all(|note| note.message.contains("compare-and-swap")));
        noted += usize::from(!found.notes.is_empty());
    }
    assert!(noted > 3, "noted under {noted} seeds of 6");
    let wrong = swap_loop("mov.u32 %r6, %r5; st.global.u32 [%d1], %r8;");
    assert_eq!(verdict(&kernel(&wrong), 4, 64), Some(Race));
    let shared = swap_loop("atom.shared.cas.b32 %r6, [%r3], %r5, %r8;")
        .replace("ld.global.u32 %r5, [%d1]", "ld.shared.u32 %r5, [%r3]");
    let shared = format!("@%p1 st.shared.u32 [%r3], 0; bar.sync 0; {shared}");
    let found = run(&kernel(&shared), &shape, Options::default());
    assert!(found.report.is_none() && !found.notes.is_empty());
    // Another address than the swap's is no guess.
    let other = swap_loop("atom.global.cas.b32 %r6, [%d1+4], %r5, %r8; atom.global.add.u32 %r7, [%d1], 1;");
    assert_eq!(verdict(&kernel(&other), 4, 64), Some(Race));
}
