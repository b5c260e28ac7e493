//! The inverse discrete cosine transform of JPEG blocks, bit for bit as the Independent JPEG Group's accurate integer
//! method (Loeffler, Ligtenberg and Moschytz 1989; 13-bit constants, 2 extra bits between the passes).
//!
//! An inverse transform is only specified to within an error; slides are compared with readers that all use this one,
//! so pixels can be equal only if the roundings are.

const CONST_BITS: i32 = 13;
const PASS1_BITS: i32 = 2;

const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

type Rows = [[i32; 8]; 8];

/// One one-dimensional pass over the columns of `rows`, rounded down by `shift` bits; with `CORNER`, rows from 4 on are zeros. As a
/// loop over columns it becomes code for eight of them at once.
#[inline(always)]
fn pass<const CORNER: bool>(rows: &Rows, shift: i32) -> Rows {
    let mut out = [[0; 8]; 8];
    let half = 1 << (shift - 1);
    for c in 0..8 {
        let at = |r: usize| if CORNER && r > 3 { 0 } else { rows[r][c] };
        let times = |value: i32, factor: i32| value.wrapping_mul(factor);
        // Even part.
        let z1 = times(at(2).wrapping_add(at(6)), F_0_541);
        let tmp2 = z1.wrapping_sub(times(at(6), F_1_847));
        let tmp3 = z1.wrapping_add(times(at(2), F_0_765));
        let tmp0 = at(0).wrapping_add(at(4)) << CONST_BITS;
        let tmp1 = at(0).wrapping_sub(at(4)) << CONST_BITS;
        let even = [tmp0.wrapping_add(tmp3), tmp1.wrapping_add(tmp2), tmp1.wrapping_sub(tmp2), tmp0.wrapping_sub(tmp3)];
        // Odd part.
        let (t0, t1, t2, t3) = (at(7), at(5), at(3), at(1));
        let (z3, z4) = (t0.wrapping_add(t2), t1.wrapping_add(t3));
        let z5 = times(z3.wrapping_add(z4), F_1_175);
        let z1 = times(t0.wrapping_add(t3), -F_0_899);
        let z2 = times(t1.wrapping_add(t2), -F_2_562);
        let z3 = times(z3, -F_1_961).wrapping_add(z5);
        let z4 = times(z4, -F_0_390).wrapping_add(z5);
        let odd = [
            times(t3, F_1_501).wrapping_add(z1.wrapping_add(z4)),
            times(t2, F_3_072).wrapping_add(z2.wrapping_add(z3)),
            times(t1, F_2_053).wrapping_add(z2.wrapping_add(z4)),
            times(t0, F_0_298).wrapping_add(z1.wrapping_add(z3)),
        ];
        for i in 0..4 {
            out[i][c] = even[i].wrapping_add(odd[i]).wrapping_add(half) >> shift;
            out[7 - i][c] = even[i].wrapping_sub(odd[i]).wrapping_add(half) >> shift;
        }
    }
    out
}

#[inline(always)]
fn transpose(m: &Rows) -> Rows {
    std::array::from_fn(|r| std::array::from_fn(|c| m[c][r]))
}

/// As [`transpose`], in registers: pairs of lanes, then of pairs, then of halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_avx2(m: &Rows) -> Rows {
    use std::arch::x86_64::{
        _mm256_permute2x128_si256 as halves, _mm256_unpackhi_epi32 as high, _mm256_unpackhi_epi64 as high_pair,
        _mm256_unpacklo_epi32 as low, _mm256_unpacklo_epi64 as low_pair,
    };
    let m = m.map(|row| bytemuck::cast::<_, std::arch::x86_64::__m256i>(row));
    let one = [0, 2, 4, 6].map(|i| [low(m[i], m[i + 1]), high(m[i], m[i + 1])]);
    let two = [0, 2].map(|i| {
        let ([a, b], [c, d]) = (one[i], one[i + 1]);
        [low_pair(a, c), high_pair(a, c), low_pair(b, d), high_pair(b, d)]
    });
    let [upper, lower] = two;
    let first = [0, 1, 2, 3].map(|i| halves::<0x20>(upper[i], lower[i]));
    let last = [0, 1, 2, 3].map(|i| halves::<0x31>(upper[i], lower[i]));
    let [a, b, c, d] = first.map(bytemuck::cast);
    let [e, f, g, h] = last.map(bytemuck::cast);
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn block_body<const CORNER: bool>(
    coefficients: &[i16; 64],
    quant: &[u16; 64],
    out: &mut [u8],
    stride: usize,
    transpose: impl Fn(&Rows) -> Rows,
) {
    let mut rows = [[0; 8]; 8];
    for (row, (coefficients, quant)) in rows.iter_mut().zip(coefficients.chunks_exact(8).zip(quant.chunks_exact(8))) {
        for (value, (&coefficient, &quant)) in row.iter_mut().zip(coefficients.iter().zip(quant)) {
            *value = i32::from(coefficient) * i32::from(quant);
        }
    }
    let columns_done = pass::<CORNER>(&rows, CONST_BITS - PASS1_BITS);
    let both_done = transpose(&pass::<CORNER>(&transpose(&columns_done), CONST_BITS + PASS1_BITS + 3));
    for (row, values) in out.chunks_mut(stride).zip(&both_done) {
        for (sample, value) in row[..8].iter_mut().zip(values) {
            *sample = value.saturating_add(128).clamp(0, 255) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn block_avx2<const CORNER: bool>(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    block_body::<CORNER>(coefficients, quant, out, stride, |m| transpose_avx2(m));
}

/// Writes the 8 x 8 samples of one block (coefficients in natural order) into `out`, rows `stride` bytes apart. With `CORNER`, which
/// takes half of the arithmetic, all but the first four coefficients of the first four rows are zero.
fn block_of<const CORNER: bool>(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, which was asked on the line above; the function does nothing else unsafe.
        unsafe { block_avx2::<CORNER>(coefficients, quant, out, stride) };
        return;
    }
    block_body::<CORNER>(coefficients, quant, out, stride, transpose);
}

/// Coefficients before this one in zigzag order lie in the corner of four by four.
const CORNER_END: usize = 10;

/// The samples of a block whose coefficients from zigzag position `end` on are zero.
pub fn block(coefficients: &[i16; 64], end: usize, quant: &[u16; 64], out: &mut [u8], stride: usize) {
    match end {
        ..=1 => flat_block(coefficients[0], quant[0], out, stride),
        2..=CORNER_END => block_of::<true>(coefficients, quant, out, stride),
        _ => block_of::<false>(coefficients, quant, out, stride),
    }
}

/// A block of which only the first coefficient is not zero is flat.
fn flat_block(dc: i16, quant_dc: u16, out: &mut [u8], stride: usize) {
    let value = ((i32::from(dc) * i32::from(quant_dc) + 4) >> 3).saturating_add(128).clamp(0, 255) as u8;
    for row in out.chunks_mut(stride).take(8) {
        row[..8].copy_from_slice(&[value; 8]);
    }
}
