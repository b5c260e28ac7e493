//! `cuda-emulate`: runs a CUDA program where there is no GPU, and checks everything that its kernels do.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Run a CUDA program on the processor: no GPU, no driver, and every access of its kernels checked",
    after_help = "The program is one that nvcc made, with NVIDIA's runtime inside (the default) or beside it (-cudart \
shared), or one that calls the driver. It must carry PTX, as -arch=sm_80 keeps it; with -lineinfo faults name the line of \
the source.

Examples:
  nvcc -arch=sm_80 -lineinfo saxpy.cu -o saxpy && cuda-emulate ./saxpy
  cuda-emulate --seed 3 --weak-memory ./scan 100000
  cuda-emulate --arch 80 ./program               a GPU without what Hopper brought
  cuda-emulate -- ./program --seed 7             options of the program's own

Times that the program measures are this machine's. Work on streams is done in the order of the calls.

Exit status: the program's own if nothing was found; --error-exitcode if something was; 125 if the program never reached the
emulated GPU or could not be started."
)]
struct Args {
    /// Compute capability of the GPU: 80, 86, 89, 90, 100.
    #[arg(long, default_value = "90")]
    arch: String,
    /// Draws the order of blocks and warps; equal seeds give equal runs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Memory of the GPU, in MiB.
    #[arg(long, default_value_t = 8192)]
    memory: u64,
    /// Cores for kernels whose blocks do not communicate: all unless said. Reports are the same with any number.
    #[arg(long)]
    threads: Option<usize>,
    /// Lets relaxed loads give older values where the memory model lets them.
    #[arg(long)]
    weak_memory: bool,
    /// Moves the results of approximate instructions inside their documented error.
    #[arg(long)]
    perturb_approx: bool,
    /// Exit status when a fault was found.
    #[arg(long, default_value_t = 86)]
    error_exitcode: u8,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// What a program looks for: the driver, and the runtimes of the last two releases.
const NAMES: [&str; 3] = ["libcuda.so.1", "libcudart.so.12", "libcudart.so.13"];
/// Where this command, or the program, has failed before anything was emulated.
const NOT_RUN: u8 = 125;

/// A folder of this run's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let folder = env::temp_dir().join(format!("cuda-emulate-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The library, which lies beside this command, or where cargo leaves it for tests.
fn library() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|e| e.to_string())?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let near = ["", "deps", "../lib"].map(|place| folder.join(place).join("libemulated_driver.so"));
    near.into_iter().find(|path| path.exists()).ok_or_else(|| {
        format!("{}: libemulated_driver.so is missing; build it with cargo build -p emulated-driver", folder.display())
    })
}

fn joined(first: &Path, variable: &str) -> OsString {
    let mut paths = first.as_os_str().to_owned();
    if let Some(rest) = env::var_os(variable).filter(|rest| !rest.is_empty()) {
        paths.push(":");
        paths.push(rest);
    }
    paths
}

fn run(args: &Args) -> Result<u8, String> {
    let library = fs::canonicalize(library()?).map_err(|e| e.to_string())?;
    let scratch = Scratch::new().map_err(|e| format!("a scratch folder: {e}"))?;
    for name in NAMES {
        let link = scratch.0.join(name);
        std::os::unix::fs::symlink(&library, &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    let tally = scratch.0.join("tally");
    fs::write(&tally, [0; 32]).map_err(|e| format!("{}: {e}", tally.display()))?;
    let (program, arguments) = args.program.split_first().ok_or("no program")?;
    let yes = |yes: bool| if yes { "1" } else { "0" };
    let status = Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", joined(&scratch.0, "LD_LIBRARY_PATH"))
        .env("LD_PRELOAD", joined(&library, "LD_PRELOAD"))
        .env("CUDA_EMULATE_TALLY", &tally)
        .env("EMULATED_CAPABILITY", &args.arch)
        .env("EMULATED_SEED", args.seed.to_string())
        .env("EMULATED_MEMORY_MIB", args.memory.to_string())
        .envs(args.threads.map(|threads| ("EMULATED_THREADS", threads.to_string())))
        .env("EMULATED_WEAK_MEMORY", yes(args.weak_memory))
        .env("EMULATED_PERTURB_APPROX", yes(args.perturb_approx))
        .status()
        .map_err(|e| format!("{}: {e}", Path::new(program).display()))?;
    let counts = fs::read(&tally).unwrap_or_default();
    let count = |n: usize| {
        let bytes = counts.get(8 * n..8 * n + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let [processes, launches, faults, notes] = std::array::from_fn(count);
    if processes == 0 {
        return Err(format!(
            "{}: made no call to CUDA that arrived here; is it stripped, linked without the C library, or built for \
             another machine? Build it with nvcc -cudart shared",
            Path::new(program).display()
        ));
    }
    eprintln!("========= {launches} launches, {faults} errors, {notes} notes");
    if let Some(signal) = status.signal() {
        eprintln!("========= the program was ended by signal {signal}");
    }
    let own = status.code().and_then(|code| u8::try_from(code & 255).ok()).unwrap_or(128);
    Ok(if faults > 0 { args.error_exitcode } else { own })
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(reason) => {
            eprintln!("cuda-emulate: {reason}");
            ExitCode::from(NOT_RUN)
        }
    }
}
