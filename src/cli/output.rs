//! What commands print, and where files they write may not go.
//!
//! Nothing here panics as `println!` does when standard output is closed or full: a line that cannot be written to
//! standard output ends the command with an error, one that cannot be written to standard error is remembered and makes
//! the exit status 1. Text for people has its control characters escaped ([`crate::escape`]).

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
};

/// Set before `main` where the process was started with standard output, or standard error, closed: by then Rust has
/// opened `/dev/null` in their place.
pub static CLOSED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
/// A remark or an error could not be written.
static UNHEARD: AtomicBool = AtomicBool::new(false);

/// Prints one line, or several.
pub fn line(text: impl Display) -> Result<()> {
    to_stdout(format!("{}\n", escape::lines(&text.to_string())).as_bytes())
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::internal)?;
    to_stdout(format!("{}\n", escape::json(&text)).as_bytes())
}

/// Prints a table as it is, for the program that reads it; on a terminal as text for people.
pub fn table(bytes: &[u8]) -> Result<()> {
    if io::stdout().is_terminal() {
        return to_stdout(escape::lines(&String::from_utf8_lossy(bytes)).as_bytes());
    }
    to_stdout(bytes)
}

fn to_stdout(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let closed = CLOSED[0].load(Ordering::Relaxed);
    let written = if closed { Err(closed_error()) } else { out.write_all(bytes).and_then(|()| out.flush()) };
    written.map_err(|e| Error::io("standard output", e))
}

fn closed_error() -> io::Error {
    io::Error::other("it is closed")
}

/// Says one line on standard error: a remark, a warning, an error.
pub fn say(text: impl Display) {
    let line = format!("{}\n", escape::lines(&text.to_string()));
    let closed = CLOSED[1].load(Ordering::Relaxed);
    if closed || io::stderr().lock().write_all(line.as_bytes()).is_err() {
        UNHEARD.store(true, Ordering::Relaxed);
    }
}

/// The exit status of a command that would end with `status`: a failure if something could not be said.
pub(super) fn exit_status(status: u8) -> ExitCode {
    let unheard = UNHEARD.load(Ordering::Relaxed) && matches!(status, 0 | super::EXIT_PARTIAL);
    ExitCode::from(if unheard { super::EXIT_FAILED } else { status })
}

/// Refuses to write over what is read: an output that is one of the inputs, or another output, by whatever name.
pub fn refuse_overwriting<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let inputs: Vec<&Path> = inputs.into_iter().collect();
    let mut seen: Vec<&Path> = Vec::new();
    for output in outputs {
        // Devices may be named as often as one likes.
        let is_file = std::fs::metadata(output).map_or(true, |found| found.is_file());
        if is_file && let Some(input) = inputs.iter().find(|input| atomic::is_same_file(output, input)) {
            let problem = match output == *input {
                true => "is the input itself".to_string(),
                false => format!("is the same file as the input {}", input.display()),
            };
            return Err(Error::input(output, problem, "write to another file"));
        }
        if is_file && seen.iter().any(|other| *other == output || atomic::is_same_file(output, other)) {
            return Err(Error::input(output, "is named for two outputs", "write each to a file of its own"));
        }
        seen.push(output);
    }
    Ok(())
}
