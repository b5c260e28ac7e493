//! Launches of `kernels/matmul_sm90.cu`: products on compute capability 9.0, where 16-bit operands have lines the tensor memory
//! accelerator can copy.

use super::launch::{Axis, Problem, add_splits};
use crate::{
    device::{
        driver::{DevicePtr, Facts, TensorMap},
        index::count31,
        kernel::{Kernel, KernelInfo},
    },
    dtype::DType,
    error::Result,
    kernel_params,
    op::DeviceArgs,
    ops::epilogue::EpilogueParams,
};

kernel_params! {
    struct HopperParams {
        a: [u64; 16],
        b: [u64; 16],
        out: [u64; 16],
        y: DevicePtr,
        partials: DevicePtr,
        epilogue: EpilogueParams,
        m: u32,
        n: u32,
        k: u32,
        batch: u32,
        tiles_m: u32,
        tiles_n: u32,
        tiles: u32,
        inner_each: u32,
        a_batched: u32,
        b_batched: u32,
        y_vector: u32,
        boxes: u32,
        unused: [u32; 2],
    }
}

const THREADS: u32 = 384;

const fn kernel(name: &'static str) -> Kernel<HopperParams> {
    Kernel::new("matmul_sm90", name, THREADS, &[DType::Bf16, DType::F16])
}

/// By which axis of `a` and of `b` is contiguous, then narrow and wide.
const KERNELS: [[Kernel<HopperParams>; 2]; 4] = [
    [kernel("fwd_nn_narrow"), kernel("fwd_nn_wide")],
    [kernel("fwd_nt_narrow"), kernel("fwd_nt_wide")],
    [kernel("fwd_tn_narrow"), kernel("fwd_tn_wide")],
    [kernel("fwd_tt_narrow"), kernel("fwd_tt_wide")],
];

pub(super) const INFOS: [KernelInfo; 8] = [
    KERNELS[0][0].info(),
    KERNELS[0][1].info(),
    KERNELS[1][0].info(),
    KERNELS[1][1].info(),
    KERNELS[2][0].info(),
    KERNELS[2][1].info(),
    KERNELS[3][0].info(),
    KERNELS[3][1].info(),
];

/// Inner indices of a step, and lines and elements along a line of the smallest box.
const DEPTH: usize = 64;
const ROWS: usize = 128;
const STAGES: usize = 4;
/// Below this many steps a split is not worth the pass that adds it.
const LEAST_STEPS: usize = 8;

/// How a product is cut into blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plan {
    /// 128 × 256 a block, else 128 × 128.
    wide: bool,
    tiles_m: usize,
    tiles_n: usize,
    splits: usize,
    inner_each: usize,
    shared_bytes: usize,
}

impl Plan {
    fn new([m, n, k]: [usize; 3], batch: usize, facts: &Facts) -> Plan {
        let processors = facts.multiprocessors.max(1) as usize;
        let tiles_m = m.div_ceil(ROWS);
        // Wide tiles where they waste little and still give every multiprocessor one.
        let wide = n.div_ceil(256) * 256 <= n + n / 8 && tiles_m * n.div_ceil(256) * batch >= processors;
        let cols = if wide { 256 } else { 128 };
        let tiles_n = n.div_ceil(cols);
        let (had, steps) = (tiles_m * tiles_n * batch, k.div_ceil(DEPTH));
        let splits = if had * 2 > processors { 1 } else { (processors / had).clamp(1, (steps / LEAST_STEPS).max(1)) };
        let steps_each = steps.div_ceil(splits);
        // The ring on 1024 bytes; for each of eight warps 16 rows of 64 results and of 32 sums; two barriers a stage.
        let shared_bytes = 1024 + STAGES * (ROWS + cols) * DEPTH * 2 + 8 * 2 * 16 * 128 + STAGES * 16;
        let splits = steps.div_ceil(steps_each);
        Plan { wide, tiles_m, tiles_n, splits, inner_each: steps_each * DEPTH, shared_bytes }
    }
}

/// Whether the kernels take this product, and are worth it: below a tile most of their work would be on zeros.
pub(super) fn takes(problem: &Problem, pitches: [usize; 2], dtype: DType, facts: &Facts) -> bool {
    let [m, n, k] = problem.extents;
    facts.capability == (9, 0)
        && dtype.bytes() == 2
        && pitches.iter().chain(&problem.between).all(|elems| elems % 8 == 0)
        && m.min(n) >= 64
        && k >= DEPTH
}

/// Lines of an operand as the accelerator sees them: `outer` rows of A or columns of B, `lines` of them in a box.
fn map(ptr: DevicePtr, dtype: DType, axis: Axis, [outer, k]: [usize; 2], lines: usize, batch: [usize; 2]) -> TensorMap {
    let (contiguous, others, lines) = match axis {
        Axis::Inner => (k, outer, lines),
        Axis::Outer => (outer, k, DEPTH),
    };
    let [count, between] = batch;
    let (count, between) = if between == 0 { (1, contiguous * others) } else { (count, between) };
    let bytes = |elems: usize| (elems * dtype.bytes()) as u64;
    TensorMap {
        base: ptr,
        dtype,
        extents: vec![contiguous as u64, others as u64, count as u64],
        strides_bytes: vec![bytes(contiguous), bytes(between)],
        box_extents: vec![64, lines as u32, 1],
        swizzle_bytes: 128,
    }
}

pub(super) fn launch(problem: &Problem, args: &DeviceArgs, axes: [Axis; 2]) -> Result<()> {
    let ([m, n, k], batch) = (problem.extents, problem.batch);
    let int = |value| count31(problem.op, value);
    let dtype = args.y[0].dtype();
    let plan = Plan::new([m, n, k], batch, &args.driver.facts());
    let encode = |map: &TensorMap| args.driver.encode_tensor_map(map).map(bytemuck::cast::<[u8; 128], [u64; 16]>);
    let cols = if plan.wide { 256 } else { 128 };
    let [a_between, b_between] = problem.between;
    let tiles = int(plan.tiles_m * plan.tiles_n * batch * plan.splits)?;
    let boxes = n.is_multiple_of(8);
    let out = TensorMap {
        base: args.y[0].ptr,
        dtype,
        extents: vec![n as u64, m as u64, batch as u64],
        strides_bytes: vec![(n * dtype.bytes()) as u64, (m * n * dtype.bytes()) as u64],
        box_extents: vec![64, 16, 1],
        swizzle_bytes: 128,
    };
    let mut params = HopperParams {
        a: encode(&map(args.x[0].ptr, dtype, axes[0], [m, k], ROWS, [batch, a_between]))?,
        b: encode(&map(args.x[1].ptr, dtype, axes[1], [n, k], cols, [batch, b_between]))?,
        out: if boxes { encode(&out)? } else { [0; 16] },
        y: args.y[0].ptr,
        partials: DevicePtr::NULL,
        epilogue: problem.epilogue,
        m: int(m)?,
        n: int(n)?,
        k: int(k)?,
        batch: int(batch)?,
        tiles_m: int(plan.tiles_m)?,
        tiles_n: int(plan.tiles_n)?,
        tiles,
        inner_each: int(plan.inner_each)?,
        a_batched: (a_between != 0) as u32,
        b_batched: (b_between != 0) as u32,
        y_vector: if n % 4 == 0 { 4 } else { 1 },
        boxes: boxes.into(),
        unused: [0; 2],
    };
    let layout = match axes {
        [Axis::Inner, Axis::Outer] => 0,
        [Axis::Inner, Axis::Inner] => 1,
        [Axis::Outer, Axis::Outer] => 2,
        [Axis::Outer, Axis::Inner] => 3,
    };
    let kernel = &KERNELS[layout][plan.wide as usize];
    let grid = tiles.min(args.driver.facts().multiprocessors.max(1));
    if plan.splits == 1 {
        return args.launch(kernel, dtype, grid, plan.shared_bytes, &params);
    }
    let partials = args.scratch(plan.splits * batch * m * n * 4)?;
    params.partials = partials.ptr;
    args.launch(kernel, dtype, grid, plan.shared_bytes, &params)?;
    add_splits(args, problem.stem, partials.ptr, plan.splits as u32, problem.epilogue)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Facts = Facts { capability: (9, 0), multiprocessors: 132, shared_bytes: 232_448 };

    #[test]
    fn tiles_fit_the_device_and_the_shape() {
        let big = Plan::new([4096, 4096, 4096], 1, &H100);
        assert!(big.wide && big.splits == 1 && big.shared_bytes <= H100.shared_bytes as usize, "{big:?}");
        // 384 columns are three narrow tiles and would be one and a half wide ones.
        let tokens = Plan::new([64_000, 384, 384], 1, &H100);
        assert!(!tokens.wide && tokens.tiles_n == 3, "{tokens:?}");
        let gradient = Plan::new([512, 512, 65_536], 1, &H100);
        assert!(gradient.splits == 8 && gradient.inner_each * 8 == 65_536, "{gradient:?}");
    }

    #[test]
    fn no_split_is_empty() {
        for k in [64, 65, 700, 1025, 99_999] {
            let Plan { splits, inner_each, .. } = Plan::new([128, 64, k], 1, &H100);
            assert!(splits * inner_each >= k && (splits - 1) * inner_each < k, "{k}");
        }
    }
}
