//! `cargo tool ptx`: compiles `kernels/*.cu` to the PTX that is committed, and holds every file against its gates; those of
//! `kernels/*.ptx`, which are written by hand, too.
//!
//! The compiler is pinned to the release (see [`toolchain`]): with it, a file's PTX is the same bytes on every machine.
//! Its `.version` is lowered to 8.0, the oldest that knows every instruction used here, so that any driver from R525 on
//! loads it; that nothing newer slipped in is what the older assembler checks.

mod budget;
pub mod gate;
#[path = "../../../kernels/sources.rs"]
pub mod sources;
pub mod toolchain;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use budget::{Budget, Usage};
use toolchain::Toolchain;

#[derive(clap::Args)]
#[command(after_help = "Environment:\n  ISG_NVCC         an nvcc of the pinned release, instead of the wheels\n  \
    ISG_CUDA_WHEELS  a folder that holds the installed wheels, instead of target/cuda\n\n\
    Examples:\n  cargo tool ptx\n  cargo tool ptx unary gemm\n  cargo tool ptx --check")]
pub struct Args {
    /// Only these files of kernels/, without their extension.
    modules: Vec<String>,
    /// Write nothing: compile everything into a scratch folder and compare with what is committed.
    #[arg(long)]
    check: bool,
    /// Take a rise in registers, shared memory, stack or the cost of a loop into kernels/budget.toml.
    #[arg(long)]
    accept: bool,
    /// Compile also what has not changed.
    #[arg(long)]
    force: bool,
    /// Check only that no PTX is older than its source; needs no compiler.
    #[arg(long, conflicts_with_all = ["check", "accept", "force"])]
    stale: bool,
    /// Only find or install the compiler.
    #[arg(long, conflicts_with_all = ["check", "accept", "force", "stale"])]
    fetch: bool,
}

/// What became of one file.
struct Outcome {
    usage: BTreeMap<String, Usage>,
    line: String,
}

pub fn run(args: &Args) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tools/ lies in the repository")?;
    if args.fetch {
        println!("{}", Toolchain::find(root)?.nvcc.display());
        return Ok(true);
    }
    let kernels = root.join("kernels");
    let every = sources::modules(&kernels).with_context(|| format!("{}: not readable", kernels.display()))?;
    for module in &args.modules {
        ensure!(every.contains(module), "kernels/{module}.cu: no such file; there are {}", every.join(", "));
    }
    let whole = args.modules.is_empty();
    let wanted = if whole { every.clone() } else { args.modules.clone() };
    let mut ok = whole_is_tidy(&kernels, &every, !args.check && !args.stale && whole)?;
    if args.stale {
        for module in &wanted {
            if !is_current(&kernels, module)? {
                println!("kernels/ptx/{module}.ptx is older than its source: run `cargo tool ptx {module}`");
                ok = false;
            }
        }
        println!("{} files, {}", wanted.len(), if ok { "none stale" } else { "some stale" });
        return Ok(ok);
    }
    let mut todo = Vec::new();
    for module in wanted {
        let named = sources::is_ptx(&kernels, &module) && !whole;
        if args.check || args.force || named || !is_current(&kernels, &module)? {
            todo.push(module);
        }
    }
    if todo.is_empty() {
        println!("every PTX is up to date");
        return Ok(ok);
    }
    let toolchain = Toolchain::find(root)?;
    println!("nvcc {} from {}", sources::COMPILER, toolchain.nvcc.display());
    let scratch = root.join("target/cuda/scratch").join(std::process::id().to_string());
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    // The largest first: they take longest, and the last one runs alone.
    let size = |module: &String| fs::metadata(sources::shipped(&kernels, module)).map_or(0, |file| file.len());
    todo.sort_by_cached_key(|module| std::cmp::Reverse(size(module)));
    let outcomes = in_parallel(&todo, |module| {
        let outcome = make(&toolchain, &kernels, module, &scratch, args.check);
        match &outcome {
            Ok(outcome) => println!("{}", outcome.line),
            Err(error) => println!("{module}: {error:#}"),
        }
        outcome
    });
    let _ = fs::remove_dir_all(&scratch);
    // Read now, not before compiling: another run may have finished meanwhile.
    let path = kernels.join("budget.toml");
    let mut budget = Budget::read(&path)?;
    for (module, outcome) in todo.iter().zip(&outcomes) {
        let Ok(outcome) = outcome else {
            ok = false;
            continue;
        };
        for complaint in budget.hold(module, &outcome.usage, args.accept, args.check) {
            println!("{complaint}");
            ok = false;
        }
    }
    if whole && !args.check {
        budget.keep_only(&every);
    }
    if !args.check {
        budget.write(&path)?;
    }
    Ok(ok)
}

/// PTX whose source is gone is removed, or reported.
fn whole_is_tidy(kernels: &Path, every: &[String], remove: bool) -> Result<bool> {
    let mut ok = true;
    for entry in fs::read_dir(kernels.join("ptx")).into_iter().flatten() {
        let path = entry?.path();
        let module = path.file_stem().and_then(|module| module.to_str()).unwrap_or_default().to_string();
        let has_source = every.contains(&module) && !sources::is_ptx(kernels, &module);
        if path.extension().is_some_and(|e| e == "ptx") && !has_source {
            if remove {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            } else {
                println!("kernels/ptx/{module}.ptx has no source");
                ok = false;
            }
        }
    }
    Ok(ok)
}

fn is_current(kernels: &Path, module: &str) -> Result<bool> {
    if sources::is_ptx(kernels, module) {
        return Ok(true);
    }
    let line = sources::first_line(kernels, module).with_context(|| format!("kernels/{module}.cu"))?;
    Ok(fs::read_to_string(sources::shipped(kernels, module)).is_ok_and(|text| text.lines().next() == Some(&*line)))
}

/// Compiles one file, puts it through the gates, and writes it or compares it.
fn make(toolchain: &Toolchain, kernels: &Path, module: &str, scratch: &Path, check: bool) -> Result<Outcome> {
    let start = Instant::now();
    let path = sources::shipped(kernels, module);
    let file = scratch.join(format!("{module}.ptx"));
    if sources::is_ptx(kernels, module) {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        fs::write(&file, &text).with_context(|| file.display().to_string())?;
        let usage = gate::assemble(toolchain, module, &file)?;
        let line = line(module, &usage, text.len(), start);
        return Ok(Outcome { usage, line });
    }
    // The hash first: a source saved again while it compiles leaves a file that is seen to be stale.
    let first = sources::first_line(kernels, module)?;
    let raw = scratch.join(format!("{module}.raw.ptx"));
    compile(toolchain, kernels, module, &raw)?;
    let text = fs::read_to_string(&raw).with_context(|| raw.display().to_string())?;
    let text = format!("{first}\n{}", lowered(&text, module)?);
    fs::write(&file, &text).with_context(|| file.display().to_string())?;
    let usage = gate::assemble(toolchain, module, &file)?;
    if check {
        // A second compilation, in another place, must give the same bytes.
        let again = scratch.join("again").join(format!("{module}.raw.ptx"));
        fs::create_dir_all(scratch.join("again")).context("scratch folder")?;
        compile(toolchain, kernels, module, &again)?;
        ensure!(fs::read(&again)? == fs::read(&raw)?, "two compilations differ");
        let committed = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(
            committed == text,
            "kernels/ptx/{module}.ptx is not what kernels/{module}.cu gives: run `cargo tool ptx {module}`"
        );
    } else {
        fs::create_dir_all(kernels.join("ptx")).context("kernels/ptx")?;
        fs::write(&path, &text).with_context(|| path.display().to_string())?;
    }
    let line = line(module, &usage, text.len(), start);
    Ok(Outcome { usage, line })
}

/// What a module uses, for people.
fn line(module: &str, usage: &BTreeMap<String, Usage>, bytes: usize, start: Instant) -> String {
    let span = |f: fn(&Usage) -> u32| {
        let (low, high) = (usage.values().map(f).min().unwrap_or(0), usage.values().map(f).max().unwrap_or(0));
        if low == high { low.to_string() } else { format!("{low}-{high}") }
    };
    format!(
        "{module}: {} entries, {} registers, {} shared bytes, {} stack bytes, {} kB, {:.1} s",
        usage.len(),
        span(|u| u.registers),
        span(|u| u.shared_bytes),
        span(|u| u.stack_bytes),
        bytes.div_ceil(1000),
        start.elapsed().as_secs_f64()
    )
}

fn compile(toolchain: &Toolchain, kernels: &Path, module: &str, out: &Path) -> Result<()> {
    let output = Command::new(&toolchain.nvcc)
        .current_dir(kernels)
        .args(sources::flags(module))
        .args(["-I", ".", "-Werror", "all-warnings"])
        .arg(format!("{module}.cu"))
        .arg("-o")
        .arg(out)
        .output()
        .with_context(|| toolchain.nvcc.display().to_string())?;
    if !output.status.success() {
        bail!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// The text with `.version 8.0`, after checking that it is what the pinned compiler writes.
fn lowered(text: &str, module: &str) -> Result<String> {
    ensure!(text.contains(&format!("V{}", sources::COMPILER)), "not written by nvcc {}", sources::COMPILER);
    let version = text.lines().find_map(|line| line.strip_prefix(".version ")).context("no .version line")?;
    // A newer one means that another NVVM was picked up behind the right nvcc.
    ensure!(
        version == "9.0",
        "the compiler wrote .version {version}, not 9.0: its companion packages are of another release"
    );
    let target = text.lines().find_map(|line| line.strip_prefix(".target ")).context("no .target line")?;
    ensure!(target == sources::architecture(module), "the compiler wrote .target {target}");
    ensure!(
        !text.contains("_INTERNAL_"),
        "a header that puts path hashes into symbols is included; write out what it gives"
    );
    // A hint on partly used vector loads that 8.0 does not know, and marks that are a third of a file with many mma.
    let dropped = |line: &&str| {
        let line = line.trim_start();
        !(line.starts_with(".pragma \"used_bytes_mask") || line == "// begin inline asm" || line == "// end inline asm")
    };
    let kept: Vec<&str> = text.lines().filter(dropped).collect();
    Ok((kept.join("\n") + "\n").replacen(".version 9.0\n", ".version 8.0\n", 1))
}

/// One worker a core; results in the order of `items`.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < items.len()) {
                    let result = f(&items[i]);
                    done.lock().expect("no worker panics").insert(i, result);
                }
            });
        }
    });
    done.into_inner().expect("no worker panics").into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowering_refuses_what_another_compiler_wrote() {
        let text = "// V13.0.88\n.version 9.0\n.target sm_80\n.visible .entry a()\n";
        assert!(lowered(text, "unary").is_ok_and(|text| text.contains("\n.version 8.0\n")));
        let hint = text.replace("entry a()\n", "entry a()\n\t.pragma \"used_bytes_mask 15\";\n\t// begin inline asm\n");
        assert_eq!(lowered(&hint, "unary").ok(), lowered(text, "unary").ok());
        assert!(lowered(&text.replace("9.0", "9.5"), "unary").is_err());
        assert!(lowered(&text.replace("sm_80", "sm_90"), "unary").is_err());
        assert!(lowered(text, "gemm_sm90").is_err());
        assert!(lowered(&text.replace("13.0.88", "13.5.37"), "unary").is_err());
    }

    #[test]
    fn hashes_follow_included_files() {
        let folder = std::env::temp_dir().join(format!("isg-hash-{}", std::process::id()));
        fs::create_dir_all(folder.join("common")).expect("a scratch folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("writing");
        write("a.cu", "#include \"common/b.cuh\"\n#include <cuda_bf16.h>\nint a;\n");
        write("common/b.cuh", "#pragma once\n#include \"c.cuh\"\n");
        write("common/c.cuh", "#pragma once\nint c;\n");
        let hash = || sources::first_line(&folder, "a").expect("sources");
        let before = hash();
        assert!(before.ends_with("nvcc 13.0.88 -O3 -std=c++17 -arch=sm_80"), "{before}");
        assert_eq!(before, hash());
        write("common/c.cuh", "#pragma once\nint d;\n");
        assert_ne!(before, hash());
        write("common/c.cuh", "#pragma once\r\nint c;\r\n");
        assert_eq!(before, hash(), "line ends do not count");
        let _ = fs::remove_dir_all(folder);
    }

    #[test]
    fn parallel_results_keep_their_order() {
        assert_eq!(in_parallel(&[1, 2, 3, 4, 5], |i| i * i), [1, 4, 9, 16, 25]);
    }
}
