//! Launches of the tensor-core kernels: which tile, how the inner axis is split, how wide operands are copied. What
//! `matmul`, `linear` and the convolutions share.

use super::hopper;
use crate::{
    device::{
        driver::{DevicePtr, Facts},
        index::count31,
        kernel::{FLOATS, Kernel, KernelInfo, Params, blocks},
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::DeviceArgs,
    ops::epilogue::EpilogueParams,
};

/// The entries of one product: two tiles, and for f32 the number of TF32 products that make one.
pub(crate) struct Family<P> {
    pub large: Kernel<P>,
    pub small: Kernel<P>,
    pub large_tf32: Kernel<P>,
    pub small_tf32: Kernel<P>,
    pub a: Axis,
    pub b: Axis,
}

/// Which axis of an operand is contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Axis {
    Inner,
    Outer,
}

/// Threads of a block, by tile.
pub(crate) const LARGE_THREADS: u32 = 256;
pub(crate) const SMALL_THREADS: u32 = 128;

/// A [`Family`] of the entries `<stem>_<role>_{large,small}_{,tf32_}<dtype>`.
macro_rules! family {
    ($stem:literal, $role:literal, $a:ident, $b:ident) => {{
        use $crate::{
            DType,
            device::kernel::{FLOATS, Kernel},
            ops::matmul::launch::{Axis, Family, LARGE_THREADS, SMALL_THREADS},
        };
        Family {
            large: Kernel::new($stem, concat!($role, "_large"), LARGE_THREADS, FLOATS),
            small: Kernel::new($stem, concat!($role, "_small"), SMALL_THREADS, FLOATS),
            large_tf32: Kernel::new($stem, concat!($role, "_large_tf32"), LARGE_THREADS, &[DType::F32]),
            small_tf32: Kernel::new($stem, concat!($role, "_small_tf32"), SMALL_THREADS, &[DType::F32]),
            a: Axis::$a,
            b: Axis::$b,
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

/// How a product is cut into blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// 128 × 128 a block, else 64 × 64.
    pub large: bool,
    pub tiles_m: u32,
    pub tiles_n: u32,
    pub splits: u32,
    /// Inner indices of a split, a multiple of the tile's.
    pub inner_each: u32,
    pub shared_bytes: usize,
}

/// Steps of the inner axis below which a split is not worth the pass that adds its sums.
const LEAST_STEPS: usize = 16;
/// Partial sums are never more than this.
const MOST_PARTIAL_BYTES: usize = 128 << 20;
const STAGES: usize = 3;

impl Plan {
    /// For `batch` products of `m × n × k`. `axes` say how the operands lie.
    pub fn new([m, n, k]: [usize; 3], batch: usize, dtype: DType, axes: [Axis; 2], facts: &Facts) -> Plan {
        let processors = facts.multiprocessors.max(1) as usize;
        let tiles = |side: usize| m.div_ceil(side) * n.div_ceil(side) * batch;
        let large = m > 64 && n > 64 && tiles(128) >= processors;
        let side = if large { 128 } else { 64 };
        let step = 64 / dtype.bytes();
        let steps = k.div_ceil(step).max(1);
        // Two large or four small blocks fit a multiprocessor.
        let wanted = processors * if large { 2 } else { 4 };
        let (had, each_bytes) = (tiles(side).max(1), (m * n * batch * 4).max(1));
        let most = (steps / LEAST_STEPS).min(MOST_PARTIAL_BYTES / each_bytes).clamp(1, 64);
        let splits = if had * 2 > wanted { 1 } else { (wanted / had).clamp(1, most) };
        let steps_each = steps.div_ceil(splits);
        let splits = steps.div_ceil(steps_each);
        let line = |axis| match axis {
            Axis::Inner => side * (step + dtype.pack()),
            Axis::Outer => step * (side + 8),
        };
        let ring_bytes = STAGES * (line(axes[0]) + line(axes[1])) * dtype.bytes();
        // The result's way out: 32 rows of 32 + 4 floats a warp.
        let out_bytes = (if large { LARGE_THREADS } else { SMALL_THREADS }) as usize / 32 * 32 * 36 * 4;
        Plan {
            large,
            tiles_m: m.div_ceil(side) as u32,
            tiles_n: n.div_ceil(side) as u32,
            splits: splits as u32,
            inner_each: (steps_each * step) as u32,
            shared_bytes: ring_bytes.max(out_bytes),
        }
    }

    /// Rows and columns of a tile.
    pub fn side(&self) -> usize {
        if self.large { 128 } else { 64 }
    }

    /// Blocks for `problems` products, all splits.
    pub fn grid(&self, op: &'static str, problems: usize) -> Result<u32> {
        let blocks = (self.tiles_m as u64 * self.tiles_n as u64 * self.splits as u64).checked_mul(problems as u64);
        let blocks = blocks.filter(|&blocks| blocks < 1 << 31);
        blocks.map(|blocks| blocks as u32).ok_or_else(|| Error::shape(op, "more than 2^31 tiles; use smaller batches"))
    }
}

/// Elements of a copy from lines that begin every `pitch` elements: 16 bytes, 4 bytes or one element.
pub(crate) fn vector(pitch: usize, dtype: DType) -> u32 {
    let fits = |bytes: usize| (bytes >= dtype.bytes() && (pitch * dtype.bytes()).is_multiple_of(bytes)).then_some(bytes);
    (fits(16).or(fits(4)).unwrap_or(dtype.bytes()) / dtype.bytes()) as u32
}

kernel_params! {
    pub(crate) struct ProductParams {
        a: DevicePtr,
        b: DevicePtr,
        y: DevicePtr,
        partials: DevicePtr,
        a_batch: u64,
        b_batch: u64,
        a_pitch: u64,
        b_pitch: u64,
        epilogue: EpilogueParams,
        m: u32,
        n: u32,
        k: u32,
        batch: u32,
        tiles_m: u32,
        tiles_n: u32,
        inner_each: u32,
        a_vector: u32,
        b_vector: u32,
        y_vector: u32,
    }

    pub(crate) struct MergeParams {
        partials: DevicePtr,
        y: DevicePtr,
        count: u64,
        splits: u32,
        channels: u32,
        epilogue: EpilogueParams,
    }
}

pub(crate) const MERGE_THREADS: u32 = 256;

/// The kernel `<stem>_merge`, which adds the splits of a product.
pub(crate) const fn merge(stem: &'static str) -> Kernel<MergeParams> {
    Kernel::new(stem, "merge", MERGE_THREADS, FLOATS)
}

/// Adds the `splits` partial sums of every element of `y` in their order, then does what follows a sum.
pub(crate) fn add_splits(
    args: &DeviceArgs,
    stem: &'static str,
    partials: DevicePtr,
    splits: u32,
    epilogue: EpilogueParams,
) -> Result<()> {
    let y = &args.y[0];
    // Where nothing depends on the channel all is one pixel, so that fours of elements may cross from one to the next.
    let channels = if epilogue.by_channel() { y.shape().last() } else { y.elems() };
    let channels = count31(stem, channels)?;
    let params = MergeParams { partials, y: y.ptr, count: y.elems() as u64, splits, channels, epilogue };
    args.launch(&merge(stem), y.dtype(), blocks(y.elems(), MERGE_THREADS as usize * 4), 0, &params)
}

/// One batch of products: extents, operands and what lies between their matrices.
pub(crate) struct Problem {
    pub op: &'static str,
    pub stem: &'static str,
    /// `m n k`
    pub extents: [usize; 3],
    pub batch: usize,
    /// Elements from one matrix to the next.
    pub between: [usize; 2],
    /// Other than none for the kernels of `linear` alone.
    pub epilogue: EpilogueParams,
}

impl Problem {
    /// Elements from one stored line of each operand to the next.
    fn pitches(&self, axes: [Axis; 2]) -> [usize; 2] {
        let [m, n, k] = self.extents;
        let pitch = |axis, outer| if axis == Axis::Inner { k } else { outer };
        [pitch(axes[0], m), pitch(axes[1], n)]
    }

    fn params(&self, args: &DeviceArgs, plan: &Plan, axes: [Axis; 2]) -> Result<ProductParams> {
        let [m, n, k] = self.extents;
        let dtype = args.y[0].dtype();
        let [a_pitch, b_pitch] = self.pitches(axes);
        Ok(ProductParams {
            a: args.x[0].ptr,
            b: args.x[1].ptr,
            y: args.y[0].ptr,
            partials: DevicePtr::NULL,
            a_batch: self.between[0] as u64,
            b_batch: self.between[1] as u64,
            a_pitch: a_pitch as u64,
            b_pitch: b_pitch as u64,
            epilogue: self.epilogue,
            m: count31(self.op, m)?,
            n: count31(self.op, n)?,
            k: count31(self.op, k)?,
            batch: count31(self.op, self.batch)?,
            tiles_m: plan.tiles_m,
            tiles_n: plan.tiles_n,
            inner_each: plan.inner_each,
            a_vector: vector(a_pitch, dtype),
            b_vector: vector(b_pitch, dtype),
            y_vector: if n % 4 == 0 { 4 } else { 1 },
        })
    }

    /// Tiles on tensor cores, and the pass that adds splits where there are any.
    pub fn launch(&self, args: &DeviceArgs, family: &Family<ProductParams>) -> Result<()> {
        let [m, n, _] = self.extents;
        if m * n * self.batch == 0 {
            return Ok(());
        }
        let dtype = args.y[0].dtype();
        let (axes, facts) = ([family.a, family.b], args.driver.facts());
        if hopper::takes(self, self.pitches(axes), dtype, &facts) {
            return hopper::launch(self, args, axes);
        }
        let plan = Plan::new(self.extents, self.batch, dtype, axes, &facts);
        let mut params = self.params(args, &plan, axes)?;
        let grid = plan.grid(self.op, self.batch)?;
        let multiplications = self.extents.iter().product::<usize>() * self.batch;
        let kernel = family.kernel(&plan, args.rounds_to_tf32(dtype, multiplications));
        if plan.splits == 1 {
            return args.launch(kernel, dtype, grid, plan.shared_bytes, &params);
        }
        let partials = args.scratch(plan.splits as usize * self.batch * m * n * 4)?;
        params.partials = partials.ptr;
        args.launch(kernel, dtype, grid, plan.shared_bytes, &params)?;
        add_splits(args, self.stem, partials.ptr, plan.splits, self.epilogue)
    }

    /// A warp for each column, for a handful of rows with both operands contiguous along the inner axis.
    pub fn launch_few_rows(&self, args: &DeviceArgs, kernel: &Kernel<ProductParams>) -> Result<()> {
        let dtype = args.y[0].dtype();
        let axes = [Axis::Inner; 2];
        let plan = Plan::new(self.extents, self.batch, dtype, axes, &args.driver.facts());
        let params = self.params(args, &plan, axes)?;
        args.launch(kernel, dtype, blocks(self.extents[1] * self.batch * 32, kernel.threads as usize), 0, &params)
    }
}

/// Rows that [`Problem::launch_few_rows`] takes.
pub(crate) const FEW_ROWS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Facts = Facts { capability: (9, 0), multiprocessors: 132, shared_bytes: 232_448 };

    fn plan(extents: [usize; 3], batch: usize, dtype: DType) -> Plan {
        Plan::new(extents, batch, dtype, [Axis::Inner, Axis::Inner], &H100)
    }

    #[test]
    fn tiles_fill_the_device_before_they_grow() {
        let big = plan([4096, 4096, 4096], 1, DType::Bf16);
        assert_eq!((big.large, big.tiles_m, big.tiles_n, big.splits), (true, 32, 32, 1));
        // 384 outputs of 1000 tokens: 24 large tiles would leave most multiprocessors idle.
        let tokens = plan([1000, 384, 384], 1, DType::Bf16);
        assert_eq!((tokens.large, tokens.tiles_m, tokens.tiles_n), (false, 16, 6));
        assert!(plan([64, 4096, 4096], 64, DType::F32).splits == 1);
    }

    #[test]
    fn long_sums_of_small_results_are_split() {
        let gradient = plan([64, 64, 65536], 1, DType::Bf16);
        assert_eq!(gradient.splits, 64);
        assert_eq!(gradient.inner_each as usize * 64, 65536);
        let short = plan([64, 64, 256], 1, DType::Bf16);
        assert_eq!(short.splits, 1);
    }

    #[test]
    fn splits_cover_the_inner_axis_and_none_is_empty() {
        for k in [0, 1, 31, 512, 1023, 1025, 5000, 99_999] {
            for dtype in [DType::F32, DType::Bf16] {
                let Plan { splits, inner_each, .. } = plan([70, 3, k], 2, dtype);
                assert!(splits as usize * inner_each as usize >= k, "{k}");
                assert!(splits == 1 || (splits as usize - 1) * (inner_each as usize) < k, "{k}");
                assert_eq!(inner_each as usize % (64 / dtype.bytes()), 0);
            }
        }
    }

    #[test]
    fn copies_are_as_wide_as_every_line_allows() {
        assert_eq!([8, 12, 6, 7].map(|pitch| vector(pitch, DType::Bf16)), [8, 2, 2, 1]);
        assert_eq!([8, 12, 6, 7].map(|pitch| vector(pitch, DType::F32)), [4, 4, 1, 1]);
    }

    #[test]
    fn a_block_fits_every_multiprocessor() {
        for axes in [[Axis::Inner; 2], [Axis::Outer; 2], [Axis::Inner, Axis::Outer]] {
            for dtype in [DType::F32, DType::F16] {
                let plan = Plan::new([4096, 4096, 64], 1, dtype, axes, &H100);
                assert!(plan.large && plan.shared_bytes <= 80 << 10, "two blocks within 164 KiB: {plan:?}");
            }
        }
    }
}
