//! Whole CUDA programs under `cuda-emulate`: compiled by nvcc, with NVIDIA's runtime inside and beside, right and
//! wrong.
//!
//! Most need nvcc: `ISG_NVCC`, the packages that `cargo tool ptx --fetch` installs, or one on the path. Without one they are left out,
//! and say so on standard error, past what the test runner keeps to itself; `EMULATED_DRIVER_NEEDS_NVCC=1` makes that a failure. A
//! program of the driver's interface is built by the C compiler alone, and runs PTX that lies here.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The compiler and the folder of its libraries, if there is one.
fn nvcc() -> Option<(PathBuf, PathBuf)> {
    let wheels =
        env::var_os("ISG_CUDA_WHEELS").map_or_else(|| Path::new(HERE).join("../../target/cuda"), PathBuf::from);
    let named = env::var_os("ISG_NVCC").map(PathBuf::from);
    let on_path = || env::split_paths(&env::var_os("PATH")?).map(|f| f.join("nvcc")).find(|path| path.is_file());
    let nvcc =
        named.or_else(|| Some(wheels.join("cu130/nvidia/cu13/bin/nvcc")).filter(|p| p.exists())).or_else(on_path)?;
    let home = nvcc.parent()?.parent()?;
    let libraries = ["lib", "lib64"].map(|folder| home.join(folder));
    Some((nvcc.clone(), libraries.into_iter().find(|folder| folder.join("libcudart_static.a").exists())?))
}

/// Compiles `tests/programs/NAME.cu`; none where there is no compiler.
fn compiled(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let Some((nvcc, libraries)) = nvcc() else {
        // Not by a macro, whose output is kept back where tests pass.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: {name}.cu, for want of nvcc; `cargo tool ptx --fetch` installs one");
        assert!(env::var_os("EMULATED_DRIVER_NEEDS_NVCC").is_none(), "nvcc is missing");
        return None;
    };
    let shared = flags.contains(&"shared");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}{}", if shared { "-shared" } else { "" }));
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-lineinfo", "-L"]).arg(&libraries);
    // The packages have the library without the name that -cudart shared looks for.
    let own = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
    let runtime = own.map(|e| e.file_name()).find(|n| n.to_string_lossy().starts_with("libcudart.so."));
    match (shared, runtime) {
        (true, Some(runtime)) => {
            command.args(["-cudart", "none", "-Xlinker"]).arg(format!("-l:{}", runtime.to_string_lossy()));
        }
        _ => {
            command.args(["-cudart", if shared { "shared" } else { "static" }]);
        }
    }
    let source = Path::new(HERE).join("tests/programs").join(format!("{name}.cu"));
    let flags = flags.iter().filter(|flag| **flag != "shared");
    let made = command.args(flags).arg(source).arg("-o").arg(&program).output().expect("nvcc");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(program)
}

struct Ran {
    status: i32,
    out: String,
    told: String,
}

fn emulate(options: &[&str], program: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuda-emulate"));
    let Output { status, stdout, stderr } = command.args(options).arg(program).args(arguments).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { status: status.code().unwrap_or(-1), out: text(stdout), told: text(stderr) }
}

/// The right version is clean and right; the wrong one is told of, in these words.
fn right_and_wrong(name: &str, flags: &[&str], words: &[&str]) {
    let Some(program) = compiled(name, flags) else { return };
    for seed in ["0", "1"] {
        let ran = emulate(&["--seed", seed], &program, &[]);
        assert!(ran.status == 0 && ran.out.ends_with("right\n"), "{name}: {}\n{}\n{}", ran.status, ran.out, ran.told);
        assert!(ran.told.contains("launches, 0 errors, 0 notes"), "{name}: {}", ran.told);
    }
    let ran = emulate(&[], &program, &["wrong"]);
    assert!(ran.status == 86 && !ran.out.ends_with("right\n"), "{name}: {}\n{}\n{}", ran.status, ran.out, ran.told);
    for word in words {
        assert!(ran.told.contains(word), "{name}: {word} is missing in\n{}", ran.told);
    }
}

#[test]
fn the_driver_alone_with_its_linker() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    let made = command.arg(Path::new(HERE).join("tests/programs/driver.c")).arg("-ldl").output();
    let made = made.expect("the C compiler that rustc links with");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ptx = Path::new(HERE).join("../ptx-emulator/tests/kernels/elementwise.ptx");
    let ptx = ptx.to_str().expect("a path in UTF-8");
    let ran = emulate(&["--seed", "3"], &program, &[ptx]);
    assert!(ran.status == 0 && ran.out == "right\n", "{}: {}{}", ran.status, ran.out, ran.told);
    assert!(ran.told.contains("1 launches, 0 errors, 0 notes"), "{}", ran.told);
    let ran = emulate(&[], &program, &[ptx, "20"]);
    assert!(ran.status == 86 && !ran.out.contains("right"), "{}: {}{}", ran.status, ran.out, ran.told);
    for word in ["ERROR: out-of-bounds access", "in saxpy", "of 4000 bytes"] {
        assert!(ran.told.contains(word), "{word} is missing in\n{}", ran.told);
    }
}

#[test]
fn streams_events_and_callbacks() {
    let words = ["ERROR: out-of-bounds access", "in scale(", "at streams.cu:9", "in block (3,0,0)", "of 4000 bytes"];
    right_and_wrong("streams", &["-arch=sm_80"], &words);
}

#[test]
fn the_runtime_beside_the_program() {
    right_and_wrong("streams", &["-arch=sm_80", "shared"], &["ERROR: out-of-bounds access"]);
}

#[test]
fn what_the_device_says_of_itself() {
    right_and_wrong(
        "reduce",
        &["-arch=sm_80"],
        &["ERROR: race", "in void sum<", "at reduce.cu:12", "without an order"],
    );
}

#[test]
fn variables_managed_and_mapped_memory_and_the_driver() {
    right_and_wrong("variables", &["-arch=sm_80"], &["ERROR: uninitialised read", "in mix(", "at variables.cu:14"]);
    let Some(program) = compiled("variables", &["-arch=sm_80"]) else { return };
    let ran = emulate(&[], &program, &[]);
    assert!(ran.out.contains("block 0 of 1 says 1.50 and no more\n"), "{}", ran.out);
}

#[test]
fn graphs_and_pitched_memory() {
    right_and_wrong("graphs", &["-arch=sm_80"], &["freed", "400 bytes"]);
}

#[test]
fn clusters_cooperative_grids_and_tensor_maps() {
    // As the seed orders the blocks, the neighbour has not written yet, or nothing says that it has.
    right_and_wrong(
        "hopper",
        &["-arch=sm_90a"],
        &["ERROR: ", "in neighbours(", "hopper.cu:17", "shared memory of block"],
    );
    let Some(program) = compiled("hopper", &["-arch=sm_90a"]) else { return };
    let ran = emulate(&["--arch", "80"], &program, &[]);
    assert!(ran.status == 86 && ran.told.contains("carries PTX for compute_90"), "{}", ran.told);
}

#[test]
fn textures_and_surfaces() {
    right_and_wrong("textures", &["-arch=sm_80"], &["ERROR: misaligned", "in write(", "at byte 1 of a row"]);
}

#[test]
fn programs_that_cannot_be_helped_are_told_why() {
    let ran = emulate(&[], Path::new("/bin/true"), &[]);
    assert!(ran.status == 125 && ran.told.contains("made no call to CUDA"), "{}", ran.told);
    let ran = emulate(&[], Path::new("/no/such/program"), &[]);
    assert!(ran.status == 125 && ran.told.contains("/no/such/program"), "{}", ran.told);
    let Some(program) = compiled("streams", &["-gencode", "arch=compute_80,code=sm_80", "shared"]) else { return };
    let ran = emulate(&[], &program, &[]);
    assert!(ran.status == 86 && ran.told.contains("machine code alone, no PTX"), "{}", ran.told);
}
