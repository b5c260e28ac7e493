//! What a PTX file was made of: the sources it includes, the compiler and its flags, in one hash.
//!
//! `cargo tool ptx` writes the hash as the first line of `kernels/ptx/S.ptx`; `build.rs` compares it with what the sources
//! say now. Both include this file, and it uses the standard library alone. A module may also be written in PTX itself,
//! `kernels/S.ptx`: then that is the source, and what is shipped.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The one compiler whose PTX is committed.
pub const COMPILER: &str = "13.0.88";

/// sm_80 is what any newer GPU's driver compiles on; Hopper's own kernels are for compute capability 9.0 alone.
pub fn architecture(module: &str) -> &'static str {
    if module.ends_with("_sm90") { "sm_90a" } else { "sm_80" }
}

/// What nvcc is told, besides the file names.
pub fn flags(module: &str) -> [String; 4] {
    let arch = format!("-arch={}", architecture(module));
    ["-ptx".to_string(), "-O3".to_string(), "-std=c++17".to_string(), arch]
}

/// Whether the module is written in PTX itself.
pub fn is_ptx(kernels: &Path, module: &str) -> bool {
    kernels.join(format!("{module}.ptx")).is_file()
}

/// The PTX that is shipped.
pub fn shipped(kernels: &Path, module: &str) -> PathBuf {
    let folder = if is_ptx(kernels, module) { kernels.to_path_buf() } else { kernels.join("ptx") };
    folder.join(format!("{module}.ptx"))
}

/// The modules of `kernels/*.cu` and `kernels/*.ptx`, sorted.
pub fn modules(kernels: &Path) -> io::Result<Vec<String>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(kernels)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "ptx") {
            modules.extend(path.file_stem().and_then(|module| module.to_str()).map(str::to_string));
        }
    }
    modules.sort();
    Ok(modules)
}

/// `kernels/S.cu` and every file below `kernels/` that it includes, directly or not, in the order they are met.
pub fn sources(kernels: &Path, module: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![kernels.join(format!("{module}.cu"))];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        let text = fs::read_to_string(&path)?;
        let names = text.lines().filter_map(|line| {
            let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
            rest.trim_start().strip_prefix('"')?.split('"').next()
        });
        for name in names {
            let beside = path.parent().unwrap_or(kernels).join(name);
            let included = if beside.exists() { beside } else { kernels.join(name) };
            let included = included.canonicalize()?;
            if !found.iter().any(|known| known.canonicalize().is_ok_and(|known| known == included)) {
                found.push(included);
            }
        }
        next += 1;
    }
    Ok(found)
}

/// The first line of an up-to-date `kernels/ptx/S.ptx`.
pub fn first_line(kernels: &Path, module: &str) -> io::Result<String> {
    let command = format!("nvcc {COMPILER} {}", flags(module)[1..].join(" "));
    let mut hash = Fnv::new();
    hash.add(command.as_bytes());
    for path in sources(kernels, module)? {
        // A checkout that turned line ends around holds the same kernel.
        let text = fs::read_to_string(path)?.replace("\r\n", "\n");
        hash.add(&(text.len() as u64).to_le_bytes());
        hash.add(text.as_bytes());
    }
    Ok(format!("// isg {:016x} {command}", hash.0))
}

/// FNV-1a of 64 bits: tells an edited source from the one that was compiled; nobody attacks it.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
