//! The inverse wavelet transforms of JPEG 2000: irreversible 9/7 in f32 and reversible 5/3 in i32.
//!
//! Source: ITU-T T.800 annex F. The 9/7 is computed in the order and with the constants of OpenJPEG, each product rounded
//! before it is added (no fused multiply-add), because a pixel equals the reference's only if every rounding does:
//! the high-pass gain is its 1.625732422, not 2/K.

use crate::vectorised;

const ALPHA: f32 = -1.586_134_3;
const BETA: f32 = -0.052_980_117;
const GAMMA: f32 = 0.882_911_1;
const DELTA: f32 = 0.443_506_87;
const LOW_GAIN: f32 = 1.230_174_1;
const HIGH_GAIN: f32 = 1.625_732_4;

/// Samples of one transform.
pub trait Lift: Copy + Default {
    /// Undoes one level along one line, low-pass and high-pass samples apart; `odd` if the first sample is high-pass.
    fn line(low: &mut [Self], high: &mut [Self], odd: bool);
    /// The same along columns: `rows` alternate low and high, starting with high if `odd`.
    fn columns(rows: &mut [Self], width: usize, odd: bool);
}

/// `target[i] = step(target[i], left, right)` where left and right are the neighbours in the other band, mirrored at the
/// ends. `before` is 1 if the neighbours of `i` are `i - 1` and `i`, 0 if they are `i` and `i + 1`.
#[inline(always)]
fn lift_line<T: Copy>(target: &mut [T], other: &[T], before: usize, step: impl Fn(T, T, T) -> T) {
    let Some(last) = other.len().checked_sub(1) else { return };
    let count = target.len();
    // Inner samples have both neighbours; the first and last may have to mirror.
    let inner = before..count.min(other.len() + before - 1).max(before);
    let mirrored = |i: usize| other[i.min(last)];
    for i in (0..inner.start.min(count)).chain(inner.end.min(count)..count) {
        let left = if i < before { other[0] } else { mirrored(i - before) };
        target[i] = step(target[i], left, mirrored(i + 1 - before));
    }
    if inner.start < inner.end {
        let left = &other[..inner.end - before];
        let right = &other[1..];
        for ((t, &l), &r) in target[inner].iter_mut().zip(left).zip(right) {
            *t = step(*t, l, r);
        }
    }
}

/// Rows `first, first + 2, ...` lifted from their neighbours above and below, mirrored at the ends.
#[inline(always)]
fn lift_rows<T: Copy>(rows: &mut [T], width: usize, first: usize, step: impl Fn(T, T, T) -> T + Copy) {
    let height = rows.len() / width;
    for row in (first..height).step_by(2) {
        let (before, rest) = rows.split_at_mut(row * width);
        let (current, after) = rest.split_at_mut(width);
        let above = (row > 0).then(|| &before[(row - 1) * width..]);
        let below = (row + 1 < height).then(|| &after[..width]);
        let (Some(above), Some(below)) = (above.or(below), below.or(above)) else { return };
        for ((t, &l), &r) in current.iter_mut().zip(above).zip(below) {
            *t = step(*t, l, r);
        }
    }
}

impl Lift for f32 {
    #[inline(always)]
    fn line(low: &mut [f32], high: &mut [f32], odd: bool) {
        if low.len() + high.len() == 1 {
            return;
        }
        low.iter_mut().for_each(|v| *v *= LOW_GAIN);
        high.iter_mut().for_each(|v| *v *= HIGH_GAIN);
        let (low_before, high_before) = (usize::from(!odd), usize::from(odd));
        lift_line(low, high, low_before, |t, l, r| t - (l + r) * DELTA);
        lift_line(high, low, high_before, |t, l, r| t - (l + r) * GAMMA);
        lift_line(low, high, low_before, |t, l, r| t - (l + r) * BETA);
        lift_line(high, low, high_before, |t, l, r| t - (l + r) * ALPHA);
    }

    #[inline(always)]
    fn columns(rows: &mut [f32], width: usize, odd: bool) {
        if rows.len() == width {
            return;
        }
        let (low, high) = (usize::from(odd), usize::from(!odd));
        for (y, row) in rows.chunks_exact_mut(width).enumerate() {
            let gain = if y % 2 == low { LOW_GAIN } else { HIGH_GAIN };
            row.iter_mut().for_each(|v| *v *= gain);
        }
        lift_rows(rows, width, low, |t, l, r| t - (l + r) * DELTA);
        lift_rows(rows, width, high, |t, l, r| t - (l + r) * GAMMA);
        lift_rows(rows, width, low, |t, l, r| t - (l + r) * BETA);
        lift_rows(rows, width, high, |t, l, r| t - (l + r) * ALPHA);
    }
}

impl Lift for i32 {
    #[inline(always)]
    fn line(low: &mut [i32], high: &mut [i32], odd: bool) {
        if low.len() + high.len() == 1 {
            high.iter_mut().for_each(|v| *v /= 2);
            return;
        }
        lift_line(low, high, usize::from(!odd), |t, l, r| t.wrapping_sub(l.wrapping_add(r).wrapping_add(2) >> 2));
        lift_line(high, low, usize::from(odd), |t, l, r| t.wrapping_add(l.wrapping_add(r) >> 1));
    }

    #[inline(always)]
    fn columns(rows: &mut [i32], width: usize, odd: bool) {
        if rows.len() == width {
            if odd {
                rows.iter_mut().for_each(|v| *v /= 2);
            }
            return;
        }
        let (low, high) = (usize::from(odd), usize::from(!odd));
        lift_rows(rows, width, low, |t, l, r| t.wrapping_sub(l.wrapping_add(r).wrapping_add(2) >> 2));
        lift_rows(rows, width, high, |t, l, r| t.wrapping_add(l.wrapping_add(r) >> 1));
    }
}

/// A rectangle of samples placed on the reference grid.
#[derive(Clone, Default)]
pub struct Plane<T> {
    pub x0: usize,
    pub y0: usize,
    pub width: usize,
    pub samples: Vec<T>,
}

impl<T: Copy + Default> Plane<T> {
    pub fn zeros(x0: usize, y0: usize, x1: usize, y1: usize) -> Plane<T> {
        let (width, height) = (x1.saturating_sub(x0), y1.saturating_sub(y0));
        Plane { x0, y0, width, samples: vec![T::default(); width * height] }
    }
}

/// One level up: the low-pass plane and the three detail planes become the plane `x0..x1, y0..y1`.
pub fn compose<T: Lift>(low: &Plane<T>, details: &[Plane<T>; 3], area: [usize; 4]) -> Plane<T> {
    vectorised!(compose_with(low, details, area))
}

#[inline(always)]
fn compose_with<T: Lift>(low: &Plane<T>, details: &[Plane<T>; 3], [x0, y0, x1, y1]: [usize; 4]) -> Plane<T> {
    let mut out = Plane::zeros(x0, y0, x1, y1);
    if out.samples.is_empty() {
        return out;
    }
    let [high_low, low_high, high_high] = details;
    let (odd_x, odd_y) = (x0 % 2 == 1, y0 % 2 == 1);
    let width = out.width;
    let low_count = x1.div_ceil(2) - x0.div_ceil(2);
    let (mut lows, mut highs) = (vec![T::default(); low_count], vec![T::default(); width - low_count]);
    for (y, row) in out.samples.chunks_exact_mut(width).enumerate() {
        let is_high = (y % 2 == 1) != odd_y;
        // Rows of either kind are numbered from the top of their plane.
        let (left, right) = if is_high { (low_high, high_high) } else { (low, high_low) };
        lows.copy_from_slice(&left.samples[y / 2 * left.width..][..left.width]);
        highs.copy_from_slice(&right.samples[y / 2 * right.width..][..right.width]);
        T::line(&mut lows, &mut highs, odd_x);
        let (first, second) = if odd_x { (&highs, &lows) } else { (&lows, &highs) };
        for (pair, (&a, &b)) in row.chunks_exact_mut(2).zip(first.iter().zip(second)) {
            pair.copy_from_slice(&[a, b]);
        }
        if width % 2 == 1 {
            row[width - 1] = first[width / 2];
        }
    }
    T::columns(&mut out.samples, width, odd_y);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forward 5/3 by its definition, for signals that start at `x0`.
    fn forward(signal: &[i32], x0: usize) -> (Vec<i32>, Vec<i32>) {
        let n = signal.len() as isize;
        let mirror = |i: isize| {
            if n == 1 {
                0
            } else {
                let p = 2 * (n - 1);
                let m = i.rem_euclid(p);
                m.min(p - m)
            }
        };
        let mut s = signal.to_vec();
        for parity in [1, 0] {
            let old = s.clone();
            for i in (0..n).filter(|i| (i + x0 as isize).rem_euclid(2) == parity) {
                let sum = old[mirror(i - 1) as usize] + old[mirror(i + 1) as usize];
                s[i as usize] += if parity == 1 { -(sum >> 1) } else { (sum + 2) >> 2 };
            }
        }
        let take =
            |parity: usize| s.iter().enumerate().filter(|(i, _)| (i + x0) % 2 == parity).map(|(_, &v)| v).collect();
        (take(0), take(1))
    }

    #[test]
    fn the_reversible_transform_gives_back_the_signal() {
        for x0 in 0..2 {
            for n in 2..20 {
                let signal: Vec<i32> = (0..n).map(|i| (i * i * 37 + i * 11) % 251 - 100).collect();
                let (mut low, mut high) = forward(&signal, x0);
                i32::line(&mut low, &mut high, x0 == 1);
                let (mut a, mut b) = if x0 == 1 { (high.iter(), low.iter()) } else { (low.iter(), high.iter()) };
                let joined: Vec<i32> = (0..n).map(|i| *if i % 2 == 0 { a.next() } else { b.next() }.unwrap()).collect();
                assert_eq!(joined, signal, "x0 {x0}, n {n}");
            }
        }
    }
}
