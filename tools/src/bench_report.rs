//! `cargo tool bench-report`: README's table of kernels, from the newest rows of `benches/log/*.jsonl`.
//!
//! A row is one timing: ours from `cargo bench --bench kernels`, a peer's from `tools/peers/gpu_ops.py`. Rows of one
//! device, workload and type stand side by side.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

const BEGIN: &str = "<!-- kernels: begin -->";
const END: &str = "<!-- kernels: end -->";

#[derive(clap::Args)]
pub struct Args {
    /// Fail if the README's table is not what the log says, instead of writing it.
    #[arg(long)]
    check: bool,
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
    let readme = Path::new("README.md");
    let text = fs::read_to_string(readme).context("README.md")?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("README.md has no lines {BEGIN} and {END} for the table to stand between");
    };
    let table = render(&read(Path::new("benches/log"))?);
    let renewed = format!("{}{BEGIN}\n{table}{}", &text[..begin], &text[end..]);
    if args.check {
        if renewed != text {
            println!("README.md's table of kernels is not what benches/log says; run: cargo tool bench-report");
        }
        return Ok(renewed == text);
    }
    fs::write(readme, renewed).context("README.md")?;
    Ok(true)
}

type Pairs = BTreeMap<String, Vec<(String, Pair)>>;

/// By device, in the order of the first row of each workload; later rows replace earlier ones.
fn read(folder: &Path) -> Result<Pairs> {
    let mut files: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut pairs = Pairs::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row: Row =
                serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
            let of_device = pairs.entry(row.device.clone()).or_default();
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
    Ok(pairs)
}

fn render(pairs: &Pairs) -> String {
    if pairs.is_empty() {
        return "No GPU has been measured yet: `benches/log/` is empty.\n".into();
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
        fs::write(folder.join("h100.jsonl"), [row("isg 1", 9.0), row("torch 2", 8.0), row("isg 1", 4.0)].join("\n"))?;
        let table = render(&read(&folder)?);
        fs::remove_dir_all(&folder)?;
        assert!(table.contains("| `softmax` | forward | bf16 | 4.0 | 1.0 | 1675 | 50 % | 2.00 |"), "{table}");
        Ok(())
    }
}
