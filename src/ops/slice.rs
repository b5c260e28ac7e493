//! A range of one axis. Its adjoint puts the range back among zeros.

use crate::{
    device::{
        host::Element,
        vector::{par_rows, rows_a_task},
    },
    element_dispatch,
    error::{Error, Result},
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
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
                    let row = task * rows_a_task(width) + row;
                    y.copy_from_slice(&x[row * whole + from..][..width]);
                }
            });
        });
        Ok(())
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
            let row = task * rows_a_task(whole) + row;
            y[..from].fill(T::default());
            y[from..from + width].copy_from_slice(&x[row * width..][..width]);
            y[from + width..].fill(T::default());
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "slice",
    order: Order::Any,
    kernels: &[],
    cases: || {
        vec![
            Case::new("rows", [normal([7, 5])], |x| Ok(vec![x[0].square()?.slice(0, 2, 3)?])),
            Case::new("channels", [normal([2, 3, 4, 9])], |x| Ok(vec![x[0].square()?.slice(3, 1, 6)?])),
            Case::new("middle", [normal([2, 6, 3])], |x| Ok(vec![x[0].square()?.slice(1, 5, 1)?])),
            Case::new("pad", [normal([2, 3, 4])], |x| Ok(vec![x[0].square()?.pad_with_zeros(1, 2, 6)?])),
        ]
    },
};
