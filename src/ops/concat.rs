//! Tensors put one after the other along an axis. Its adjoint takes the pieces apart again.

use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::Element,
        index::{access_bytes, count31},
        kernel::{Kernel, UNTYPED, blocks},
        modules,
    },
    element_dispatch,
    error::{Error, Result},
    kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// All tensors along `axis`; every other extent is the same in all of them. Any element type.
    pub fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        match tensors {
            [one] if axis < one.shape().rank() => Ok((*one).clone()),
            _ => apply1(Concat { axis }, tensors),
        }
    }
}

struct Concat {
    axis: usize,
}

kernel_params! {
    struct ConcatParams {
        x: DevicePtr, y: DevicePtr, row_stride: u64, count: u32, access_bytes: u32, width: FastDivmod, from: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `ConcatParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<ConcatParams> = unsafe { Kernel::new(&modules::CONCAT, "fwd", THREADS, UNTYPED) };

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let first = x[0];
        if self.axis >= first.shape.rank() {
            return Err(Error::shape("concat", format!("axis {} of {}", self.axis, first.shape)));
        }
        let mut extent = 0;
        for spec in x {
            let same = spec.dtype == first.dtype
                && spec.shape.rank() == first.shape.rank()
                && spec.shape.with(self.axis, 1) == first.shape.with(self.axis, 1);
            if !same {
                let (a, b) = (first, spec);
                let message = format!("{}:{} and {}:{} along axis {}", a.shape, a.dtype, b.shape, b.dtype, self.axis);
                return Err(Error::shape("concat", message));
            }
            extent += spec.shape[self.axis];
        }
        Ok(vec![Spec { shape: first.shape.with(self.axis, extent), dtype: first.dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        element_dispatch!(args, T => join::<T>(args, self.axis));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let y = args.y[0];
        // Of one position along the axis, and of the rows over the axes before it.
        let position_bytes = y.shape()[self.axis + 1..].iter().product::<usize>() * y.dtype().bytes();
        let pitch_bytes = y.shape()[self.axis] * position_bytes;
        let mut from_bytes = 0;
        for x in args.x.iter().filter(|x| x.elems() > 0) {
            let width_bytes = x.shape()[self.axis] * position_bytes;
            let unit = access_bytes(&[width_bytes, pitch_bytes, from_bytes]);
            let count = count31("concat", x.spec.bytes() / unit)?;
            let params = ConcatParams {
                x: x.ptr,
                y: y.ptr,
                row_stride: (pitch_bytes / unit) as u64,
                count,
                access_bytes: unit as u32,
                width: FastDivmod::new((width_bytes / unit) as u32),
                from: (from_bytes / unit) as u32,
            };
            args.launch(&FORWARD, y.dtype(), blocks(count as usize, THREADS as usize), 0, &params)?;
            from_bytes += width_bytes;
        }
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = v.upstream()?;
        let mut start = 0;
        (0..v.inputs())
            .map(|i| {
                let len = v.x_spec(i).shape[self.axis];
                start += len;
                v.when(i, || dy.slice(self.axis, start - len, len))
            })
            .collect()
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn join<T: Element>(args: &mut HostArgs, axis: usize) {
    let inner: usize = args.y_shape(0)[axis + 1..].iter().product();
    let pieces: Vec<(&[T], usize)> = (0..args.inputs()).map(|i| (args.x(i), args.x_shape(i)[axis] * inner)).collect();
    let width: usize = pieces.iter().map(|piece| piece.1).sum();
    par_rows(args.y::<T>(0), width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let (row, mut at) = (task * rows_per_task(width) + row, 0);
            for &(x, len) in &pieces {
                y[at..at + len].copy_from_slice(&x[row * len..][..len]);
                at += len;
            }
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "concat",
    order: Order::Any,
    kernels: &[FORWARD.info()],
    cases: || {
        let squares = |x: &[Tensor], axis| {
            let x = x.iter().map(Tensor::square).collect::<Result<Vec<_>>>()?;
            Ok(vec![Tensor::concat(&x.iter().collect::<Vec<_>>(), axis)?])
        };
        vec![
            Case::new("rows", [normal([2, 5]), normal([3, 5])], move |x| squares(x, 0)),
            Case::new("wide", [normal([3, 16]), normal([3, 8])], move |x| squares(x, 1)),
            Case::new("channels", [normal([2, 3, 3, 4]), normal([2, 3, 3, 1])], move |x| squares(x, 3)),
            Case::new("three", [normal([2, 1, 5]), normal([2, 4, 5]), normal([2, 2, 5])], move |x| squares(x, 1)),
        ]
    },
    workloads: || {
        let half = || normal([IMAGE[0], IMAGE[1], IMAGE[2], IMAGE[3] / 2]);
        vec![Workload::gpu("concat", [half(), half()], 0.0, |x| Tensor::concat(&[&x[0], &x[1]], 3))]
    },
    ..OpSpec::BARE
};
