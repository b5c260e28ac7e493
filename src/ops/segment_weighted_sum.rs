//! Weighted sums over segments of rows: attention's pooling of a slide's patches.
//!
//! `y[s] = Σ w[row] x[row]` over the rows of `s` is linear in either argument, and so are its gradients, which are ops like it:
//! together they are closed under differentiation, and every order exists.

use rayon::prelude::*;

use super::segment::{SegmentParams, THREADS, count, runs};
use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    ops::sum::pairwise,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[rows, c] -> [segments, c]`, every row times its weight `[rows]`. `offsets`, i32 `[segments + 1]`: first rows, beginning
    /// with 0, and the number of rows at last. An empty segment's sum is 0.
    pub fn segment_weighted_sum(&self, weights: &Tensor, offsets: &Tensor) -> Result<Tensor> {
        apply1(WeightedSum, &[self, weights, offsets])
    }
}

/// `[rows, c] -> [segments, c]`: the sum of each segment's rows.
pub(super) fn segment_sum(x: &Tensor, offsets: &Tensor) -> Result<Tensor> {
    x.segment_weighted_sum(&ones(x, x.shape().rows())?, offsets)
}

/// `[segments, c] -> [rows, c]`: each segment's row at all of its rows.
pub(super) fn spread_rows(x: &Tensor, offsets: &Tensor, rows: usize) -> Result<Tensor> {
    apply1(WeightedSpread, &[x, &ones(x, rows)?, offsets])
}

fn ones(like: &Tensor, rows: usize) -> Result<Tensor> {
    Tensor::full(1.0, [rows], like.dtype(), like.device())
}

fn check_weights(op: &'static str, weights: Spec, rows: usize, x: Spec) -> Result<()> {
    match weights.shape[..] == [rows] && weights.dtype == x.dtype {
        true => Ok(()),
        false => {
            Err(Error::shape(op, format!("weights {}:{} for {rows} rows of {}", weights.shape, weights.dtype, x.dtype)))
        }
    }
}

/// Inputs x, weights, offsets.
struct WeightedSum;

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "segment_weighted_sum"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let segments = count(self.name(), x[0], x[2])?;
        check_weights(self.name(), x[1], x[0].shape.rows(), x[0])?;
        Ok(vec![Spec::new([segments, x[0].shape.last()], x[0].dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(0).last();
        let runs = runs(self.name(), args.x::<i32>(2), args.x_shape(0).rows())?;
        if c == 0 {
            return Ok(());
        }
        float_dispatch!(args, T => {
            let (x, weights) = (args.x::<T>(0), args.x::<T>(1));
            args.y::<T>(0).par_chunks_exact_mut(c).zip(runs).for_each(|(y, [begin, length])| {
                y.fill(T::c(0.0));
                for (x, &w) in x[begin * c..][..length * c].chunks_exact(c).zip(&weights[begin..]) {
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y += w * x);
                }
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let params = SegmentParams::new(args, 2, args.x[0].shape().rows(), args.y[0].shape().last());
        SegmentParams { weights: args.x[1].ptr, ..params }.launch_sums(args, &FORWARD)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, offsets) = (v.upstream()?, v.x(2));
        let dx = v.when(0, || apply1(WeightedSpread, &[dy, v.x(1), offsets]))?;
        let dweights = v.when(1, || apply1(RowDots, &[v.x(0), dy, offsets]))?;
        Ok(vec![dx, dweights, None])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `x[row] = w[row] y[s]`, `s` the row's segment. Inputs y, weights, offsets.
struct WeightedSpread;

impl Op for WeightedSpread {
    fn name(&self) -> &'static str {
        "segment_weighted_spread"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let rows = x[1].shape.elems();
        if count(self.name(), x[0], x[2])? != x[0].shape.rows() {
            return Err(Error::shape(self.name(), format!("{} for offsets {}", x[0].shape, x[2].shape)));
        }
        check_weights(self.name(), x[1], rows, x[0])?;
        Ok(vec![Spec::new([rows, x[0].shape.last()], x[0].dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (c, rows) = (args.x_shape(0).last(), args.x_shape(1).elems());
        let segment = segment_of_row(&runs(self.name(), args.x::<i32>(2), rows)?);
        float_dispatch!(args, T => {
            let (y, weights) = (args.x::<T>(0), args.x::<T>(1));
            par_rows(args.y::<T>(0), c, |task, x| {
                for (row, x) in (task * rows_per_task(c)..).zip(x.chunks_exact_mut(c)) {
                    let y = &y[segment[row] * c..][..c];
                    x.iter_mut().zip(y).for_each(|(x, &y)| *x = weights[row] * y);
                }
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let params = SegmentParams::new(args, 2, args.x[1].elems(), args.y[0].shape().last());
        SegmentParams { weights: args.x[1].ptr, ..params }.launch_rows(args, &BACKWARD_X)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, offsets) = (v.upstream()?, v.x(2));
        let dy = v.when(0, || apply1(WeightedSum, &[g, v.x(1), offsets]))?;
        let dweights = v.when(1, || apply1(RowDots, &[g, v.x(0), offsets]))?;
        Ok(vec![dy, dweights, None])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `w[row] = x[row] · y[s]`, `s` the row's segment. Inputs x, y, offsets.
struct RowDots;

impl Op for RowDots {
    fn name(&self) -> &'static str {
        "segment_row_dots"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let segments = count(self.name(), x[0], x[2])?;
        if x[1] != Spec::new([segments, x[0].shape.last()], x[0].dtype) {
            return Err(Error::shape(
                self.name(),
                format!("{} beside {segments} segments of {}", x[1].shape, x[0].shape),
            ));
        }
        Ok(vec![Spec::new([x[0].shape.rows()], x[0].dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, c) = (args.x_shape(0).rows(), args.x_shape(0).last());
        let segment = segment_of_row(&runs(self.name(), args.x::<i32>(2), rows)?);
        float_dispatch!(args, T => {
            let (x, y) = (args.x::<T>(0), args.x::<T>(1));
            args.y::<T>(0).par_iter_mut().with_min_len(rows_per_task(c)).enumerate().for_each(|(row, w)| {
                let pairs = x[row * c..][..c].iter().zip(&y[segment[row] * c..]);
                *w = pairwise(&pairs.map(|(&x, &y)| x * y).collect::<Vec<T>>());
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let x = args.x[0];
        let (rows, c) = (x.shape().rows(), x.shape().last());
        let params = SegmentDotParams {
            x: x.ptr,
            dy: args.x[1].ptr,
            dw: args.y[0].ptr,
            offsets: args.x[2].ptr,
            rows: rows as u64,
            segments: args.x[2].elems() as u64 - 1,
            c: c as u64,
            aligned: (c * x.dtype().bytes()).is_multiple_of(16).into(),
            unused: 0,
        };
        args.launch(&BACKWARD_WEIGHTS, x.dtype(), blocks(rows, THREADS as usize / 32), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, offsets) = (v.upstream()?, v.x(2));
        let dx = v.when(0, || apply1(WeightedSpread, &[v.x(1), g, offsets]))?;
        let dy = v.when(1, || apply1(WeightedSum, &[v.x(0), g, offsets]))?;
        Ok(vec![dx, dy, None])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// The number of each row's segment.
fn segment_of_row(runs: &[[usize; 2]]) -> Vec<usize> {
    runs.iter().enumerate().flat_map(|(segment, &[_, length])| std::iter::repeat_n(segment, length)).collect()
}

kernel_params! {
    struct SegmentDotParams {
        x: DevicePtr,
        dy: DevicePtr,
        dw: DevicePtr,
        offsets: DevicePtr,
        rows: u64,
        segments: u64,
        c: u64,
        aligned: u32,
        unused: u32,
    }
}

// SAFETY: `SegmentParams::new` fills the struct, from the tensors of the launch and from their sizes; the weights are one of them.
const FORWARD: Kernel<SegmentParams> = unsafe { Kernel::new(&modules::SEGMENT_WEIGHTED_SUM, "fwd", THREADS, FLOATS) };
// SAFETY: as above.
const BACKWARD_X: Kernel<SegmentParams> =
    unsafe { Kernel::new(&modules::SEGMENT_WEIGHTED_SUM, "bwd_x", THREADS, FLOATS) };
// SAFETY: only this file fills `SegmentDotParams`, likewise.
const BACKWARD_WEIGHTS: Kernel<SegmentDotParams> =
    unsafe { Kernel::new(&modules::SEGMENT_WEIGHTED_SUM, "bwd_weights", THREADS, FLOATS) };

pub const SPEC: OpSpec = OpSpec {
    name: "segment_weighted_sum",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD_X.info(), BACKWARD_WEIGHTS.info()],
    cases: || {
        let case = |name, c: usize, offsets: &'static [i32]| {
            let rows = offsets[offsets.len() - 1] as usize;
            Case::new(name, [normal([rows, c]), normal([rows])], move |x| {
                let offsets = Tensor::from_vec(offsets.to_vec(), [offsets.len()], x[0].device())?;
                Ok(vec![x[0].segment_weighted_sum(&x[1], &offsets)?])
            })
        };
        vec![
            case("ragged", 5, &[0, 3, 3, 4, 21]),
            case("aligned_rows", 40, &[0, 9]),
            case("wide", 264, &[0, 1, 19]),
            case("one_row", 3, &[0, 1]),
        ]
    },
    workloads: || {
        let inputs = [normal([65536, 512]), normal([65536]), drawn([65], Draw::Offsets(65536))];
        let run = |x: &[Tensor]| x[0].segment_weighted_sum(&x[1], &x[2]);
        vec![Workload::gpu("segment_weighted_sum", inputs, 2.0 * 65536.0 * 512.0, run)]
    },
    reference: Some(|a| {
        let offsets = a.indices("offsets")?;
        Ok(only("y", a.tensor("x")?.segment_weighted_sum(a.tensor("weights")?, &offsets)?))
    }),
};
