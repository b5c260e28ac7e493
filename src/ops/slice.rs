//! A range of one axis. Its adjoint puts the range back among zeros.

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
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Positions `start..start + len` of `axis`. Any element type.
    pub fn slice(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        let shape = self.shape();
        if axis < shape.rank() && start == 0 && len == shape[axis] {
            return Ok(self.clone());
        }
        apply1(Slice { axis, start, len }, &[self])
    }

    /// `axis` grows to `extent`, zeros all around; what was there begins at `start`. Any element type.
    pub fn pad_with_zeros(&self, axis: usize, start: usize, extent: usize) -> Result<Tensor> {
        let shape = self.shape();
        if axis < shape.rank() && start == 0 && extent == shape[axis] {
            return Ok(self.clone());
        }
        apply1(Pad { axis, start, extent }, &[self])
    }
}

#[derive(Clone, Copy)]
struct Slice {
    axis: usize,
    start: usize,
    len: usize,
}

kernel_params! {
    struct SliceParams {
        x: DevicePtr, y: DevicePtr, row_stride: u64, count: u32, access_bytes: u32, width: FastDivmod, from: u32, len: u32, unused: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `SliceParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<SliceParams> = unsafe { Kernel::new(&modules::SLICE, "fwd", THREADS, UNTYPED) };
// SAFETY: as above, `SliceParams`.
const PAD: Kernel<SliceParams> = unsafe { Kernel::new(&modules::SLICE, "pad", THREADS, UNTYPED) };

/// Launches either kernel: rows of y are `width`, those of x `row_stride` elements, `len` of y's or x's beginning at `from` of the
/// other's.
fn copy(args: &DeviceArgs, kernel: &Kernel<SliceParams>, [width, row_stride, from, len]: [usize; 4]) -> Result<()> {
    let (x, y) = (args.x[0], args.y[0]);
    let bytes = y.dtype().bytes();
    let unit = access_bytes(&[width * bytes, row_stride * bytes, from * bytes, len * bytes]);
    let units = |elements: usize| elements * bytes / unit;
    let count = count31("slice", y.spec.bytes() / unit)?;
    let params = SliceParams {
        x: x.ptr,
        y: y.ptr,
        row_stride: units(row_stride) as u64,
        count,
        access_bytes: unit as u32,
        width: FastDivmod::new(units(width) as u32),
        from: units(from) as u32,
        len: units(len) as u32,
        unused: 0,
    };
    args.launch(kernel, y.dtype(), blocks(count as usize, THREADS as usize), 0, &params)
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (Spec { shape, dtype }, Slice { axis, start, len }) = (x[0], *self);
        if axis >= shape.rank() || start.checked_add(len).is_none_or(|end| end > shape[axis]) {
            return Err(Error::shape("slice", format!("{len} positions from {start} of axis {axis} of {shape}")));
        }
        Ok(vec![Spec { shape: shape.with(axis, len), dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (from, width, whole) = self.rows(&args.x_shape(0));
        element_dispatch!(args, T => {
            let x = args.x::<T>(0);
            par_rows(args.y::<T>(0), width, |task, y| {
                for (row, y) in y.chunks_exact_mut(width).enumerate() {
                    let row = task * rows_per_task(width) + row;
                    y.copy_from_slice(&x[row * whole + from..][..width]);
                }
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (from, width, whole) = self.rows(&args.x[0].shape());
        copy(args, &FORWARD, [width, whole, from, width])
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let extent = v.x_spec(0).shape[self.axis];
        Ok(vec![Some(v.upstream()?.pad_with_zeros(self.axis, self.start, extent)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

impl Slice {
    /// Seen as rows over the axes before: where the range begins in a row, its width, the whole row's width.
    fn rows(&self, whole: &Shape) -> (usize, usize, usize) {
        let inner: usize = whole[self.axis + 1..].iter().product();
        (self.start * inner, self.len * inner, whole[self.axis] * inner)
    }
}

#[derive(Clone, Copy)]
struct Pad {
    axis: usize,
    start: usize,
    extent: usize,
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (Spec { shape, dtype }, Pad { axis, start, extent }) = (x[0], *self);
        if axis >= shape.rank() || start.checked_add(shape[axis]).is_none_or(|end| end > extent) {
            return Err(Error::shape("pad", format!("axis {axis} of {shape} at {start} of {extent}")));
        }
        let mut dims = shape.to_vec();
        dims[axis] = extent;
        let shape = Shape::try_new(&dims).ok_or_else(|| Error::shape("pad", format!("{dims:?} is too large")))?;
        Ok(vec![Spec { shape, dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let hole = Slice { axis: self.axis, start: self.start, len: args.x_shape(0)[self.axis] };
        let (from, width, whole) = hole.rows(&args.y_shape(0));
        element_dispatch!(args, T => pad_rows::<T>(args.x(0), args.y(0), from, width, whole));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let hole = Slice { axis: self.axis, start: self.start, len: args.x[0].shape()[self.axis] };
        let (from, width, whole) = hole.rows(&args.y[0].shape());
        copy(args, &PAD, [whole, width, from, width])
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(v.upstream()?.slice(self.axis, self.start, v.x_spec(0).shape[self.axis])?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn pad_rows<T: Element>(x: &[T], y: &mut [T], from: usize, width: usize, whole: usize) {
    par_rows(y, whole, |task, y| {
        for (row, y) in y.chunks_exact_mut(whole).enumerate() {
            let row = task * rows_per_task(whole) + row;
            y[..from].fill(T::default());
            y[from..from + width].copy_from_slice(&x[row * width..][..width]);
            y[from + width..].fill(T::default());
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "slice",
    order: Order::Any,
    kernels: &[FORWARD.info(), PAD.info()],
    cases: || {
        vec![
            Case::new("rows", [normal([7, 5])], |x| Ok(vec![x[0].square()?.slice(0, 2, 3)?])),
            Case::new("channels", [normal([2, 3, 4, 9])], |x| Ok(vec![x[0].square()?.slice(3, 1, 6)?])),
            Case::new("wide", [normal([3, 32])], |x| Ok(vec![x[0].square()?.slice(1, 8, 16)?])),
            Case::new("pad_wide", [normal([3, 16])], |x| Ok(vec![x[0].square()?.pad_with_zeros(1, 8, 32)?])),
            Case::new("middle", [normal([2, 6, 3])], |x| Ok(vec![x[0].square()?.slice(1, 5, 1)?])),
            Case::new("pad", [normal([2, 3, 4])], |x| Ok(vec![x[0].square()?.pad_with_zeros(1, 2, 6)?])),
        ]
    },
    workloads: || vec![Workload::gpu("slice", [normal(IMAGE)], 0.0, |x| x[0].slice(3, IMAGE[3] / 4, IMAGE[3] / 2))],
    ..OpSpec::BARE
};
