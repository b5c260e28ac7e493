//! What launch code and PTX must agree on without being compiled together: which kernels there are, the layout of their
//! parameters, how many threads a block has.

use std::{collections::BTreeMap, env, fs, path::Path};

use isg::{
    DType,
    device::{kernel::KernelInfo, modules},
    kernels,
};
use ptx_emulator::Module;

fn loaded() -> BTreeMap<&'static str, Module> {
    let load = |module: &&isg::device::module::Module| {
        let text = module.text().expect("the shipped text");
        (module.name, Module::load(&text).unwrap_or_else(|error| panic!("kernels/ptx/{}.ptx: {error}", module.name)))
    };
    modules::ALL.iter().map(load).collect()
}

/// Every kernel once: those of a GEMM are listed by several ops.
fn own_kernels() -> Vec<KernelInfo> {
    let mut by_name: BTreeMap<String, KernelInfo> = BTreeMap::new();
    for kernel in kernels() {
        let known = by_name.entry(kernel.to_string()).or_insert(kernel);
        let same = (known.threads, known.types, known.fields) == (kernel.threads, kernel.types, kernel.fields);
        assert!(same, "{kernel}: declared twice, and not the same");
    }
    by_name.into_values().collect()
}

/// Launch code and PTX name the same entries: nothing missing, nothing that nobody launches.
#[test]
fn every_entry_has_its_launcher_and_every_launcher_its_entry() {
    let modules = loaded();
    let mut wanted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for kernel in own_kernels() {
        wanted.entry(kernel.module.name).or_default().extend(kernel.entries());
    }
    let mut problems = Vec::new();
    for (file, module) in &modules {
        let mut there: Vec<&str> = module.entries().map(|entry| entry.name.as_str()).collect();
        let mut named = wanted.remove(file).unwrap_or_default();
        there.sort_unstable();
        named.sort_unstable();
        if let Some(pair) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            problems.push(format!("{}: named twice", pair[0]));
        }
        problems.extend(
            there.iter().filter(|e| !named.iter().any(|n| n == **e)).map(|e| format!("{e}: nobody launches it")),
        );
        problems.extend(
            named.iter().filter(|n| !there.contains(&n.as_str())).map(|n| format!("{n}: not in kernels/{file}.cu")),
        );
    }
    problems.extend(wanted.keys().map(|file| format!("kernels/{file}.cu: launched, but not there")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// One struct by value, of the size and with the fields that the kernel reads.
#[test]
fn parameters_have_the_kernels_layout() {
    let modules = loaded();
    let mut problems = Vec::new();
    for kernel in kernels() {
        let Some(module) = modules.get(kernel.module.name) else { continue };
        let (mut end, mut gaps) = (0, Vec::new());
        for field in kernel.fields {
            if field.offset_bytes != end {
                gaps.push(field.name);
            }
            end = field.offset_bytes + field.size_bytes;
        }
        if !gaps.is_empty() || end != kernel.params_bytes {
            problems.push(format!("{kernel}: padding that is not spelled out {gaps:?}"));
        }
        for name in kernel.entries() {
            let Some(entry) = module.entry(&name) else { continue };
            if entry.params.len() != 1 || entry.param_bytes as usize != kernel.params_bytes {
                problems.push(format!(
                    "{name}: takes {} parameters of {} bytes, launched with one struct of {}",
                    entry.params.len(),
                    entry.param_bytes,
                    kernel.params_bytes
                ));
            }
            for read in &entry.param_reads {
                let (from, to) = (read.offset as usize, (read.offset + read.bytes) as usize);
                // A load covers whole fields, or is a part of one that is itself an array or an opaque block.
                let starts = kernel.fields.iter().any(|f| f.offset_bytes == from);
                let ends = kernel.fields.iter().any(|f| f.offset_bytes + f.size_bytes == to);
                let inside = (kernel.fields.iter())
                    .any(|f| f.size_bytes > 8 && f.offset_bytes <= from && to <= f.offset_bytes + f.size_bytes);
                // The low half of a u64 known to fit is a legal read of one field.
                let low_half =
                    (kernel.fields.iter()).any(|f| f.offset_bytes == from && to < f.offset_bytes + f.size_bytes);
                if !(starts && ends || inside || low_half) {
                    problems.push(format!("{name}: reads bytes {from}..{to} of its parameters, across fields"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn blocks_have_the_threads_their_kernels_were_compiled_for() {
    let modules = loaded();
    let mut problems = Vec::new();
    for kernel in kernels() {
        for name in kernel.entries() {
            let Some(entry) = modules.get(kernel.module.name).and_then(|module| module.entry(&name)) else { continue };
            let most = entry.required_threads.or(entry.max_threads);
            if most != Some([kernel.threads, 1, 1]) {
                problems.push(format!("{name}: launched with {} threads, compiled for {most:?}", kernel.threads));
            }
            if entry.shared_bytes > 48 << 10 {
                problems
                    .push(format!("{name}: {} bytes of static shared memory; 48 KiB are allowed", entry.shared_bytes));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// What programs hold, cut at its entries and deflated, is what is committed; every entry stands alone, on its own lines.
#[test]
fn shipped_entries_are_those_of_the_committed_text() {
    if env::var_os("ISG_NVCC").is_some() || env::var_os("ISG_PTX").is_some() {
        return; // Others are in their place.
    }
    for module in modules::ALL {
        let file = format!("{}.ptx", module.name);
        let folders = ["kernels", "kernels/ptx"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let path = folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file()).expect("committed");
        let committed = fs::read_to_string(&path).expect("committed");
        assert!(module.text().expect("held") == committed, "{}", path.display());
        let lines: Vec<&str> = committed.lines().collect();
        for name in module.entries().expect("held") {
            let text = module.entry(&name, module.arch.capability, "a GPU").expect("held");
            assert_eq!(text.matches(".entry ").count(), 1, "{name}");
            assert!(text.lines().zip(&lines).all(|(line, whole)| line.is_empty() || line == *whole), "{name}");
        }
    }
}

#[test]
fn entries_are_named_after_their_file_and_type() {
    for kernel in kernels() {
        for name in kernel.entries() {
            assert!(name.starts_with(&kernel.to_string()), "{name}");
        }
        assert!(!kernel.types.contains(&DType::F64), "{kernel}: f64 has no kernels");
    }
    for module in modules::ALL {
        let (text, target) = (module.text().expect("the shipped text"), format!("\n.target {}\n", module.arch));
        assert!(text.contains(&target) && text.contains("\n.version 8.0\n"), "{module:?}");
    }
}
