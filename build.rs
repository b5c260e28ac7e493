//! Embeds the PTX of `kernels/ptx/`: a machine with only Rust builds every kernel.
//!
//! A PTX that is older than its source stops the build with the command that fixes it. CUDA is compiled here only when
//! `ISG_NVCC` names a compiler, for people who tune kernels; then with line information, for profilers and for the
//! emulator's reports.

#[path = "kernels/sources.rs"]
mod sources;

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=ISG_NVCC");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's folder"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the output folder"));
    if let Err(sentence) = embed(&root.join("kernels"), &out) {
        println!("cargo::error={sentence}");
    }
}

fn embed(kernels: &Path, out: &Path) -> Result<(), String> {
    let nvcc = env::var_os("ISG_NVCC").filter(|nvcc| !nvcc.is_empty()).map(PathBuf::from);
    let modules = sources::modules(kernels).map_err(|e| format!("{}: {e}", kernels.display()))?;
    let (mut code, mut all) = (String::from("use super::module::{Arch, Module};\n"), String::new());
    let mut stale = Vec::new();
    for module in &modules {
        let path = match &nvcc {
            Some(nvcc) => compile(nvcc, kernels, module, out)?,
            None => kernels.join("ptx").join(format!("{module}.ptx")),
        };
        if nvcc.is_none() && !is_current(kernels, module, &path)? {
            stale.push(module.as_str());
            continue;
        }
        let arch = arch(&path)?;
        let name = module.to_uppercase();
        writeln!(code, "pub static {name}: Module = Module::new({module:?}, {arch}, include_str!({path:?}));")
            .expect("writing to a string");
        write!(all, "&{name}, ").expect("writing to a string");
    }
    if !stale.is_empty() {
        let stale = stale.join(" ");
        return Err(format!("kernels/ptx is older than the sources of {stale}: run `cargo tool ptx {stale}`"));
    }
    writeln!(code, "pub static ALL: &[&Module] = &[{all}];").expect("writing to a string");
    fs::write(out.join("modules.rs"), code).map_err(|e| format!("{}: {e}", out.display()))
}

/// The architecture that `.target` names, as an expression.
fn arch(ptx: &Path) -> Result<String, String> {
    let wrong = |what: &str| format!("{}: {what}", ptx.display());
    let text = fs::read_to_string(ptx).map_err(|e| wrong(&e.to_string()))?;
    let target =
        text.lines().find_map(|line| line.strip_prefix(".target sm_")).ok_or_else(|| wrong("no .target sm_"))?;
    let digits = target.trim_end_matches('a');
    let capability: u32 = digits.parse().map_err(|_| wrong(&format!(".target sm_{target} is not understood")))?;
    let (major, minor, exact) = (capability / 10, capability % 10, digits != target);
    Ok(format!("Arch {{ capability: ({major}, {minor}), exact: {exact} }}"))
}

fn is_current(kernels: &Path, module: &str, ptx: &Path) -> Result<bool, String> {
    let wanted =
        sources::first_line(kernels, module).map_err(|e| format!("kernels/{module}.cu or a file it includes: {e}"))?;
    Ok(fs::read_to_string(ptx).is_ok_and(|text| text.lines().next() == Some(&*wanted)))
}

/// Compiles with line information into the output folder, unless that is already there. Any nvcc will do: what it writes
/// stays on this machine.
fn compile(nvcc: &Path, kernels: &Path, module: &str, out: &Path) -> Result<PathBuf, String> {
    let first =
        sources::first_line(kernels, module).map_err(|e| format!("kernels/{module}.cu or a file it includes: {e}"))?;
    let first = format!("{first} -lineinfo {}", nvcc.display());
    let path = out.join(format!("{module}.ptx"));
    if fs::read_to_string(&path).is_ok_and(|text| text.lines().next() == Some(&*first)) {
        return Ok(path);
    }
    let raw = out.join(format!("{module}.raw.ptx"));
    let output = Command::new(nvcc)
        .current_dir(kernels)
        .args(sources::flags(module))
        .args(["-lineinfo", "-I", "."])
        .arg(format!("{module}.cu"))
        .arg("-o")
        .arg(&raw)
        .output()
        .map_err(|e| format!("ISG_NVCC={}: {e}; unset it to use the PTX of the repository", nvcc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ");
        return Err(format!("kernels/{module}.cu does not compile with ISG_NVCC={}: {said}", nvcc.display()));
    }
    let text = fs::read_to_string(&raw).map_err(|e| format!("{}: {e}", raw.display()))?;
    let version = text.lines().find(|line| line.starts_with(".version ")).unwrap_or(".version").to_string();
    // A hint that 8.0 does not know.
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("used_bytes_mask")).collect();
    let text = format!("{first}\n{}\n", kept.join("\n").replacen(&version, ".version 8.0", 1));
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}
