//! Launches of `kernels/gemm_sm90.cu`: GEMM by TMA and wgmma on compute capability 9.0, for 16-bit operands.

use super::{
    Family, GemmParams, Major, Problem,
    epilogue::EpilogueParams,
    heuristics::sm90::{
        MAX_WASTED_COLUMNS, MIN_EXTENT, MIN_STEPS_PER_SPLIT, NARROW_TILE_N, TILE_K, TILE_M, WIDE_TILE_N,
    },
    splitk::reduce_splits,
};
use crate::{
    device::{
        driver::{DeviceProps, DevicePtr, TensorMap},
        index::count31,
        kernel::{Kernel, KernelInfo},
        modules,
    },
    dtype::DType,
    error::Result,
    kernel_params,
    op::DeviceArgs,
};

kernel_params! {
    struct Sm90GemmParams {
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
        k_per_split: u32,
        a_batched: u32,
        b_batched: u32,
        y_vector: u32,
        tma_store_y: u32,
        unused: [u32; 2],
    }
}

const THREADS: u32 = 384;

const fn kernel(name: &'static str) -> Kernel<Sm90GemmParams> {
    // SAFETY: only this file fills `Sm90GemmParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::GEMM_SM90, name, THREADS, &[DType::Bf16, DType::F16]) }
}

/// By layout, then narrow and wide.
const ENTRIES: [[Kernel<Sm90GemmParams>; 2]; 4] = [
    [kernel("nn_128x128"), kernel("nn_128x256")],
    [kernel("nt_128x128"), kernel("nt_128x256")],
    [kernel("tn_128x128"), kernel("tn_128x256")],
    [kernel("tt_128x128"), kernel("tt_128x256")],
];

pub const KERNELS: [KernelInfo; 8] = [
    ENTRIES[0][0].info(),
    ENTRIES[0][1].info(),
    ENTRIES[1][0].info(),
    ENTRIES[1][1].info(),
    ENTRIES[2][0].info(),
    ENTRIES[2][1].info(),
    ENTRIES[3][0].info(),
    ENTRIES[3][1].info(),
];

/// Stages of the TMA pipeline (`kernels/gemm_sm90.cu`).
const STAGES: usize = 4;

/// How a GEMM is cut into blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plan {
    /// A tile of 128 × 256, else 128 × 128.
    wide: bool,
    tiles_m: usize,
    tiles_n: usize,
    splits: usize,
    k_per_split: usize,
    shared_bytes: usize,
}

impl Plan {
    fn new([m, n, k]: [usize; 3], batch: usize, props: &DeviceProps) -> Plan {
        let num_sms = props.num_sms.max(1) as usize;
        let tiles_m = m.div_ceil(TILE_M);
        // Wide tiles where they waste little and still give every SM one.
        let wide_tiles = n.div_ceil(WIDE_TILE_N);
        let wide = wide_tiles * WIDE_TILE_N <= n + n / MAX_WASTED_COLUMNS && tiles_m * wide_tiles * batch >= num_sms;
        let tiles_n = n.div_ceil(tile_n(wide));
        let (had, steps) = (tiles_m * tiles_n * batch, k.div_ceil(TILE_K));
        let splits = if had * 2 > num_sms { 1 } else { (num_sms / had).clamp(1, (steps / MIN_STEPS_PER_SPLIT).max(1)) };
        let steps_per_split = steps.div_ceil(splits);
        // The ring on 1024 bytes; for each of eight warps 16 rows of 64 results and of 32 accumulators; two mbarriers per stage.
        let shared_bytes = 1024 + STAGES * (TILE_M + tile_n(wide)) * TILE_K * 2 + 8 * 2 * 16 * 128 + STAGES * 16;
        let splits = steps.div_ceil(steps_per_split);
        Plan { wide, tiles_m, tiles_n, splits, k_per_split: steps_per_split * TILE_K, shared_bytes }
    }
}

const fn tile_n(wide: bool) -> usize {
    if wide { WIDE_TILE_N } else { NARROW_TILE_N }
}

/// Whether the kernels take this problem, and are worth it: TMA wants strides of 16 bytes.
pub(super) fn takes(problem: &Problem, leading_dimensions: [usize; 2], dtype: DType, props: &DeviceProps) -> bool {
    let [m, n, k] = problem.extents;
    props.capability == (9, 0)
        && dtype.bytes() == 2
        && leading_dimensions.iter().chain(&problem.batch_strides).all(|elems| elems % 8 == 0)
        && m.min(n) >= MIN_EXTENT
        && k >= TILE_K
}

/// An operand as TMA sees it: `mn` rows of A or columns of B, `tile_mn` of them in a tile; `[matrices, stride]` of the batch.
fn map(
    ptr: DevicePtr,
    dtype: DType,
    major: Major,
    [mn, k]: [usize; 2],
    tile_mn: usize,
    batch: [usize; 2],
) -> TensorMap {
    let (contiguous, others, box_rows) = match major {
        Major::K => (k, mn, tile_mn),
        Major::Mn => (mn, k, TILE_K),
    };
    let [count, stride] = batch;
    let (count, stride) = if stride == 0 { (1, contiguous * others) } else { (count, stride) };
    let bytes = |elems: usize| (elems * dtype.bytes()) as u64;
    TensorMap {
        base: ptr,
        dtype,
        extents: vec![contiguous as u64, others as u64, count as u64],
        strides_bytes: vec![bytes(contiguous), bytes(stride)],
        box_extents: vec![64, box_rows as u32, 1],
        swizzle_bytes: 128,
    }
}

pub(super) fn launch(problem: &Problem, args: &DeviceArgs, family: &Family<GemmParams>) -> Result<()> {
    let majors = [family.a, family.b];
    let ([m, n, k], batch) = (problem.extents, problem.batch);
    let int = |value| count31(problem.op, value);
    let dtype = args.y[0].dtype();
    let plan = Plan::new([m, n, k], batch, &args.driver.props());
    let encode = |map: &TensorMap| args.driver.encode_tensor_map(map).map(bytemuck::cast::<[u8; 128], [u64; 16]>);
    let [a_stride, b_stride] = problem.batch_strides;
    let tiles = int(plan.tiles_m * plan.tiles_n * batch * plan.splits)?;
    let tma_store_y = n.is_multiple_of(8);
    let out = TensorMap {
        base: args.y[0].ptr,
        dtype,
        extents: vec![n as u64, m as u64, batch as u64],
        strides_bytes: vec![(n * dtype.bytes()) as u64, (m * n * dtype.bytes()) as u64],
        box_extents: vec![64, 16, 1],
        swizzle_bytes: 128,
    };
    let mut params = Sm90GemmParams {
        a: encode(&map(args.x[0].ptr, dtype, majors[0], [m, k], TILE_M, [batch, a_stride]))?,
        b: encode(&map(args.x[1].ptr, dtype, majors[1], [n, k], tile_n(plan.wide), [batch, b_stride]))?,
        out: if tma_store_y { encode(&out)? } else { [0; 16] },
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
        k_per_split: int(plan.k_per_split)?,
        a_batched: (a_stride != 0) as u32,
        b_batched: (b_stride != 0) as u32,
        y_vector: if n % 4 == 0 { 4 } else { 1 },
        tma_store_y: tma_store_y.into(),
        unused: [0; 2],
    };
    let layout = match majors {
        [Major::K, Major::Mn] => 0,
        [Major::K, Major::K] => 1,
        [Major::Mn, Major::Mn] => 2,
        [Major::Mn, Major::K] => 3,
    };
    let kernel = &ENTRIES[layout][plan.wide as usize];
    let grid = tiles.min(args.driver.props().num_sms.max(1));
    if plan.splits == 1 {
        return args.launch(kernel, dtype, grid, plan.shared_bytes, &params);
    }
    let partials = args.scratch(plan.splits * batch * m * n * 4)?;
    params.partials = partials.ptr();
    args.launch(kernel, dtype, grid, plan.shared_bytes, &params)?;
    reduce_splits(args, family.module, partials.ptr(), plan.splits as u32, problem.epilogue)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: DeviceProps = DeviceProps { capability: (9, 0), num_sms: 132, shared_bytes: 232_448 };

    #[test]
    fn tiles_fit_the_device_and_the_shape() {
        let big = Plan::new([4096, 4096, 4096], 1, &H100);
        assert!(big.wide && big.splits == 1 && big.shared_bytes <= H100.shared_bytes as usize, "{big:?}");
        // 384 columns are three narrow tiles and would be one and a half wide ones.
        let tokens = Plan::new([64_000, 384, 384], 1, &H100);
        assert!(!tokens.wide && tokens.tiles_n == 3, "{tokens:?}");
        let gradient = Plan::new([512, 512, 65_536], 1, &H100);
        assert!(gradient.splits == 8 && gradient.k_per_split * 8 == 65_536, "{gradient:?}");
    }

    #[test]
    fn no_split_is_empty() {
        for k in [64, 65, 700, 1025, 99_999] {
            let Plan { splits, k_per_split, .. } = Plan::new([128, 64, k], 1, &H100);
            assert!(splits * k_per_split >= k && (splits - 1) * k_per_split < k, "{k}");
        }
    }
}
