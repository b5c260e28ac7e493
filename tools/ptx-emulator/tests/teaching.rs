//! Kernels as courses and blogs teach them, compiled by nvcc and by clang: each must give the right answer without a
//! finding, whatever the seed.

mod harness;
mod teaching {
    pub mod hopper;
    pub mod runs;
}

use teaching::{hopper, runs};

/// What clang 22 compiles to something else than it says.
const NOT_BY_CLANG: &[&str] = &["cluster_histogram"]; // It leaves out `__cluster_dims__`.

#[test]
fn correct_kernels_run_clean() {
    for run in runs::ALL.iter().chain(hopper::ALL) {
        for (compiler, text) in [("nvcc", run.texts.nvcc), ("clang", run.texts.clang)] {
            if compiler == "clang" && NOT_BY_CLANG.contains(&run.name) {
                continue;
            }
            for seed in 0..3 {
                if let Err(fault) = (run.check)(text, seed) {
                    panic!("{} by {compiler}, seed {seed}: {fault}", run.name);
                }
            }
        }
    }
}

#[test]
fn kernels_believed_to_be_correct_are_reported() {
    for run in teaching::runs::WRONG {
        for (compiler, text) in [("nvcc", run.texts.nvcc), ("clang", run.texts.clang)] {
            for seed in 0..3 {
                let fault = (run.check)(text, seed).expect_err(run.name);
                assert_eq!(fault.kind(), ptx_emulator::FaultKind::Race, "{} by {compiler}: {fault}", run.name);
            }
        }
    }
}
