//! `cargo tool bench-report`: the tables of kernels in `docs/measured.md`, from the newest rows of `benches/log/*.jsonl`.
//! Timings of one device, workload and type stand side by side.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    log::{self, Counts, Pairs, Row},
    model::machine::{self, Machine},
};

const PAGE: &str = "docs/measured.md";
const BEGIN: &str = "<!-- kernels: begin -->";
const END: &str = "<!-- kernels: end -->";

#[derive(clap::Args)]
pub struct Args {
    /// Fail if the table in docs/measured.md is not what the log says, instead of writing it.
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<bool> {
    let page = Path::new(PAGE);
    let text = fs::read_to_string(page).context(PAGE)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{PAGE} has no lines {BEGIN} and {END} for the table to stand between");
    };
    let log = log::read(Path::new("benches/log"))?;
    let table = render(&log.timed, &machine::read(Path::new("."))?) + &render_counts(&log.counted);
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

fn render(pairs: &Pairs, machines: &[Machine]) -> String {
    if pairs.is_empty() {
        return "No GPU has been measured yet: `benches/log/` holds no times.\n".into();
    }
    let mut out = String::new();
    for (device, rows) in pairs {
        let machine = machines.iter().find(|machine| device.contains(&machine.name));
        let peer = rows.iter().find_map(|(_, pair)| pair.peer.as_ref()).map_or("no peer measured", |r| &r.library);
        let _ = writeln!(out, "{device}; ratios are {peer}'s time over ours.\n");
        out.push_str("| kernel | pass | type | µs | TFLOP/s | GB/s | of the limit | ratio |\n|---|---|---|---|---|---|---|---|\n");
        for row in rows.iter().filter_map(|(_, pair)| pair.ours.as_ref().map(|ours| (ours, pair.peer.as_ref()))) {
            let (ours, peer) = row;
            let share = |ours: &Row, m: &Machine| 100.0 * m.share(&ours.dtype, ours.tflop_s, ours.gb_s);
            let limit = machine.map_or("–".into(), |machine| format!("{:.0} %", share(ours, machine)));
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
        "\nWhat a forward run does, counted on the emulator, by compute capability: the bytes that must move (every operand \
         once, every result once), those that pass the first-level cache; multiplications on tensor cores \
         against those of the definition; accesses to shared memory against those without bank conflicts; PTX instructions.\n\n\
         | kernel | type | capability | launches | MB at least | MB past L1 | tensor cores | conflicts | instructions an element of 4 bytes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for c in counts {
        let ratio = |a: f64, b: f64| if a == 0.0 { "–".to_string() } else { format!("{:.2}", a / b) };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {:.1} | {:.1} | {} | {} | {:.1} |",
            c.name,
            c.dtype,
            c.capability(),
            c.kernels.iter().map(|kernel| kernel.launches).sum::<u64>(),
            c.least_bytes as f64 / 1e6,
            32e-6 * c.sum("l2_sectors"),
            ratio(c.sum("mma_macs"), c.multiplications),
            ratio(c.sum("shared_wavefronts"), c.sum("shared_ideal_wavefronts")),
            32.0 * c.sum("warp_instructions") / (c.least_bytes as f64 / 4.0),
        );
    }
    out
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
        let counted = |sectors: u64| {
            format!(
                r#"{{"device":"emulator (compute capability 9.0, seed 0)","name":"softmax","dtype":"f32","least_bytes":8000000,"multiplications":9.0,"kernels":[{{"kernel":"softmax_fwd_f32","launches":2,"counts":{{"warp_instructions":1000,"l2_sectors":{sectors}}}}}]}}"#
            )
        };
        fs::write(folder.join("emulator.jsonl"), [counted(9), counted(375_000)].join("\n"))?;
        fs::write(folder.join("h100.jsonl"), [row("isg 1", 9.0), row("torch 2", 8.0), row("isg 1", 4.0)].join("\n"))?;
        let log = log::read(&folder)?;
        fs::remove_dir_all(&folder)?;
        let machines = [machine::of_the_repository("H100")];
        let (table, counts) = (render(&log.timed, &machines), render_counts(&log.counted));
        assert_eq!(log.measured_us("H100", "softmax", "bf16"), Some(4.0));
        assert!(table.contains("| `softmax` | forward | bf16 | 4.0 | 1.0 | 1675 | 50 % | 2.00 |"), "{table}");
        assert!(counts.contains("| `softmax` | f32 | 9.0 | 2 | 8.0 | 12.0 | – | – | 0.0 |"), "{counts}");
        assert_eq!(counts.matches("softmax").count(), 1, "{counts}");
        Ok(())
    }
}
