//! Loops over slices: with the widest vector instructions the processor has, on all threads, in chunks fixed by the
//! problem alone, so that every sum has one order and every result the same bits at any thread count.

use rayon::prelude::*;

use super::host::Real;

/// Elements one rayon task takes: enough to hide its start, small enough to stay in L2.
pub const GRAIN: usize = 16 << 10;

/// Runs `f` compiled for AVX-512 or AVX2 where the processor has them. Rust never fuses or reorders floating-point
/// operations by itself, so the result has the same bits either way.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
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
            // SAFETY: the processor has just been asked for every feature this compiles for.
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
pub fn rows_a_task(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// `f(task, rows of y)` for blocks of whole rows, on all threads.
pub fn par_rows<T: Send>(y: &mut [T], cols: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let block = rows_a_task(cols) * cols.max(1);
    if y.len() <= block {
        if !y.is_empty() {
            f(0, y);
        }
        return;
    }
    y.par_chunks_mut(block).enumerate().for_each(|(task, y)| f(task, y));
}

/// `y[i] = f(x[i])`.
pub fn map1<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T + Sync) {
    par_rows(y, 1, |task, y| {
        let x = &x[task * GRAIN..][..y.len()];
        vectorised(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
    });
}

/// `y[i] = f(a[i], b[i])`.
pub fn map2<T: Real>(a: &[T], b: &[T], y: &mut [T], f: impl Fn(T, T) -> T + Sync) {
    par_rows(y, 1, |task, y| {
        let (a, b) = (&a[task * GRAIN..][..y.len()], &b[task * GRAIN..][..y.len()]);
        vectorised(|| y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b)));
    });
}

const LANES: usize = 16;

/// Sum of `f(i)` for `i` below `len`: sixteen lanes at the leaves, so that it vectorises, then a tree over blocks, so that
/// the error grows with the logarithm of the length.
#[inline(always)]
pub fn sum_of<T: Real>(len: usize, f: impl Fn(usize) -> T) -> T {
    const LEAF: usize = 512;
    // A binary counter of partial sums: the same tree as halving would give, without recursion.
    let mut tree = [T::zero(); usize::BITS as usize];
    let mut blocks = 0usize;
    let mut start = 0;
    while start < len {
        let end = (start + LEAF).min(len);
        let mut lanes = [T::zero(); LANES];
        let mut at = start;
        while at + LANES <= end {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += f(at + lane);
            }
            at += LANES;
        }
        for (lane, i) in (at..end).enumerate() {
            lanes[lane] += f(i);
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] = lanes[lane] + lanes[lane + width];
            }
        }
        let (mut sum, mut level) = (lanes[0], 0);
        while blocks >> level & 1 == 1 {
            sum = tree[level] + sum;
            level += 1;
        }
        tree[level] = sum;
        blocks += 1;
        start = end;
    }
    (0..usize::BITS as usize).filter(|level| blocks >> level & 1 == 1).fold(T::zero(), |sum, level| sum + tree[level])
}

/// `N` sums over the rows of each column. `add(first_row, rows, partial)` adds rows `first_row..first_row + rows` to
/// `partial`, which is `N` vectors of `cols` one after the other; partials are added up in f64, in order.
pub fn column_sums<T: Real, const N: usize>(
    rows: usize,
    cols: usize,
    add: impl Fn(usize, usize, &mut [T]) + Sync,
) -> [Vec<f64>; N] {
    let block = rows_a_task(cols).min(256);
    let blocks = rows.div_ceil(block);
    let partial = |i: usize| {
        let mut sums = vec![T::zero(); N * cols];
        add(i * block, block.min(rows - i * block), &mut sums);
        sums
    };
    let partials: Vec<Vec<T>> = if blocks <= 1 {
        (0..blocks).map(partial).collect()
    } else {
        (0..blocks).into_par_iter().map(partial).collect()
    };
    std::array::from_fn(|n| {
        let mut total = vec![0.0; cols];
        for partial in &partials {
            total.iter_mut().zip(&partial[n * cols..]).for_each(|(total, &v)| *total += v.to_f64());
        }
        total
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_where_numbers_are() {
        for len in [0, 1, 15, 16, 17, 511, 512, 513, 5000] {
            assert_eq!(sum_of(len, |i| i as f64), (len * len.saturating_sub(1) / 2) as f64, "{len}");
        }
    }

    #[test]
    fn long_sums_keep_their_digits() {
        let sum = sum_of(10_000_000, |_| 0.1f32);
        assert!((f64::from(sum) / (10_000_000.0 * f64::from(0.1f32)) - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn columns_are_summed_over_all_rows() {
        let (rows, cols) = (1000, 3);
        let [sum, squares] = column_sums::<f64, 2>(rows, cols, |first, count, out| {
            for row in first..first + count {
                for col in 0..cols {
                    let v = (row * cols + col) as f64;
                    out[col] += v;
                    out[cols + col] += v * v;
                }
            }
        });
        for col in 0..cols {
            let values = (0..rows).map(|row| (row * cols + col) as f64);
            assert_eq!(sum[col], values.clone().sum::<f64>());
            assert_eq!(squares[col], values.map(|v| v * v).sum::<f64>());
        }
    }
}
