//! The GEMM engine on the host: which tile, how K is split, how wide operands are copied. `matmul`, `linear` and the
//! convolutions launch through it: plain GEMMs as a [`Problem`], convolutions as an [`ImplicitGemm`](implicit::ImplicitGemm).

pub mod epilogue;
pub mod heuristics;
pub mod implicit;
mod sm90;
pub mod splitk;

pub use self::sm90::KERNELS as SM90_KERNELS;
use self::{
    epilogue::EpilogueParams,
    heuristics::mma_sync::{
        LARGE_BLOCKS_PER_SM, LARGE_TILE, MAX_PARTIAL_BYTES, MAX_SPLITS, MIN_STEPS_PER_SPLIT, SMALL_BLOCKS_PER_SM,
        SMALL_TILE,
    },
    splitk::reduce_splits,
};
use crate::{
    device::{
        driver::{DeviceProps, DevicePtr},
        index::count31,
        kernel::{Kernel, KernelInfo, Params, blocks},
        module::Module,
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::DeviceArgs,
};

/// The entries of one GEMM: two tiles, and for f32 both by 3xTF32 and by TF32.
pub struct Family<P> {
    pub module: &'static Module,
    pub large: Kernel<P>,
    pub small: Kernel<P>,
    pub large_tf32: Kernel<P>,
    pub small_tf32: Kernel<P>,
    /// How the operands lie.
    pub a: Major,
    pub b: Major,
}

/// Which dimension of an operand is contiguous in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Major {
    /// K.
    K,
    /// M of `a`, N of `b`.
    Mn,
}

/// Threads of a block, by tile.
pub const LARGE_THREADS: u32 = 256;
pub const SMALL_THREADS: u32 = 128;

/// A [`Family`] of the entries `<module>_<role>_{128x128,64x64}_{,tf32_}<dtype>`.
macro_rules! family {
    ($module:expr, $role:literal, $a:ident, $b:ident) => {{
        use $crate::{
            DType,
            device::kernel::{FLOATS, Kernel},
            gemm::{Family, LARGE_THREADS, Major, SMALL_THREADS},
        };
        // SAFETY: parameters of families are filled by `Problem` and `ImplicitGemm` alone, which derive them from the tensors of
        // the launch, their extents and the plan's scratch memory.
        unsafe {
            Family {
                module: $module,
                large: Kernel::new($module, concat!($role, "_128x128"), LARGE_THREADS, FLOATS),
                small: Kernel::new($module, concat!($role, "_64x64"), SMALL_THREADS, FLOATS),
                large_tf32: Kernel::new($module, concat!($role, "_128x128_tf32"), LARGE_THREADS, &[DType::F32]),
                small_tf32: Kernel::new($module, concat!($role, "_64x64_tf32"), SMALL_THREADS, &[DType::F32]),
                a: Major::$a,
                b: Major::$b,
            }
        }
    }};
}
pub(crate) use family;

impl<P: Params> Family<P> {
    pub const fn infos(&self) -> [KernelInfo; 4] {
        [self.large.info(), self.small.info(), self.large_tf32.info(), self.small_tf32.info()]
    }

    pub fn kernel(&self, plan: &Plan, tf32: bool) -> &Kernel<P> {
        match (plan.large, tf32) {
            (true, false) => &self.large,
            (false, false) => &self.small,
            (true, true) => &self.large_tf32,
            (false, true) => &self.small_tf32,
        }
    }
}

/// How a GEMM is cut into blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// A tile of 128 × 128 per block, else 64 × 64.
    pub large: bool,
    pub tiles_m: u32,
    pub tiles_n: u32,
    pub splits: u32,
    /// K of a split, a multiple of the tile's.
    pub k_per_split: u32,
    pub shared_bytes: usize,
}

/// Stages of the cp.async pipeline (`kernels/common/mainloop.cuh`).
const STAGES: usize = 3;

impl Plan {
    /// For `batch` GEMMs of `m × n × k`. `majors` say how the operands lie.
    pub fn new([m, n, k]: [usize; 3], batch: usize, dtype: DType, majors: [Major; 2], props: &DeviceProps) -> Plan {
        let num_sms = props.num_sms.max(1) as usize;
        let tiles = |side: usize| m.div_ceil(side) * n.div_ceil(side) * batch;
        let large = m.min(n) > SMALL_TILE && tiles(LARGE_TILE) >= num_sms;
        let side = if large { LARGE_TILE } else { SMALL_TILE };
        let tile_k = 64 / dtype.bytes();
        let steps = k.div_ceil(tile_k).max(1);
        let wanted = num_sms * if large { LARGE_BLOCKS_PER_SM } else { SMALL_BLOCKS_PER_SM };
        let (had, split_bytes) = (tiles(side).max(1), (m * n * batch * 4).max(1));
        let most = (steps / MIN_STEPS_PER_SPLIT).min(MAX_PARTIAL_BYTES / split_bytes).clamp(1, MAX_SPLITS);
        let splits = if had * 2 > wanted { 1 } else { (wanted / had).clamp(1, most) };
        let steps_per_split = steps.div_ceil(splits);
        let splits = steps.div_ceil(steps_per_split);
        let tile_elems = |major| match major {
            Major::K => side * (tile_k + dtype.vector_elems()),
            Major::Mn => tile_k * (side + 8),
        };
        let ring_bytes = STAGES * (tile_elems(majors[0]) + tile_elems(majors[1])) * dtype.bytes();
        // The result's way out: 32 rows of 32 + 4 floats per warp.
        let out_bytes = (if large { LARGE_THREADS } else { SMALL_THREADS }) as usize / 32 * 32 * 36 * 4;
        Plan {
            large,
            tiles_m: m.div_ceil(side) as u32,
            tiles_n: n.div_ceil(side) as u32,
            splits: splits as u32,
            k_per_split: (steps_per_split * tile_k) as u32,
            shared_bytes: ring_bytes.max(out_bytes),
        }
    }

    /// Rows and columns of a tile.
    pub fn side(&self) -> usize {
        if self.large { LARGE_TILE } else { SMALL_TILE }
    }

    /// Blocks for `batch` GEMMs, all splits.
    pub fn grid(&self, op: &'static str, batch: usize) -> Result<u32> {
        let blocks = (self.tiles_m as u64 * self.tiles_n as u64 * self.splits as u64).checked_mul(batch as u64);
        let blocks = blocks.filter(|&blocks| blocks < 1 << 31);
        blocks.map(|blocks| blocks as u32).ok_or_else(|| Error::shape(op, "more than 2^31 tiles; use smaller batches"))
    }
}

/// Elements per copy of rows that begin every `ld` elements: 16 bytes, 4 bytes or one element.
pub fn vector(ld: usize, dtype: DType) -> u32 {
    let fits = |bytes: usize| (bytes >= dtype.bytes() && (ld * dtype.bytes()).is_multiple_of(bytes)).then_some(bytes);
    (fits(16).or(fits(4)).unwrap_or(dtype.bytes()) / dtype.bytes()) as u32
}

kernel_params! {
    pub struct GemmParams {
        a: DevicePtr,
        b: DevicePtr,
        y: DevicePtr,
        partials: DevicePtr,
        a_batch_stride: u64,
        b_batch_stride: u64,
        lda: u64,
        ldb: u64,
        epilogue: EpilogueParams,
        m: u32,
        n: u32,
        k: u32,
        batch: u32,
        tiles_m: u32,
        tiles_n: u32,
        k_per_split: u32,
        a_vector: u32,
        b_vector: u32,
        y_vector: u32,
    }
}

/// A batch of GEMMs: extents, operands and strides. The operands are inputs 0 and 1, the result is output 0.
pub struct Problem {
    pub op: &'static str,
    /// `m n k`
    pub extents: [usize; 3],
    pub batch: usize,
    /// Elements from one matrix of a batch to the next, of `a` and of `b`; 0 where one matrix serves all.
    pub batch_strides: [usize; 2],
    /// Other than none only for the kernels of `linear`.
    pub epilogue: EpilogueParams,
}

impl Problem {
    /// `lda` and `ldb`.
    fn leading_dimensions(&self, majors: [Major; 2]) -> [usize; 2] {
        let [m, n, k] = self.extents;
        let ld = |major, mn| if major == Major::K { k } else { mn };
        [ld(majors[0], m), ld(majors[1], n)]
    }

    fn params(&self, args: &DeviceArgs, plan: &Plan, majors: [Major; 2]) -> Result<GemmParams> {
        let [m, n, k] = self.extents;
        let dtype = args.y[0].dtype();
        let [lda, ldb] = self.leading_dimensions(majors);
        Ok(GemmParams {
            a: args.x[0].ptr,
            b: args.x[1].ptr,
            y: args.y[0].ptr,
            partials: DevicePtr::NULL,
            a_batch_stride: self.batch_strides[0] as u64,
            b_batch_stride: self.batch_strides[1] as u64,
            lda: lda as u64,
            ldb: ldb as u64,
            epilogue: self.epilogue,
            m: count31(self.op, m)?,
            n: count31(self.op, n)?,
            k: count31(self.op, k)?,
            batch: count31(self.op, self.batch)?,
            tiles_m: plan.tiles_m,
            tiles_n: plan.tiles_n,
            k_per_split: plan.k_per_split,
            a_vector: vector(lda, dtype),
            b_vector: vector(ldb, dtype),
            y_vector: if n % 4 == 0 { 4 } else { 1 },
        })
    }

    /// Tiles on tensor cores, and the split-K reduction where K is split.
    pub(crate) fn launch(&self, args: &DeviceArgs, family: &Family<GemmParams>) -> Result<()> {
        let [m, n, _] = self.extents;
        if m * n * self.batch == 0 {
            return Ok(());
        }
        let dtype = args.y[0].dtype();
        let (majors, props) = ([family.a, family.b], args.driver.props());
        if sm90::takes(self, self.leading_dimensions(majors), dtype, &props) {
            return sm90::launch(self, args, family);
        }
        let plan = Plan::new(self.extents, self.batch, dtype, majors, &props);
        let mut params = self.params(args, &plan, majors)?;
        let grid = plan.grid(self.op, self.batch)?;
        let macs = self.extents.iter().product::<usize>() * self.batch;
        let kernel = family.kernel(&plan, args.rounds_to_tf32(dtype, macs));
        if plan.splits == 1 {
            return args.launch(kernel, dtype, grid, plan.shared_bytes, &params);
        }
        let partials = args.scratch(plan.splits as usize * self.batch * m * n * 4)?;
        params.partials = partials.ptr();
        args.launch(kernel, dtype, grid, plan.shared_bytes, &params)?;
        reduce_splits(args, family.module, partials.ptr(), plan.splits, self.epilogue)
    }

    /// One warp per column of the result, for at most [`SKINNY_ROWS`](heuristics::mma_sync::SKINNY_ROWS) rows and K-major operands.
    pub(crate) fn launch_skinny(&self, args: &DeviceArgs, kernel: &Kernel<GemmParams>) -> Result<()> {
        let dtype = args.y[0].dtype();
        let majors = [Major::K; 2];
        let plan = Plan::new(self.extents, self.batch, dtype, majors, &args.driver.props());
        let params = self.params(args, &plan, majors)?;
        args.launch(kernel, dtype, blocks(self.extents[1] * self.batch * 32, kernel.threads as usize), 0, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: DeviceProps = DeviceProps { capability: (9, 0), num_sms: 132, shared_bytes: 232_448 };

    fn plan(extents: [usize; 3], batch: usize, dtype: DType) -> Plan {
        Plan::new(extents, batch, dtype, [Major::K, Major::K], &H100)
    }

    #[test]
    fn tiles_fill_the_device_before_they_grow() {
        let big = plan([4096, 4096, 4096], 1, DType::Bf16);
        assert_eq!((big.large, big.tiles_m, big.tiles_n, big.splits), (true, 32, 32, 1));
        // 384 outputs of 1000 tokens: 24 large tiles would leave most SMs idle.
        let tokens = plan([1000, 384, 384], 1, DType::Bf16);
        assert_eq!((tokens.large, tokens.tiles_m, tokens.tiles_n), (false, 16, 6));
        assert!(plan([64, 4096, 4096], 64, DType::F32).splits == 1);
    }

    #[test]
    fn long_k_of_small_results_is_split() {
        let gradient = plan([64, 64, 65536], 1, DType::Bf16);
        assert_eq!(gradient.splits, 64);
        assert_eq!(gradient.k_per_split as usize * 64, 65536);
        let short = plan([64, 64, 256], 1, DType::Bf16);
        assert_eq!(short.splits, 1);
    }

    #[test]
    fn splits_cover_k_and_none_is_empty() {
        for k in [0, 1, 31, 512, 1023, 1025, 5000, 99_999] {
            for dtype in [DType::F32, DType::Bf16] {
                let Plan { splits, k_per_split, .. } = plan([70, 3, k], 2, dtype);
                assert!(splits as usize * k_per_split as usize >= k, "{k}");
                assert!(splits == 1 || (splits as usize - 1) * (k_per_split as usize) < k, "{k}");
                assert_eq!(k_per_split as usize % (64 / dtype.bytes()), 0);
            }
        }
    }

    #[test]
    fn copies_are_as_wide_as_the_leading_dimension_allows() {
        assert_eq!([8, 12, 6, 7].map(|ld| vector(ld, DType::Bf16)), [8, 2, 2, 1]);
        assert_eq!([8, 12, 6, 7].map(|ld| vector(ld, DType::F32)), [4, 4, 1, 1]);
    }

    #[test]
    fn two_blocks_fit_every_sm() {
        for majors in [[Major::K; 2], [Major::Mn; 2], [Major::K, Major::Mn]] {
            for dtype in [DType::F32, DType::F16] {
                let plan = Plan::new([4096, 4096, 64], 1, dtype, majors, &H100);
                assert!(plan.large && plan.shared_bytes <= 80 << 10, "two blocks within 164 KiB: {plan:?}");
            }
        }
    }
}
