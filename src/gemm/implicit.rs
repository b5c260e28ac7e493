//! Convolutions as implicit GEMM: the host's side of `kernels/common/conv.cuh`.

use super::{Family, Plan, epilogue::EpilogueParams, splitk::reduce_splits, vector};
use crate::{
    conv2d::Geometry,
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        index::count31,
        kernel::{Kernel, Params},
    },
    error::Result,
    kernel_params,
    op::DeviceArgs,
};

kernel_params! {
    pub struct ConvParams {
        a: DevicePtr,
        b: DevicePtr,
        y: DevicePtr,
        partials: DevicePtr,
        count: u64,
        epilogue: EpilogueParams,
        n: u32,
        h: u32,
        w: u32,
        c: u32,
        k: u32,
        r: u32,
        s: u32,
        oh: u32,
        ow: u32,
        stride: u32,
        padding: u32,
        dilation: u32,
        groups: u32,
        tiles_m: u32,
        tiles_n: u32,
        k_per_split: u32,
        a_vector: u32,
        b_vector: u32,
        y_vector: u32,
        channels: FastDivmod,
        out_w: FastDivmod,
        out_h: FastDivmod,
    }
}

/// Shared memory of a tile's row before the pipeline's stages: its window and its image.
const ROW_BYTES: usize = 20;

/// One of the three maps as GEMMs: their extents, how many there are, and how operands are copied.
pub struct ImplicitGemm {
    op: &'static str,
    /// `m n k` of the largest.
    extents: [usize; 3],
    batch: usize,
    /// Contiguous elements of `a`, `b` and `y` that always belong together.
    runs: [usize; 3],
    /// Channels that k or the column is divided by.
    channels: usize,
}

impl ImplicitGemm {
    pub fn forward(op: &'static str, g: &Geometry) -> ImplicitGemm {
        let (c, k, depth) = (g.c_group(), g.k_group(), g.depth());
        ImplicitGemm { op, extents: [g.pixels(), k, depth], batch: g.conv.groups, runs: [c, depth, k], channels: c }
    }

    pub fn input_gradient(op: &'static str, g: &Geometry) -> ImplicitGemm {
        let (c, k, stride) = (g.c_group(), g.k_group(), g.conv.stride);
        // Of the largest sub-pixel phase, and the taps such a phase sees at most.
        let shared = common_divisor(stride, g.conv.dilation);
        let most = |taps: usize| taps.div_ceil(stride / shared);
        ImplicitGemm {
            op,
            extents: [g.n * g.h.div_ceil(stride) * g.w.div_ceil(stride), c, most(g.r) * most(g.s) * k],
            batch: g.conv.groups * stride * stride,
            runs: [k, c, c],
            channels: k,
        }
    }

    pub fn weight_gradient(op: &'static str, g: &Geometry) -> ImplicitGemm {
        let (c, k, columns) = (g.c_group(), g.k_group(), g.depth());
        ImplicitGemm { op, extents: [k, columns, g.pixels()], batch: g.conv.groups, runs: [c, k, columns], channels: c }
    }

    /// Tiles on tensor cores, and the split-K reduction where K is split, by the kernels of `family`; `params` adds what
    /// they take beside the convolution's. `epilogue` is theirs alone whose kernels have one.
    pub(crate) fn launch<P: Params>(
        &self,
        args: &DeviceArgs,
        g: &Geometry,
        family: &Family<P>,
        epilogue: EpilogueParams,
        params: impl Fn(ConvParams) -> P,
    ) -> Result<()> {
        let ImplicitGemm { op, extents, batch, runs, channels } = *self;
        let y = &args.y[0];
        if y.elems() == 0 {
            return Ok(());
        }
        let dtype = y.dtype();
        let plan = Plan::new(extents, batch, dtype, [family.a, family.b], &args.driver.props());
        let int = |value| count31(op, value);
        int(g.n * g.h.max(g.oh) * g.w.max(g.ow))?;
        int(extents[2])?;
        let mut conv = ConvParams {
            a: args.x[0].ptr,
            b: args.x[1].ptr,
            y: y.ptr,
            partials: DevicePtr::NULL,
            count: y.elems() as u64,
            epilogue,
            n: int(g.n)?,
            h: int(g.h)?,
            w: int(g.w)?,
            c: int(g.c)?,
            k: int(g.k)?,
            r: int(g.r)?,
            s: int(g.s)?,
            oh: int(g.oh)?,
            ow: int(g.ow)?,
            stride: int(g.conv.stride)?,
            padding: int(g.conv.padding)?,
            dilation: int(g.conv.dilation)?,
            groups: int(g.conv.groups)?,
            tiles_m: plan.tiles_m,
            tiles_n: plan.tiles_n,
            k_per_split: plan.k_per_split,
            a_vector: vector(runs[0], dtype),
            b_vector: vector(runs[1], dtype),
            y_vector: if runs[2] % 4 == 0 { 4 } else { 1 },
            channels: FastDivmod::new(int(channels)?),
            out_w: FastDivmod::new(int(g.ow)?),
            out_h: FastDivmod::new(int(g.oh)?),
        };
        let macs = g.n * g.oh * g.ow * g.k * g.r * g.s * g.c / g.conv.groups;
        let kernel: &Kernel<P> = family.kernel(&plan, args.rounds_to_tf32(dtype, macs));
        let (grid, shared) = (plan.grid(op, batch)?, plan.shared_bytes + plan.side() * ROW_BYTES);
        if plan.splits == 1 {
            return args.launch(kernel, dtype, grid, shared, &params(conv));
        }
        let partials = args.scratch(plan.splits as usize * y.elems() * 4)?;
        conv.partials = partials.ptr();
        args.launch(kernel, dtype, grid, shared, &params(conv))?;
        reduce_splits(args, family.module, partials.ptr(), plan.splits, epilogue)
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
