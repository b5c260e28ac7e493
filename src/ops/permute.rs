//! Axes in another order, copied: tensors are always contiguous.

use rayon::prelude::*;

use crate::{
    cpu::vector::{GRAIN, par_rows, rows_per_task},
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::Element,
        index::{Axes, Strides, access_bytes, axes, count31, strides},
        kernel::{Kernel, UNTYPED, blocks},
        modules,
    },
    dtype::DType,
    element_dispatch,
    error::{Error, Result},
    kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload},
    },
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

kernel_params! {
    struct RowsParams { x: DevicePtr, y: DevicePtr, count: u32, access_bytes: u32, axes: Axes, strides: Strides }

    struct TilesParams {
        x: DevicePtr, y: DevicePtr, fast: u32, slow: u32, slow_step: u64, fast_step: u64,
        fast_tiles: FastDivmod, slow_tiles: FastDivmod, axes: Axes, x_strides: Strides, y_strides: Strides,
        element_bytes: u32, unused: u32,
    }
}

const THREADS: u32 = 256;
/// Elements along both sides of a tile that goes through shared memory.
const TILE: usize = 32;
// SAFETY: only this file fills `RowsParams`, from the tensors and scratch memory of the launch and from their sizes.
const ROWS: Kernel<RowsParams> = unsafe { Kernel::new(&modules::PERMUTE, "rows", THREADS, UNTYPED) };
// SAFETY: as above, `TilesParams`.
const TILES: Kernel<TilesParams> = unsafe { Kernel::new(&modules::PERMUTE, "tiles", THREADS, UNTYPED) };

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

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let element_bytes = x.dtype().bytes();
        if element_bytes > 4 {
            return Err(Error::NoKernel { op: "permute", device: args.driver.name().to_string() });
        }
        let (mut extents, mut steps) = folded(&x.shape(), &self.axes[..self.rank]);
        if extents.is_empty() {
            (extents, steps) = (vec![1], vec![1]);
        }
        // Kernels count axes from the innermost.
        extents.reverse();
        steps.reverse();
        if steps[0] == 1 {
            let unit = access_bytes(&[extents[0] * element_bytes]);
            let in_a_unit = unit / element_bytes;
            extents[0] /= in_a_unit;
            steps[1..].iter_mut().for_each(|step| *step /= in_a_unit);
            let count = count31("permute", extents.iter().product())?;
            let (x, y, access_bytes) = (x.ptr, y.ptr, unit as u32);
            let params = RowsParams { x, y, count, access_bytes, axes: axes(&extents), strides: strides(&steps) };
            return args.launch(&ROWS, DType::U8, blocks(count as usize, THREADS as usize), 0, &params);
        }
        let fast = steps.iter().position(|&step| step == 1).unwrap_or(0);
        let y_steps: Vec<usize> = (0..extents.len()).map(|axis| extents[..axis].iter().product()).collect();
        let planes: Vec<usize> = (1..extents.len()).filter(|&axis| axis != fast).collect();
        let of_planes = |all: &[usize]| planes.iter().map(|&axis| all[axis]).collect::<Vec<_>>();
        let tiles = [extents[fast].div_ceil(TILE), extents[0].div_ceil(TILE)];
        let count = tiles[0] * tiles[1] * of_planes(&extents).iter().product::<usize>();
        let params = TilesParams {
            x: x.ptr,
            y: y.ptr,
            fast: count31("permute", extents[fast])?,
            slow: count31("permute", extents[0])?,
            slow_step: steps[0] as u64,
            fast_step: y_steps[fast] as u64,
            fast_tiles: FastDivmod::new(tiles[0] as u32),
            slow_tiles: FastDivmod::new(tiles[1] as u32),
            axes: axes(&of_planes(&extents)),
            x_strides: strides(&of_planes(&steps)),
            y_strides: strides(&of_planes(&y_steps)),
            element_bytes: element_bytes as u32,
            unused: 0,
        };
        args.launch(&TILES, DType::U8, count31("permute", count)?, 0, &params)
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
        let block = rows_per_task(inner);
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
    kernels: &[ROWS.info(), TILES.info()],
    cases: || {
        vec![
            Case::new("heads", [normal([2, 5, 3, 2, 4])], |x| Ok(vec![x[0].square()?.permute(&[2, 0, 3, 1, 4])?])),
            Case::new("channels_last", [normal([2, 3, 5, 7])], |x| Ok(vec![x[0].square()?.permute(&[0, 2, 3, 1])?])),
            Case::new("reversed", [normal([3, 19, 5, 33])], |x| Ok(vec![x[0].square()?.permute(&[3, 2, 1, 0])?])),
            Case::new("wide_heads", [normal([3, 5, 2, 8])], |x| Ok(vec![x[0].square()?.permute(&[0, 2, 1, 3])?])),
            Case::new("matrix", [normal([37, 18])], |x| Ok(vec![x[0].square()?.transpose()?])),
            Case::new("bytes", [drawn([37, 18], Draw::Bytes)], |x| Ok(vec![x[0].transpose()?])).wrt([]),
            Case::new("middle", [normal([4, 3, 2, 5])], |x| Ok(vec![x[0].square()?.permute(&[2, 3, 1, 0])?])),
        ]
    },
    workloads: || vec![Workload::gpu("permute", [normal(IMAGE)], 0.0, |x| x[0].permute(&[0, 3, 1, 2]))],
    ..OpSpec::BARE
};
