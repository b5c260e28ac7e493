//! The largest element along an axis, and where it is.

use rayon::prelude::*;

use crate::{
    device::{
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply_n, drawn, normal, registry::Workload},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// The largest element along `axis`, which stays as an extent of one. NaN counts as largest. The gradient goes to the first of
    /// equals.
    pub fn max(&self, axis: usize) -> Result<Tensor> {
        Ok(self.max_and_argmax("max", axis)?.0)
    }

    /// Where along `axis` the largest element is, i32, the first of equals; the axis stays as an extent of one.
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        Ok(self.max_and_argmax("argmax", axis)?.1)
    }

    /// Axes but the last are brought there by a copy.
    fn max_and_argmax(&self, called: &'static str, axis: usize) -> Result<(Tensor, Tensor)> {
        let shape = self.shape();
        if axis >= shape.rank() || shape[axis] == 0 {
            return Err(Error::shape(called, format!("axis {axis} of {shape}")));
        }
        let mut order: Vec<usize> = (0..shape.rank()).filter(|&other| other != axis).collect();
        order.push(axis);
        let last = axis + 1 == shape.rank();
        let rows = if last { self.clone() } else { self.permute(&order)? };
        let rows = rows.reshape([shape.elems() / shape[axis], shape[axis]])?;
        let [value, index] = apply_n(Max { called }, &[&rows])?;
        let kept = shape.with(axis, 1);
        Ok((value.reshape(kept)?, index.reshape(kept)?))
    }
}

/// `[rows, cols] -> [rows]` and `[rows]:i32`.
struct Max {
    called: &'static str,
}

impl Op for Max {
    fn name(&self) -> &'static str {
        self.called
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = x[0];
        if !dtype.is_float() {
            return Err(Error::DType { op: self.called, wanted: "a float type", got: dtype });
        }
        Ok(vec![Spec::new([shape.rows()], dtype), Spec::new([shape.rows()], DType::I32)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(0).last();
        float_dispatch!(args, T => {
            let best: Vec<(T, i32)> = args.x::<T>(0).par_chunks(cols).map(first_largest).collect();
            args.y::<T>(0).iter_mut().zip(&best).for_each(|(y, best)| *y = best.0);
            args.y::<i32>(1).iter_mut().zip(&best).for_each(|(y, best)| *y = best.1);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let (rows, cols) = (x.shape().rows(), x.shape().last());
        let aligned = (cols * x.dtype().bytes()).is_multiple_of(16).into();
        let (index, cols) = (args.y[1].ptr, count31(self.called, cols)?);
        let params = MaxParams { x: x.ptr, y: y.ptr, index, rows: rows as u64, cols, aligned };
        match cols <= NARROW {
            true => args.launch(&WARP_PER_ROW, x.dtype(), blocks(rows, THREADS as usize / 32), 0, &params),
            false => args.launch(&BLOCK_PER_ROW, x.dtype(), blocks(rows, 1), 0, &params),
        }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, index) = (v.upstream()?, v.y(1));
        let (rows, cols) = (index.shape().elems(), v.x_spec(0).shape.last());
        Ok(vec![Some(index.one_hot(cols, dy.dtype())?.mul(&dy.reshape([rows, 1])?)?)])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0, y: 0b10 }
    }
}

fn first_largest<T: Real>(row: &[T]) -> (T, i32) {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] || (x.is_nan() && !row[best].is_nan()) {
            best = i;
        }
    }
    (row[best], best as i32)
}

kernel_params! {
    struct MaxParams { x: DevicePtr, y: DevicePtr, index: DevicePtr, rows: u64, cols: u32, aligned: u32 }
}

const THREADS: u32 = 256;
/// Rows up to this length get a warp, longer ones a block.
const NARROW: u32 = 2048;

const fn kernel(name: &'static str) -> Kernel<MaxParams> {
    // SAFETY: only this file fills `MaxParams`, from the tensors of the launch and from their sizes.
    unsafe { Kernel::new(&modules::MAX, name, THREADS, FLOATS) }
}

const WARP_PER_ROW: Kernel<MaxParams> = kernel("fwd");
const BLOCK_PER_ROW: Kernel<MaxParams> = kernel("fwd_block_per_row");

pub const SPEC: OpSpec = OpSpec {
    name: "max",
    order: Order::Any,
    kernels: &[WARP_PER_ROW.info(), BLOCK_PER_ROW.info()],
    cases: || {
        let distinct = |shape: &[usize]| drawn(shape, Draw::Distinct);
        let both = |name, shape: &[usize], axis| {
            Case::new(name, [distinct(shape)], move |x| {
                let x = x[0].square()?.mul(&x[0])?;
                Ok(vec![x.max(axis)?, x.argmax(axis)?])
            })
        };
        vec![
            both("rows", &[5, 7], 1),
            both("aligned", &[3, 40], 1),
            both("middle", &[2, 5, 3], 1),
            both("one", &[4, 1], 1),
            Case::new("block_per_row", [distinct(&[2, 2056])], |x| Ok(vec![x[0].max(1)?, x[0].argmax(1)?])),
            Case::new("block_per_odd_row", [distinct(&[1, 2057])], |x| Ok(vec![x[0].max(1)?, x[0].argmax(1)?])),
            Case::new("ties", [drawn([9, 33], Draw::Normal)], |x| Ok(vec![x[0].sign()?.argmax(1)?])).wrt([]),
        ]
    },
    workloads: || vec![Workload::gpu("max", [normal([16384, 2048])], 16384.0 * 2048.0, |x| x[0].max(1))],
    ..OpSpec::BARE
};
