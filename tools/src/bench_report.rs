//! `cargo tool bench-report`: the tables of kernels in `docs/measured.md`, from the newest rows of `benches/log/*.jsonl`.
//!
//! A row is one timing, ours from `cargo bench --bench kernels` or a peer's from `tools/peers/gpu_ops.py`, or what the
//! emulator counted of the same workload. Timings of one device, workload and type stand side by side.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

const PAGE: &str = "docs/measured.md";
const BEGIN: &str = "<!-- kernels: begin -->";
const END: &str = "<!-- kernels: end -->";

#[derive(clap::Args)]
pub struct Args {
    /// Fail if the table in docs/measured.md is not what the log says, instead of writing it.
    #[arg(long)]
    check: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Timed(Row),
    Counted(Counts),
}

/// What one forward run does on the emulator.
#[derive(Deserialize)]
struct Counts {
    name: String,
    dtype: String,
    launches: u64,
    warp_instructions: u64,
    least_bytes: u64,
    moved_bytes: u64,
    shared_wavefronts: u64,
    shared_ideal_wavefronts: u64,
    multiplications: f64,
    mma_multiplications: f64,
}

#[derive(Deserialize)]
struct Row {
    library: String,
    device: String,
    name: String,
    what: String,
    dtype: String,
    median_us: f64,
    tflop_s: f64,
    gb_s: f64,
}

/// What a device can do at best, from its maker's data sheet: dense TFLOP/s in f32 outside the tensor cores, TF32, 16 bit,
/// and TB/s of memory.
struct Limits {
    device: &'static str,
    f32: f64,
    tf32: f64,
    half: f64,
    memory_tb_s: f64,
}

const LIMITS: &[Limits] = &[
    Limits { device: "H100", f32: 67.0, tf32: 494.7, half: 989.4, memory_tb_s: 3.35 },
    Limits { device: "H200", f32: 67.0, tf32: 494.7, half: 989.4, memory_tb_s: 4.8 },
    Limits { device: "A100", f32: 19.5, tf32: 156.0, half: 312.0, memory_tb_s: 2.04 },
];

/// Ours and the peer's, of one workload.
#[derive(Default)]
struct Pair {
    ours: Option<Row>,
    peer: Option<Row>,
}

pub fn run(args: &Args) -> Result<bool> {
    let page = Path::new(PAGE);
    let text = fs::read_to_string(page).context(PAGE)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{PAGE} has no lines {BEGIN} and {END} for the table to stand between");
    };
    let log = read(Path::new("benches/log"))?;
    let table = render(&log.timed) + &render_counts(&log.counted);
    let renewed = format!("{}{BEGIN}\n{table}{}", &text[..begin], &text[end..]);
    if args.check {
        if renewed != text {
            println!("the table in {PAGE} is not what benches/log says; run: cargo tool bench-report");
        }
        return Ok(renewed == text);
    }
    fs::write(page, renewed).context(PAGE)?;
    Ok(true)
}

type Pairs = BTreeMap<String, Vec<(String, Pair)>>;

/// Timings by device, and counts, in the order of the first row of each workload; later rows replace earlier ones.
#[derive(Default)]
struct Log {
    timed: Pairs,
    counted: Vec<Counts>,
}

fn read(folder: &Path) -> Result<Log> {
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
                    let same = |c: &&mut Counts| c.name == counts.name && c.dtype == counts.dtype;
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

fn render(pairs: &Pairs) -> String {
    if pairs.is_empty() {
        return "No GPU has been measured yet: `benches/log/` holds no times.\n".into();
    }
    let mut out = String::new();
    for (device, rows) in pairs {
        let limits = LIMITS.iter().find(|l| device.contains(l.device));
        let peer = rows.iter().find_map(|(_, pair)| pair.peer.as_ref()).map_or("no peer measured", |r| &r.library);
        let _ = writeln!(out, "{device}; ratios are {peer}'s time over ours.\n");
        out.push_str("| kernel | pass | type | µs | TFLOP/s | GB/s | of the limit | ratio |\n|---|---|---|---|---|---|---|---|\n");
        for row in rows.iter().filter_map(|(_, pair)| pair.ours.as_ref().map(|ours| (ours, pair.peer.as_ref()))) {
            let (ours, peer) = row;
            let limit = limits.map_or("–".into(), |l| format!("{:.0} %", 100.0 * share(ours, l)));
            let ratio = peer.map_or("–".into(), |p| format!("{:.2}", p.median_us / ours.median_us));
            let Row { name, what, dtype, median_us, tflop_s, gb_s, .. } = ours;
            let _ = writeln!(
                out,
                "| `{name}` | {what} | {dtype} | {median_us:.1} | {tflop_s:.1} | {gb_s:.0} | {limit} | {ratio} |"
            );
        }
        out.push('\n');
    }
    out
}

fn render_counts(counts: &[Counts]) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nWhat a forward run does, counted on the emulator: bytes between SMs and memory with no cache in \
         between, against the fewest that must move (every operand once, every result once); multiplications on tensor \
         cores against those of the definition; accesses to shared memory against those without bank conflicts.\n\n\
         | kernel | type | launches | MB at least | MB moved | ratio | tensor cores | conflicts | instructions an element of 4 bytes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for c in counts {
        let ratio = |a: f64, b: f64| if a == 0.0 { "–".to_string() } else { format!("{:.2}", a / b) };
        let (least, moved) = (c.least_bytes as f64, c.moved_bytes as f64);
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {:.1} | {:.1} | {} | {} | {} | {:.1} |",
            c.name,
            c.dtype,
            c.launches,
            least / 1e6,
            moved / 1e6,
            ratio(moved, least),
            ratio(c.mma_multiplications, c.multiplications),
            ratio(c.shared_wavefronts as f64, c.shared_ideal_wavefronts as f64),
            32.0 * c.warp_instructions as f64 / (least / 4.0),
        );
    }
    out
}

/// The part of arithmetic or of memory speed, whichever is nearer its limit.
fn share(row: &Row, limits: &Limits) -> f64 {
    let peak = match row.dtype.as_str() {
        "bf16" | "f16" => limits.half,
        "tf32" => limits.tf32,
        _ => limits.f32,
    };
    (row.tflop_s / peak).max(row.gb_s / (1000.0 * limits.memory_tb_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_workload_stand_side_by_side_and_the_newest_counts() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("isg-bench-report-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let row = |library: &str, us: f64| {
            format!(
                r#"{{"library":"{library}","device":"NVIDIA H100","name":"softmax","what":"forward","dtype":"bf16","median_us":{us},"tflop_s":1.0,"gb_s":1675.0}}"#
            )
        };
        let counted = |moved: u64| {
            format!(
                r#"{{"device":"emulator","name":"softmax","dtype":"f32","launches":1,"warp_instructions":1000,"least_bytes":8000000,"moved_bytes":{moved},"shared_wavefronts":0,"shared_ideal_wavefronts":0,"multiplications":9.0,"mma_multiplications":0}}"#
            )
        };
        fs::write(folder.join("emulator.jsonl"), [counted(9), counted(12_000_000)].join("\n"))?;
        fs::write(folder.join("h100.jsonl"), [row("isg 1", 9.0), row("torch 2", 8.0), row("isg 1", 4.0)].join("\n"))?;
        let log = read(&folder)?;
        fs::remove_dir_all(&folder)?;
        let (table, counts) = (render(&log.timed), render_counts(&log.counted));
        assert!(table.contains("| `softmax` | forward | bf16 | 4.0 | 1.0 | 1675 | 50 % | 2.00 |"), "{table}");
        assert!(counts.contains("| `softmax` | f32 | 1 | 8.0 | 12.0 | 1.50 | – | – | 0.0 |"), "{counts}");
        assert_eq!(counts.matches("softmax").count(), 1, "{counts}");
        Ok(())
    }
}
