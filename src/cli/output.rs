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
    time::SystemTime,
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
/// What is said is JSON, one object a line.
static JSON: AtomicBool = AtomicBool::new(false);
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

/// From now on everything that is said is JSON.
pub(super) fn log_json() {
    JSON.store(true, Ordering::Relaxed);
}

pub(super) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Says one line on standard error: a remark, a warning.
pub fn say(text: impl Display) {
    if is_json() {
        return event("note", serde_json::json!({ "message": text.to_string().trim() }));
    }
    to_stderr(format!("{}\n", escape::lines(&text.to_string())));
}

/// Says why a command ends.
pub(super) fn error(error: &Error) {
    if is_json() {
        return event("error", serde_json::json!({ "message": error.to_string() }));
    }
    say(format_args!("isg: {error}"));
}

/// Says what happened, as a line of JSON with the time (UTC) and more.
pub(super) fn event(what: &str, more: serde_json::Value) {
    let mut line = serde_json::json!({ "time": timestamp(SystemTime::now()), "event": what });
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    to_stderr(format!("{}\n", escape::json(&line.to_string())));
}

/// As `2026-11-29T18:28:24Z`.
pub(super) fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day last, and 400 of them the same number of days.
    let since_march = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, day) = (since_march / 146_097, since_march % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * from_march + 2) / 5 + 1, (from_march + 2) % 12 + 1);
    let year = 400 * era + year + u64::from(month < 3);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn to_stderr(line: String) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
