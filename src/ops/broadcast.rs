//! Repeats extents of one until the tensor has the wanted shape: the adjoint of a sum.

use rayon::prelude::*;

use super::binary::{broadcast_strides, row_offset};
use crate::{
    device::{
        driver::DevicePtr,
        host::Real,
        index::{Axes, LoopNest, Strides, access_bytes, count31, strides},
        kernel::{Kernel, UNTYPED, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload},
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `x` repeated along every axis where it has extent one and `shape` more.
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let to = shape.into();
        if to == self.shape() {
            return Ok(self.clone());
        }
        apply1(Broadcast { to }, &[self])
    }
}

struct Broadcast {
    to: Shape,
}

kernel_params! {
    struct BroadcastParams {
        x: DevicePtr, y: DevicePtr, count: u32, access_bytes: u32, repeats: u32, element_bytes: u32,
        axes: Axes, strides: Strides,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `BroadcastParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<BroadcastParams> = unsafe { Kernel::new(&modules::BROADCAST, "fwd", THREADS, UNTYPED) };

impl Op for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if x[0].shape.broadcast(&self.to) != Some(self.to) || !x[0].dtype.is_float() {
            return Err(Error::shape("broadcast", format!("{} does not broadcast to {}", x[0].shape, self.to)));
        }
        Ok(vec![Spec { shape: self.to, dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let from = args.x_shape(0);
        float_dispatch!(args, T => repeat::<T>(args.x(0), args.y(0), &from, &self.to));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let element_bytes = x.dtype().bytes();
        if element_bytes > 4 {
            return Err(Error::NoKernel { op: "broadcast", device: args.driver.name().to_string() });
        }
        let of = broadcast_strides(&x.shape(), &self.to);
        let mut walk = LoopNest::new(&self.to, [&of[..self.to.rank()]]);
        let access_bytes = access_bytes(&[walk.extents[0] * element_bytes]);
        let in_a_unit = access_bytes / element_bytes;
        walk.extents[0] /= in_a_unit;
        let repeats = walk.repeats(0);
        if !repeats {
            // The innermost step of one element is now one access; the others are multiples of it.
            walk.strides[0][1..].iter_mut().for_each(|step| *step /= in_a_unit);
        }
        let count = count31("broadcast", walk.extents.iter().product())?;
        let params = BroadcastParams {
            x: x.ptr,
            y: y.ptr,
            count,
            access_bytes: access_bytes as u32,
            repeats: repeats.into(),
            element_bytes: element_bytes as u32,
            axes: walk.axes(),
            strides: strides(&walk.strides[0]),
        };
        args.launch(&FORWARD, x.dtype(), blocks(count as usize, THREADS as usize), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(v.upstream()?.sum_to(v.x_spec(0).shape)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn repeat<T: Real>(x: &[T], y: &mut [T], from: &Shape, to: &Shape) {
    if y.is_empty() {
        return;
    }
    let (inner, strides) = (to.last(), broadcast_strides(from, to));
    let rows_per_task = ((16 << 10) / inner).max(1);
    y.par_chunks_mut(rows_per_task * inner).enumerate().for_each(|(task, y)| {
        for (row, y) in y.chunks_mut(inner).enumerate() {
            let at = row_offset(task * rows_per_task + row, to, &strides);
            if strides[to.rank().saturating_sub(1)] == 0 {
                y.fill(x[at]);
            } else {
                y.copy_from_slice(&x[at..at + inner]);
            }
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "broadcast",
    order: Order::Any,
    kernels: &[FORWARD.info()],
    cases: || {
        vec![
            Case::new("rows", [normal([1, 7])], |x| Ok(vec![x[0].square()?.broadcast_to([5, 7])?])),
            Case::new("wide_rows", [normal([2, 1, 16])], |x| Ok(vec![x[0].square()?.broadcast_to([2, 3, 16])?])),
            Case::new("one_value", [normal([1])], |x| Ok(vec![x[0].square()?.broadcast_to([3, 11])?])),
            Case::new("columns", [normal([4, 1])], |x| Ok(vec![x[0].square()?.broadcast_to([2, 4, 9])?])),
            Case::new("spatial", [normal([2, 1, 1, 3])], |x| Ok(vec![x[0].square()?.broadcast_to([2, 4, 5, 3])?])),
        ]
    },
    workloads: || {
        vec![Workload::gpu("broadcast", [normal([IMAGE[0], 1, 1, IMAGE[3]])], 0.0, |x| x[0].broadcast_to(IMAGE))]
    },
    ..OpSpec::BARE
};
