//! The mean of each segment of rows: what a slide's patches amount to, for all slides of a batch at once.
//!
//! `y[s] = mean x[offsets[s] .. offsets[s + 1]]`. Its gradient spreads each segment's over its rows; each is the other's
//! transpose, so every order exists.

use super::segment::{SegmentParams, THREADS, count, runs};
use crate::{
    device::{
        host::Real,
        kernel::{FLOATS, Kernel},
        modules,
    },
    error::Result,
    float_dispatch,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal, registry::Workload},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[rows, c] -> [segments, c]`. `offsets`, i32 `[segments + 1]`, holds the first row of each segment, beginning with 0,
    /// and the number of rows at last. An empty segment has mean 0.
    pub fn segment_mean(&self, offsets: &Tensor) -> Result<Tensor> {
        apply1(SegmentMean, &[self, offsets])
    }
}

/// Inputs x, offsets.
struct SegmentMean;

impl Op for SegmentMean {
    fn name(&self) -> &'static str {
        "segment_mean"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let segments = count(self.name(), x[0], x[1])?;
        Ok(vec![Spec::new([segments, x[0].shape.last()], x[0].dtype)])
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
        SegmentParams::new(args, 1, args.x[0].shape().rows(), args.y[0].shape().last()).launch_sums(args, &FORWARD)
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
        SegmentParams::new(args, 1, self.rows, args.y[0].shape().last()).launch_rows(args, &BACKWARD)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        // Means weight a segment's rows alike, as spreading does.
        Ok(vec![Some(v.upstream()?.segment_mean(v.x(1))?), None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

// SAFETY: `SegmentParams::new` fills the struct, from the tensors of the launch and from their sizes.
const FORWARD: Kernel<SegmentParams> = unsafe { Kernel::new(&modules::SEGMENT_MEAN, "fwd", THREADS, FLOATS) };
// SAFETY: as above.
const BACKWARD: Kernel<SegmentParams> = unsafe { Kernel::new(&modules::SEGMENT_MEAN, "bwd_x", THREADS, FLOATS) };

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
    workloads: || {
        let inputs = [normal([65536, 512]), drawn([65], Draw::Offsets(65536))];
        vec![Workload::gpu("segment_mean", inputs, 65536.0 * 512.0, |x| x[0].segment_mean(&x[1]))]
    },
    ..OpSpec::BARE
};
