//! The mean of each run of rows: what a slide's patches amount to, for all slides of a batch at once.
//!
//! `y[s] = mean x[offsets[s] .. offsets[s + 1]]`. Its gradient spreads each run's over its rows; each is the other's
//! transpose, so every order exists.

use crate::{
    device::{modules, 
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each, column_blocks},
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[rows, c] -> [runs, c]`. `offsets`, i32 `[runs + 1]`, holds the first row of each run, beginning with 0, and the
    /// number of rows at last. An empty run has mean 0.
    pub fn segment_mean(&self, offsets: &Tensor) -> Result<Tensor> {
        apply1(SegmentMean, &[self, offsets])
    }
}

/// First row and length of each run.
pub(super) fn runs(op: &'static str, offsets: &[i32], rows: usize) -> Result<Vec<[usize; 2]>> {
    let ascending = offsets.is_sorted() && offsets.first() == Some(&0);
    if !ascending || offsets.last().map(|&last| last as usize) != Some(rows) {
        return Err(Error::shape(op, format!("offsets {offsets:?} for {rows} rows")));
    }
    Ok(offsets.windows(2).map(|pair| [pair[0] as usize, (pair[1] - pair[0]) as usize]).collect())
}

/// Inputs x, offsets.
struct SegmentMean;

impl Op for SegmentMean {
    fn name(&self) -> &'static str {
        "segment_mean"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (rows, offsets) = (x[0].shape, x[1].shape);
        match (rows.as_array(), offsets.as_array()) {
            (Some([_, c]), Some([ends])) if ends > 1 && x[0].dtype.is_float() && x[1].dtype == DType::I32 => {
                Ok(vec![Spec::new([ends - 1, c], x[0].dtype)])
            }
            _ => Err(Error::shape("segment_mean", format!("rows {rows} in runs {offsets}"))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, c) = (args.x_shape(0).rows(), args.x_shape(0).last());
        let runs = runs(self.name(), args.x::<i32>(1), rows)?;
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            if c == 0 {
                return Ok(());
            }
            for (y, [begin, length]) in args.y::<T>(0).chunks_exact_mut(c).zip(runs) {
                y.fill(T::c(0.0));
                for row in x[begin * c..][..length * c].chunks_exact(c) {
                    y.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
                }
                y.iter_mut().for_each(|y| *y /= T::c(length.max(1) as f64));
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let params = params(args, x.shape().rows(), y.shape().last());
        args.launch(&FORWARD, x.dtype(), blocks_for_each(y.shape().rows(), params.tiles), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let rows = v.x_spec(0).shape.rows();
        Ok(vec![Some(apply1(SegmentSpread { rows }, &[v.upstream()?, v.x(1)])?), None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

/// `dx[row] = dy[s] / length of s`. Inputs dy, offsets.
struct SegmentSpread {
    rows: usize,
}

impl Op for SegmentSpread {
    fn name(&self) -> &'static str {
        "segment_mean_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![Spec::new([self.rows, x[0].shape.last()], x[0].dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(0).last();
        let runs = runs(self.name(), args.x::<i32>(1), self.rows)?;
        float_dispatch!(args, T => {
            let dy = args.x::<T>(0);
            let dx = args.y::<T>(0);
            if c == 0 {
                return Ok(());
            }
            for (dy, [begin, length]) in dy.chunks_exact(c).zip(runs) {
                for dx in dx[begin * c..][..length * c].chunks_exact_mut(c) {
                    dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy / T::c(length as f64));
                }
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let dx = args.y[0];
        let params = params(args, self.rows, dx.shape().last());
        let each = if params.aligned == 1 { dx.dtype().vector_elems() } else { 1 };
        args.launch(&BACKWARD, dx.dtype(), blocks(dx.elems(), THREADS as usize * each), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        // Means weight a run's rows alike, as spreading does.
        Ok(vec![Some(v.upstream()?.segment_mean(v.x(1))?), None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

kernel_params! {
    struct SegmentParams {
        from: DevicePtr,
        to: DevicePtr,
        offsets: DevicePtr,
        rows: u64,
        runs: u64,
        c: u64,
        aligned: u32,
        tiles: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `SegmentParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<SegmentParams> = unsafe { Kernel::new(&modules::SEGMENT_MEAN, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `SegmentParams`.
const BACKWARD: Kernel<SegmentParams> = unsafe { Kernel::new(&modules::SEGMENT_MEAN, "bwd_x", THREADS, FLOATS) };

/// For either kernel: input 0 to output 0.
fn params(args: &DeviceArgs, rows: usize, c: usize) -> SegmentParams {
    let bytes = args.x[0].dtype().bytes();
    let aligned = (c * bytes).is_multiple_of(16);
    SegmentParams {
        from: args.x[0].ptr,
        to: args.y[0].ptr,
        offsets: args.x[1].ptr,
        rows: rows as u64,
        runs: args.x[1].elems() as u64 - 1,
        c: c as u64,
        aligned: aligned.into(),
        tiles: column_blocks(c, aligned, bytes),
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "segment_mean",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, c: usize, offsets: &'static [i32]| {
            let rows = offsets[offsets.len() - 1] as usize;
            Case::new(name, [normal([rows, c])], move |x| {
                let offsets = Tensor::from_vec(offsets.to_vec(), [offsets.len()], x[0].device())?;
                Ok(vec![x[0].square()?.segment_mean(&offsets)?])
            })
        };
        vec![case("ragged", 5, &[0, 3, 4, 21]), case("aligned_rows", 40, &[0, 9]), case("one_row", 3, &[0, 0, 1])]
    },
};
