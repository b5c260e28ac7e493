//! Launches of `kernels/conv2d.cu`.

use crate::{
    device::{
        convolution::Geometry,
        divisor::Divisor,
        driver::DevicePtr,
        index::count31,
        kernel::{Kernel, KernelInfo, Params},
    },
    error::Result,
    kernel_params,
    op::DeviceArgs,
    ops::{
        epilogue::{EpilogueParams, Fused},
        linear,
        matmul::{
            self,
            launch::{Family, Plan, Problem, add_splits, family, merge, vector},
        },
    },
};

kernel_params! {
    pub(crate) struct ConvParams {
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
        inner_each: u32,
        a_vector: u32,
        b_vector: u32,
        y_vector: u32,
        channels: Divisor,
        out_w: Divisor,
        out_h: Divisor,
    }
}

const FORWARD: Family<ConvParams> = family!("conv2d", "fwd", Inner, Inner);
const INPUT_GRADIENT: Family<ConvParams> = family!("conv2d", "bwd_x", Inner, Outer);
const WEIGHT_GRADIENT: Family<ConvParams> = family!("conv2d", "bwd_weight", Outer, Outer);

pub(super) const KERNELS: &[KernelInfo] = &{
    let ([a, b, c, d], [e, f, g, h]) = (FORWARD.infos(), INPUT_GRADIENT.infos());
    let [i, j, k, l] = WEIGHT_GRADIENT.infos();
    [a, b, c, d, e, f, g, h, i, j, k, l, merge("conv2d").info()]
};

/// Shared memory of a tile's row: its window and its image, before the operands.
const ROW_BYTES: usize = 20;

/// One of the three maps as products: their extents, how many there are beside each other, and how operands are copied.
pub(crate) struct Products {
    op: &'static str,
    /// `m n k` of the largest.
    extents: [usize; 3],
    count: usize,
    /// Contiguous elements of `a`, `b` and `y` that always belong together.
    runs: [usize; 3],
    /// Channels the inner index or the column is divided by.
    channels: usize,
}

impl Products {
    pub fn forward(op: &'static str, g: &Geometry) -> Products {
        let (c, k, depth) = (g.c_group(), g.k_group(), g.r * g.s * g.c_group());
        Products { op, extents: [pixels(g), k, depth], count: g.conv.groups, runs: [c, depth, k], channels: c }
    }

    pub fn input_gradient(op: &'static str, g: &Geometry) -> Products {
        let (c, k, stride) = (g.c_group(), g.k_group(), g.conv.stride);
        // Of the class of pixels that is never smaller than another, and the taps such a class meets at most.
        let shared = common_divisor(stride, g.conv.dilation);
        let most = |taps: usize| taps.div_ceil(stride / shared);
        Products {
            op,
            extents: [g.n * g.h.div_ceil(stride) * g.w.div_ceil(stride), c, most(g.r) * most(g.s) * k],
            count: g.conv.groups * stride * stride,
            runs: [k, c, c],
            channels: k,
        }
    }

    pub fn weight_gradient(op: &'static str, g: &Geometry) -> Products {
        let (c, k, columns) = (g.c_group(), g.k_group(), g.r * g.s * g.c_group());
        Products { op, extents: [k, columns, pixels(g)], count: g.conv.groups, runs: [c, k, columns], channels: c }
    }

    /// Tiles on tensor cores, and the pass that adds splits where there are any, by the kernels of `stem`; `params` adds what
    /// they take beside the convolution's. `epilogue` is theirs alone whose kernels have one.
    pub fn launch<P: Params>(
        &self,
        args: &DeviceArgs,
        g: &Geometry,
        stem: &'static str,
        family: &Family<P>,
        epilogue: EpilogueParams,
        params: impl Fn(ConvParams) -> P,
    ) -> Result<()> {
        let Products { op, extents, count, runs, channels } = *self;
        let y = &args.y[0];
        if y.elems() == 0 {
            return Ok(());
        }
        let dtype = y.dtype();
        let plan = Plan::new(extents, count, dtype, [family.a, family.b], &args.driver.facts());
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
            inner_each: plan.inner_each,
            a_vector: vector(runs[0], dtype),
            b_vector: vector(runs[1], dtype),
            y_vector: if runs[2] % 4 == 0 { 4 } else { 1 },
            channels: Divisor::new(int(channels)?),
            out_w: Divisor::new(int(g.ow)?),
            out_h: Divisor::new(int(g.oh)?),
        };
        let multiplications = g.n * g.oh * g.ow * g.k * g.r * g.s * g.c / g.conv.groups;
        let kernel: &Kernel<P> = family.kernel(&plan, args.rounds_to_tf32(dtype, multiplications));
        let (grid, shared) = (plan.grid(op, count)?, plan.shared_bytes + plan.side() * ROW_BYTES);
        if plan.splits == 1 {
            return args.launch(kernel, dtype, grid, shared, &params(conv));
        }
        let partials = args.scratch(plan.splits as usize * y.elems() * 4)?;
        conv.partials = partials.ptr;
        args.launch(kernel, dtype, grid, shared, &params(conv))?;
        add_splits(args, stem, partials.ptr, plan.splits, epilogue)
    }
}

/// A convolution that meets every pixel once is a product of matrices.
fn is_plain(g: &Geometry) -> bool {
    let conv = g.conv;
    [g.r, g.s, conv.stride, conv.groups] == [1; 4] && conv.padding == 0
}

fn pixels(g: &Geometry) -> usize {
    g.n * g.oh * g.ow
}

fn plain(op: &'static str, stem: &'static str, extents: [usize; 3], epilogue: EpilogueParams) -> Problem {
    Problem { op, stem, extents, batch: 1, between: [0, 0], epilogue }
}

/// `(x, weight, ..) -> y`
pub(super) fn forward(args: &DeviceArgs, g: &Geometry, fused: &Fused) -> Result<()> {
    let epilogue = fused.params(args, None);
    if is_plain(g) {
        return plain("conv2d", "linear", [pixels(g), g.k, g.c], epilogue).launch(args, &linear::FORWARD);
    }
    Products::forward("conv2d", g).launch(args, g, "conv2d", &FORWARD, epilogue, |conv| conv)
}

/// `(dy, weight) -> dx`
pub(super) fn input_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    const OP: &str = "conv2d_input_gradient";
    if is_plain(g) {
        return plain(OP, "matmul", [pixels(g), g.c, g.k], EpilogueParams::NONE).launch(args, &matmul::NN);
    }
    Products::input_gradient(OP, g).launch(args, g, "conv2d", &INPUT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}

/// `(x, dy) -> dweight`
pub(super) fn weight_gradient(args: &DeviceArgs, g: &Geometry) -> Result<()> {
    let products = Products::weight_gradient("conv2d_weight_gradient", g);
    products.launch(args, g, "conv2d", &WEIGHT_GRADIENT, EpilogueParams::NONE, |conv| conv)
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
