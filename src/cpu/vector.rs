//! Loops over slices: with the widest vector instructions the CPU has, on all threads, in chunks fixed by the
//! problem alone, so that every sum has one order and results are bit-identical at any thread count.

use rayon::prelude::*;

use crate::device::host::Real;

/// Elements one rayon task takes: enough to hide its start, small enough to stay in L2.
pub const GRAIN: usize = 16 << 10;

/// Runs loops compiled for AVX-512 or AVX2 where the CPU has them. Rust never fuses or reorders floating-point operations by itself, so
/// the result is bit-identical either way.
///
/// `vectorised!({ loops })`, or `vectorised!([a, b], { loops })` where the loops read constants `a` and `b`: they are copied into the
/// loops' own registers, because behind a captured reference they might be what the loops write, and these would stay scalar.
/// Only what is inlined is compiled so: write loops as `for`, and closures they call as [`inlined!`](crate::inlined).
#[macro_export]
macro_rules! vectorised {
    ([$($constant:ident),*], $loops:expr) => {
        $crate::cpu::vector::with_widest(
            #[inline(always)]
            || {
                $(let $constant = $constant;)*
                $loops
            },
        )
    };
    ($loops:expr) => {
        $crate::vectorised!([], $loops)
    };
}

/// A closure that is always inlined, for [`vectorised!`](crate::vectorised) loops to call. A function passed by name would be called
/// through a shim that is not: `inlined!(|x| f(x))`.
#[macro_export]
macro_rules! inlined {
    ($($closure:tt)*) => {
        #[inline(always)]
        $($closure)*
    };
}

/// What [`vectorised!`](crate::vectorised) expands to.
#[inline(always)]
pub fn with_widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma")]
        unsafe fn with_avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512cd")
        {
            // SAFETY: the CPU has just been asked for every feature this compiles for.
            return unsafe { with_avx512(f) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { with_avx2(f) };
        }
    }
    f()
}

/// Whole rows per task, so that a task is about [`GRAIN`] elements.
pub fn rows_per_task(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// `f(task, rows of y)` for blocks of whole rows, on all threads.
pub fn par_rows<T: Send>(y: &mut [T], cols: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let block = rows_per_task(cols) * cols.max(1);
    if y.len() <= block {
        if !y.is_empty() {
            f(0, y);
        }
        return;
    }
    y.par_chunks_mut(block).enumerate().for_each(|(task, y)| f(task, y));
}

/// `y[i] = f(x[i])`.
pub fn map1<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T + Sync + Copy) {
    par_rows(y, 1, |task, y| {
        let x = &x[task * GRAIN..][..y.len()];
        vectorised!([f], {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        });
    });
}

/// `y[i] = f(a[i], b[i])`.
pub fn map2<T: Real>(a: &[T], b: &[T], y: &mut [T], f: impl Fn(T, T) -> T + Sync + Copy) {
    par_rows(y, 1, |task, y| {
        let (a, b) = (&a[task * GRAIN..][..y.len()], &b[task * GRAIN..][..y.len()]);
        vectorised!([f], {
            for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
                *y = f(a, b);
            }
        });
    });
}

const LANES: usize = 16;

/// Sums of leaves `leaf(start, end)` over `0..len`, added up as a balanced tree: the error grows with the logarithm of
/// the length.
#[inline(always)]
fn tree_sum<T: Real>(len: usize, leaf: impl Fn(usize, usize) -> T) -> T {
    const LEAF: usize = 512;
    if len <= LEAF {
        return leaf(0, len);
    }
    // A binary counter of partial sums: the same tree as halving would give, without recursion.
    let mut tree = [T::zero(); usize::BITS as usize];
    let mut leaves = 0usize;
    for start in (0..len).step_by(LEAF) {
        let (mut sum, mut level) = (leaf(start, (start + LEAF).min(len)), 0);
        while leaves >> level & 1 == 1 {
            sum = tree[level] + sum;
            level += 1;
        }
        tree[level] = sum;
        leaves += 1;
    }
    (0..usize::BITS as usize).filter(|level| leaves >> level & 1 == 1).fold(T::zero(), |sum, level| sum + tree[level])
}

#[inline(always)]
fn fold_lanes<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// `Σ f(x[i])`, sixteen lanes at a time. Call it inside [`vectorised!`](crate::vectorised).
#[inline(always)]
pub fn sum1<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    tree_sum(
        x.len(),
        inlined!(|start, end| {
            let mut lanes = [T::zero(); LANES];
            let chunks = x[start..end].chunks_exact(LANES);
            let tail = chunks.remainder();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += f(x);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(tail) {
                *lane += f(x);
            }
            fold_lanes(lanes)
        }),
    )
}

/// `Σ f(a[i], b[i])`, sixteen lanes at a time. Call it inside [`vectorised!`](crate::vectorised).
#[inline(always)]
pub fn sum2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    tree_sum(
        a.len(),
        inlined!(|start, end| {
            let mut lanes = [T::zero(); LANES];
            let (a, b) = (a[start..end].chunks_exact(LANES), b[start..end].chunks_exact(LANES));
            let (a_tail, b_tail) = (a.remainder(), b.remainder());
            for (a, b) in a.zip(b) {
                for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                    *lane += f(a, b);
                }
            }
            for (lane, (&a, &b)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
                *lane += f(a, b);
            }
            fold_lanes(lanes)
        }),
    )
}

/// Rows of one partial sum: few enough that plain addition keeps its digits.
fn rows_a_partial(cols: usize) -> usize {
    rows_per_task(cols).min(256)
}

/// `f(first_row, rows of y, sums)` for blocks of whole rows, on all threads. `sums` begins as zeros, `N` vectors of `cols`
/// one after the other; those of all blocks are added up in f64, in order.
pub fn rows_with_sums<T: Real, const N: usize>(
    y: &mut [T],
    cols: usize,
    f: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) -> [Vec<f64>; N] {
    let block = rows_a_partial(cols);
    let partial = |(i, y): (usize, &mut [T])| {
        let mut sums = vec![T::zero(); N * cols];
        f(i * block, y, &mut sums);
        sums
    };
    let step = block * cols.max(1);
    let partials: Vec<Vec<T>> = if y.len() <= step {
        y.chunks_mut(step).enumerate().map(partial).collect()
    } else {
        y.par_chunks_mut(step).enumerate().map(partial).collect()
    };
    add_up(&partials, cols)
}

/// `f(rows of x, first_row, partial)` for blocks of whole rows, on all threads; `partial` begins as `per_col` zeros for
/// every column. Returns the partials in order, each with its number of rows.
pub fn column_partials<T: Real>(
    x: &[T],
    cols: usize,
    per_col: usize,
    f: impl Fn(&[T], usize, &mut [T]) + Sync,
) -> Vec<(usize, Vec<T>)> {
    let block = rows_a_partial(cols);
    let partial = |(i, x): (usize, &[T])| {
        let mut sums = vec![T::zero(); per_col * cols];
        f(x, i * block, &mut sums);
        (x.len() / cols, sums)
    };
    let step = block * cols.max(1);
    if x.len() <= step {
        x.chunks(step).enumerate().map(partial).collect()
    } else {
        x.par_chunks(step).enumerate().map(partial).collect()
    }
}

fn add_up<T: Real, const N: usize>(partials: &[Vec<T>], cols: usize) -> [Vec<f64>; N] {
    std::array::from_fn(|n| {
        let mut total = vec![0.0; cols];
        for partial in partials {
            total.iter_mut().zip(&partial[n * cols..]).for_each(|(total, &v)| *total += v.to_f64());
        }
        total
    })
}

/// `N` sums over the rows of each column, as [`column_partials`] computes them, added up in f64.
pub fn column_sums<T: Real, const N: usize>(
    x: &[T],
    cols: usize,
    f: impl Fn(&[T], usize, &mut [T]) + Sync,
) -> [Vec<f64>; N] {
    let partials: Vec<Vec<T>> = column_partials(x, cols, N, f).into_iter().map(|(_, sums)| sums).collect();
    add_up(&partials, cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_where_numbers_are() {
        for len in [0usize, 1, 15, 16, 17, 511, 512, 513, 5000] {
            let x: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(sum1(&x, |x| x), (len * len.saturating_sub(1) / 2) as f64, "{len}");
            assert_eq!(sum2(&x, &x, |a, b| a - b), 0.0, "{len}");
        }
    }

    #[test]
    fn long_sums_keep_their_digits() {
        let x = vec![0.1f32; 10_000_000];
        let sum = sum1(&x, |x| x);
        assert!((f64::from(sum) / (10_000_000.0 * f64::from(0.1f32)) - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn columns_are_summed_over_all_rows() {
        let (rows, cols) = (1000, 3);
        let x: Vec<f64> = (0..rows * cols).map(|i| i as f64).collect();
        let [sum, places] = column_sums::<f64, 2>(&x, cols, |x, first, out| {
            for (row, x) in x.chunks_exact(cols).enumerate() {
                for col in 0..cols {
                    out[col] += x[col];
                    out[cols + col] += (first + row) as f64;
                }
            }
        });
        for col in 0..cols {
            assert_eq!(sum[col], (0..rows).map(|row| (row * cols + col) as f64).sum::<f64>());
            assert_eq!(places[col], (rows * (rows - 1) / 2) as f64);
        }
    }
}
