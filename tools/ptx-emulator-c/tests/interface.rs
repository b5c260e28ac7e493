//! The interface as others use it: a program in C with the header, and the example in Python.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The library that cargo built beside this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().expect("this test");
    let folder = own.parent().expect("deps");
    let names = [folder.join("libptx_emulator_c.so"), folder.join("../libptx_emulator_c.so")];
    names.into_iter().find(|path| path.exists()).expect("the library is built before its tests")
}

#[test]
fn the_header_declares_what_there_is_and_no_more() {
    let header = std::fs::read_to_string(Path::new(HERE).join("include/ptx_emulator.h")).expect("the header");
    let source = std::fs::read_to_string(Path::new(HERE).join("src/lib.rs")).expect("the source");
    let name = |rest: &str| rest.split('(').next().unwrap_or_default().trim_start_matches('*').to_owned();
    let mut exported: Vec<String> =
        source.lines().filter_map(|l| l.split_once("extern \"C\" fn ")).map(|(_, r)| name(r)).collect();
    let declared = header.lines().filter(|line| !line.starts_with([' ', '/', '#', '}']) && line.contains('('));
    let mut declared: Vec<String> = declared
        .map(|line| name(line.split('(').next().unwrap_or_default().rsplit(' ').next().unwrap_or_default()))
        .collect();
    exported.sort();
    declared.sort();
    assert_eq!(exported, declared);
    assert!(exported.len() > 15);
}

#[test]
fn a_program_in_c_finds_a_fault() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join("interface");
    let source = Path::new(HERE).join("tests/interface.c");
    let library = library();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let made = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(HERE).join("include"))
        .arg(source)
        .arg(&library)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("the C compiler that rustc links with");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ran = Command::new(program).env("LD_LIBRARY_PATH", library.parent().expect("a folder")).output().expect("runs");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(out.contains("out-of-bounds access") && out.contains("4 bytes"), "{out}");
}

#[test]
fn python_runs_what_triton_compiled() {
    let example = Path::new(HERE).join("examples/launch.py");
    let Ok(ran) = Command::new("python3").arg(example).arg(library()).output() else {
        // Not by a macro, whose output is kept back where tests pass.
        let _ = writeln!(std::io::stderr(), "SKIPPED: examples/launch.py, for want of python3");
        return;
    };
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(out.contains("5 rows of 700") && out.contains("with 6 blocks: out-of-bounds access in softmax"), "{out}");
}
