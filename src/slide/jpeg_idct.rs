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

/// Rows of eight lanes; every step below is done on eight columns at once, which compilers turn into vector code.
type Lanes = [i32; 8];

#[inline(always)]
fn map2(a: &Lanes, b: &Lanes, f: impl Fn(i32, i32) -> i32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn add(a: &Lanes, b: &Lanes) -> Lanes {
    map2(a, b, i32::wrapping_add)
}

#[inline(always)]
fn sub(a: &Lanes, b: &Lanes) -> Lanes {
    map2(a, b, i32::wrapping_sub)
}

#[inline(always)]
fn times(a: &Lanes, factor: i32) -> Lanes {
    a.map(|v| v.wrapping_mul(factor))
}

/// One one-dimensional pass over the columns of `rows`, rounded down by `shift` bits.
#[inline(always)]
fn pass(rows: &[Lanes; 8], shift: i32) -> [Lanes; 8] {
    // Even part.
    let z1 = times(&add(&rows[2], &rows[6]), F_0_541);
    let tmp2 = sub(&z1, &times(&rows[6], F_1_847));
    let tmp3 = add(&z1, &times(&rows[2], F_0_765));
    let tmp0 = add(&rows[0], &rows[4]).map(|v| v << CONST_BITS);
    let tmp1 = sub(&rows[0], &rows[4]).map(|v| v << CONST_BITS);
    let even = [add(&tmp0, &tmp3), add(&tmp1, &tmp2), sub(&tmp1, &tmp2), sub(&tmp0, &tmp3)];
    // Odd part.
    let (t0, t1, t2, t3) = (&rows[7], &rows[5], &rows[3], &rows[1]);
    let z5 = times(&add(&add(t0, t2), &add(t1, t3)), F_1_175);
    let z1 = times(&add(t0, t3), -F_0_899);
    let z2 = times(&add(t1, t2), -F_2_562);
    let z3 = add(&times(&add(t0, t2), -F_1_961), &z5);
    let z4 = add(&times(&add(t1, t3), -F_0_390), &z5);
    let odd = [
        add(&times(t3, F_1_501), &add(&z1, &z4)),
        add(&times(t2, F_3_072), &add(&z2, &z3)),
        add(&times(t1, F_2_053), &add(&z2, &z4)),
        add(&times(t0, F_0_298), &add(&z1, &z3)),
    ];
    let half = 1 << (shift - 1);
    let round = |v: Lanes| v.map(|v| v.wrapping_add(half) >> shift);
    [
        round(add(&even[0], &odd[0])),
        round(add(&even[1], &odd[1])),
        round(add(&even[2], &odd[2])),
        round(add(&even[3], &odd[3])),
        round(sub(&even[3], &odd[3])),
        round(sub(&even[2], &odd[2])),
        round(sub(&even[1], &odd[1])),
        round(sub(&even[0], &odd[0])),
    ]
}

#[inline(always)]
fn transpose(m: &[Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|r| std::array::from_fn(|c| m[c][r]))
}

#[inline(always)]
fn block_body(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    let rows: [Lanes; 8] = std::array::from_fn(|r| {
        std::array::from_fn(|c| i32::from(coefficients[8 * r + c]) * i32::from(quant[8 * r + c]))
    });
    let columns_done = pass(&rows, CONST_BITS - PASS1_BITS);
    let both_done = transpose(&pass(&transpose(&columns_done), CONST_BITS + PASS1_BITS + 3));
    for (row, values) in out.chunks_mut(stride).zip(&both_done) {
        let bytes: [u8; 8] = std::array::from_fn(|i| values[i].saturating_add(128).clamp(0, 255) as u8);
        row[..8].copy_from_slice(&bytes);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn block_avx2(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    block_body(coefficients, quant, out, stride);
}

/// Writes the 8 x 8 samples of one block (coefficients in natural order) into `out`, rows `stride` bytes apart.
pub fn block(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, which was asked on the line above; the function does nothing else unsafe.
        unsafe { block_avx2(coefficients, quant, out, stride) };
        return;
    }
    block_body(coefficients, quant, out, stride);
}

/// A block of which only the first coefficient is not zero is flat.
pub fn flat_block(dc: i16, quant_dc: u16, out: &mut [u8], stride: usize) {
    let value = ((i32::from(dc) * i32::from(quant_dc) + 4) >> 3).saturating_add(128).clamp(0, 255) as u8;
    for row in out.chunks_mut(stride).take(8) {
        row[..8].fill(value);
    }
}
