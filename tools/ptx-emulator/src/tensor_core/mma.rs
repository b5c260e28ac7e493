//! `mma.sync`: products of 16 x k by k x 8 matrices spread over the registers of a warp.
//!
//! With g = lane / 4 and t = lane % 4: registers of A alternate between rows g and g + 8, then step through k by 32
//! bits times four; registers of B step the same way through k of column g; c0, c1 are (g, 2t), (g, 2t+1), c2, c3 the
//! same of row g + 8.

use super::{
    Lanes,
    element::{Element, pair, tf32, truncated},
    vectorised,
};

/// Which `mma.sync` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Element type of A.
    pub a: Element,
    /// Element type of B.
    pub b: Element,
    /// Depth of the product.
    pub k: usize,
    /// C and D are f16, two to a register.
    pub half_accumulator: bool,
    /// Integer sums stop at the ends of i32.
    pub saturate: bool,
}

impl Form {
    /// The form the modifiers after `mma` name, e.g. `sync aligned m16n8k16 row col f32 bf16 bf16 f32`.
    pub fn parse(modifiers: &[&str]) -> Result<Self, String> {
        let unsupported = || format!("mma.{}: a form this emulator does not run", modifiers.join("."));
        let saturate = modifiers.contains(&"satfinite");
        let rest: Vec<&str> = modifiers.iter().copied().filter(|m| *m != "satfinite").collect();
        let ["sync", "aligned", shape, "row", "col", d, a, b, c] = rest[..] else { return Err(unsupported()) };
        let (Some(a), Some(b)) = (Element::parse(a), Element::parse(b)) else { return Err(unsupported()) };
        let k = match shape {
            "m16n8k4" => 4,
            "m16n8k8" => 8,
            "m16n8k16" => 16,
            "m16n8k32" => 32,
            _ => return Err(unsupported()),
        };
        let depth_fits = match a {
            Element::F16 | Element::Bf16 => k == 8 || k == 16,
            Element::Tf32 => k == 4 || k == 8,
            Element::S8 | Element::U8 => k == 16 || k == 32,
            Element::E4m3 | Element::E5m2 => k == 32,
        };
        let types_fit = match (a, b, d, c) {
            (Element::F16, Element::F16, "f16", "f16") => true,
            (Element::F16 | Element::Bf16 | Element::Tf32, _, "f32", "f32") => a == b,
            (Element::E4m3 | Element::E5m2, _, "f32", "f32") | (Element::E4m3 | Element::E5m2, _, "f16", "f16") => {
                b.is_eight_bit_float()
            }
            (Element::S8 | Element::U8, Element::S8 | Element::U8, "s32", "s32") => true,
            _ => false,
        };
        if !depth_fits || !types_fit || saturate && !a.is_integer() {
            return Err(unsupported());
        }
        Ok(Self { a, b, k, half_accumulator: d == "f16", saturate })
    }

    /// Registers of A, which are twice those of B.
    pub fn a_registers(self) -> usize {
        2 * self.b_registers()
    }

    /// Registers of B.
    pub fn b_registers(self) -> usize {
        self.k * self.a.bytes() / 16
    }

    /// Registers of C and of D.
    pub fn c_registers(self) -> usize {
        if self.half_accumulator { 2 } else { 4 }
    }

    /// Multiply-adds of one instruction.
    pub fn macs(self) -> u64 {
        16 * 8 * self.k as u64
    }

    /// D = A B + C. Slices hold as many registers as the form has; `d` may be what `c` was.
    pub fn multiply(self, a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) {
        if self.a.is_integer() {
            return self.multiply_integers(a, b, c, d);
        }
        let summed = match (self.a, self.k) {
            (Element::F16, 16) => summed::<16, F16>(a, b, c, d),
            (Element::F16, 8) => summed::<8, F16>(a, b, c, d),
            (Element::Bf16, 16) => summed::<16, BF16>(a, b, c, d),
            (Element::Bf16, 8) => summed::<8, BF16>(a, b, c, d),
            (Element::Tf32, 8) => summed::<8, TF32>(a, b, c, d),
            (Element::Tf32, 4) => summed::<4, TF32>(a, b, c, d),
            _ => false,
        };
        if summed {
            return;
        }
        match (self.a, self.k) {
            (Element::F16, 16) => float16::<16, true>(a, b, c, d),
            (Element::F16, _) => float16::<8, true>(a, b, c, d),
            (Element::Bf16, 16) => float16::<16, false>(a, b, c, d),
            (Element::Bf16, _) => float16::<8, false>(a, b, c, d),
            (Element::E4m3 | Element::E5m2, _) => self.multiply_one_by_one(a, b, c, d, false),
            (_, 8) => float32::<8, true>(a, b, c, d),
            (..) => float32::<4, true>(a, b, c, d),
        }
    }

    /// As [`Form::multiply`], but sums with f32 accumulators are cut towards zero, as hardware does.
    pub fn multiply_truncating(self, a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) {
        match self.a.is_integer() || self.half_accumulator {
            true => self.multiply(a, b, c, d),
            false => self.multiply_one_by_one(a, b, c, d, true),
        }
    }

    fn multiply_one_by_one(self, a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes], truncates: bool) {
        let per = 4 / self.a.bytes();
        let (mut rows, sums) =
            ([[0.0; 8]; 16], if self.half_accumulator { half_accumulator(c) } else { accumulator(c) });
        for (row, results) in rows.iter_mut().enumerate() {
            for (column, result) in results.iter_mut().enumerate() {
                let (mut exact, mut rounded) = (f64::from(sums[row][column]), sums[row][column]);
                for k in 0..self.k {
                    let (register, t, e) = (k / (4 * per), k / per % 4, k % per);
                    let left = self.a.value(a[2 * register + row / 8][row % 8 * 4 + t], e);
                    let right = self.b.value(b[register][column * 4 + t], e);
                    exact += f64::from(left) * f64::from(right);
                    // Products of these types fit into an f32.
                    rounded += left * right;
                }
                *result = if truncates { truncated(exact) } else { rounded };
            }
        }
        match self.half_accumulator {
            true => store_halves(&rows, d),
            false => store(&rows, d),
        }
    }

    fn multiply_integers(self, a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) {
        let value = |register: u32, byte: usize, kind: Element| {
            let byte = (register >> (8 * byte)) as u8;
            if kind == Element::S8 { i64::from(byte as i8) } else { i64::from(byte) }
        };
        let sums: [[u32; 8]; 16] = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                let mut sum = i64::from(c[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] as i32);
                for k in 0..self.k {
                    let (step, lane, byte) = (k / 16, k % 16 / 4, k % 4);
                    let left = value(a[2 * step + row / 8][row % 8 * 4 + lane], byte, self.a);
                    sum += left * value(b[step][column * 4 + lane], byte, self.b);
                }
                match self.saturate {
                    true => sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32,
                    false => sum as u32,
                }
            })
        });
        for (register, lanes) in d.iter_mut().enumerate() {
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = sums[register / 2 * 8 + lane / 4][lane % 4 * 2 + register % 2];
            }
        }
    }
}

/// A 16 x 8 accumulator in row order.
pub(super) type Accumulator = [[f32; 8]; 16];

/// The accumulator that four registers hold.
#[inline(always)]
pub(super) fn accumulator(c: &[&Lanes]) -> Accumulator {
    let mut rows = [[0.0; 8]; 16];
    for half in 0..2 {
        let (even, odd) = (c[2 * half], c[2 * half + 1]);
        for g in 0..8 {
            for t in 0..4 {
                rows[8 * half + g][2 * t] = f32::from_bits(even[4 * g + t]);
                rows[8 * half + g][2 * t + 1] = f32::from_bits(odd[4 * g + t]);
            }
        }
    }
    rows
}

/// The inverse of [`accumulator`].
#[inline(always)]
pub(super) fn store(rows: &Accumulator, d: &mut [Lanes]) {
    for half in 0..2 {
        for g in 0..8 {
            for t in 0..4 {
                d[2 * half][4 * g + t] = rows[8 * half + g][2 * t].to_bits();
                d[2 * half + 1][4 * g + t] = rows[8 * half + g][2 * t + 1].to_bits();
            }
        }
    }
}

/// The accumulator that two registers of f16 pairs hold.
#[inline(always)]
pub(super) fn half_accumulator(c: &[&Lanes]) -> Accumulator {
    std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let (low, high) = pair::<true>(c[row / 8][row % 8 * 4 + column / 2]);
            if column % 2 == 0 { low } else { high }
        })
    })
}

/// The inverse of [`half_accumulator`], rounding to nearest even.
pub(super) fn store_halves(rows: &Accumulator, d: &mut [Lanes]) {
    let bits = |value: f32| u32::from(half::f16::from_f32(value).to_bits());
    for (half, lanes) in d.iter_mut().enumerate() {
        for (lane, value) in lanes.iter_mut().enumerate() {
            let row = &rows[8 * half + lane / 4];
            *value = bits(row[lane % 4 * 2]) | bits(row[lane % 4 * 2 + 1]) << 16;
        }
    }
}

/// D = A B + C. Registers are unpacked as they are, element `e` of every lane to a plane of its own; the columns of a row stand
/// in the order of the accumulators' registers, even ones first.
#[inline(always)]
fn fragments<const K: usize, const PER: usize, const PLANES: usize, const FMA: bool>(
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    d: &mut [Lanes],
    unpack: impl Fn(u32, usize) -> f32 + Copy,
) {
    let (mut left, mut right) = ([[0.0; 32]; PLANES], [[0.0; 32]; PLANES]);
    for (planes, registers) in [(&mut left, a), (&mut right, b)] {
        for (plane, values) in planes.iter_mut().enumerate().take(registers.len() * PER) {
            let register = registers[plane / PER];
            for lane in 0..32 {
                values[lane] = unpack(register[lane], plane % PER);
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if FMA && let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c, &mut *d) {
        // SAFETY: callers set FMA where the processor has both features.
        unsafe { sums::<K, PER, PLANES>(&left, &right, [c0, c1, c2, c3], [d0, d1, d2, d3]) };
        return;
    }
    let mut rows = [[0.0; 8]; K];
    for (k, row) in rows.iter_mut().enumerate() {
        let (plane, t) = (&right[k / (4 * PER) * PER + k % PER], k / PER % 4);
        for (column, value) in row.iter_mut().enumerate() {
            *value = plane[4 * (2 * (column % 4) + column / 4) + t];
        }
    }
    let halves = c.len() == 2;
    for half in 0..2 {
        let mut sums = [[0.0; 8]; 8];
        for (g, sums) in sums.iter_mut().enumerate() {
            for t in 0..4 {
                (sums[t], sums[4 + t]) = match halves {
                    true => pair::<true>(c[half][4 * g + t]),
                    false => (f32::from_bits(c[2 * half][4 * g + t]), f32::from_bits(c[2 * half + 1][4 * g + t])),
                };
            }
        }
        for (g, sums) in sums.iter_mut().enumerate() {
            let mut sum = *sums;
            for (k, row) in rows.iter().enumerate() {
                let factor = left[(k / (4 * PER) * 2 + half) * PER + k % PER][4 * g + k / PER % 4];
                for (s, r) in sum.iter_mut().zip(row) {
                    // Products of these types fit into an f32, so that both forms round once.
                    *s = if FMA { factor.mul_add(*r, *s) } else { factor * r + *s };
                }
            }
            *sums = sum;
        }
        for (g, sums) in sums.iter().enumerate() {
            for t in 0..4 {
                if halves {
                    let bits = |value: f32| u32::from(half::f16::from_f32(value).to_bits());
                    d[half][4 * g + t] = bits(sums[t]) | bits(sums[4 + t]) << 16;
                } else {
                    d[2 * half][4 * g + t] = sums[t].to_bits();
                    d[2 * half + 1][4 * g + t] = sums[4 + t].to_bits();
                }
            }
        }
    }
}

/// The same sums, for f32 accumulators: a row is one vector, its factor every lane's.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sums<const K: usize, const PER: usize, const PLANES: usize>(
    left: &[[f32; 32]; PLANES],
    right: &[[f32; 32]; PLANES],
    c: [&Lanes; 4],
    d: [&mut Lanes; 4],
) {
    use std::arch::x86_64::{
        _mm_loadu_ps, _mm_storeu_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_set_m128, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    let mut rows = [_mm256_setzero_ps(); K];
    for (plane, values) in right.iter().enumerate().take(K / 4) {
        // Lanes 4g + t for eight g become, for each t, the even g and then the odd ones.
        let [a, b, c, d] = [0, 8, 16, 24].map(|at| {
            let eight: &[f32] = &values[at..at + 8];
            // SAFETY: eight values.
            unsafe { _mm256_loadu_ps(eight.as_ptr()) }
        });
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (high_ab, high_cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        let first = plane / PER * 4 * PER + plane % PER;
        rows[first] = _mm256_shuffle_ps(ab, cd, 0x44);
        rows[first + PER] = _mm256_shuffle_ps(ab, cd, 0xee);
        rows[first + 2 * PER] = _mm256_shuffle_ps(high_ab, high_cd, 0x44);
        rows[first + 3 * PER] = _mm256_shuffle_ps(high_ab, high_cd, 0xee);
    }
    for half in 0..2 {
        let four = |from: &Lanes, g: usize| -> _ {
            let four: &[u32] = &from[4 * g..4 * g + 4];
            // SAFETY: four values of 32 bits.
            unsafe { _mm_loadu_ps(four.as_ptr().cast()) }
        };
        // Eight rows side by side: sums that do not wait for each other.
        let mut sums = [_mm256_setzero_ps(); 8];
        for (g, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_set_m128(four(c[2 * half + 1], g), four(c[2 * half], g));
        }
        for (k, row) in rows.iter().enumerate() {
            let (plane, t) = (&left[(k / (4 * PER) * 2 + half) * PER + k % PER], k / PER % 4);
            for (g, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(_mm256_set1_ps(plane[4 * g + t]), *row, *sum);
            }
        }
        for (g, sum) in sums.into_iter().enumerate() {
            for (register, value) in
                [(2 * half, _mm256_castps256_ps128(sum)), (2 * half + 1, _mm256_extractf128_ps(sum, 1))]
            {
                let four: &mut [u32] = &mut d[register][4 * g..4 * g + 4];
                // SAFETY: room for four values of 32 bits.
                unsafe { _mm_storeu_ps(four.as_mut_ptr().cast(), value) }
            }
        }
    }
}

/// The same sums of f32 accumulators where vectors hold sixteen: registers are multiplied as they are. Four rows of four columns
/// are one vector; a row's factor is moved to all four lanes of it, and the columns' to every row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn wide_sums<const K: usize, const KIND: usize>(a: &[&Lanes], b: &[&Lanes], c: [&Lanes; 4], d: &mut [Lanes]) {
    use std::arch::x86_64::*;
    let load = |from: &Lanes, quarter: usize| {
        let sixteen: &[u32] = &from[16 * quarter..16 * quarter + 16];
        // SAFETY: sixteen values of 32 bits.
        unsafe { _mm512_loadu_si512(sixteen.as_ptr().cast()) }
    };
    let per = if KIND == TF32 { 1 } else { 2 };
    let split = |words: __m512i, e: usize| match (KIND, e) {
        (TF32, _) => _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_e000_u32 as i32))),
        (BF16, 0) => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
        (BF16, _) => _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
        (_, 0) => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
        _ => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words))),
    };
    // Half of the rows, parity of the columns, four rows.
    let mut sums = [[[_mm512_setzero_ps(); 2]; 2]; 2];
    for (register, sums) in sums.as_flattened_mut().iter_mut().enumerate() {
        *sums = [_mm512_castsi512_ps(load(c[register], 0)), _mm512_castsi512_ps(load(c[register], 1))];
    }
    // Lane 4g + t takes the factor of column 2t, whose lanes are 8t and the three after it.
    let columns = _mm512_set4_epi32(24, 16, 8, 0);
    for step in 0..K / (4 * per) {
        let right = [load(b[step], 0), load(b[step], 1)];
        let [upper, lower] = [a[2 * step], a[2 * step + 1]];
        let left = [[load(upper, 0), load(upper, 1)], [load(lower, 0), load(lower, 1)]];
        for t in 0..4 {
            let from = _mm512_add_epi32(columns, _mm512_set1_epi32(t));
            let even = _mm512_permutex2var_epi32(right[0], from, right[1]);
            let odd = _mm512_permutex2var_epi32(right[0], _mm512_add_epi32(from, _mm512_set1_epi32(4)), right[1]);
            let own = _mm512_set1_epi32(t);
            for e in 0..per {
                let columns = [split(even, e), split(odd, e)];
                for half in 0..2 {
                    for quarter in 0..2 {
                        let rows = _mm512_permutevar_ps(split(left[half][quarter], e), own);
                        for parity in 0..2 {
                            let sum = &mut sums[half][parity][quarter];
                            *sum = _mm512_fmadd_ps(rows, columns[parity], *sum);
                        }
                    }
                }
            }
        }
    }
    for (sums, lanes) in sums.as_flattened().iter().zip(d) {
        for (sum, sixteen) in sums.iter().zip(lanes.as_chunks_mut::<16>().0) {
            // SAFETY: room for sixteen values of 32 bits.
            unsafe { _mm512_storeu_si512(sixteen.as_mut_ptr().cast(), _mm512_castps_si512(*sum)) }
        }
    }
}

const TF32: usize = 0;
const BF16: usize = 1;
const F16: usize = 2;

/// Runs [`wide_sums`] where the processor can; says whether it did.
fn summed<const K: usize, const KIND: usize>(a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let [c0, c1, c2, c3] = c
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
    {
        // SAFETY: both features were just detected.
        unsafe { wide_sums::<K, KIND>(a, b, [c0, c1, c2, c3], d) };
        return true;
    }
    false
}

#[inline(always)]
fn float16_body<const K: usize, const HALF: bool, const FMA: bool>(
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    d: &mut [Lanes],
) {
    let unpack = |register: u32, e: usize| if e == 0 { pair::<HALF>(register).0 } else { pair::<HALF>(register).1 };
    fragments::<K, 2, 8, FMA>(a, b, c, d, unpack);
}

#[inline(always)]
fn float32_body<const K: usize, const UNUSED: bool, const FMA: bool>(
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    d: &mut [Lanes],
) {
    fragments::<K, 1, 4, FMA>(a, b, c, d, |register, _| tf32(register));
}

vectorised! {
    /// D = A B + C of 16-bit elements; two registers of C hold f16 pairs.
    fn float16<const K: usize, const HALF: bool>(a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) = float16_body
}
vectorised! {
    /// D = A B + C of tf32 elements.
    fn float32<const K: usize, const UNUSED: bool>(a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], d: &mut [Lanes]) = float32_body
}

#[cfg(test)]
mod tests {
    use super::{super::element::e4m3_to_single, *};

    /// Small integers, exact in every type.
    fn value(seed: usize, row: usize, column: usize) -> i32 {
        ((seed * 31 + row * 7 + column * 13) % 11) as i32 - 5
    }

    fn bits(kind: Element, v: i32) -> u32 {
        match kind {
            Element::F16 => half::f16::from_f32(v as f32).to_bits().into(),
            Element::Bf16 => half::bf16::from_f32(v as f32).to_bits().into(),
            Element::Tf32 => (v as f32).to_bits() | 0x1abc,
            Element::S8 | Element::U8 => u32::from(v as u8),
            Element::E5m2 => u32::from(half::f16::from_f32(v as f32).to_bits() >> 8),
            Element::E4m3 => (0..256).find(|b| e4m3_to_single(*b) == v as f32).unwrap_or(0),
        }
    }

    /// Registers by the tables of the PTX ISA, element by element.
    fn operands(form: Form) -> (Vec<Lanes>, Vec<Lanes>) {
        let per = 4 / form.a.bytes();
        let signed = |kind: Element, v: i32| if kind == Element::U8 { v.abs() } else { v };
        let mut a = vec![[0; 32]; form.a_registers()];
        let mut b = vec![[0; 32]; form.b_registers()];
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for (i, register) in a.iter_mut().enumerate() {
                for e in 0..per {
                    let (row, k) = (g + 8 * (i % 2), per * t + e + 4 * per * (i / 2));
                    register[lane] |= bits(form.a, signed(form.a, value(1, row, k))) << (32 / per * e);
                }
            }
            for (i, register) in b.iter_mut().enumerate() {
                for e in 0..per {
                    let k = per * t + e + 4 * per * i;
                    register[lane] |= bits(form.b, signed(form.b, value(2, k, g))) << (32 / per * e);
                }
            }
        }
        (a, b)
    }

    fn check(text: &str) {
        let form = Form::parse(&text.split('.').collect::<Vec<_>>()).unwrap();
        let (a, b) = operands(form);
        let number = |v: i32| if form.a.is_integer() { v as u32 } else { (v as f32).to_bits() };
        let mut c = vec![[0; 32]; form.c_registers()];
        for lane in 0..32 {
            for (i, register) in c.iter_mut().enumerate() {
                register[lane] = match form.half_accumulator {
                    true => {
                        let half = |column| bits(Element::F16, value(3, lane / 4 + 8 * i, lane % 4 * 2 + column));
                        half(0) | half(1) << 16
                    }
                    false => number(value(3, lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)),
                };
            }
        }
        let mut d = vec![[0; 32]; form.c_registers()];
        let all = |r: &[Lanes]| r.to_vec();
        let (a, b, c) = (all(&a), all(&b), all(&c));
        form.multiply(
            &a.iter().collect::<Vec<_>>(),
            &b.iter().collect::<Vec<_>>(),
            &c.iter().collect::<Vec<_>>(),
            &mut d,
        );
        let signed = |kind: Element, v: i32| if kind == Element::U8 { v.abs() } else { v };
        let expected = |row: usize, column: usize| {
            let sum = |k| signed(form.a, value(1, row, k)) * signed(form.b, value(2, k, column));
            value(3, row, column) + (0..form.k).map(sum).sum::<i32>()
        };
        for lane in 0..32 {
            for (i, register) in d.iter().enumerate() {
                let want = match form.half_accumulator {
                    true => {
                        let half = |column| bits(Element::F16, expected(lane / 4 + 8 * i, lane % 4 * 2 + column));
                        half(0) | half(1) << 16
                    }
                    false => number(expected(lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)),
                };
                assert_eq!(register[lane], want, "{text}, lane {lane}, register {i}");
            }
        }
    }

    #[test]
    fn every_form_multiplies() {
        for text in [
            "sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            "sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
            "sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            "sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
            "sync.aligned.m16n8k16.row.col.f16.f16.f16.f16",
            "sync.aligned.m16n8k8.row.col.f16.f16.f16.f16",
            "sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
            "sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32",
            "sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
            "sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32",
            "sync.aligned.m16n8k32.row.col.f16.e4m3.e5m2.f16",
            "sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
            "sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32",
            "sync.aligned.m16n8k16.row.col.s32.s8.u8.s32",
        ] {
            check(text);
        }
    }

    #[test]
    fn truncated_sums_lie_on_the_side_of_zero() {
        let form =
            Form::parse(&"sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32".split('.').collect::<Vec<_>>()).unwrap();
        let all = |v: f32| [v.to_bits(); 32];
        // 8 / 3 of 2^-10 each step: no sum is an f32.
        let (a, b, c) = (all(1.0 + 2f32.powi(-10)), all(2f32.powi(-16) * 1.5), all(-1.0));
        let mut d = [[0; 32]; 4];
        form.multiply_truncating(&[&a; 4], &[&b; 2], &[&c; 4], &mut d);
        let exact = 8.0 * (1.0 + 2f64.powi(-10)) * 2f64.powi(-16) * 1.5 - 1.0;
        let got = f64::from(f32::from_bits(d[0][0]));
        assert!(got.abs() <= exact.abs() && exact.abs() - got.abs() < 2f64.powi(-24), "{got} for {exact}");
        form.multiply(&[&a; 4], &[&b; 2], &[&c; 4], &mut d);
        assert!((f64::from(f32::from_bits(d[0][0])) - exact).abs() < 2f64.powi(-22));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32", "sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", "sync"]
        {
            assert!(Form::parse(&text.split('.').collect::<Vec<_>>()).is_err(), "{text}");
        }
    }
}
