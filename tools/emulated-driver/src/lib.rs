//! A `libcuda` and a CUDA runtime with one GPU, which is the PTX emulator: programs for NVIDIA's GPUs run where there
//! is none, and everything that their kernels do is checked.
//!
//! `cuda-emulate PROGRAM ARGUMENTS...` runs a program with this library in the place of NVIDIA's. By hand, for what
//! talks to the driver alone:
//!
//! ```text
//! cargo build --release --package emulated-driver
//! mkdir -p target/emulated && cp target/release/libemulated_driver.so target/emulated/libcuda.so.1
//! XDG_CACHE_HOME=$PWD/target/emulated LD_LIBRARY_PATH=target/emulated ISG_DEVICE=cuda cargo test --release gpu::
//! ```
//!
//! Work is done when it is queued, in the order of the calls. A fault is told on standard error, and every later call
//! gives its error, as on a device. Environment: `EMULATED_MEMORY_MIB`, `EMULATED_CAPABILITY` (80, 89, 90, ...),
//! `EMULATED_SEED`, `EMULATED_THREADS`, `EMULATED_WEAK_MEMORY=1`, `EMULATED_PERTURB_APPROX=1`.
//!
//! `driver` and `runtime` are the two interfaces; `state` what is behind both, `work` what streams do, `graph` work
//! that is kept, `module` and `image` where kernels come from, `memory` what host and device both see, `report` what
//! the person is told.

mod abi;
mod device;
mod driver;
mod graph;
mod image;
mod launch;
mod memory;
mod module;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod redirect;
mod report;
mod runtime;
mod state;
mod work;
