//! `benches/log/*.jsonl`: a row is one timing, ours from `cargo bench --bench kernels` or a peer's from
//! `tools/peers/gpu_ops.py`, or what the emulator counted of the kernels of the same workload.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Timed(Row),
    Counted(Counts),
}

/// A timing.
#[derive(Deserialize)]
pub struct Row {
    pub library: String,
    pub device: String,
    pub name: String,
    pub what: String,
    pub dtype: String,
    pub median_us: f64,
    pub tflop_s: f64,
    pub gb_s: f64,
}

/// What one forward run does on the emulator.
#[derive(Deserialize)]
pub struct Counts {
    pub device: String,
    pub name: String,
    pub dtype: String,
    /// Every operand read once, every result written once.
    pub least_bytes: u64,
    /// Of the definition.
    pub multiplications: f64,
    pub kernels: Vec<Counted>,
}

/// What one kernel does, over all its launches: the emulator's counters by name.
#[derive(Deserialize)]
pub struct Counted {
    pub kernel: String,
    pub launches: u64,
    pub counts: BTreeMap<String, u64>,
}

impl Counted {
    /// 0 where the log does not say.
    pub fn count(&self, name: &str) -> f64 {
        self.counts.get(name).copied().unwrap_or(0) as f64
    }
}

impl Counts {
    /// Over all kernels.
    pub fn sum(&self, name: &str) -> f64 {
        self.kernels.iter().map(|kernel| kernel.count(name)).sum()
    }

    /// Compute capability of the emulated GPU, as its name says.
    pub fn capability(&self) -> &str {
        let after = self.device.split_once("compute capability ").map_or("", |(_, after)| after);
        after.split([',', ')']).next().unwrap_or_default()
    }
}

/// Ours and the peer's, of one workload.
#[derive(Default)]
pub struct Pair {
    pub ours: Option<Row>,
    pub peer: Option<Row>,
}

pub type Pairs = BTreeMap<String, Vec<(String, Pair)>>;

/// Timings by device, and counts, in the order of the first row of each workload; later rows replace earlier ones.
#[derive(Default)]
pub struct Log {
    pub timed: Pairs,
    pub counted: Vec<Counts>,
}

impl Log {
    /// Our time in microseconds of a forward run on a device whose name contains `device`.
    pub fn measured_us(&self, device: &str, name: &str, dtype: &str) -> Option<f64> {
        let rows = self.timed.iter().filter(|(of, _)| of.contains(device)).flat_map(|(_, rows)| rows);
        let mut ours = rows.filter_map(|(_, pair)| pair.ours.as_ref());
        ours.rfind(|row| row.name == name && row.dtype == dtype && row.what == "forward").map(|row| row.median_us)
    }
}

pub fn read(folder: &Path) -> Result<Log> {
    let mut files: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut log = Log::default();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line =
                serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
            let row: Row = match line {
                Line::Timed(row) => row,
                Line::Counted(counts) => {
                    let same = |c: &&mut Counts| {
                        (&c.device, &c.name, &c.dtype) == (&counts.device, &counts.name, &counts.dtype)
                    };
                    match log.counted.iter_mut().find(same) {
                        Some(earlier) => *earlier = counts,
                        None => log.counted.push(counts),
                    }
                    continue;
                }
            };
            let of_device = log.timed.entry(row.device.clone()).or_default();
            let key = format!("{} {} {}", row.name, row.what, row.dtype);
            let at = of_device.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
                of_device.push((key, Pair::default()));
                of_device.len() - 1
            });
            let pair = &mut of_device[at].1;
            match row.library.starts_with("isg") {
                true => pair.ours = Some(row),
                false => pair.peer = Some(row),
            }
        }
    }
    Ok(log)
}
