//! Launches of `kernels/conv2d.cu`.

use crate::{
    conv2d::Geometry,
    device::kernel::{KernelInfo, concat},
    error::Result,
    gemm::{
        Family, Problem,
        epilogue::EpilogueParams,
        family,
        implicit::{ConvParams, ImplicitGemm},
        splitk::splitk_reduce,
    },
    op::DeviceArgs,
    ops::{epilogue::Fused, linear, matmul},
};

const FORWARD: Family<ConvParams> = family!("conv2d", "fwd", K, K);
const INPUT_GRADIENT: Family<ConvParams> = family!("conv2d", "bwd_x", K, Mn);
const WEIGHT_GRADIENT: Family<ConvParams> = family!("conv2d", "bwd_weight", Mn, Mn);

pub(super) const KERNELS: &[KernelInfo] = &concat::<13>(&[
    &FORWARD.infos(),
    &INPUT_GRADIENT.infos(),
    &WEIGHT_GRADIENT.infos(),
    &[splitk_reduce("conv2d").info()],
]);

/// A pointwise convolution of one group: a plain GEMM.
fn plain(op: &'static str, module: &'static str, extents: [usize; 3], epilogue: EpilogueParams) -> Problem {
    Problem { op, module, extents, batch: 1, batch_strides: [0, 0], epilogue }
}

fn is_plain(g: &Geometry) -> bool {
    g.is_pointwise() && g.conv.groups == 1
}

/// `(x, weight, ..) -> y`
pub(super) fn forward(args: &DeviceArgs, g: &Geometry, fused: &Fused) -> Result<()> {
    let epilogue = fused.device(args, None);
    if is_plain(g) {
        return plain("conv2d", "linear", [g.pixels(), g.k, g.c], epilogue).launch(args, &linear::FORWARD);
    }
    ImplicitGemm::forward("conv2d", g).launch(args, g, "conv2d", &FORWARD, epilogue, |conv| conv)
}

/// `(dy, weight) -> dx`
pub(super) fn input_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    const OP: &str = "conv2d_input_gradient";
    if is_plain(g) {
        return plain(OP, "gemm", [g.pixels(), g.c, g.k], EpilogueParams::NONE).launch(args, &matmul::NN);
    }
    ImplicitGemm::input_gradient(OP, g).launch(args, g, "conv2d", &INPUT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}

/// `(x, dy) -> dweight`
pub(super) fn weight_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    let gemm = ImplicitGemm::weight_gradient("conv2d_weight_gradient", g);
    gemm.launch(args, g, "conv2d", &WEIGHT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}
