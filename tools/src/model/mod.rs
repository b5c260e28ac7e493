//! `cargo tool model`: times without a GPU. From the machine code that the pinned assembler makes of the shipped PTX, what the
//! emulator counted of each workload of the benches, and a file of machines: a prediction, no measurement.

#[path = "../../../src/device/entries.rs"]
mod entries;
mod kernels;
pub mod machine;
mod predict;
mod validate;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::log::{self, Counted, Counts, Log};
use kernels::Kernels;
use machine::Machine;
use predict::{Demand, Prediction, predict};

const PAGE: &str = "docs/measured.md";
const BEGIN: &str = "<!-- model: begin -->";
const END: &str = "<!-- model: end -->";

#[derive(clap::Args)]
#[command(after_help = "Counts come from benches/log:\n  \
    cargo bench --bench kernels -- --device emulator --log benches/log/emulator.jsonl\n  \
    ISG_EMULATOR_CAPABILITY=9.0 cargo bench --bench kernels -- --device emulator --log benches/log/emulator.jsonl\n\n\
    Examples:\n  cargo tool model --only softmax\n  cargo tool model --machine H100 --json\n  \
    cargo tool model --validate FOLDER_OF_CLONES")]
pub struct Args {
    /// Only workloads whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only machines whose name contains this.
    #[arg(long, default_value = "")]
    machine: String,
    /// One object a workload and machine instead of a table, with what each unit would need.
    #[arg(long)]
    json: bool,
    /// Write the table into docs/measured.md.
    #[arg(long, conflicts_with_all = ["only", "machine", "json", "validate"])]
    write: bool,
    /// Hold the model against published figures: compile the kernels of tools/published.toml from this folder.
    #[arg(long, value_name = "FOLDER")]
    validate: Option<PathBuf>,
}

/// One workload on one machine.
struct Line<'a> {
    machine: &'a Machine,
    counts: &'a Counts,
    prediction: Prediction,
    measured_us: Option<f64>,
}

pub fn run(args: &Args) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tools/ lies in the repository")?;
    let mut machines = machine::read(root)?;
    machines.retain(|machine| machine.name.contains(&args.machine));
    ensure!(!machines.is_empty(), "--machine {}: {} has no such machine", args.machine, machine::FILE);
    if let Some(folder) = &args.validate {
        return validate::run(root, folder, &machines, args.json);
    }
    let log = log::read(&root.join("benches/log"))?;
    let mut kernels = Kernels::read(root)?;
    let lines = lines(root, &log, &machines, &args.only, &mut kernels)?;
    if args.json {
        lines.iter().for_each(|line| println!("{}", line.json()));
        return Ok(true);
    }
    let table = render(&lines);
    if args.write {
        let page = root.join(PAGE);
        let text = fs::read_to_string(&page).context(PAGE)?;
        let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
            anyhow::bail!("{PAGE} has no lines {BEGIN} and {END} for the table to stand between");
        };
        fs::write(&page, format!("{}{BEGIN}\n{table}{}", &text[..begin], &text[end..])).context(PAGE)?;
    } else {
        print!("{table}");
    }
    Ok(true)
}

fn lines<'a>(
    root: &Path,
    log: &'a Log,
    machines: &'a [Machine],
    only: &str,
    kernels: &mut Kernels,
) -> Result<Vec<Line<'a>>> {
    let chosen = machines.iter().flat_map(|machine| {
        let counted = log.counted.iter().filter(move |c| c.capability() == machine.capability && c.name.contains(only));
        counted.map(move |counts| (machine, counts))
    });
    let chosen: Vec<_> = chosen.collect();
    ensure!(
        !chosen.is_empty(),
        "benches/log has no counts of such a workload for these machines; `cargo tool model --help` says how to make them"
    );
    let wanted: Vec<(&str, &str)> = (chosen.iter())
        .flat_map(|(machine, counts)| counts.kernels.iter().map(|k| (k.kernel.as_str(), machine.capability.as_str())))
        .collect();
    kernels.prepare(root, &wanted)?;
    let line = |(machine, counts): (&'a Machine, &'a Counts)| {
        let prediction = workload(counts, machine, kernels)?;
        let measured_us = log.measured_us(&machine.name, &counts.name, &counts.dtype);
        Ok(Line { machine, counts, prediction, measured_us })
    };
    chosen.into_iter().map(line).collect()
}

/// The sum over the kernels of a run; its bound is that of the slowest.
fn workload(counts: &Counts, machine: &Machine, kernels: &Kernels) -> Result<Prediction> {
    let mut whole: Option<(f64, Prediction)> = None;
    for kernel in &counts.kernels {
        let one = predict(&demand(counts, kernel, &machine.capability, kernels)?, machine)?;
        let longest = one.seconds;
        match &mut whole {
            None => whole = Some((longest, one)),
            Some((slowest, sum)) => {
                sum.seconds += one.seconds;
                one.units.iter().for_each(|(unit, seconds)| *sum.units.entry(unit).or_default() += seconds);
                if longest > *slowest {
                    (*slowest, sum.bound) = (longest, one.bound);
                }
            }
        }
    }
    let (_, prediction) = whole.with_context(|| format!("{}: benches/log counts no kernel", counts.name))?;
    Ok(prediction)
}

const SECTOR_BYTES: f64 = 32.0;

fn demand(counts: &Counts, kernel: &Counted, capability: &str, kernels: &Kernels) -> Result<Demand> {
    let code = kernels.get(&kernel.kernel, capability)?;
    let blocks = kernel.count("blocks").max(1.0);
    let warps_per_block = kernel.count("warps") / blocks;
    let issues = kernel.count("warp_instructions") * code.expansion;
    let macs = kernel.count("mma_macs");
    let warps_at_one = if code.hottest.matrix.is_some_and(|(_, warpgroup)| warpgroup) { 4.0 } else { 1.0 };
    let in_loop =
        if macs > 0.0 { macs / code.hottest.macs.max(1) as f64 * code.hottest.instructions as f64 } else { 0.0 };
    let counted_dram = SECTOR_BYTES * kernel.count("dram_sectors");
    // Blocks that stand for all share operands with others that do not run: what all read once is known better.
    let once = counts.least_bytes as f64;
    let dram_bytes = match counts.kernels.len() {
        1 => once,
        _ if macs > 0.0 => counted_dram.min(once),
        _ => counted_dram,
    };
    Ok(Demand {
        launches: kernel.launches as f64,
        blocks: blocks / kernel.launches.max(1) as f64,
        warps_per_block,
        registers: f64::from(code.registers),
        shared_bytes: kernel.count("shared_bytes") / blocks,
        tiles: None,
        issues,
        issues_outside: (issues - in_loop * warps_at_one).max(0.0),
        macs,
        matrix: code.hottest.matrix,
        special: kernel.count("special"),
        shared_wavefronts: kernel.count("shared_wavefronts"),
        l1_bytes: SECTOR_BYTES * (kernel.count("global_load_sectors") + kernel.count("global_store_sectors")),
        l2_bytes: SECTOR_BYTES * kernel.count("l2_sectors"),
        dram_bytes,
    })
}

impl Line<'_> {
    fn tflop_s(&self) -> f64 {
        2e-12 * self.counts.multiplications / self.prediction.seconds
    }

    fn gb_s(&self) -> f64 {
        1e-9 * self.counts.least_bytes as f64 / self.prediction.seconds
    }

    fn share(&self) -> f64 {
        self.machine.share(&self.counts.dtype, self.tflop_s(), self.gb_s())
    }

    fn json(&self) -> serde_json::Value {
        let units: serde_json::Map<_, _> =
            self.prediction.units.iter().map(|(unit, seconds)| (unit.to_string(), json!(1e6 * seconds))).collect();
        json!({
            "machine": self.machine.name, "name": self.counts.name, "dtype": self.counts.dtype,
            "predicted_us": 1e6 * self.prediction.seconds, "bound": self.prediction.bound, "unit_us": units,
            "tflop_s": self.tflop_s(), "gb_s": self.gb_s(), "share_of_machine": self.share(), "measured_us": self.measured_us,
        })
    }
}

/// A table a machine.
fn render(lines: &[Line]) -> String {
    let mut out = String::new();
    for of_machine in lines.chunk_by(|a, b| a.machine.name == b.machine.name) {
        let _ = writeln!(
            out,
            "Predicted for an {}, forward runs:\n\n\
             | kernel | type | µs | bound | TFLOP/s | GB/s | of the machine | measured µs | measured over predicted |\n\
             |---|---|---|---|---|---|---|---|---|",
            of_machine[0].machine.name
        );
        for line in of_machine {
            let predicted_us = 1e6 * line.prediction.seconds;
            let measured = line.measured_us.map_or("–".to_string(), |us| format!("{us:.1}"));
            let ratio = line.measured_us.map_or("–".to_string(), |us| format!("{:.2}", us / predicted_us));
            let _ = writeln!(
                out,
                "| `{}` | {} | {predicted_us:.1} | {} | {:.1} | {:.0} | {:.0} % | {measured} | {ratio} |",
                line.counts.name,
                line.counts.dtype,
                line.prediction.bound,
                line.tflop_s(),
                line.gb_s(),
                100.0 * line.share(),
            );
        }
        out.push('\n');
    }
    out
}
