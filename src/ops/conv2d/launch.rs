//! Launches of `kernels/conv2d.cu`.

use crate::{
    conv2d::Geometry,
    device::{
        kernel::{KernelInfo, concat},
        modules,
    },
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

const FORWARD: Family<ConvParams> = family!(&modules::CONV2D, "fwd", K, K);
const INPUT_GRADIENT: Family<ConvParams> = family!(&modules::CONV2D, "bwd_x", K, Mn);
const WEIGHT_GRADIENT: Family<ConvParams> = family!(&modules::CONV2D, "bwd_weight", Mn, Mn);

pub(super) const KERNELS: &[KernelInfo] = &concat::<13>(&[
    &FORWARD.infos(),
    &INPUT_GRADIENT.infos(),
    &WEIGHT_GRADIENT.infos(),
    &[splitk_reduce(&modules::CONV2D).info()],
]);

/// A pointwise convolution of one group: a plain GEMM.
fn plain(op: &'static str, extents: [usize; 3], epilogue: EpilogueParams) -> Problem {
    Problem { op, extents, batch: 1, batch_strides: [0, 0], epilogue }
}

fn is_plain(g: &Geometry) -> bool {
    g.is_pointwise() && g.conv.groups == 1
}

/// `(x, weight, ..) -> y`
pub(super) fn forward(args: &DeviceArgs, g: &Geometry, fused: &Fused) -> Result<()> {
    let epilogue = fused.device(args, None);
    if is_plain(g) {
        return plain("conv2d", [g.pixels(), g.k, g.c], epilogue).launch(args, &linear::FORWARD);
    }
    ImplicitGemm::forward("conv2d", g).launch(args, g, &FORWARD, epilogue, |conv| conv)
}

/// `(dy, weight) -> dx`
pub(super) fn input_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    const OP: &str = "conv2d_input_gradient";
    if is_plain(g) {
        return plain(OP, [g.pixels(), g.c, g.k], EpilogueParams::NONE).launch(args, &matmul::NN);
    }
    ImplicitGemm::input_gradient(OP, g).launch(args, g, &INPUT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}

/// `(x, dy) -> dweight`
pub(super) fn weight_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    let gemm = ImplicitGemm::weight_gradient("conv2d_weight_gradient", g);
    gemm.launch(args, g, &WEIGHT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}
