//! Every barrier, wait, fence and guard of the teaching kernels is taken out in turn; each time the emulator must object.
//! What it may let pass is listed with the reason.

mod harness;
mod teaching {
    pub mod hopper;
    pub mod runs;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::mutate::Body;
use ptx_emulator::FaultKind;
use teaching::{hopper, runs};

/// What may pass: kernel, a piece of the line, how often at most, why.
const EQUIVALENT: &[(&str, &str, usize, &str)] = &[
    ("transpose", "@%p3 bra", 1, "the elements read in vain lie inside the matrix and are not used"),
    ("transpose", "or.pred", 3, "as above"),
    ("sum_tree", "@%p5 bra", 1, "every thread stores the same sum"),
    ("sum_syncwarp", "@%p6 bra", 1, "every thread stores the same sum"),
    ("sum_syncwarp", "bar.warp.sync", 1, "nobody reads after the last write"),
    ("sum_shuffle", "@%p10 bra", 1, "the other warps add up zeros and store nothing"),
    ("sum_last_block", "@%p6 bra", 1, "every thread stores the same sum"),
    ("locked_sum", "membar.gl", 1, "taking a lock is believed to order what follows, as many programs do"),
    ("histogram", "@%p6 bra", 1, "adding zero changes nothing"),
    ("softmax", "@%p8 bra", 2, "the butterfly leaves the same value in all lanes"),
    ("scan_tree", "bar.sync", 3, "the first and the last step touch what the thread itself wrote"),
    ("scan_look_back", "@%p28 bra", 1, "the first tile may look back too: it finds nothing"),
    ("scan_look_back", "membar.gl", 1, "seeing a flag is believed to order what follows, as many programs do"),
    ("matmul_warpgroup", "wgmma.fence", 2, "nobody touches the accumulators between the products of two rounds"),
];

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Reported(FaultKind),
    /// No finding, but the result is wrong, which the kernel's own test sees.
    Wrong,
    Passed,
}

fn outcome(run: &runs::Run, text: &str) -> Outcome {
    let mut wrong = false;
    for seed in 0..4 {
        match catch_unwind(AssertUnwindSafe(|| (run.check)(text, seed))) {
            Ok(Err(fault)) => return Outcome::Reported(fault.kind()),
            Ok(Ok(())) => {}
            Err(_) => wrong = true,
        }
    }
    if wrong { Outcome::Wrong } else { Outcome::Passed }
}

#[test]
fn planted_faults_are_reported() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let mut excuses: Vec<usize> = EQUIVALENT.iter().map(|(_, _, times, _)| *times).collect();
    let mut excused = |kernel: &str, line: &str| {
        let mut fitting = EQUIVALENT.iter().zip(&mut excuses);
        let left = fitting.find(|((k, piece, ..), left)| *k == kernel && line.contains(piece) && **left > 0);
        left.map(|(_, left)| *left -= 1).is_some()
    };
    let (mut reported, mut wrong, mut idle) = (0, 0, 0);
    for run in runs::ALL.iter().chain(hopper::ALL) {
        let body = Body::new(run.texts.nvcc, run.name, false);
        for mutant in body.mutants() {
            let what = format!("{} line {}, {:?}: {}", run.name, mutant.line, mutant.safeguard, mutant.was);
            match outcome(run, &body.with(&mutant)) {
                Outcome::Reported(_) => reported += 1,
                // A missing condition that changes what is computed is the business of the kernel's own tests.
                Outcome::Wrong if !mutant.safeguard.orders() => wrong += 1,
                // No input here makes it matter.
                Outcome::Passed if outcome(run, &body.trapped(&mutant)) == Outcome::Passed => idle += 1,
                _ if excused(run.name, &mutant.was) => {}
                other => missed.push(format!("{what}: {other:?}")),
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{reported} reported, {wrong} wrong results, {idle} that no input needs");
    assert!(missed.is_empty(), "{} not reported:\n{}", missed.len(), missed.join("\n"));
}
