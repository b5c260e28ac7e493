//! Blocks of a cluster in each other's shared memory: what is ordered runs clean, what is not is reported, whichever of the
//! two comes first.

use ptx_emulator::{FaultKind, Gpu, Module, Options};

/// Two blocks of one warp each. `%r1` is this block's rank, `%r2` the address of `s` here, `%r3` that in the other block,
/// `%r4` and `%r5` those of an mbarrier here and there, `%r6` the lane's offset.
fn kernel(both: &str, first: &str, second: &str, end: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .visible .entry t(.param .u64 y) .reqnctapercluster 2, 1, 1\n{{
        .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %d<16>;
        .shared .align 16 .b8 s[128];
        .shared .align 8 .b64 m;
        mov.u32 %r1, %cluster_ctarank;
        mov.u32 %r10, %tid.x;
        shl.b32 %r6, %r10, 2;
        mov.u32 %r2, s;
        mov.u32 %r4, m;
        xor.b32 %r11, %r1, 1;
        mapa.shared::cluster.u32 %r3, %r2, %r11;
        mapa.shared::cluster.u32 %r5, %r4, %r11;
        add.u32 %r2, %r2, %r6;
        add.u32 %r3, %r3, %r6;
        setp.eq.u32 %p1, %r10, 0;
        @%p1 mbarrier.init.shared.b64 [%r4], 1;
        st.shared.u32 [%r2], %r10;
        {CLUSTER}
        {both}
        setp.ne.u32 %p2, %r1, 0;
        @%p2 bra SECOND;
        {first}
        bra.uni END;
        SECOND:
        {second}
        END:
        {end}
        ret;\n}}\n"
    )
}

const CLUSTER: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";
const REMOTE_STORE: &str = "st.shared::cluster.u32 [%r3], 7;\n";
const REMOTE_LOAD: &str = "ld.shared::cluster.u32 %r20, [%r3];\n";
const LOAD: &str = "ld.shared.u32 %r21, [%r2];\n";
const STORE: &str = "st.shared.u32 [%r2], 9;\n";
const ARRIVE: &str = "bar.warp.sync -1;\n@%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5];\n";
const WAIT: &str =
    "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r4], 0;\n@!%p3 bra W;\nbar.warp.sync -1;\n";

/// What the kernel gives under several seeds; all must agree.
fn outcome(text: &str) -> Option<FaultKind> {
    let module = Module::load(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut found = Vec::new();
    for seed in 0..12 {
        let mut gpu = Gpu::new(Options { seed, ..Options::default() });
        let result = gpu.launch(&module, "t", [2, 1, 1], [32, 1, 1], 0, &0u64.to_le_bytes());
        found.push(result.err().map(|fault| fault.kind()));
    }
    assert!(found.iter().all(|kind| *kind == found[0]), "seeds disagree: {found:?}\n{text}");
    found[0]
}

#[test]
fn barriers_of_the_cluster_order_accesses_to_other_blocks() {
    assert_eq!(outcome(&kernel("", &[REMOTE_STORE, CLUSTER].concat(), &[CLUSTER, LOAD].concat(), "")), None);
    assert_eq!(outcome(&kernel("", &[REMOTE_LOAD, CLUSTER].concat(), &[CLUSTER, STORE].concat(), "")), None);
    assert_eq!(outcome(&kernel(REMOTE_LOAD, "", "", CLUSTER)), None);
}

#[test]
fn without_one_they_race() {
    let race = Some(FaultKind::Race);
    for (theirs, own) in [(REMOTE_STORE, LOAD), (REMOTE_STORE, STORE), (REMOTE_LOAD, STORE)] {
        assert_eq!(outcome(&kernel("", theirs, own, CLUSTER)), race, "{theirs} against {own}");
        // A barrier of one block says nothing to the other.
        let local = format!("bar.sync 0;\n{own}bar.sync 0;\n");
        assert_eq!(outcome(&kernel("", theirs, &local, CLUSTER)), race, "{theirs} against {own} between barriers");
    }
    assert_eq!(outcome(&kernel("", REMOTE_LOAD, LOAD, CLUSTER)), None, "two reads");
}

#[test]
fn arrivals_at_mbarriers_of_other_blocks_hand_on_what_came_before() {
    let before = [REMOTE_STORE, ARRIVE].concat();
    assert_eq!(outcome(&kernel("", &before, &[WAIT, LOAD].concat(), CLUSTER)), None);
    let after = [ARRIVE, REMOTE_STORE].concat();
    assert_eq!(outcome(&kernel("", &after, &[WAIT, LOAD].concat(), CLUSTER)), Some(FaultKind::Race));
    // The owner has read and says so; the other may overwrite then.
    let said = [LOAD, ARRIVE].concat();
    assert_eq!(outcome(&kernel("", &[WAIT, REMOTE_STORE].concat(), &said, CLUSTER)), None);
    assert_eq!(outcome(&kernel("", REMOTE_STORE, &said, CLUSTER)), Some(FaultKind::Race));
    let late = [ARRIVE, LOAD].concat();
    assert_eq!(outcome(&kernel("", &[WAIT, REMOTE_STORE].concat(), &late, CLUSTER)), Some(FaultKind::Race));
}

#[test]
fn a_block_may_not_end_while_others_use_its_memory() {
    for access in [REMOTE_STORE, REMOTE_LOAD] {
        assert_eq!(outcome(&kernel("", access, "", "")), Some(FaultKind::UseAfterFree), "{access}");
        assert_eq!(outcome(&kernel("", &[access, CLUSTER].concat(), CLUSTER, "")), None, "{access}");
    }
    assert_eq!(outcome(&kernel("", &[REMOTE_STORE, ARRIVE].concat(), WAIT, "")), None);
}

#[test]
fn mbarriers_of_other_blocks_must_be_known_to_be_initialised() {
    let text = kernel("", ARRIVE, WAIT, CLUSTER);
    assert_eq!(outcome(&text), None);
    assert!(outcome_any(&text.replacen(CLUSTER, "", 1)), "an arrival before anybody knows of the initialisation");
}

/// Whether every seed gives some fault.
fn outcome_any(text: &str) -> bool {
    let module = Module::load(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    (0..12).all(|seed| {
        let mut gpu = Gpu::new(Options { seed, ..Options::default() });
        gpu.launch(&module, "t", [2, 1, 1], [32, 1, 1], 0, &0u64.to_le_bytes()).is_err()
    })
}

const EXPECT: &str = "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 128;\n";
const FROM_SHARED: &str = "fence.proxy.async;\nbar.warp.sync -1;\n\
    @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r3], [%r2], 128, [%r5];\n";
const STORES: &str = "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r3], %r10, [%r5];\n";
const REDUCTIONS: &str =
    "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r3], %r10, [%r5];\n";
const FENCED: &str = "fence.proxy.async;\n";

#[test]
fn asynchronous_writes_to_other_blocks_arrive_with_their_bytes() {
    for write in [FROM_SHARED, STORES, REDUCTIONS] {
        let owner = [EXPECT, WAIT, LOAD].concat();
        assert_eq!(outcome(&kernel(FENCED, write, &owner, CLUSTER)), None, "{write}");
        let early = [EXPECT, LOAD, WAIT].concat();
        assert!(outcome_any(&kernel(FENCED, write, &early, CLUSTER)), "{write}: read before the wait");
        let busy = [LOAD, EXPECT, WAIT].concat();
        assert!(outcome_any(&kernel("", write, &busy, CLUSTER)), "{write}: written while the owner may still read");
    }
    // The source belongs to the copy until it is complete, and so does its block.
    let changed = [FROM_SHARED, STORE].concat();
    assert!(outcome_any(&kernel(FENCED, &changed, &[EXPECT, WAIT].concat(), CLUSTER)));
    assert!(outcome_any(&kernel(FENCED, FROM_SHARED, &[EXPECT, WAIT].concat(), "")));
}

#[test]
fn reductions_add_up() {
    let owner = format!(
        "{EXPECT}{WAIT}{LOAD}ld.param.u64 %d1, [y];\nmul.wide.u32 %d2, %r10, 4;\nadd.u64 %d1, %d1, %d2;\n\
         st.global.u32 [%d1], %r21;\n"
    );
    for (write, factor) in [(FROM_SHARED, 1), (STORES, 1), (REDUCTIONS, 2)] {
        let module = Module::load(&kernel(FENCED, write, &owner, CLUSTER)).unwrap_or_else(|e| panic!("{e}"));
        let mut gpu = Gpu::new(Options::default());
        let y = gpu.alloc(128).expect("memory");
        gpu.launch(&module, "t", [2, 1, 1], [32, 1, 1], 0, &y.to_le_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let mut bytes = [0; 128];
        gpu.read(y, &mut bytes).expect("own memory");
        for (lane, word) in bytes.chunks(4).enumerate() {
            assert_eq!(u32::from_le_bytes([word[0], word[1], word[2], word[3]]), factor * lane as u32, "{write}");
        }
    }
}
