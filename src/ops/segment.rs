//! What ops over segments share. Segments are runs of rows of one matrix, such as the patches of each slide of a batch:
//! segment `s` owns the rows `offsets[s] .. offsets[s + 1]`. `offsets`, i32 `[segments + 1]`, begins with 0, ascends, and
//! ends with the number of rows ([`Sequences`](crate::nn::vit::Sequences) makes them).
//!
//! The CPU refuses other offsets. A GPU does not read them on the host: there a row beyond the matrix belongs to no segment.

use crate::{
    device::{
        driver::DevicePtr,
        kernel::{Kernel, blocks, blocks_for_each, column_blocks},
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::DeviceArgs,
    shape::Spec,
};

/// How many segments there are of a float matrix `[rows, c]`.
pub(super) fn count(op: &'static str, x: Spec, offsets: Spec) -> Result<usize> {
    match (x.shape.as_array(), offsets.shape.as_array()) {
        (Some([_, _]), Some([ends])) if ends > 0 && x.dtype.is_float() && offsets.dtype == DType::I32 => Ok(ends - 1),
        _ => {
            let message = format!(
                "float rows [n, c] and i32 offsets [segments + 1] wanted, got {}:{} and {}:{}",
                x.shape, x.dtype, offsets.shape, offsets.dtype
            );
            Err(Error::shape(op, message))
        }
    }
}

/// First row and length of each segment.
pub(super) fn runs(op: &'static str, offsets: &[i32], rows: usize) -> Result<Vec<[usize; 2]>> {
    let ascending = offsets.is_sorted() && offsets.first() == Some(&0);
    if !ascending || offsets.last().map(|&last| last as usize) != Some(rows) {
        return Err(Error::shape(op, format!("offsets {offsets:?} for {rows} rows")));
    }
    Ok(offsets.windows(2).map(|pair| [pair[0] as usize, (pair[1] - pair[0]) as usize]).collect())
}

kernel_params! {
    /// Of kernels that add up segments of rows, or spread a row over its segment.
    pub(super) struct SegmentParams {
        from: DevicePtr,
        weights: DevicePtr,
        to: DevicePtr,
        offsets: DevicePtr,
        rows: u64,
        segments: u64,
        c: u64,
        aligned: u32,
        tiles: u32,
    }
}

pub(super) const THREADS: u32 = 256;

impl SegmentParams {
    /// From input 0 to output 0, of which one has `rows` rows of `c`; `offsets` is the input of that number.
    pub fn new(args: &DeviceArgs, offsets: usize, rows: usize, c: usize) -> SegmentParams {
        let bytes = args.x[0].dtype().bytes();
        let aligned = (c * bytes).is_multiple_of(16);
        SegmentParams {
            from: args.x[0].ptr,
            weights: DevicePtr::NULL,
            to: args.y[0].ptr,
            offsets: args.x[offsets].ptr,
            rows: rows as u64,
            segments: args.x[offsets].elems() as u64 - 1,
            c: c as u64,
            aligned: aligned.into(),
            tiles: column_blocks(c, aligned, bytes),
        }
    }

    /// Blocks for each segment: sums.
    pub fn launch_sums(&self, args: &DeviceArgs, kernel: &Kernel<SegmentParams>) -> Result<()> {
        let grid = blocks_for_each(self.segments as usize, self.tiles);
        args.launch(kernel, args.y[0].dtype(), grid, 0, self)
    }

    /// A thread for each vector of the rows.
    pub fn launch_rows(&self, args: &DeviceArgs, kernel: &Kernel<SegmentParams>) -> Result<()> {
        let y = args.y[0];
        let each = if self.aligned == 1 { y.dtype().vector_elems() } else { 1 };
        args.launch(kernel, y.dtype(), blocks(y.elems(), THREADS as usize * each), 0, self)
    }
}

/// How a block lies over a segment of `c` columns: lanes along them, and tiles that cover them.
pub(super) fn tile(c: usize) -> [u32; 2] {
    let lanes = c.clamp(1, 32).next_power_of_two();
    [lanes as u32, blocks(c, lanes)]
}
