//! The mean of the `k` highest of every column in every segment of rows: how HE2RNA (Schmauch et al. 2020) makes a slide's
//! prediction of its tiles' scores.
//!
//! A first op finds, per segment and column, the row that comes `k`-th; a row counts if it does not come after that one. Given
//! those, the mean is linear in what it averages, and so is its gradient, each the other's transpose: every order exists.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::segment::{THREADS, count, runs, tile};
use crate::{
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Input, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[rows, c] -> [segments, c]`: the mean of the `k` highest of each column in each segment, of all where there are fewer
    /// than `k`. Of equal scores the earlier row counts first; NaN is above all. The gradient `1 / min(k, rows)` goes to the
    /// rows that counted. `offsets`, i32 `[segments + 1]`: first rows, beginning with 0, and the number of rows at last. An
    /// empty segment has mean 0.
    pub fn segment_topk_mean(&self, offsets: &Tensor, k: usize) -> Result<Tensor> {
        if k == 0 {
            return Err(Error::shape("segment_topk_mean", "the mean of the 0 highest; one at least wanted"));
        }
        let kth = apply1(TopkRows { k }, &[self, offsets])?;
        apply1(SelectedMean { k }, &[self, self, &kth, offsets])
    }
}

/// Falling scores, of equal ones the earlier row first. Both zeros are equal, and NaN comes before all numbers.
fn precedence<T: Real>((a, row_a): (T, usize), (b, row_b): (T, usize)) -> Ordering {
    let falling = match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
        (nan_a, nan_b) => nan_b.cmp(&nan_a),
    };
    falling.then(row_a.cmp(&row_b))
}

/// The row that comes `k`-th, of each segment and column; -1 of none. Inputs x, offsets.
struct TopkRows {
    k: usize,
}

impl Op for TopkRows {
    fn name(&self) -> &'static str {
        "segment_topk_rows"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let segments = count("segment_topk_mean", x[0], x[1])?;
        Ok(vec![Spec::new([segments, x[0].shape.last()], DType::I32)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(0).last();
        let runs = runs("segment_topk_mean", args.x::<i32>(1), args.x_shape(0).rows())?;
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            args.y::<i32>(0).par_iter_mut().enumerate().for_each(|(i, kth)| {
                let ([begin, length], col) = (runs[i / c], i % c);
                let mut rows: Vec<(T, usize)> = (begin..begin + length).map(|row| (x[row * c + col], row)).collect();
                *kth = match self.k.min(length) {
                    0 => -1,
                    k => rows.select_nth_unstable_by(k - 1, |a, b| precedence(*a, *b)).1.1 as i32,
                };
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let x = args.x[0];
        let params = TopkParams { x: x.ptr, kth: args.y[0].ptr, ..params(args, self.k, 1, x.shape().rows()) };
        args.launch(&SELECT, x.dtype(), blocks_for_each(params.segments as usize, params.tiles), 0, &params)
    }

    /// A row's number has no gradient.
    fn vjp(&self, _: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None, None])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

/// The mean of `v` over the rows that count by `x`. Inputs v, x, kth, offsets; constant in all but v.
struct SelectedMean {
    k: usize,
}

impl Op for SelectedMean {
    fn name(&self) -> &'static str {
        "segment_topk_mean"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0] != x[1] {
            return Err(Error::shape(self.name(), format!("{} beside scores {}", x[0].shape, x[1].shape)));
        }
        Ok(vec![Spec { shape: x[2].shape, dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(1).last();
        let runs = runs(self.name(), args.x::<i32>(3), args.x_shape(1).rows())?;
        float_dispatch!(args, T => {
            let (v, x, kth) = (args.x::<T>(0), args.x::<T>(1), args.x::<i32>(2));
            args.y::<T>(0).par_iter_mut().enumerate().for_each(|(i, y)| {
                let ([begin, length], col) = (runs[i / c], i % c);
                let mut sum = T::c(0.0);
                if length > 0 {
                    let last = (x[kth[i] as usize * c + col], kth[i] as usize);
                    for row in begin..begin + length {
                        if precedence((x[row * c + col], row), last).is_le() {
                            sum += v[row * c + col];
                        }
                    }
                }
                *y = sum / T::c(self.k.min(length).max(1) as f64);
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [v, x, kth] = [0, 1, 2].map(|i| args.x[i].ptr);
        let params = TopkParams { x, v, y: args.y[0].ptr, kth, ..params(args, self.k, 3, args.x[1].shape().rows()) };
        let grid = blocks_for_each(params.segments as usize, params.tiles);
        args.launch(&FORWARD, args.y[0].dtype(), grid, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dv = v.when(0, || apply1(SelectedSpread { k: self.k }, &[v.upstream()?, v.x(1), v.x(2), v.x(3)]))?;
        Ok(vec![dv, None, None, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b1110, y: 0 }
    }
}

/// `dv[row] = dy[s] / min(k, length)` where the row counts by `x`, else 0. Inputs dy, x, kth, offsets; linear in dy, constant
/// in all else.
struct SelectedSpread {
    k: usize,
}

impl Op for SelectedSpread {
    fn name(&self) -> &'static str {
        "segment_topk_mean_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0].shape != x[2].shape || x[0].dtype != x[1].dtype {
            return Err(Error::shape(self.name(), format!("{} beside {}", x[0].shape, x[2].shape)));
        }
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let c = args.x_shape(1).last();
        let runs = runs(self.name(), args.x::<i32>(3), args.x_shape(1).rows())?;
        if c == 0 {
            return Ok(());
        }
        float_dispatch!(args, T => {
            let (dy, x, kth) = (args.x::<T>(0), args.x::<T>(1), args.x::<i32>(2));
            let dv = args.y::<T>(0);
            for (segment, &[begin, length]) in runs.iter().enumerate() {
                let share = T::c(self.k.min(length).max(1) as f64);
                let rows = dv[begin * c..][..length * c].par_chunks_exact_mut(c).with_min_len(64);
                rows.enumerate().for_each(|(row, dv)| {
                    for (col, dv) in dv.iter_mut().enumerate() {
                        let (at, row) = (segment * c + col, begin + row);
                        let last = (x[kth[at] as usize * c + col], kth[at] as usize);
                        let counts = precedence((x[row * c + col], row), last).is_le();
                        *dv = if counts { dy[at] / share } else { T::c(0.0) };
                    }
                });
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let ([v, x, kth], y) = ([0, 1, 2].map(|i| args.x[i].ptr), args.y[0]);
        let params = TopkParams { x, v, y: y.ptr, kth, ..params(args, self.k, 3, y.shape().rows()) };
        args.launch(&BACKWARD, y.dtype(), blocks(y.elems(), THREADS as usize), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let ddy = v.when(0, || apply1(SelectedMean { k: self.k }, &[v.upstream()?, v.x(1), v.x(2), v.x(3)]))?;
        Ok(vec![ddy, None, None, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b1110, y: 0 }
    }
}

kernel_params! {
    struct TopkParams {
        x: DevicePtr,
        v: DevicePtr,
        y: DevicePtr,
        kth: DevicePtr,
        offsets: DevicePtr,
        rows: u64,
        segments: u64,
        c: u64,
        k: u32,
        lanes: u32,
        tiles: u32,
        unused: u32,
    }
}

// SAFETY: only this file fills `TopkParams`, from the tensors of the launch and from their sizes.
const SELECT: Kernel<TopkParams> = unsafe { Kernel::new(&modules::SEGMENT_TOPK_MEAN, "select", THREADS, FLOATS) };
// SAFETY: as above.
const FORWARD: Kernel<TopkParams> = unsafe { Kernel::new(&modules::SEGMENT_TOPK_MEAN, "fwd", THREADS, FLOATS) };
// SAFETY: as above.
const BACKWARD: Kernel<TopkParams> = unsafe { Kernel::new(&modules::SEGMENT_TOPK_MEAN, "bwd_x", THREADS, FLOATS) };

/// Sizes; `offsets` is the input of that number.
fn params(args: &DeviceArgs, k: usize, offsets: usize, rows: usize) -> TopkParams {
    let (c, offsets) = (args.x[0].shape().last(), args.x[offsets]);
    let [lanes, tiles] = tile(c);
    TopkParams {
        x: DevicePtr::NULL,
        v: DevicePtr::NULL,
        y: DevicePtr::NULL,
        kth: DevicePtr::NULL,
        offsets: offsets.ptr,
        rows: rows as u64,
        segments: offsets.elems() as u64 - 1,
        c: c as u64,
        // Rows are numbered in 31 bits: more than that is all of them.
        k: u32::try_from(k).unwrap_or(u32::MAX),
        lanes,
        tiles,
        unused: 0,
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "segment_topk_mean",
    order: Order::Any,
    kernels: &[SELECT.info(), FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, x: Input, offsets: &'static [i32], k: usize| {
            Case::new(name, [x], move |x| {
                let offsets = Tensor::from_vec(offsets.to_vec(), [offsets.len()], x[0].device())?;
                Ok(vec![x[0].segment_topk_mean(&offsets, k)?])
            })
        };
        // Powers of two are ties in every type, and no step of a finite difference mends them: the case is not differentiated.
        let ties = Case::new("ties", [normal([40, 3])], |x| {
            let offsets = Tensor::from_vec(vec![0i32, 9, 9, 40], [4], x[0].device())?;
            Ok(vec![x[0].sign()?.segment_topk_mean(&offsets, 4)?])
        });
        vec![
            case("scores", drawn([30, 5], Draw::Distinct), &[0, 3, 3, 4, 30], 4),
            case("one_column", drawn([600, 1], Draw::Distinct), &[0, 520, 600], 70),
            case("highest", drawn([12, 33], Draw::Distinct), &[0, 12], 1),
            case("more_than_there_are", normal([7, 2]), &[0, 5, 7], 50),
            ties.wrt([]),
        ]
    },
    workloads: || {
        let inputs = [normal([65536, 64]), drawn([65], Draw::Offsets(65536))];
        vec![Workload::gpu("segment_topk_mean", inputs, 65536.0 * 64.0, |x| x[0].segment_topk_mean(&x[1], 100))]
    },
    reference: Some(|a| Ok(only("y", a.tensor("scores")?.segment_topk_mean(&a.indices("offsets")?, a.int("k")?)?))),
};
