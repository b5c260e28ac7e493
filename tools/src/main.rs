//! Maintainer's commands: `cargo tool <verb>`.

mod conformance;
mod licences;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo tool", about = "Maintainer's commands")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check every operation against numeric cases computed by PyTorch in f64.
    Conformance(conformance::Args),
    /// Check that every dependency's licence is one we may ship.
    Licences,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Conformance(args) => conformance::run(&args),
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
