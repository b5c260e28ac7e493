//! `y = a ∘ b` for the four arithmetic operations and for comparisons, operands broadcast by NumPy's rules.

use rayon::prelude::*;

use crate::{
    device::{
        driver::DevicePtr,
        host::Real,
        index::{Axes, LoopNest, Strides, count31, strides},
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload},
    },
    shape::{MAX_RANK, Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $method:ident($a:ident, $b:ident) => $kind:ident($x:ident, $y:ident);)*) => {
        impl Tensor {
            $($(#[$doc])* pub fn $method(&self, b: &Tensor) -> Result<Tensor> {
                let ($a, $b) = (self, b);
                apply1(Binary { kind: Kind::$kind, called: stringify!($method) }, &[$x, $y])
            })*
        }
    };
}

binary_methods! {
    /// Elementwise sum, broadcasting.
    add(a, b) => Add(a, b);
    /// Elementwise difference, broadcasting.
    sub(a, b) => Sub(a, b);
    /// Elementwise (Hadamard) product, broadcasting.
    mul(a, b) => Mul(a, b);
    /// Elementwise quotient, broadcasting.
    div(a, b) => Div(a, b);
    /// 1 where `a < b`, else 0, in the operands' type, so that it multiplies as a mask; broadcasting. Its gradient is 0.
    lt(a, b) => Lt(a, b);
    /// `a ≤ b`, as [`Tensor::lt`].
    le(a, b) => Le(a, b);
    /// `a > b`, as [`Tensor::lt`].
    gt(a, b) => Lt(b, a);
    /// `a ≥ b`, as [`Tensor::lt`].
    ge(a, b) => Le(b, a);
    /// `a = b`, as [`Tensor::lt`].
    eq(a, b) => Eq(a, b);
    /// `a ≠ b`, as [`Tensor::lt`]; NaN differs from everything.
    ne(a, b) => Ne(a, b);
}

impl Tensor {
    /// Sums a broadcast tensor's gradient back to the shape it came from.
    pub fn sum_to(&self, shape: Shape) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let lead = self.shape().rank() - shape.rank();
        let axes: Vec<usize> =
            (0..self.shape().rank()).filter(|&i| i < lead || (shape[i - lead] == 1 && self.shape()[i] != 1)).collect();
        self.sum(&axes)?.reshape(shape)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Add,
    Sub,
    Mul,
    Div,
    Lt,
    Le,
    Eq,
    Ne,
}

struct Binary {
    kind: Kind,
    /// The method, which errors name.
    called: &'static str,
}

kernel_params! {
    struct BinaryParams {
        a: DevicePtr, b: DevicePtr, y: DevicePtr, elems: u64, count: u32, wide: u32,
        axes: Axes, a_strides: Strides, b_strides: Strides, a_repeats: u32, b_repeats: u32,
    }
}

const THREADS: u32 = 256;

const fn kernel(kind: Kind) -> Kernel<BinaryParams> {
    let name = match kind {
        Kind::Add => "add",
        Kind::Sub => "sub",
        Kind::Mul => "mul",
        Kind::Div => "div",
        Kind::Lt => "lt",
        Kind::Le => "le",
        Kind::Eq => "eq",
        Kind::Ne => "ne",
    };
    // SAFETY: only this file fills `BinaryParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::BINARY, name, THREADS, FLOATS) }
}

/// Elements one rayon task takes: enough to hide its start, small enough to stay in L2.
const GRAIN: usize = 16 << 10;

impl Op for Binary {
    fn name(&self) -> &'static str {
        self.called
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let (a, b) = (x[0], x[1]);
        if a.dtype != b.dtype || !a.dtype.is_float() {
            return Err(Error::shape(self.name(), format!("{} and {} do not mix", a.dtype, b.dtype)));
        }
        let shape = a.shape.broadcast(&b.shape);
        let shape = shape
            .ok_or_else(|| Error::shape(self.name(), format!("{} does not broadcast with {}", a.shape, b.shape)))?;
        Ok(vec![Spec { shape, dtype: a.dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let one = |truth: bool| if truth { T::c(1.0) } else { T::c(0.0) };
            match self.kind {
                Kind::Add => combine::<T>(args, |a, b| a + b),
                Kind::Sub => combine::<T>(args, |a, b| a - b),
                Kind::Mul => combine::<T>(args, |a, b| a * b),
                Kind::Div => combine::<T>(args, |a, b| a / b),
                Kind::Lt => combine::<T>(args, |a, b| one(a < b)),
                Kind::Le => combine::<T>(args, |a, b| one(a <= b)),
                Kind::Eq => combine::<T>(args, |a, b| one(a == b)),
                Kind::Ne => combine::<T>(args, |a, b| one(a != b)),
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (a, b, y) = (args.x[0], args.x[1], args.y[0]);
        let shape = y.shape();
        let (a_strides, b_strides) = (broadcast_strides(&a.shape(), &shape), broadcast_strides(&b.shape(), &shape));
        let mut walk = LoopNest::new(&shape, [&a_strides[..shape.rank()], &b_strides[..shape.rank()]]);
        let width = y.dtype().vector_elems();
        let wide = walk.extents.len() == 1 || walk.extents[0].is_multiple_of(width);
        if wide {
            walk.extents[0] = walk.extents[0].div_ceil(width);
            walk.strides.iter_mut().for_each(|of| of[0] *= width);
        }
        let count = count31(self.name(), walk.extents.iter().product())?;
        let params = BinaryParams {
            a: a.ptr,
            b: b.ptr,
            y: y.ptr,
            elems: y.elems() as u64,
            count,
            wide: wide.into(),
            axes: walk.axes(),
            a_strides: strides(&walk.strides[0]),
            b_strides: strides(&walk.strides[1]),
            a_repeats: walk.repeats(0).into(),
            b_repeats: walk.repeats(1).into(),
        };
        args.launch(&kernel(self.kind), y.dtype(), blocks(count as usize, THREADS as usize), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = v.upstream()?;
        let (a, b) = (v.x_spec(0).shape, v.x_spec(1).shape);
        let gradients: [&dyn Fn() -> Result<Tensor>; 2] = match self.kind {
            Kind::Add => [&|| dy.sum_to(a), &|| dy.sum_to(b)],
            Kind::Sub => [&|| dy.sum_to(a), &|| dy.neg()?.sum_to(b)],
            Kind::Mul => [&|| dy.mul(v.x(1))?.sum_to(a), &|| dy.mul(v.x(0))?.sum_to(b)],
            Kind::Div => [&|| dy.div(v.x(1))?.sum_to(a), &|| dy.mul(v.x(0))?.div(&v.x(1).square()?)?.neg()?.sum_to(b)],
            Kind::Lt | Kind::Le | Kind::Eq | Kind::Ne => return Ok(vec![None, None]),
        };
        Ok(vec![v.when(0, gradients[0])?, v.when(1, gradients[1])?])
    }

    fn keep(&self) -> Keep {
        match self.kind {
            Kind::Mul | Kind::Div => Keep::INPUTS,
            _ => Keep::NONE,
        }
    }
}

fn combine<T: Real>(args: &mut HostArgs, f: impl Fn(T, T) -> T + Sync) {
    let (a, b) = (args.x::<T>(0), args.x::<T>(1));
    let (a_shape, b_shape, shape) = (args.x_shape(0), args.x_shape(1), args.y_shape(0));
    let y = args.y::<T>(0);
    if y.is_empty() {
        return;
    }
    if a_shape == b_shape {
        y.par_chunks_mut(GRAIN).enumerate().for_each(|(i, y)| {
            let (a, b) = (&a[i * GRAIN..], &b[i * GRAIN..]);
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
        });
        return;
    }
    // Row by row along the last axis, where each operand is either contiguous or one repeated value.
    let inner = shape.last();
    let (a_strides, b_strides) = (broadcast_strides(&a_shape, &shape), broadcast_strides(&b_shape, &shape));
    let rows_per_task = (GRAIN / inner).max(1);
    let last = shape.rank().saturating_sub(1);
    let (a_repeats, b_repeats) = (a_strides[last] == 0, b_strides[last] == 0);
    y.par_chunks_mut(rows_per_task * inner).enumerate().for_each(|(task, y)| {
        for (row, y) in y.chunks_mut(inner).enumerate() {
            let row = task * rows_per_task + row;
            let (ai, bi) = (row_offset(row, &shape, &a_strides), row_offset(row, &shape, &b_strides));
            match (a_repeats, b_repeats) {
                (false, false) => {
                    y.iter_mut().zip(a[ai..].iter().zip(&b[bi..])).for_each(|(y, (&a, &b))| *y = f(a, b));
                }
                (true, false) => y.iter_mut().zip(&b[bi..]).for_each(|(y, &b)| *y = f(a[ai], b)),
                (false, true) => y.iter_mut().zip(&a[ai..]).for_each(|(y, &a)| *y = f(a, b[bi])),
                (true, true) => y.fill(f(a[ai], b[bi])),
            }
        }
    });
}

/// Strides of `from` as seen by an index into `to`: zero along every broadcast axis.
pub(crate) fn broadcast_strides(from: &Shape, to: &Shape) -> [usize; MAX_RANK] {
    let (strides, lead) = (from.strides(), to.rank() - from.rank());
    let mut out = [0; MAX_RANK];
    for axis in 0..from.rank() {
        out[axis + lead] = if from[axis] == 1 { 0 } else { strides[axis] };
    }
    out
}

/// Where row `row` of `shape` (its last axis running) begins under the given strides.
pub(crate) fn row_offset(row: usize, shape: &Shape, strides: &[usize; MAX_RANK]) -> usize {
    let (mut rest, mut offset) = (row, 0);
    for axis in (0..shape.rank().saturating_sub(1)).rev() {
        offset += rest % shape[axis] * strides[axis];
        rest /= shape[axis];
    }
    offset
}

pub const SPEC: OpSpec = OpSpec {
    name: "binary",
    order: Order::Any,
    kernels: &[
        kernel(Kind::Add).info(),
        kernel(Kind::Sub).info(),
        kernel(Kind::Mul).info(),
        kernel(Kind::Div).info(),
        kernel(Kind::Lt).info(),
        kernel(Kind::Le).info(),
        kernel(Kind::Eq).info(),
        kernel(Kind::Ne).info(),
    ],
    cases: || {
        vec![
            Case::new("add_rows", [normal([5, 7]), normal([7])], |x| Ok(vec![x[0].add(&x[1])?])),
            Case::new("sub_columns", [normal([4, 1, 3]), normal([2, 1])], |x| Ok(vec![x[0].sub(&x[1])?])),
            Case::new("add_wide_rows", [normal([3, 5, 16]), normal([16])], |x| Ok(vec![x[0].add(&x[1])?])),
            Case::new("mul_outer", [normal([5, 1]), normal([1, 24])], |x| Ok(vec![x[0].mul(&x[1])?])),
            Case::new("sub_single", [normal([1]), normal([1])], |x| Ok(vec![x[0].sub(&x[1])?])),
            Case::new("mul_same", [normal([3, 33]), normal([3, 33])], |x| Ok(vec![x[0].mul(&x[1])?])),
            Case::new("mul_scalar", [normal([2, 3, 4]), normal([1])], |x| Ok(vec![x[0].mul(&x[1])?])),
            Case::new("div_channels", [normal([2, 3, 2, 5]), drawn([2, 1, 1, 5], Draw::Uniform(0.5, 2.0))], |x| {
                Ok(vec![x[0].div(&x[1])?])
            }),
            Case::new("compare_rows", [normal([5, 7]), normal([7])], |x| {
                Ok(vec![x[0].lt(&x[1])?, x[0].le(&x[1])?, x[0].gt(&x[1])?, x[0].ge(&x[1])?])
            })
            .wrt([]),
            Case::new("compare_signs", [normal([33]), normal([33])], |x| {
                let (a, b) = (x[0].sign()?, x[1].sign()?);
                Ok(vec![a.eq(&b)?, a.ne(&b)?, a.le(&b)?, a.ge(&b)?])
            })
            .wrt([]),
        ]
    },
    workloads: || {
        let elements = IMAGE.iter().product::<usize>() as f64;
        vec![
            Workload::gpu("add", [normal(IMAGE), normal(IMAGE)], elements, |x| x[0].add(&x[1])),
            Workload::gpu("mul_channels", [normal(IMAGE), normal([IMAGE[3]])], elements, |x| x[0].mul(&x[1])),
        ]
    },
    ..OpSpec::BARE
};
