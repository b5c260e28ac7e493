//! A training run's numbers over time: one JSON object a line, each with its `step`.
//!
//! A run that resumes from step s first drops every line after s (and a line cut short by a crash), so the file reads as
//! if nothing had happened.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    io::atomic,
};

/// An open metrics file.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens `path` to go on after `step`; later lines are dropped.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<MetricsLog> {
        let path = path.as_ref();
        let kept = lines(path)?.into_iter().filter(|(at, _)| *at <= step).map(|(_, line)| line + "\n");
        atomic::write_bytes(path, kept.collect::<String>().as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(MetricsLog { path: path.to_path_buf(), file })
    }

    /// Adds one line; `record` serialises to an object with a `step`.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(record).map_err(|e| Error::io(&self.path, e.into()))?;
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}

/// Every record of a metrics file, in order; none where there is no file.
pub fn read<R: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Vec<R>> {
    let path = path.as_ref();
    let parse = |line: &str| {
        serde_json::from_str(line).map_err(|e| {
            Error::input(
                path,
                format!("holds a line that is no record ({e})"),
                "delete the file to start the curve anew",
            )
        })
    };
    lines(path)?.iter().map(|(_, line)| parse(line)).collect()
}

/// Whole lines with their steps.
fn lines(path: &Path) -> Result<Vec<(u64, String)>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let step_of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
    Ok(text.lines().filter_map(|line| Some((step_of(line)?, line.to_string()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_what_came_after() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::resume(&path, 0)?;
        for step in 1..=5u64 {
            log.append(&serde_json::json!({ "step": step, "loss": 1.0 / step as f64 }))?;
        }
        log.file.write_all(b"{\"step\": 6, \"lo").expect("writable");
        drop(log);
        MetricsLog::resume(&path, 3)?.append(&serde_json::json!({ "step": 4, "loss": 0.0 }))?;
        let steps: Vec<u64> = read::<serde_json::Value>(&path)?.iter().filter_map(|r| r["step"].as_u64()).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        Ok(())
    }
}
