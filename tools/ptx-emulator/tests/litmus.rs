//! Litmus tests of the PTX memory model under `Options::weak_memory`: what it allows is seen under some seed, what it forbids
//! under none.

#[path = "harness/small.rs"]
#[allow(dead_code, reason = "made for all tests of small kernels")]
mod small;

use std::collections::BTreeSet;

use ptx_emulator::{LaunchShape, Options};
use small::{kernel, run};

const X: &str = "[%d1]";
const Y: &str = "[%d1+128]";
const SEEDS: u64 = 60;

/// One thread in each block; its first two results of each kind of outcome over the seeds.
fn outcomes(threads: &[&str], weak_memory: bool) -> BTreeSet<Vec<u32>> {
    let mut body = String::from("mov.u32 %r20, 7; mov.u32 %r21, 7;\n");
    for n in 0..threads.len() {
        body.push_str(&format!("setp.eq.u32 %p{}, %r4, {n}; @%p{0} bra T{n};\n", n + 2));
    }
    for (n, thread) in threads.iter().enumerate() {
        body.push_str(&format!(
            "T{n}: {thread}\nst.global.v2.u32 [%d1+{}], {{%r20, %r21}}; bra.uni E;\n",
            1024 + 8 * n
        ));
    }
    body.push_str("E:");
    let shape = LaunchShape::new([threads.len() as u32, 1, 1], [1, 1, 1]);
    let seeds = 0..SEEDS;
    let result = |seed| {
        let found = run(&kernel(&body), &shape, Options { seed, weak_memory, ..Options::default() });
        assert_eq!(found.report.map(|r| r.to_string()), None, "{body}");
        found.y[256..256 + 2 * threads.len()].iter().copied().filter(|value| *value != 7).collect()
    };
    seeds.map(result).collect()
}

fn store(place: &str) -> String {
    format!("st.relaxed.gpu.global.u32 {place}, 1;\n")
}

fn load(register: &str, place: &str) -> String {
    format!("ld.relaxed.gpu.global.u32 {register}, {place};\n")
}

const SEQUENTIAL: &str = "fence.sc.gpu;\n";
const ACQUIRE_RELEASE: &str = "fence.acq_rel.gpu;\n";

fn store_buffering(between: &str) -> [String; 2] {
    [(X, Y), (Y, X)].map(|(own, other)| [&store(own), between, &load("%r20", other)].concat())
}

#[test]
fn store_buffering_gives_two_zeros_unless_fences_are_sequential() {
    for between in ["", ACQUIRE_RELEASE] {
        let threads = store_buffering(between);
        let threads = [threads[0].as_str(), &threads[1]];
        assert!(outcomes(&threads, true).contains(&vec![0, 0]), "allowed: {between}");
        assert!(!outcomes(&threads, false).contains(&vec![0, 0]), "not without the option: {between}");
    }
    let threads = store_buffering(SEQUENTIAL);
    let found = outcomes(&[&threads[0], &threads[1]], true);
    assert!(!found.contains(&vec![0, 0]) && found.len() > 1, "{found:?}");
}

#[test]
fn store_buffering_by_volatile_accesses_and_inside_a_block() {
    let volatile = store_buffering("").map(|t| t.replace("relaxed.gpu", "volatile"));
    assert!(outcomes(&[&volatile[0], &volatile[1]], true).contains(&vec![0, 0]));
    let within = |fence: &str| {
        let text = kernel(&format!(
            "@%p1 st.shared.u32 [%r3], 0; @%p1 st.shared.u32 [%r3+4], 0; bar.sync 0;
            setp.gt.u32 %p2, %r1, 31; selp.u32 %r5, 4, 0, %p2; add.u32 %r6, %r3, %r5; xor.b32 %r7, %r6, 4;
            and.b32 %r8, %r1, 31; setp.ne.u32 %p3, %r8, 0; @%p3 bra E;
            st.relaxed.cta.shared.u32 [%r6], 1; {fence} ld.relaxed.cta.shared.u32 %r9, [%r7]; st.global.u32 [%d2], %r9; E:"
        ));
        let shape = LaunchShape::new([1; 3], [64, 1, 1]);
        let found = |seed| run(&text, &shape, Options { seed, weak_memory: true, ..Options::default() });
        (0..SEEDS).map(|seed| (found(seed).y[0], found(seed).y[32])).collect::<BTreeSet<_>>()
    };
    assert!(within("").contains(&(0, 0)));
    assert!(!within("fence.sc.cta;").contains(&(0, 0)));
}

fn message(write: &str, read: &str, then: &str) -> [String; 2] {
    [[&store(X), write].concat(), [read, then, &load("%r21", X)].concat()]
}

#[test]
fn messages_arrive_in_order_only_by_release_and_acquire() {
    let (relaxed, release) = (store(Y), store(Y).replace("relaxed", "release"));
    let (read, acquire) = (load("%r20", Y), load("%r20", Y).replace("relaxed", "acquire"));
    let fenced = [ACQUIRE_RELEASE, &relaxed].concat();
    let late = vec![1, 0];
    for (write, read, then) in
        [(&release, &acquire, ""), (&fenced, &read, ACQUIRE_RELEASE), (&release, &read, SEQUENTIAL)]
    {
        let threads = message(write, read, then);
        let found = outcomes(&[&threads[0], &threads[1]], true);
        assert!(!found.contains(&late) && found.contains(&vec![1, 1]), "{found:?} of {threads:?}");
    }
}

#[test]
fn one_place_never_goes_back() {
    let writer = [store(X), store(X).replace(", 1;", ", 2;"), store(X).replace(", 1;", ", 3;")].concat();
    let reader = [load("%r20", X), load("%r21", X)].concat();
    let found = outcomes(&[&writer, &reader], true);
    assert!(found.iter().all(|seen| seen[0] <= seen[1]), "{found:?}");
    assert!(found.iter().any(|seen| seen[0] < seen[1]), "{found:?}");
}

#[test]
fn independent_writes_are_seen_in_one_order_only_through_sequential_fences() {
    let readers = |fence: &str| [(X, Y), (Y, X)].map(|(a, b)| [&load("%r20", a), fence, &load("%r21", b)].concat());
    let opposite = vec![1, 0, 1, 0];
    let sequential = readers(SEQUENTIAL);
    let found = outcomes(&[&store(X), &store(Y), &sequential[0], &sequential[1]], true);
    assert!(!found.contains(&opposite), "{found:?}");
    let relaxed = readers("");
    let found = outcomes(&[&store(X), &store(Y), &relaxed[0], &relaxed[1]], true);
    assert!(found.len() > 4, "{found:?}");
}

#[test]
fn atomics_lose_nothing() {
    let text = kernel("atom.relaxed.gpu.global.add.u32 %r5, [%d1], 1; ld.relaxed.gpu.global.u32 %r6, [%d1];");
    for seed in 0..10 {
        let options = Options { seed, weak_memory: true, ..Options::default() };
        let found = run(&text, &LaunchShape::new([5, 1, 1], [64, 1, 1]), options);
        assert_eq!((found.report, found.y[0]), (None, 320));
    }
}

#[test]
fn locks_keep_what_they_guard() {
    let text = kernel(
        "@!%p1 bra E;
        L: atom.acquire.gpu.global.cas.b32 %r5, [%d1], 0, 1; setp.ne.u32 %p2, %r5, 0; @%p2 bra L;
        ld.global.u32 %r6, [%d1+256]; add.u32 %r6, %r6, 1; st.global.u32 [%d1+256], %r6;
        atom.release.gpu.global.exch.b32 %r7, [%d1], 0;
        E:",
    );
    for seed in 0..10 {
        let options = Options { seed, weak_memory: true, ..Options::default() };
        let found = run(&text, &LaunchShape::new([9, 1, 1], [32, 1, 1]), options);
        assert_eq!(found.report.map(|r| r.to_string()), None);
        assert_eq!(found.y[64], 9);
    }
}
