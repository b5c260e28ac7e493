//! Kernels as courses and blogs teach them, compiled by nvcc: each must give the right answer without a finding, whatever
//! the seed.

mod harness;
mod teaching {
    pub mod hopper;
    pub mod runs;
}

use teaching::{hopper, runs};

#[test]
fn correct_kernels_run_clean() {
    for run in runs::ALL.iter().chain(hopper::ALL) {
        for seed in 0..3 {
            if let Err(fault) = (run.check)(run.text, seed) {
                panic!("{}, seed {seed}: {fault}", run.name);
            }
        }
    }
}
