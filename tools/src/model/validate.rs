//! `cargo tool model --validate FOLDER`: public kernels, compiled from where the reader has them, against figures that others
//! measured.
//!
//! Launch shapes and work come from `tools/published.toml`; no emulator runs, so that instructions are those of the hottest
//! loop as often as the work needs it, and the rest of the code once for each tile.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use super::{
    machine::Machine,
    predict::{Demand, predict},
};
use crate::{
    code::Code,
    ptx::{gate, toolchain::Toolchain},
};

const FILE: &str = "tools/published.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernel: Vec<Public>,
}

/// One kernel, at one size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Public {
    name: String,
    /// `owner/name` at GitHub; its clone is `name` in the folder.
    repository: String,
    /// Included in this order, after the prelude.
    includes: Vec<String>,
    #[serde(default)]
    prelude: String,
    /// Part of the mangled name.
    entry: String,
    machine: String,
    blocks: f64,
    /// Of a product, where blocks are persistent.
    tiles: Option<f64>,
    warps_per_block: f64,
    shared_bytes: f64,
    flops: f64,
    l2_bytes: f64,
    dram_bytes: f64,
    published: Figure,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    tflop_s: Option<f64>,
    gb_s: Option<f64>,
    source: String,
}

pub fn run(root: &Path, folder: &Path, machines: &[Machine], as_json: bool) -> Result<bool> {
    ensure!(folder.is_dir(), "--validate {}: no such folder; it holds clones of what {FILE} names", folder.display());
    let path = root.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let File { kernel: kernels } = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let toolchain = Toolchain::find(root)?;
    let scratch = root.join("target/cuda/scratch").join(std::process::id().to_string());
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let mut ratios = Vec::new();
    let mut lines = Vec::new();
    for kernel in &kernels {
        let Some(machine) = machines.iter().find(|machine| machine.name == kernel.machine) else { continue };
        let name = kernel.repository.rsplit('/').next().unwrap_or_default();
        let clone = folder.join(name);
        if !clone.is_dir() {
            eprintln!(
                "{}: left out, {} is not there: git clone https://github.com/{}",
                kernel.name,
                clone.display(),
                kernel.repository
            );
            continue;
        }
        let (registers, code) = compile(&toolchain, kernel, &clone, &scratch).with_context(|| kernel.name.clone())?;
        let prediction = predict(&demand(kernel, registers, &code), machine)?;
        let (what, published, predicted) = match (kernel.published.tflop_s, kernel.published.gb_s) {
            (Some(published), None) => ("TFLOP/s", published, 1e-12 * kernel.flops / prediction.seconds),
            (None, Some(published)) => ("GB/s", published, 1e-9 * kernel.dram_bytes / prediction.seconds),
            _ => bail!("{FILE}: {}: either tflop_s or gb_s is wanted", kernel.name),
        };
        ratios.push(predicted / published);
        lines.push((kernel, what, published, predicted, prediction));
    }
    let _ = fs::remove_dir_all(&scratch);
    ensure!(!lines.is_empty(), "{}: holds no clone of what {FILE} names", folder.display());
    if as_json {
        for (kernel, what, published, predicted, prediction) in &lines {
            println!(
                "{}",
                json!({ "name": kernel.name, "machine": kernel.machine, "unit": what,
                    "published": published, "predicted": predicted,
                    "bound": prediction.bound, "source": kernel.published.source })
            );
        }
        return Ok(true);
    }
    println!("| kernel | machine | published | predicted | residual | bound | source |\n|---|---|---|---|---|---|---|");
    for (kernel, what, published, predicted, prediction) in &lines {
        let residual = 100.0 * (predicted / published - 1.0);
        let (name, machine, source) = (&kernel.name, &kernel.machine, &kernel.published.source);
        println!(
            "| {name} | {machine} | {published:.0} {what} | {predicted:.0} | {residual:+.0} % | {} | {source} |",
            prediction.bound
        );
    }
    let mean = ratios.iter().map(|ratio| (ratio - 1.0).abs()).sum::<f64>() / ratios.len() as f64;
    println!("\nmean error {:.0} % over {} figures", 100.0 * mean, ratios.len());
    Ok(true)
}

/// Registers and machine code of the one entry.
fn compile(toolchain: &Toolchain, kernel: &Public, clone: &Path, scratch: &Path) -> Result<(u32, Code)> {
    let includes: Vec<String> =
        kernel.includes.iter().map(|file| format!("#include \"{}\"\n", clone.join(file).display())).collect();
    let (source, ptx) = (scratch.join("public.cu"), scratch.join("public.ptx"));
    // What is used of templates and static functions is kept.
    let text = format!("{}\n{}", kernel.prelude, includes.concat());
    fs::write(&source, text).with_context(|| source.display().to_string())?;
    let architecture = "sm_90a";
    let output = Command::new(&toolchain.nvcc)
        .args([
            "-ptx",
            "-O3",
            "-std=c++17",
            "-w",
            "-DNDEBUG",
            "--expt-relaxed-constexpr",
            "--use_fast_math",
            "-arch",
            architecture,
        ])
        .arg(&source)
        .arg("-o")
        .arg(&ptx)
        .output()
        .with_context(|| toolchain.nvcc.display().to_string())?;
    ensure!(output.status.success(), "does not compile: {}", String::from_utf8_lossy(&output.stderr));
    let found = gate::machine_code(toolchain, architecture, &ptx)?;
    let of_entry = found.into_iter().find(|(name, _)| name.contains(&kernel.entry));
    let (_, (usage, code)) = of_entry.with_context(|| format!("no entry whose name contains {}", kernel.entry))?;
    Ok((usage.registers, code))
}

fn demand(kernel: &Public, registers: u32, code: &Code) -> Demand {
    let hottest = code.hottest();
    let macs = if hottest.mmas > 0 { kernel.flops / 2.0 } else { 0.0 };
    let warpgroup = hottest.matrix.is_some_and(|(_, warpgroup)| warpgroup);
    // Rounds of the loop over all warps: by products, of a warpgroup's four warps together, or by bytes of 32 threads.
    let rounds = match hottest.mmas {
        0 => kernel.dram_bytes / (32.0 * hottest.global_bytes.max(1) as f64),
        _ => macs / hottest.macs as f64 * if warpgroup { 4.0 } else { 1.0 },
    };
    let tiles = kernel.tiles.unwrap_or(kernel.blocks);
    let rest = (code.0.len() as f64 - hottest.instructions as f64).max(0.0);
    let issues_outside = rest * kernel.warps_per_block * tiles;
    Demand {
        launches: 1.0,
        blocks: kernel.blocks,
        warps_per_block: kernel.warps_per_block,
        registers: f64::from(registers),
        shared_bytes: kernel.shared_bytes,
        tiles: kernel.tiles,
        issues: rounds * hottest.instructions as f64 + issues_outside,
        issues_outside,
        macs,
        matrix: hottest.matrix,
        l2_bytes: kernel.l2_bytes,
        dram_bytes: kernel.dram_bytes,
        ..Demand::default()
    }
}
