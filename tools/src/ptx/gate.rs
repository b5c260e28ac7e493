//! The assemblers' verdict on a PTX file: accepted by the oldest and by the compiler's own release, for every generation of
//! GPU it is shipped to, without a warning and without spilling a register.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use super::{budget::Usage, sources, toolchain::Toolchain};
use crate::code::{Code, sass};

/// Assembles `file` everywhere it must load, and returns what each entry uses on its own architecture with the pinned
/// assembler, its hottest loop included.
pub fn assemble(toolchain: &Toolchain, module: &str, file: &Path) -> Result<BTreeMap<String, Usage>> {
    let own = sources::architecture(module);
    let usage = machine_code(toolchain, own, file)?;
    ensure!(!usage.is_empty(), "holds no entry");
    let usage = usage.into_iter().map(|(name, (mut usage, code))| {
        usage.add_loop(&code.hottest());
        (name, usage)
    });
    let usage = usage.collect();
    ptxas(&toolchain.ptxas_oldest, own, file)?;
    if own == "sm_80" {
        ptxas(&toolchain.ptxas_oldest, "sm_90", file)?;
        for newer in ["sm_90", "sm_120"] {
            ptxas(&toolchain.ptxas, newer, file)?;
        }
    }
    Ok(usage)
}

/// What the pinned assembler makes of every entry of `file`.
pub fn machine_code(toolchain: &Toolchain, arch: &str, file: &Path) -> Result<BTreeMap<String, (Usage, Code)>> {
    let cubin = file.with_extension(format!("{arch}.cubin"));
    let usage = parse(&assembled(&toolchain.ptxas, arch, file, &cubin)?)?;
    let listing = Command::new(&toolchain.nvdisasm).args(["-c", "-ndf"]).arg(&cubin).output();
    let _ = std::fs::remove_file(cubin);
    let listing = listing.with_context(|| toolchain.nvdisasm.display().to_string())?;
    ensure!(
        listing.status.success(),
        "{}: {}",
        toolchain.nvdisasm.display(),
        String::from_utf8_lossy(&listing.stderr).trim()
    );
    let mut code = sass::parse(&String::from_utf8_lossy(&listing.stdout));
    let both = usage.into_iter().map(|(name, usage)| {
        let code = code.remove(&name).with_context(|| format!("{name}: nvdisasm shows no code"))?;
        Ok((name, (usage, code)))
    });
    both.collect()
}

/// Accepted, or why not.
fn ptxas(program: &Path, arch: &str, file: &Path) -> Result<()> {
    let cubin = file.with_extension(format!("{arch}.cubin"));
    let said = assembled(program, arch, file, &cubin);
    let _ = std::fs::remove_file(cubin);
    said.map(|_| ())
}

/// Writes the cubin and returns what the assembler said.
fn assembled(program: &Path, arch: &str, file: &Path, cubin: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(["-v", "--warn-on-spills", "-Werror", "--gpu-name", arch])
        .arg(file)
        .arg("-o")
        .arg(cubin)
        .output()
        .with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaints: Vec<&str> =
            said.lines().filter(|line| !line.contains("info    :") && !line.starts_with("    0 bytes")).collect();
        bail!("{} for {arch}: {}", program.display(), complaints.join("\n"));
    }
    Ok(said)
}

/// Reads `ptxas -v`.
fn parse(said: &str) -> Result<BTreeMap<String, Usage>> {
    let mut found = BTreeMap::new();
    let mut entry = None;
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            entry = rest.split('\'').next().map(str::to_string);
            found.insert(entry.clone().context("a name")?, Usage::default());
        }
        let Some(usage) = entry.as_ref().and_then(|entry| found.get_mut(entry)) else { continue };
        for part in line.split("info    :").last().unwrap_or(line).split(',') {
            let words: Vec<&str> = part.split_whitespace().filter(|word| *word != "Used").collect();
            match words[..] {
                [n, "registers"] => usage.registers = n.parse()?,
                [n, "bytes", "smem"] => usage.shared_bytes = n.parse()?,
                [n, "bytes", "stack", "frame"] => usage.stack_bytes = n.parse()?,
                [n, "bytes", "spill", "stores" | "loads"] => ensure!(n == "0", "spills: {line}"),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assembler_is_understood() {
        let said = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a_f32' for 'sm_80'\n\
            ptxas info    : Function properties for a_f32\n    \
            32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 71 registers, used 1 barriers, 8448 bytes smem, 384 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Used 16 registers\n";
        let found = parse(said).expect("readable");
        assert_eq!(found["a_f32"], Usage { registers: 71, shared_bytes: 8448, stack_bytes: 32, ..Usage::default() });
        assert_eq!(found["b"], Usage { registers: 16, ..Usage::default() });
        assert!(parse(&said.replace("0 bytes spill stores", "8 bytes spill stores")).is_err());
    }
}
