//! Axes in another order, copied: tensors are always contiguous.

use rayon::prelude::*;

use crate::{
    device::{
        host::Element,
        vector::{GRAIN, par_rows, rows_a_task},
    },
    element_dispatch,
    error::{Error, Result},
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::{MAX_RANK, Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Axis `i` of the result is axis `axes[i]` of `x`; every axis is named once. Any element type.
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        let rank = self.shape().rank();
        let mut sorted = [0; MAX_RANK];
        let valid = axes.len() == rank && {
            sorted[..rank].copy_from_slice(axes);
            sorted[..rank].sort_unstable();
            sorted[..rank].iter().enumerate().all(|(i, &axis)| i == axis)
        };
        if !valid {
            return Err(Error::shape("permute", format!("{axes:?} is no order of the axes of {}", self.shape())));
        }
        if axes.iter().enumerate().all(|(i, &axis)| i == axis) {
            return Ok(self.clone());
        }
        sorted[..rank].copy_from_slice(axes);
        apply1(Permute { axes: sorted, rank }, &[self])
    }

    /// The last two axes exchanged.
    pub fn transpose(&self) -> Result<Tensor> {
        let rank = self.shape().rank();
        if rank < 2 {
            return Err(Error::shape("transpose", format!("at least two axes wanted, got {}", self.shape())));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }
}

struct Permute {
    axes: [usize; MAX_RANK],
    rank: usize,
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let mut shape = x[0].shape;
        for i in 0..self.rank {
            shape = shape.with(i, x[0].shape[self.axes[i]]);
        }
        Ok(vec![Spec { shape, dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let shape = args.x_shape(0);
        element_dispatch!(args, T => reorder::<T>(args.x(0), args.y(0), &shape, &self.axes[..self.rank]));
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let mut inverse = [0; MAX_RANK];
        for i in 0..self.rank {
            inverse[self.axes[i]] = i;
        }
        Ok(vec![Some(v.upstream()?.permute(&inverse[..self.rank])?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

/// Extents and input strides of the output's axes, neighbours that stay neighbours folded into one.
fn folded(shape: &Shape, axes: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let strides = shape.strides();
    let (mut extents, mut steps) = (Vec::new(), Vec::new());
    for &axis in axes.iter().filter(|&&axis| shape[axis] != 1) {
        match (extents.last_mut(), steps.last_mut()) {
            (Some(extent), Some(step)) if *step == strides[axis] * shape[axis] => {
                *extent *= shape[axis];
                *step = strides[axis];
            }
            _ => {
                extents.push(shape[axis]);
                steps.push(strides[axis]);
            }
        }
    }
    (extents, steps)
}

/// Where row `row` begins, rows being counted over `extents` with the given steps.
fn offset(row: usize, extents: &[usize], steps: &[usize]) -> usize {
    let (mut rest, mut at) = (row, 0);
    for (extent, step) in extents.iter().zip(steps).rev() {
        at += rest % extent * step;
        rest /= extent;
    }
    at
}

fn reorder<T: Element>(x: &[T], y: &mut [T], shape: &Shape, axes: &[usize]) {
    if y.is_empty() {
        return;
    }
    let (extents, steps) = folded(shape, axes);
    let (Some(&inner), Some(&step)) = (extents.last(), steps.last()) else {
        return y.copy_from_slice(x);
    };
    let (outer_extents, outer_steps) = (&extents[..extents.len() - 1], &steps[..steps.len() - 1]);
    if step == 1 {
        // Whole rows move: the head split of attention.
        let block = rows_a_task(inner);
        return par_rows(y, inner, |task, y| {
            for (row, y) in y.chunks_exact_mut(inner).enumerate() {
                let at = offset(task * block + row, outer_extents, outer_steps);
                y.copy_from_slice(&x[at..at + inner]);
            }
        });
    }
    // The input's contiguous axis is another one of the output: transpose in tiles that stay in L1.
    const TILE: usize = 16;
    let contiguous = steps.iter().position(|&s| s == 1).unwrap_or(0);
    let fast = extents[contiguous];
    let y_step: usize = extents[contiguous + 1..].iter().product();
    // One slab is the contiguous input axis and everything behind it in the output; inside it lie planes `fast x inner`.
    let slab = fast * y_step;
    let middle = contiguous + 1..extents.len() - 1;
    let planes: usize = extents[middle.clone()].iter().product();
    let strip = |slab_index: usize, first: usize, y: &mut [T]| {
        let base = first + offset(slab_index, &extents[..contiguous], &steps[..contiguous]);
        for plane in 0..planes {
            let base = base + offset(plane, &extents[middle.clone()], &steps[middle.clone()]);
            for start in (0..inner).step_by(TILE) {
                let end = (start + TILE).min(inner);
                for (f, row) in y.chunks_exact_mut(y_step).enumerate() {
                    let row = &mut row[plane * inner..][..inner];
                    row[start..end].iter_mut().zip(start..).for_each(|(y, i)| *y = x[base + f + i * step]);
                }
            }
        }
    };
    let parallel = y.len() > GRAIN;
    let in_strips = |(index, y): (usize, &mut [T])| {
        if parallel {
            y.par_chunks_mut(TILE * y_step).enumerate().for_each(|(i, y)| strip(index, i * TILE, y));
        } else {
            y.chunks_mut(TILE * y_step).enumerate().for_each(|(i, y)| strip(index, i * TILE, y));
        }
    };
    if parallel {
        y.par_chunks_mut(slab).enumerate().for_each(in_strips);
    } else {
        y.chunks_mut(slab).enumerate().for_each(in_strips);
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "permute",
    order: Order::Any,
    kernels: &[],
    cases: || {
        vec![
            Case::new("heads", [normal([2, 5, 3, 2, 4])], |x| Ok(vec![x[0].square()?.permute(&[2, 0, 3, 1, 4])?])),
            Case::new("channels_last", [normal([2, 3, 5, 7])], |x| Ok(vec![x[0].square()?.permute(&[0, 2, 3, 1])?])),
            Case::new("reversed", [normal([3, 19, 5, 33])], |x| Ok(vec![x[0].square()?.permute(&[3, 2, 1, 0])?])),
            Case::new("matrix", [normal([37, 18])], |x| Ok(vec![x[0].square()?.transpose()?])),
            Case::new("middle", [normal([4, 3, 2, 5])], |x| Ok(vec![x[0].square()?.permute(&[2, 3, 1, 0])?])),
        ]
    },
};
