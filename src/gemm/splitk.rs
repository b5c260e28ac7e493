//! The split-K reduction: the host's side of `kernels/common/splitk.cuh`.

use super::epilogue::EpilogueParams;
use crate::{
    device::{
        driver::DevicePtr,
        index::count31,
        kernel::{FLOATS, Kernel, blocks},
        module::Module,
    },
    error::Result,
    kernel_params,
    op::DeviceArgs,
};

kernel_params! {
    pub struct SplitKReduceParams {
        partials: DevicePtr,
        y: DevicePtr,
        count: u64,
        splits: u32,
        channels: u32,
        epilogue: EpilogueParams,
    }
}

const THREADS: u32 = 256;

/// The kernel `<module>_splitk_reduce`, which adds the partial sums of the module's GEMMs.
pub(crate) const fn splitk_reduce(module: &'static Module) -> Kernel<SplitKReduceParams> {
    // SAFETY: only `reduce_splits` fills `SplitKReduceParams`, for output 0 and the partial sums that a GEMM made for it.
    unsafe { Kernel::new(module, "splitk_reduce", THREADS, FLOATS) }
}

/// Adds the `splits` partial sums of every element of output 0 in their order, then applies the epilogue.
pub(crate) fn reduce_splits(
    args: &DeviceArgs,
    module: &'static Module,
    partials: DevicePtr,
    splits: u32,
    epilogue: EpilogueParams,
) -> Result<()> {
    let y = &args.y[0];
    // Where nothing depends on the channel all is one pixel, so that a vec4 may cross from one to the next.
    let channels = if epilogue.by_channel() { y.shape().last() } else { y.elems() };
    let channels = count31(module.name, channels)?;
    let params = SplitKReduceParams { partials, y: y.ptr, count: y.elems() as u64, splits, channels, epilogue };
    args.launch(&splitk_reduce(module), y.dtype(), blocks(y.elems(), THREADS as usize * 4), 0, &params)
}
