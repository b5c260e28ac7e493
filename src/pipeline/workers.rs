//! Who works on a run, for whoever asks from outside: each process has a file of its own in `RUN/.workers` and holds a lock beside
//! it. A file whose lock is free is of a process that was killed.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    io::{claim::Claim, sealed},
    progress::{Pace, Progress},
};

const FOLDER: &str = ".workers";
/// From one time that a process says where it is to the next.
const EVERY: Duration = Duration::from_secs(10);

/// A process that works on a run, as it wrote of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub host: String,
    pub process: u32,
    /// What it does: `run`, `scan 2/8`, `train fold 0`.
    pub work: String,
    /// Seconds since 1970 when it began, and when it wrote this.
    pub begun: u64,
    pub seen: u64,
    pub stage: Option<StageNow>,
}

/// Where a process is in its stage.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StageNow {
    pub name: String,
    pub unit: String,
    pub done: u64,
    pub total: u64,
    pub per_second: Option<f64>,
    pub seconds_left: Option<f64>,
    /// What it said last, e.g. its losses.
    pub remark: String,
}

/// The processes that work in a run directory now.
///
/// # Errors
/// A file system without locks.
pub fn at_work(dir: &Path) -> Result<Vec<Worker>> {
    let entries = std::fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")) {
        // One that ended, or that writes for the first time, is left out.
        if Claim::is_taken(&path)? {
            found.extend(sealed::read_json::<Worker>(&path).ok());
        }
    }
    found.sort_by(|a, b| (&a.work, &a.host, a.process).cmp(&(&b.work, &b.host, b.process)));
    Ok(found)
}

/// Removes what killed processes left. Only where nobody works.
pub(super) fn forget(dir: &Path) {
    // What stays says nothing: its lock is free.
    let _ = std::fs::remove_dir_all(dir.join(FOLDER));
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// This process's file, removed when it is dropped.
pub(super) struct Presence {
    path: PathBuf,
    claim: Option<Claim>,
    said: Mutex<Said>,
}

struct Said {
    worker: Worker,
    /// The stages that it is in, the innermost last: name, unit, pace, remark.
    stages: Vec<(String, &'static str, Pace, String)>,
    written: Option<Instant>,
}

impl Presence {
    pub fn new(dir: &Path, work: &str) -> Result<Presence> {
        let host = host();
        let process = std::process::id();
        let begun = now();
        let worker = Worker { host, process, work: work.to_string(), begun, seen: begun, stage: None };
        // A process may open several runs of one directory, one after another or, in a test, at once.
        let mut number = 0;
        let (path, claim) = loop {
            let path = dir.join(FOLDER).join(format!("{}-{process}-{number}.json", worker.host));
            if let Some(claim) = Claim::take(&path)? {
                break (path, claim);
            }
            number += 1;
        };
        let presence =
            Presence { path, claim: Some(claim), said: Mutex::new(Said { worker, stages: Vec::new(), written: None }) };
        presence.tell(true);
        Ok(presence)
    }

    /// Reports to `progress` and says here where it is.
    pub fn over<'a>(&'a self, progress: &'a dyn Progress) -> Told<'a> {
        Told { presence: self, progress }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Nothing here depends on what a panicking thread left half done.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, where it is time to. A disk that is full does not end a run over this file.
    fn tell(&self, at_once: bool) {
        let mut said = self.said();
        let now = Instant::now();
        if !at_once && said.written.is_some_and(|last| now.duration_since(last) < EVERY) {
            return;
        }
        said.written = Some(now);
        // The outermost: how many slides are done says more than where one of them is.
        let stage = said.stages.first().map(|(name, unit, pace, remark)| StageNow {
            name: name.clone(),
            unit: unit.to_string(),
            done: pace.done(),
            total: pace.total(),
            per_second: pace.per_second(now),
            seconds_left: pace.seconds_left(now),
            remark: remark.clone(),
        });
        said.worker = Worker { seen: self::now(), stage, ..said.worker.clone() };
        let _ = sealed::write_json(&self.path, &said.worker);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        self.claim = None;
        let _ = std::fs::remove_file(crate::io::claim::path_of(&self.path));
    }
}

/// This machine's name, as far as it fits into a file's.
fn host() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let name: String = told
        .unwrap_or_default()
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() { "host".into() } else { name }
}

/// [`Presence::over`].
pub(super) struct Told<'a> {
    presence: &'a Presence,
    progress: &'a dyn Progress,
}

impl Progress for Told<'_> {
    fn begin(&self, stage: &str, total: u64, unit: &'static str) {
        let pace = Pace::new(total, Instant::now());
        self.presence.said().stages.push((stage.to_string(), unit, pace, String::new()));
        self.presence.tell(false);
        self.progress.begin(stage, total, unit);
    }

    fn advance(&self, by: u64) {
        if let Some((_, _, pace, _)) = self.presence.said().stages.last_mut() {
            pace.advance(by, Instant::now());
        }
        self.presence.tell(false);
        self.progress.advance(by);
    }

    fn remark(&self, text: &str) {
        if let Some((.., remark)) = self.presence.said().stages.last_mut() {
            *remark = text.trim().to_string();
        }
        self.progress.remark(text);
    }

    fn note(&self, line: &str) {
        self.progress.note(line);
    }

    fn end(&self) {
        self.presence.said().stages.pop();
        self.progress.end();
    }

    fn interrupted(&self) -> bool {
        self.progress.interrupted()
    }

    fn check(&self) -> Result<()> {
        self.progress.check()
    }
}
