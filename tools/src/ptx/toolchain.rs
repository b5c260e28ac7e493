//! Where the compiler, the two assemblers and the disassembler come from.
//!
//! All five packages of the compiler are pinned: nvcc 13.0.88 asks for its companions without a version, and with today's
//! companions it writes PTX that no driver of its own release loads. The older assembler is the one inside the first
//! driver branch (R525) that the shipped PTX is for.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::sources::COMPILER;

const COMPILER_WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
const OLDEST_WHEELS: &[&str] = &["nvidia-cuda-nvcc-cu12==12.0.76"];
/// The first release of it that is a package; it reads what 13.0 assembles.
const DISASSEMBLER_WHEELS: &[&str] = &["nvidia-cuda-nvdisasm==13.2.51"];

pub struct Toolchain {
    pub nvcc: PathBuf,
    /// Of the compiler's own release.
    pub ptxas: PathBuf,
    /// Of CUDA 12.0.
    pub ptxas_oldest: PathBuf,
    /// Beside the compiler, or a package of its own.
    pub nvdisasm: PathBuf,
}

impl Toolchain {
    /// `ISG_NVCC`, else the wheels in `ISG_CUDA_WHEELS` or `target/cuda`, else nvcc on the path, else the wheels are
    /// installed.
    pub fn find(root: &Path) -> Result<Toolchain> {
        let given = env::var_os("ISG_CUDA_WHEELS").map(PathBuf::from);
        let folder = given.clone().unwrap_or_else(|| root.join("target/cuda"));
        let wheel_nvcc = folder.join("cu130/nvidia/cu13/bin/nvcc");
        let nvcc = if let Some(nvcc) = env::var_os("ISG_NVCC") {
            let nvcc = PathBuf::from(nvcc);
            ensure!(is_pinned(&nvcc)?, "ISG_NVCC={}: not nvcc {COMPILER}; unset it to use the wheels", nvcc.display());
            nvcc
        } else if wheel_nvcc.exists() {
            wheel_nvcc
        } else if let Some(nvcc) = on_path("nvcc").filter(|nvcc| is_pinned(nvcc).unwrap_or(false)) {
            nvcc
        } else {
            ensure!(given.is_none(), "ISG_CUDA_WHEELS={}: no nvcc in cu130/nvidia/cu13/bin", folder.display());
            install(COMPILER_WHEELS, &folder.join("cu130"))?;
            wheel_nvcc
        };
        let ptxas = nvcc.with_file_name("ptxas");
        ensure!(ptxas.exists(), "{}: missing beside nvcc", ptxas.display());
        let ptxas_oldest = folder.join("cu120/nvidia/cuda_nvcc/bin/ptxas");
        if !ptxas_oldest.exists() {
            ensure!(given.is_none(), "ISG_CUDA_WHEELS={}: no ptxas in cu120/nvidia/cuda_nvcc/bin", folder.display());
            install(OLDEST_WHEELS, &folder.join("cu120"))?;
        }
        let mut nvdisasm = nvcc.with_file_name("nvdisasm");
        if !nvdisasm.exists() {
            nvdisasm = folder.join("nvdisasm/nvidia/cu13/bin/nvdisasm");
        }
        if !nvdisasm.exists() {
            ensure!(given.is_none(), "ISG_CUDA_WHEELS={}: no {}", folder.display(), nvdisasm.display());
            install(DISASSEMBLER_WHEELS, &folder.join("nvdisasm"))?;
        }
        Ok(Toolchain { nvcc, ptxas, ptxas_oldest, nvdisasm })
    }
}

fn is_pinned(nvcc: &Path) -> Result<bool> {
    let output = Command::new(nvcc).arg("--version").output().with_context(|| nvcc.display().to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(&format!("V{COMPILER}")))
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Into a folder beside the target, renamed when whole: an interrupted download leaves nothing that looks installed.
fn install(wheels: &[&str], target: &Path) -> Result<()> {
    println!("installing {} into {}", wheels.join(" "), target.display());
    let part = target.with_extension(format!("part{}", std::process::id()));
    let status = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--root-user-action=ignore",
            "--target",
        ])
        .arg(&part)
        .args(wheels)
        .status();
    let what = "the compiler's packages could not be installed: python3 with pip and a package index are needed, or an \
                nvcc of that release named by ISG_NVCC";
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => {
            let _ = fs::remove_dir_all(&part);
            bail!("{what}");
        }
        Err(error) => bail!("python3: {error}; {what}"),
    }
    if fs::rename(&part, target).is_err() {
        // Another run was faster; its copy is as good.
        let _ = fs::remove_dir_all(&part);
        ensure!(target.exists(), "{}: not writable", target.display());
    }
    Ok(())
}
