//! Embeds the PTX of `kernels/ptx/`. Compiles no CUDA: a machine with only Rust builds every kernel.

use std::{env, fmt::Write, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=kernels/ptx");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's folder"));
    let folder = root.join("kernels/ptx");
    let mut stems: Vec<String> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ptx").map(str::to_string))
        .collect();
    stems.sort();
    let mut code = String::from("pub static MODULES: &[(&str, &str)] = &[\n");
    for stem in &stems {
        let path = folder.join(format!("{stem}.ptx"));
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(code, "    ({stem:?}, include_str!({path:?})),").expect("writing to a string");
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the output folder")).join("ptx.rs");
    fs::write(out, code).expect("the output folder is writable");
}
