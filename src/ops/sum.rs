//! Sums over axes, in a fixed order: bit-identical at any thread count.

use rayon::prelude::*;

use crate::{
    device::{
        driver::{DeviceBuffer, DevicePtr},
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each, column_blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload},
    },
    shape::{MAX_RANK, Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Sum over `axes`, which stay as extents of one.
    pub fn sum(&self, axes: &[usize]) -> Result<Tensor> {
        let mut reduced = [false; MAX_RANK];
        for &axis in axes {
            if axis >= self.shape().rank() {
                return Err(Error::shape("sum", format!("axis {axis} of {}", self.shape())));
            }
            reduced[axis] = true;
        }
        apply1(Sum { reduced }, &[self])
    }

    /// Sum of all elements, shape `[1]`.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.reshape([self.shape().elems()])?.sum(&[0])
    }

    /// Mean over `axes`, which stay as extents of one.
    pub fn mean(&self, axes: &[usize]) -> Result<Tensor> {
        let y = self.sum(axes)?;
        let count = self.shape().elems() / y.shape().elems().max(1);
        y.scale(1.0 / count.max(1) as f64)
    }

    /// Mean of all elements, shape `[1]`.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.reshape([self.shape().elems()])?.mean(&[0])
    }
}

struct Sum {
    reduced: [bool; MAX_RANK],
}

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { mut shape, dtype } = x[0];
        if !dtype.is_float() {
            return Err(Error::DType { op: "sum", wanted: "a float type", got: dtype });
        }
        for axis in (0..shape.rank()).filter(|&axis| self.reduced[axis]) {
            shape = shape.with(axis, 1);
        }
        Ok(vec![Spec { shape, dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let shape = args.x_shape(0);
        float_dispatch!(args, T => sum_axes::<T>(args.x(0), args.y(0), &shape, &self.reduced));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        sum_on_device(args, folded(&args.x[0].shape(), &self.reduced))
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(v.upstream()?.broadcast_to(v.x_spec(0).shape)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

/// Neighbouring axes of one kind as one: its extent and whether it is summed.
fn folded(shape: &Shape, reduced: &[bool; MAX_RANK]) -> Vec<(usize, bool)> {
    let mut folded: Vec<(usize, bool)> = Vec::new();
    for (&extent, &reduce) in shape.iter().zip(reduced).filter(|(extent, _)| **extent != 1) {
        match folded.last_mut() {
            Some((last, kind)) if *kind == reduce => *last *= extent,
            _ => folded.push((extent, reduce)),
        }
    }
    folded
}

/// Sums the reduced stretches from the innermost out, one pass each.
fn sum_axes<T: Real>(x: &[T], y: &mut [T], shape: &Shape, reduced: &[bool; MAX_RANK]) {
    let mut folded = folded(shape, reduced);
    let mut current: Option<Vec<T>> = None;
    while let Some(axis) = folded.iter().rposition(|&(_, reduce)| reduce) {
        let outer: usize = folded[..axis].iter().map(|f| f.0).product();
        let inner: usize = folded[axis + 1..].iter().map(|f| f.0).product();
        let mut out = vec![T::zero(); outer * inner];
        sum_middle(current.as_deref().unwrap_or(x), &mut out, folded[axis].0, inner);
        folded.remove(axis);
        current = Some(out);
    }
    y.copy_from_slice(current.as_deref().unwrap_or(x));
}

/// Rows per partial sum: fixed, so that the order of additions does not depend on how many threads there are.
const ROWS_A_PART: usize = 1024;

/// `[outer, axis, inner] -> [outer, inner]`.
fn sum_middle<T: Real>(x: &[T], y: &mut [T], axis: usize, inner: usize) {
    if x.is_empty() {
        return y.fill(T::zero());
    }
    if inner == 1 {
        let grain = (16 << 10) / axis + 1;
        y.par_iter_mut().with_min_len(grain).zip(x.par_chunks(axis)).for_each(|(y, x)| *y = pairwise(x));
        return;
    }
    let add_rows = |rows: &[T]| {
        let mut sum = vec![T::zero(); inner];
        rows.chunks_exact(inner).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, &v)| *s += v));
        sum
    };
    x.par_chunks(axis * inner).zip(y.par_chunks_mut(inner)).for_each(|(x, y)| {
        let parts: Vec<Vec<T>> = if axis * inner < 32 << 10 {
            x.chunks(ROWS_A_PART * inner).map(add_rows).collect()
        } else {
            x.par_chunks(ROWS_A_PART * inner).map(add_rows).collect()
        };
        y.fill(T::zero());
        parts.iter().for_each(|part| y.iter_mut().zip(part).for_each(|(y, &v)| *y += v));
    });
}

/// Pairwise summation: error grows with the logarithm of the length. Sixteen lanes at the leaves, so that it vectorises.
pub(crate) fn pairwise<T: Real>(x: &[T]) -> T {
    if x.len() > 512 {
        let half = (x.len() / 2).next_multiple_of(16);
        return pairwise(&x[..half]) + pairwise(&x[half..]);
    }
    let mut lanes = [T::zero(); 16];
    let chunks = x.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += v);
    }
    lanes.into_iter().chain(tail.iter().copied()).sum()
}

kernel_params! {
    struct SumParams {
        x: DevicePtr,
        y: DevicePtr,
        outer: u64,
        axis: u64,
        inner: u64,
        chunk: u64,
        parts: u64,
        aligned: u32,
        tiles: u32,
        from_f32: u32,
        to_f32: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `SumParams`, from the tensors and scratch memory of the launch and from their sizes.
const ROWS: Kernel<SumParams> = unsafe { Kernel::new(&modules::SUM, "rows", THREADS, FLOATS) };
// SAFETY: as above, `SumParams`.
const COLUMNS: Kernel<SumParams> = unsafe { Kernel::new(&modules::SUM, "columns", THREADS, FLOATS) };

/// Elements of a row that one warp sums, and positions of a column's axis that one block does.
const ROW_CHUNK: usize = 4096;
const COLUMN_CHUNK: usize = 512;

/// The same passes, and where an axis is long, one more over the parts of its sum. What lies between passes is f32.
fn sum_on_device(args: &DeviceArgs, mut folded: Vec<(usize, bool)>) -> Result<()> {
    let (x, y) = (args.x[0], args.y[0]);
    let dtype = x.dtype();
    if y.elems() == 0 {
        return Ok(());
    }
    if folded.iter().all(|&(_, reduce)| !reduce) {
        // Nothing is summed: a sum over an axis of one.
        folded.push((1, true));
    }
    let (mut from, mut held): (DevicePtr, Option<DeviceBuffer>) = (x.ptr, None);
    while let Some(at) = folded.iter().rposition(|&(_, reduce)| reduce) {
        let outer: usize = folded[..at].iter().map(|f| f.0).product();
        let inner: usize = folded[at + 1..].iter().map(|f| f.0).product();
        let axis = folded[at].0;
        let chunk = if inner == 1 { ROW_CHUNK } else { COLUMN_CHUNK };
        let parts = axis.div_ceil(chunk).max(1);
        if parts == 1 {
            folded.remove(at);
        } else {
            folded[at].0 = parts;
        }
        let last = folded.iter().all(|&(_, reduce)| !reduce);
        let scratch = if last { None } else { Some(args.scratch(outer * parts * inner * 4)?) };
        let to = scratch.as_ref().map_or(y.ptr, DeviceBuffer::ptr);
        let bytes = if held.is_some() { 4 } else { dtype.bytes() };
        let row = if inner == 1 { axis } else { inner };
        let aligned = (row * bytes).is_multiple_of(16);
        let params = SumParams {
            x: from,
            y: to,
            outer: outer as u64,
            axis: axis as u64,
            inner: inner as u64,
            chunk: chunk as u64,
            parts: parts as u64,
            aligned: aligned.into(),
            tiles: column_blocks(inner, aligned, bytes),
            from_f32: held.is_some().into(),
            to_f32: scratch.is_some().into(),
        };
        if inner == 1 {
            args.launch(&ROWS, dtype, blocks(outer * parts, THREADS as usize / 32), 0, &params)?;
        } else {
            args.launch(&COLUMNS, dtype, blocks_for_each(outer * parts, params.tiles), 0, &params)?;
        }
        from = to;
        // The scratch read by this launch is freed behind it in stream order.
        held = scratch;
    }
    drop(held);
    Ok(())
}

pub const SPEC: OpSpec = OpSpec {
    name: "sum",
    order: Order::Any,
    kernels: &[ROWS.info(), COLUMNS.info()],
    cases: || {
        vec![
            Case::new("rows", [normal([37, 5])], |x| Ok(vec![x[0].square()?.sum(&[0])?])),
            Case::new("columns", [normal([3, 131])], |x| Ok(vec![x[0].square()?.sum(&[1])?])),
            Case::new("spatial", [normal([2, 5, 3, 7])], |x| Ok(vec![x[0].square()?.sum(&[1, 2])?])),
            Case::new("outer_and_inner", [normal([3, 4, 5])], |x| Ok(vec![x[0].square()?.sum(&[0, 2])?])),
            Case::new("long_row", [normal([2, 4100])], |x| Ok(vec![x[0].sum(&[1])?])),
            Case::new("wide", [normal([2, 3, 136])], |x| Ok(vec![x[0].sum(&[0, 1])?])),
            Case::new("long_wide", [normal([2100, 16])], |x| Ok(vec![x[0].sum(&[0])?])),
            Case::new("all", [normal([3, 1, 5])], |x| Ok(vec![x[0].square()?.sum_all()?])),
            Case::new("long", [normal([2100, 2])], |x| Ok(vec![x[0].mean(&[0])?])),
        ]
    },
    workloads: || {
        let elements = IMAGE.iter().product::<usize>() as f64;
        vec![
            Workload::gpu("sum_channels", [normal(IMAGE)], elements, |x| x[0].sum(&[3])),
            Workload::gpu("sum_pixels", [normal(IMAGE)], elements, |x| x[0].sum(&[0, 1, 2])),
        ]
    },
    ..OpSpec::BARE
};
