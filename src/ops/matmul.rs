//! `y = op(a) · op(b)` over a batch, where `op` is the identity or a transposition of the last two axes.
//!
//! The product itself is the `gemm` crate's, which [`product`] wraps; linear layers and convolutions use the same wrapper.
//! No element's order of additions depends on the number of threads.

use rayon::prelude::*;

use crate::{
    device::host::Real,
    error::{Error, Result},
    float_dispatch,
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::{MAX_RANK, Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Matrix product over the last two axes: `[.., m, k] · [.., k, n] -> [.., m, n]`, where `transpose_a` says that `a`
    /// is stored `[.., k, m]` and `transpose_b` that `b` is stored `[.., n, k]`. Leading extents are equal, or one operand
    /// is a single matrix used throughout.
    pub fn matmul(&self, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
        let (a_rank, b_rank) = (self.shape().rank(), b.shape().rank());
        if a_rank > 2 && b_rank == 2 && !transpose_a {
            // One matrix on the right: the batch is more rows.
            let y = apply1(MatMul { transpose_a, transpose_b }, &[&self.as_rows()?, b])?;
            return y.reshape(self.shape().with(a_rank - 1, y.shape().last()));
        }
        apply1(MatMul { transpose_a, transpose_b }, &[self, b])
    }
}

struct MatMul {
    transpose_a: bool,
    transpose_b: bool,
}

/// Leading extents, rows and columns of a matrix stored plainly or transposed.
fn split(shape: &Shape, transpose: bool) -> Option<(&[usize], usize, usize)> {
    match **shape {
        [ref lead @ .., rows, cols] if transpose => Some((lead, cols, rows)),
        [ref lead @ .., rows, cols] => Some((lead, rows, cols)),
        _ => None,
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("matmul", x)?;
        let wrong = || Error::shape("matmul", format!("{} does not multiply {}", x[0].shape, x[1].shape));
        let (a_lead, m, k) = split(&x[0].shape, self.transpose_a).ok_or_else(wrong)?;
        let (b_lead, b_k, n) = split(&x[1].shape, self.transpose_b).ok_or_else(wrong)?;
        if k != b_k || !(a_lead == b_lead || a_lead.is_empty() || b_lead.is_empty()) {
            return Err(wrong());
        }
        let lead = if a_lead.is_empty() { b_lead } else { a_lead };
        let mut dims = [0; MAX_RANK];
        dims[..lead.len()].copy_from_slice(lead);
        dims[lead.len()..lead.len() + 2].copy_from_slice(&[m, n]);
        let shape = Shape::try_new(&dims[..lead.len() + 2]).ok_or_else(wrong)?;
        Ok(vec![Spec { shape, dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (a_shape, b_shape, y_shape) = (args.x_shape(0), args.x_shape(1), args.y_shape(0));
        let (m, n) = (y_shape[y_shape.rank() - 2], y_shape.last());
        let k = a_shape[a_shape.rank() - if self.transpose_a { 2 } else { 1 }];
        float_dispatch!(args, T => {
            let (a, b) = (args.x::<T>(0), args.x::<T>(1));
            let (a_each, b_each) = (stride(&a_shape, m * k), stride(&b_shape, k * n));
            let one = |i: usize, y: &mut [T], threads| {
                let a = Matrix::stored(&a[i * a_each..], m, k, self.transpose_a);
                let b = Matrix::stored(&b[i * b_each..], k, n, self.transpose_b);
                product([m, n, k], a, b, MatrixMut { data: y, row: n }, false, threads);
            };
            let y = args.y::<T>(0);
            if m * n == 0 {
                return Ok(());
            }
            let batch = y.len() / (m * n);
            if batch == 1 || (batch < 2 * rayon::current_num_threads() && m * n * k >= PARALLEL_MACS) {
                y.chunks_mut(m * n).enumerate().for_each(|(i, y)| one(i, y, Threads::All));
            } else {
                let grain = (PARALLEL_MACS / (m * n * k).max(1)).max(1);
                let each = |(i, y): (usize, &mut [T])| one(i, y, Threads::One);
                y.par_chunks_mut(m * n).enumerate().with_min_len(grain).for_each(each);
            }
        });
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, (ta, tb)) = (v.upstream()?, (self.transpose_a, self.transpose_b));
        let da = v.when(0, || {
            let da = if ta { v.x(1).matmul(dy, tb, true)? } else { dy.matmul(v.x(1), false, !tb)? };
            da.sum_to(v.x_spec(0).shape)
        })?;
        let db = v.when(1, || {
            let db = if tb { dy.matmul(v.x(0), true, ta)? } else { v.x(0).matmul(dy, !ta, false)? };
            db.sum_to(v.x_spec(1).shape)
        })?;
        Ok(vec![da, db])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// The float type all inputs share.
pub(crate) fn same_float(op: &'static str, x: &[Spec]) -> Result<crate::DType> {
    let dtype = x[0].dtype;
    match x.iter().find(|spec| spec.dtype != dtype || !dtype.is_float()) {
        Some(other) => Err(Error::shape(op, format!("{dtype} and {} do not mix", other.dtype))),
        None => Ok(dtype),
    }
}

/// Elements from one matrix of a batch to the next: none where there is only one.
fn stride(shape: &Shape, elems: usize) -> usize {
    if shape.rank() == 2 { 0 } else { elems }
}

/// Multiply-adds below which a product is not worth another thread.
const PARALLEL_MACS: usize = 1 << 19;

/// A matrix in memory: elements between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub col: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows one after another, `row` elements apart.
    pub(crate) fn rows(data: &'a [T], row: usize) -> Matrix<'a, T> {
        Matrix { data, row, col: 1 }
    }

    /// The transpose of rows `row` elements apart.
    pub(crate) fn transposed(data: &'a [T], row: usize) -> Matrix<'a, T> {
        Matrix { data, row: 1, col: row }
    }

    /// A `rows × cols` matrix, contiguous as it is or as its transpose.
    fn stored(data: &'a [T], rows: usize, cols: usize, transpose: bool) -> Matrix<'a, T> {
        if transpose { Matrix::transposed(data, rows) } else { Matrix::rows(data, cols) }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// A matrix to be written, its columns contiguous.
pub(crate) struct MatrixMut<'a, T> {
    pub data: &'a mut [T],
    pub row: usize,
}

/// Who computes: the calling thread alone (inside a parallel loop), or all of the pool where that pays.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    One,
    All,
}

/// `y = a · b`, or `y += a · b` with `add`; `[m, n, k]` are the rows of `a`, the columns of `b` and what is summed over.
pub(crate) fn product<T: Real>(
    [m, n, k]: [usize; 3],
    a: Matrix<T>,
    b: Matrix<T>,
    y: MatrixMut<T>,
    add: bool,
    threads: Threads,
) {
    assert!(a.holds(m, k) && b.holds(k, n), "operands are as large as the product reads");
    assert!(m == 0 || n == 0 || (y.row >= n && (m - 1) * y.row + n <= y.data.len()), "the result has room");
    let parallelism = match threads {
        Threads::All if m * n * k >= PARALLEL_MACS => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: `T` is f32 or f64 (the trait `Real` has no other implementor), which the call dispatches on; the asserts
    // above hold every address it reads (strides are not negative) or writes within the slices; `y` is borrowed mutably
    // and its rows do not overlap, so nothing aliases.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.data.as_mut_ptr(),
            1,
            y.row as isize,
            add,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "matmul",
    order: Order::Any,
    cases: || {
        let case = |name, a: &[usize], b: &[usize], ta, tb| {
            let inputs = [normal(Shape::from(a)), normal(Shape::from(b))];
            Case::new(name, inputs, move |x| Ok(vec![x[0].matmul(&x[1], ta, tb)?]))
        };
        vec![
            case("plain", &[17, 9], &[9, 33], false, false),
            case("a_transposed", &[2, 9, 5], &[2, 9, 7], true, false),
            case("b_transposed", &[2, 3, 5, 9], &[2, 3, 7, 9], false, true),
            case("both_transposed", &[3, 9, 5], &[3, 7, 9], true, true),
            case("one_b", &[3, 5, 9], &[9, 7], false, false),
            case("one_b_a_transposed", &[3, 9, 5], &[7, 9], true, true),
            case("one_a", &[5, 9], &[3, 9, 7], false, false),
            case("row_times_column", &[1, 70], &[70, 1], false, false),
            case("outer", &[19, 1], &[1, 18], false, false),
            case("past_a_tile", &[65, 129], &[129, 49], false, false),
        ]
    },
};
