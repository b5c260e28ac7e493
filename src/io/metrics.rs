//! A training run's numbers over time: one JSON object a line, each with its `step` and a `check` of the line.
//!
//! A run that resumes from step s first drops every line after s (and a line cut short by a crash or damaged), so the file
//! reads as if nothing had happened. The curve is for people: nothing is computed from it, and a line that is damaged is
//! left out.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    io::{atomic, checksum::Digest},
};

const CHECK: &str = "check";

/// An open metrics file.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens `path` to resume after `step`; later lines are dropped.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<MetricsLog> {
        let path = path.as_ref();
        let kept = whole_lines(path)?.into_iter().filter(|record| record["step"].as_u64().is_some_and(|at| at <= step));
        let text: String = kept.map(|record| checked(record) + "\n").collect();
        atomic::write_bytes(path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(MetricsLog { path: path.to_path_buf(), file })
    }

    /// Adds one line; `record` serialises to an object with a `step`.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let record = serde_json::to_value(record).map_err(|e| Error::io(&self.path, e.into()))?;
        self.file.write_all((checked(record) + "\n").as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}

/// Every whole record of a metrics file, in order; none where there is no file.
pub fn read<R: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Vec<R>> {
    let records = whole_lines(path.as_ref())?.into_iter();
    Ok(records.filter_map(|record| serde_json::from_value(record).ok()).collect())
}

/// The record as a line with its check.
fn checked(mut record: Value) -> String {
    let check = check_of(&record);
    if let Some(object) = record.as_object_mut() {
        object.insert(CHECK.into(), check.into());
    }
    record.to_string()
}

fn check_of(record: &Value) -> String {
    Digest::of_bytes(record.to_string().as_bytes()).to_string()[..8].to_string()
}

/// Records whose check is right, without it.
fn whole_lines(path: &Path) -> Result<Vec<Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let whole = |line: &[u8]| {
        let mut record: Value = serde_json::from_slice(line).ok()?;
        let check = record.as_object_mut()?.remove(CHECK)?;
        (check == check_of(&record)).then_some(record)
    };
    Ok(bytes.split(|b| *b == b'\n').filter_map(whole).collect())
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
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, text.replace("0.5", "0.7")).expect("writable"); // step 2
        drop(log);
        MetricsLog::resume(&path, 3)?.append(&serde_json::json!({ "step": 4, "loss": 0.0 }))?;
        let steps: Vec<u64> = read::<Value>(&path)?.iter().filter_map(|r| r["step"].as_u64()).collect();
        assert_eq!(steps, [1, 3, 4], "a damaged line and what came after step 3 are gone");
        Ok(())
    }
}
