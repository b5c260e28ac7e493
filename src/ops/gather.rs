//! Rows picked by index, and its adjoint, rows added up by index. Both in a fixed order: a row that is named several
//! times receives its terms in the order of the indices, at any thread count.

use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::{Element, Real},
        index::{access_bytes, count31},
        kernel::{FLOATS, Kernel, UNTYPED, blocks},
        modules,
    },
    element_dispatch,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal, registry::Workload},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `y[i] = x[indices[i]]` along the first axis; `indices` is `[n]:i32`, each below `x`'s first extent. Any element type.
    pub fn gather_rows(&self, indices: &Tensor) -> Result<Tensor> {
        apply1(Gather, &[self, indices])
    }

    /// `y[indices[i]] += x[i]` along the first axis, from zeros of `rows` rows.
    pub fn scatter_add_rows(&self, indices: &Tensor, rows: usize) -> Result<Tensor> {
        apply1(ScatterAdd { rows }, &[self, indices])
    }
}

struct Gather;

kernel_params! {
    struct GatherParams {
        x: DevicePtr, indices: DevicePtr, y: DevicePtr, count: u32, access_bytes: u32, width: FastDivmod, rows: u32,
    }

    struct ScatterParams { x: DevicePtr, indices: DevicePtr, y: DevicePtr, width: u64, count: u32, wide: u32 }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `GatherParams`, from the tensors and scratch memory of the launch and from their sizes.
const GATHER: Kernel<GatherParams> = unsafe { Kernel::new(&modules::GATHER, "fwd", THREADS, UNTYPED) };
// SAFETY: as above, `ScatterParams`.
const SCATTER_ADD: Kernel<ScatterParams> = unsafe { Kernel::new(&modules::GATHER, "scatter_add", THREADS, FLOATS) };

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let shape = x[0].shape;
        if shape.rank() == 0 {
            return Err(Error::shape("gather_rows", "a scalar has no rows"));
        }
        let count = index_count("gather_rows", x[1])?;
        Ok(vec![Spec { shape: shape.with(0, count), dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let indices = checked("gather_rows", args.x(1), args.x_shape(0)[0])?;
        let width = args.x_shape(0)[1..].iter().product();
        element_dispatch!(args, T => pick::<T>(args.x(0), indices, args.y(0), width));
        Ok(())
    }

    /// An index out of range, an error on the CPU, gives a row of NaN here: finding it would mean waiting for the device.
    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, indices, y) = (args.x[0], args.x[1], args.y[0]);
        let width_bytes = x.shape()[1..].iter().product::<usize>() * x.dtype().bytes();
        let unit = access_bytes(&[width_bytes]);
        let count = count31("gather_rows", y.spec.bytes() / unit)?;
        let params = GatherParams {
            x: x.ptr,
            indices: indices.ptr,
            y: y.ptr,
            count,
            access_bytes: unit as u32,
            width: FastDivmod::new((width_bytes / unit) as u32),
            rows: count31("gather_rows", x.shape()[0])?,
        };
        args.launch(&GATHER, x.dtype(), blocks(count as usize, THREADS as usize), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dx = v.when(0, || v.upstream()?.scatter_add_rows(v.x(1), v.x_spec(0).shape[0]))?;
        Ok(vec![dx, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

struct ScatterAdd {
    rows: usize,
}

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add_rows"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (shape, dtype) = (x[0].shape, x[0].dtype);
        if !dtype.is_float() {
            return Err(Error::DType { op: self.name(), wanted: "a float type", got: dtype });
        }
        let count = index_count(self.name(), x[1])?;
        if shape.rank() == 0 || shape[0] != count {
            return Err(Error::shape(self.name(), format!("{count} indices for the rows of {shape}")));
        }
        let mut dims = shape.to_vec();
        dims[0] = self.rows;
        let shape = Shape::try_new(&dims).ok_or_else(|| Error::shape(self.name(), format!("{dims:?} is too large")))?;
        Ok(vec![Spec { shape, dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let indices = checked(self.name(), args.x(1), self.rows)?;
        let width = args.x_shape(0)[1..].iter().product();
        float_dispatch!(args, T => add_up::<T>(args.x(0), indices, args.y(0), width, self.rows));
        Ok(())
    }

    /// An index out of range, an error on the CPU, adds to nothing here.
    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, indices, y) = (args.x[0], args.x[1], args.y[0]);
        let width: usize = x.shape()[1..].iter().product();
        let vector = x.dtype().vector_elems();
        let wide = width.is_multiple_of(vector);
        let params = ScatterParams {
            x: x.ptr,
            indices: indices.ptr,
            y: y.ptr,
            width: width as u64,
            count: count31(self.name(), indices.elems())?,
            wide: wide.into(),
        };
        let columns = THREADS as usize * if wide { vector } else { 1 };
        let grid = [count31(self.name(), self.rows)?, blocks(width, columns)];
        args.launch(&SCATTER_ADD, x.dtype(), grid, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![v.when(0, || v.upstream()?.gather_rows(v.x(1)))?, None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b10, y: 0 }
    }
}

fn index_count(op: &'static str, indices: Spec) -> Result<usize> {
    match indices {
        Spec { shape, dtype: crate::DType::I32 } if shape.rank() == 1 => Ok(shape[0]),
        Spec { shape, dtype } => Err(Error::shape(op, format!("indices [n]:i32 wanted, got {shape}:{dtype}"))),
    }
}

fn checked<'a>(op: &'static str, indices: &'a [i32], rows: usize) -> Result<&'a [i32]> {
    match indices.iter().find(|&&i| usize::try_from(i).map_or(true, |i| i >= rows)) {
        None => Ok(indices),
        Some(i) => Err(Error::shape(op, format!("index {i} of {rows} rows"))),
    }
}

fn pick<T: Element>(x: &[T], indices: &[i32], y: &mut [T], width: usize) {
    par_rows(y, width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let from = indices[task * rows_per_task(width) + row] as usize;
            y.copy_from_slice(&x[from * width..][..width]);
        }
    });
}

fn add_up<T: Real>(x: &[T], indices: &[i32], y: &mut [T], width: usize, rows: usize) {
    // Positions grouped by the row they go to, in order within each (a counting sort).
    let mut ends = vec![0usize; rows + 1];
    indices.iter().for_each(|&i| ends[i as usize + 1] += 1);
    for row in 0..rows {
        ends[row + 1] += ends[row];
    }
    let (mut next, mut order) = (ends.clone(), vec![0usize; indices.len()]);
    for (position, &i) in indices.iter().enumerate() {
        order[next[i as usize]] = position;
        next[i as usize] += 1;
    }
    par_rows(y, width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * rows_per_task(width) + row;
            y.fill(T::zero());
            for &position in &order[ends[row]..ends[row + 1]] {
                let x = &x[position * width..][..width];
                vectorised!({
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y += x;
                    }
                });
            }
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "gather",
    order: Order::Any,
    kernels: &[GATHER.info(), SCATTER_ADD.info()],
    cases: || {
        let index = |count, below| drawn([count], Draw::Index(below));
        vec![
            Case::new("rows", [normal([5, 7]), index(9, 5)], |x| Ok(vec![x[0].square()?.gather_rows(&x[1])?])),
            Case::new("wide_rows", [normal([3, 24]), index(7, 3)], |x| Ok(vec![x[0].square()?.gather_rows(&x[1])?])),
            Case::new("scatter_many", [normal([300, 16]), index(300, 3)], |x| {
                Ok(vec![x[0].square()?.scatter_add_rows(&x[1], 3)?])
            }),
            Case::new("cubes", [normal([4, 2, 3]), index(3, 4)], |x| Ok(vec![x[0].square()?.gather_rows(&x[1])?])),
            Case::new("scatter", [normal([9, 4]), index(9, 5)], |x| {
                Ok(vec![x[0].square()?.scatter_add_rows(&x[1], 6)?])
            }),
        ]
    },
    workloads: || {
        let inputs = [normal([65536, 512]), drawn([65536], Draw::Index(65536))];
        vec![Workload::gpu("gather", inputs, 0.0, |x| x[0].gather_rows(&x[1]))]
    },
    ..OpSpec::BARE
};
