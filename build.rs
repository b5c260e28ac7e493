//! Embeds the PTX of `kernels/ptx/`: a machine with only Rust builds every kernel. Each text is cut at its entries, and the
//! pieces are deflated: a program loads the entries it launches.
//!
//! A PTX that is older than its source stops the build with the command that fixes it. CUDA is compiled here only when
//! `ISG_NVCC` names a compiler, for people who tune kernels; then with line information, for profilers and for the
//! emulator's reports.

#[path = "src/device/entries.rs"]
mod entries;
#[path = "kernels/sources.rs"]
mod sources;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=src/device/entries.rs");
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
    let (mut code, mut all) =
        (String::from("use super::module::{Arch, Deflated, DeflatedEntry, Module, Piece};\n"), String::new());
    let mut stale = Vec::new();
    for module in &modules {
        let path = match &nvcc {
            Some(nvcc) if !sources::is_ptx(kernels, module) => compile(nvcc, kernels, module, out)?,
            _ => {
                let path = sources::shipped(kernels, module);
                if !is_current(kernels, module, &path)? {
                    stale.push(module.as_str());
                    continue;
                }
                path
            }
        };
        let name = module.to_uppercase();
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let module = deflated(module, &text, out).map_err(|what| format!("{}: {what}", path.display()))?;
        writeln!(code, "pub static {name}: Module = {module};").expect("writing to a string");
        write!(all, "&{name}, ").expect("writing to a string");
    }
    if !stale.is_empty() {
        let stale = stale.join(" ");
        return Err(format!("kernels/ptx is older than the sources of {stale}: run `cargo tool ptx {stale}`"));
    }
    writeln!(code, "pub static ALL: &[&Module] = &[{all}];").expect("writing to a string");
    fs::write(out.join("modules.rs"), code).map_err(|e| format!("{}: {e}", out.display()))
}

/// A module as an expression, its deflated pieces in the output folder.
fn deflated(module: &str, text: &str, out: &Path) -> Result<String, String> {
    let (arch, cut) = (arch(text)?, entries::cut(text)?);
    let mut bytes = Vec::new();
    let mut piece = |text: &str| -> Result<String, String> {
        let from = bytes.len();
        let mut encoder = flate2::write::ZlibEncoder::new(&mut bytes, flate2::Compression::best());
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish().map(|_| ())).map_err(|e| e.to_string())?;
        Ok(format!("Piece {{ from: {from}, to: {} }}", bytes.len()))
    };
    let around = piece(&cut.around)?;
    let mut list = String::new();
    for entries::Entry { name, at, text } in &cut.entries {
        let piece = piece(text)?;
        write!(list, "DeflatedEntry {{ name: {name:?}, at: {at}, piece: {piece} }}, ").expect("writing to a string");
    }
    let spliced = |text: String, entry: &entries::Entry| entries::alone(&text, entry.at, entry.text);
    if cut.entries.iter().rev().fold(cut.around.clone(), spliced) != text {
        return Err("cut at its entries and put together again, it is another text".to_string());
    }
    let path = out.join(format!("{module}.deflated"));
    fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let ptx = format!("Deflated {{ bytes: include_bytes!({path:?}), around: {around}, entries: &[{list}] }}");
    Ok(format!("Module::deflated({module:?}, {arch}, {ptx})"))
}

/// The architecture that `.target` names, as an expression.
fn arch(ptx: &str) -> Result<String, String> {
    let target = ptx.lines().find_map(|line| line.strip_prefix(".target sm_")).ok_or("no .target sm_")?;
    let digits = target.trim_end_matches('a');
    let capability: u32 = digits.parse().map_err(|_| format!(".target sm_{target} is not understood"))?;
    let (major, minor, exact) = (capability / 10, capability % 10, digits != target);
    Ok(format!("Arch {{ capability: ({major}, {minor}), exact: {exact} }}"))
}

fn is_current(kernels: &Path, module: &str, ptx: &Path) -> Result<bool, String> {
    if sources::is_ptx(kernels, module) {
        return Ok(true);
    }
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
