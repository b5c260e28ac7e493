//! Maintainer's commands: `cargo tool <verb>`.
//!
//! This program does not link the library, so that it can mend what keeps the library from building, a stale PTX above all.
//! Verbs that need the library are programs of their own, started from here.

mod bench_report;
mod bundle;
mod code;
mod glibc;
mod licences;
mod log;
mod model;
mod ptx;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo tool", about = "Maintainer's commands")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compile the kernels to PTX and hold it against its gates.
    Ptx(ptx::Args),
    /// Predict times without a GPU.
    Model(model::Args),
    /// Check every operation against numeric cases computed by PyTorch in f64.
    #[command(disable_help_flag = true)]
    Conformance {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Render the table of kernels in docs/measured.md from benches/log.
    BenchReport(bench_report::Args),
    /// Pack programs, tests and benches for a GPU node that has a driver and nothing else.
    Bundle(bundle::Args),
    /// Check that every dependency's licence is one we may ship.
    Licences,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Ptx(args) => ptx::run(&args),
        Verb::Model(args) => model::run(&args),
        Verb::Conformance { arguments } => program("isg-conformance", &arguments),
        Verb::BenchReport(args) => bench_report::run(&args),
        Verb::Bundle(args) => bundle::run(&args),
        Verb::Licences => licences::run(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo tool: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Builds and runs a program of this workspace.
fn program(package: &str, arguments: &[OsString]) -> Result<bool> {
    let status = std::process::Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", package, "--"])
        .args(arguments)
        .status()
        .with_context(|| format!("cargo run --package {package}"))?;
    // 2 is a wrong command line, which the program has explained.
    if status.code() == Some(2) {
        std::process::exit(2);
    }
    Ok(status.success())
}
