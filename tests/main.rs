//! One integration binary; each module is one subject.

mod cli;
mod cohort;
mod contract;
mod counters;
mod epilogue;
mod eval;
mod gpu;
mod hostile;
mod linear;
mod models;
mod mutants;
mod ops;
mod optim;
mod report;
mod selection;
mod selectors;
mod shannon;
mod shannon_device;
mod shapes;
mod slide;
mod state;
mod synth;
mod tape;
mod tidy;
mod training;
mod weights;
