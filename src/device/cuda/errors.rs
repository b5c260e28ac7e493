//! What the driver's errors mean, in a sentence each.

use cudarc::driver::sys;

use crate::error::{Error, Result};

pub(super) fn check(result: sys::CUresult, doing: &str) -> Result<()> {
    match result as u32 {
        0 => Ok(()),
        code => Err(Error::Device(format!("cuda: {doing}: {} (error {code})", sentence(code)))),
    }
}

/// What an error of the driver means and what to do about it. Codes are the driver's published ones.
pub fn sentence(code: u32) -> &'static str {
    match code {
        1 => "the driver calls a value invalid",
        2 => "out of memory",
        34 => "libcuda is a toolkit's stub, not a driver: take the folder `stubs` off LD_LIBRARY_PATH",
        100 => "no NVIDIA GPU is visible: see what nvidia-smi lists and what CUDA_VISIBLE_DEVICES hides",
        101 => "no GPU of that number",
        200 => "the driver calls the kernel's image invalid",
        209 => "the kernels are for another compute capability than this GPU's",
        218 => "the driver's compiler refuses the PTX",
        221 => "the driver's compiler is missing: install or mount libnvidia-ptxjitcompiler.so.1 beside libcuda.so.1",
        222 => "the driver is older than the PTX: install R525 or newer",
        500 => "a symbol is missing",
        700 => "a kernel touched memory it does not own; run it with --device emulator to see where, and start again",
        701 => "a launch asks for more registers, threads or shared memory than the GPU has",
        702 => "a kernel ran too long for a GPU that also drives a display",
        710 => "a kernel stopped itself by an assertion; start again",
        715 => "a kernel holds an instruction this GPU does not have",
        716 => "a kernel touched a misaligned address; run it with --device emulator to see where, and start again",
        719 => "a kernel failed; run it with --device emulator to see why, and start again",
        802 => "the GPUs' fabric is not ready: start nvidia-fabricmanager",
        803 => "libcuda and the kernel module are of different releases: reboot, or reinstall the driver",
        804 => "libcuda is a compatibility package that this GPU or driver does not take",
        900..=908 => "the step does something that cannot be captured",
        999 => "the driver does not know why; see dmesg",
        _ => "the driver refuses",
    }
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn errors_say_what_to_do() {
        for (code, word) in [(34, "stub"), (100, "nvidia-smi"), (221, "ptxjitcompiler"), (222, "R525")] {
            assert!(sentence(code).contains(word), "{code}");
        }
    }
}
