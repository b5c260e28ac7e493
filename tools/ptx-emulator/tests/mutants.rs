//! Every barrier, wait, fence and guard of the teaching kernels is taken out in turn; each time the emulator must object.
//! What it may let pass is listed with the reason.

mod harness;
mod teaching {
    pub mod hopper;
    pub mod runs;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::mutate::{Safeguard, mutants};
use ptx_emulator::FaultKind;
use teaching::{hopper, runs};

/// Mutants that are as correct as the original: kernel, a piece of the line, why.
const EQUIVALENT: &[(&str, &str, &str)] = &[];

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
    let (mut reported, mut wrong) = (0, 0);
    for run in runs::ALL.iter().chain(hopper::ALL) {
        for mutant in mutants(run.text, run.name) {
            let what = format!("{} line {}, {:?}: {}", run.name, mutant.line, mutant.safeguard, mutant.was);
            let excused = EQUIVALENT.iter().any(|(kernel, line, _)| *kernel == run.name && mutant.was.contains(line));
            match outcome(run, &mutant.text) {
                Outcome::Reported(_) => reported += 1,
                // A missing branch that changes what is computed is the business of the kernel's own tests.
                Outcome::Wrong if mutant.safeguard == Safeguard::Guard => wrong += 1,
                _ if excused => {}
                other => missed.push(format!("{what}: {other:?}")),
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{reported} reported, {wrong} wrong results");
    assert!(missed.is_empty(), "{} not reported:\n{}", missed.len(), missed.join("\n"));
}
