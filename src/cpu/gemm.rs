//! GEMM on the CPU: a checked wrapper of the `gemm` crate, chosen by the measurements in `ops/matmul.rs`. No element's order
//! of additions depends on the number of threads.

use crate::device::host::Real;

/// Multiply-adds below which a GEMM is not worth another thread.
pub const PARALLEL_MACS: usize = 1 << 19;

/// A matrix in memory: strides of rows and of columns, in elements.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub col: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows one after another, `row` elements apart.
    pub fn rows(data: &'a [T], row: usize) -> Matrix<'a, T> {
        Matrix { data, row, col: 1 }
    }

    /// The transpose of rows `row` elements apart.
    pub fn transposed(data: &'a [T], row: usize) -> Matrix<'a, T> {
        Matrix { data, row: 1, col: row }
    }

    /// A `rows × cols` matrix, contiguous as it is or as its transpose.
    pub fn stored(data: &'a [T], rows: usize, cols: usize, transpose: bool) -> Matrix<'a, T> {
        if transpose { Matrix::transposed(data, rows) } else { Matrix::rows(data, cols) }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// A matrix to be written, its columns contiguous.
pub struct MatrixMut<'a, T> {
    pub data: &'a mut [T],
    pub row: usize,
}

/// Who computes: the calling thread alone (inside a parallel loop), or all of the pool where that pays.
#[derive(Clone, Copy, PartialEq)]
pub enum Threads {
    One,
    All,
}

/// `y = a · b`, or `y += a · b` with `accumulate`; `a` is `m × k`, `b` is `k × n`.
pub fn gemm<T: Real>(
    [m, n, k]: [usize; 3],
    a: Matrix<T>,
    b: Matrix<T>,
    y: MatrixMut<T>,
    accumulate: bool,
    threads: Threads,
) {
    assert!(a.holds(m, k) && b.holds(k, n), "operands are as large as the GEMM reads");
    assert!(m == 0 || n == 0 || (y.row >= n && (m - 1) * y.row + n <= y.data.len()), "the result has room");
    let parallelism = match threads {
        Threads::All if m * n * k >= PARALLEL_MACS => ::gemm::Parallelism::Rayon(0),
        _ => ::gemm::Parallelism::None,
    };
    // SAFETY: `T` is f32 or f64 (the trait `Real` has no other implementor), which the call dispatches on; the asserts
    // above hold every address it reads (strides are not negative) or writes within the slices; `y` is borrowed mutably
    // and its rows do not overlap, so nothing aliases.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            y.data.as_mut_ptr(),
            1,
            y.row as isize,
            accumulate,
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
