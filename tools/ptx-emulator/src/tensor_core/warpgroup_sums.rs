//! Sums of a warpgroup's products: operands unpacked to f32 once for all four warps, then sixteen rows a warp.
//!
//! Each sum is one chain of fused multiply-adds in ascending k, whatever the width of the processor's vectors: every path gives
//! the same bits.

use super::{
    Lanes,
    element::{Element, pair, tf32, truncated},
    mma::{self, accumulator, half_accumulator},
    vectorised,
    wgmma::Major,
};

/// How sums are kept.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    /// D is added to, not replaced.
    pub accumulate: bool,
    /// f32 sums are cut towards zero, as hardware does.
    pub truncate: bool,
}

/// Sixteen rows of k, eight columns in the order of [`place`].
type Block = [[f32; 8]; 16];

/// An operand unpacked: for each eight of m or n, blocks of sixteen rows of k. Shallower products leave the last rows zero.
#[derive(Default)]
pub struct Operand {
    blocks: Vec<Block>,
    /// Blocks along k.
    depths: usize,
}

/// Where column `n` of eight stands in a block: even ones first, as registers of accumulators hold them.
#[inline(always)]
fn place(n: usize) -> usize {
    n % 2 * 4 + n / 2
}

impl Operand {
    /// Becomes what the pieces hold, in the order of [`super::Descriptor::pieces`]: 32 bytes of k for each of `mn` rows or
    /// columns, negated where asked.
    pub fn fill(&mut self, element: Element, pieces: &[[u32; 4]], major: Major, mn: usize, negate: bool) {
        let operand = self;
        operand.depths = (32 / element.bytes()).div_ceil(16);
        let blocks = mn / 8 * operand.depths;
        if element == Element::Tf32 || operand.blocks.len() != blocks {
            operand.blocks.clear();
            operand.blocks.resize(blocks, [[0.0; 8]; 16]);
        }
        let sign = if negate { -1.0 } else { 1.0 };
        match (element, major) {
            (Element::F16, Major::K) => unpack_halves::<1, true>(operand, pieces, sign),
            (Element::F16, Major::Mn) => unpack_halves::<0, true>(operand, pieces, sign),
            (Element::Bf16, Major::K) => unpack_halves::<1, false>(operand, pieces, sign),
            (Element::Bf16, Major::Mn) => unpack_halves::<0, false>(operand, pieces, sign),
            (Element::Tf32, _) => operand.along_k::<1>(pieces, |word, _| sign * tf32(word)),
            _ => operand.along_k::<4>(pieces, |word, e| sign * element.value(word, e)),
        }
    }

    /// Blocks along k.
    pub(super) fn depths(&self) -> usize {
        self.depths
    }

    /// Words of `PER` elements that follow each other in k: two pieces for each row or column.
    #[inline(always)]
    fn along_k<const PER: usize>(&mut self, pieces: &[[u32; 4]], value: impl Fn(u32, usize) -> f32) {
        for (rows, blocks) in pieces.chunks_exact(16).zip(self.blocks.chunks_exact_mut(self.depths)) {
            for word in 0..8 {
                // The word of eight rows, in the order of `place`.
                let words: [u32; 8] = std::array::from_fn(|at| rows[2 * (at % 4 * 2 + at / 4) + word / 4][word % 4]);
                for e in 0..PER {
                    let k = word * PER + e;
                    blocks[k / 16][k % 16] = words.map(|word| value(word, e));
                }
            }
        }
    }

    /// Sixteen rows of warp `warp` of four.
    pub(super) fn rows(&self, warp: usize, depth: usize) -> Left {
        let blocks = [0, 1].map(|half| &self.blocks[(2 * warp + half) * self.depths + depth]);
        Left::new(|row, k| blocks[row / 8][k][place(row % 8)])
    }

    /// D += (or =) `left` times these columns, sixteen k of them.
    pub(super) fn sweep(
        &self,
        depth: usize,
        left: &Left,
        sums: Sums,
        half_accumulator: bool,
        file: &mut [Lanes],
        slots: &[u32],
    ) {
        let accumulate = sums.accumulate || depth > 0;
        let per_block = if half_accumulator { 2 } else { 4 };
        let mut blocks = self.blocks.iter().skip(depth).step_by(self.depths);
        let mut rest = slots;
        #[cfg(target_arch = "x86_64")]
        if !half_accumulator && !sums.truncate && is_x86_feature_detected!("avx512f") {
            while let Some((eight, more)) = rest.split_first_chunk::<8>()
                && let (Some(first), Some(second)) = (blocks.next(), blocks.next())
            {
                // SAFETY: the feature was just detected.
                unsafe { two_blocks(left, [first, second], accumulate, file, eight) };
                rest = more;
            }
        }
        for (block, slots) in blocks.zip(rest.chunks_exact(per_block)) {
            let mut d: [Lanes; 4] = std::array::from_fn(|n| slots.get(n).map_or([0; 32], |slot| file[*slot as usize]));
            if half_accumulator {
                half_block(left, block, accumulate, &mut d[..2]);
            } else if sums.truncate {
                truncating_block(left, block, accumulate, &mut d);
            } else {
                full_block(left, block, accumulate, &mut d);
            }
            slots.iter().zip(d).for_each(|(slot, lanes)| file[*slot as usize] = lanes);
        }
    }
}

#[inline(always)]
fn unpack_halves_body<const K_MAJOR: usize, const HALF: bool, const FMA: bool>(
    operand: &mut Operand,
    pieces: &[[u32; 4]],
    sign: f32,
) {
    if K_MAJOR != 0 {
        return operand.along_k::<2>(pieces, |word, e| {
            let (low, high) = pair::<HALF>(word);
            sign * if e == 0 { low } else { high }
        });
    }
    // A piece is eight rows or columns of one k: even ones are the lower halves of its words.
    let along = operand.blocks.len();
    for (k, pieces) in pieces.chunks_exact(along).enumerate() {
        for (block, piece) in operand.blocks.iter_mut().zip(pieces) {
            let values = piece.map(pair::<HALF>);
            block[k] = std::array::from_fn(|n| sign * if n < 4 { values[n].0 } else { values[n % 4].1 });
        }
    }
}

vectorised! {
    /// An operand of 16-bit elements.
    fn unpack_halves<const K_MAJOR: usize, const HALF: bool>(operand: &mut Operand, pieces: &[[u32; 4]], sign: f32) = unpack_halves_body
}

/// A warp's sixteen rows of A, sixteen deep: for each k eight pairs of rows, each row's value as often as a register of
/// accumulators has lanes of it.
pub(super) struct Left([[[f32; 8]; 8]; 16]);

impl Left {
    #[inline(always)]
    pub(super) fn new(value: impl Fn(usize, usize) -> f32) -> Self {
        let mut all = [[[0.0; 8]; 8]; 16];
        for (k, pairs) in all.iter_mut().enumerate() {
            for (pair, lanes) in pairs.iter_mut().enumerate() {
                let (even, odd) = (value(2 * pair, k), value(2 * pair + 1, k));
                *lanes = [even, even, even, even, odd, odd, odd, odd];
            }
        }
        Self(all)
    }

    fn value(&self, row: usize, k: usize) -> f32 {
        self.0[k][row / 2][row % 2 * 4]
    }
}

fn truncating_block(left: &Left, right: &Block, accumulate: bool, d: &mut [Lanes]) {
    let mut rows = match (accumulate, &d[..]) {
        (true, [a, b, c, d]) => accumulator(&[a, b, c, d]),
        _ => [[0.0; 8]; 16],
    };
    for (row, sums) in rows.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            let products = (0..16).map(|k| f64::from(left.value(row, k)) * f64::from(right[k][place(column)]));
            *sum = truncated(products.fold(f64::from(*sum), |sum, product| sum + product));
        }
    }
    mma::store(&rows, d);
}

fn half_block(left: &Left, right: &Block, accumulate: bool, d: &mut [Lanes]) {
    let mut rows = match accumulate {
        true => half_accumulator(&d.iter().collect::<Vec<_>>()),
        false => [[0.0; 8]; 16],
    };
    for (row, sums) in rows.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            // Products of these types fit into an f32.
            *sum = (0..16).fold(*sum, |sum, k| sum + left.value(row, k) * right[k][place(column)]);
        }
    }
    mma::store_halves(&rows, d);
}

/// Lane 4g + t of a register is row g and the columns 2t or 2t + 1: eight lanes are two rows, so that registers are summed as
/// they are.
#[inline(always)]
fn full_block_body<const FMA: bool>(left: &Left, right: &Block, accumulate: bool, d: &mut [Lanes]) {
    for half in 0..2 {
        let mut sums = [[[0f32; 8]; 4]; 2];
        if accumulate {
            for (parity, sums) in sums.iter_mut().enumerate() {
                for (two, sums) in sums.iter_mut().enumerate() {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = f32::from_bits(d[2 * half + parity][8 * two + lane]);
                    }
                }
            }
        }
        for (pairs, right) in left.0.iter().zip(right) {
            for (parity, sums) in sums.iter_mut().enumerate() {
                let four = &right[4 * parity..4 * parity + 4];
                let columns: [f32; 8] = std::array::from_fn(|lane| four[lane % 4]);
                for (two, sums) in sums.iter_mut().enumerate() {
                    let rows = &pairs[4 * half + two];
                    for lane in 0..8 {
                        // Products of these types fit into an f32, so that both forms round once.
                        sums[lane] = match FMA {
                            true => rows[lane].mul_add(columns[lane], sums[lane]),
                            false => rows[lane] * columns[lane] + sums[lane],
                        };
                    }
                }
            }
        }
        for (parity, sums) in sums.iter().enumerate() {
            for (two, sums) in sums.iter().enumerate() {
                for (lane, sum) in sums.iter().enumerate() {
                    d[2 * half + parity][8 * two + lane] = sum.to_bits();
                }
            }
        }
    }
}

vectorised! {
    /// The four registers of an f32 accumulator += `left` `right`.
    fn full_block(left: &Left, right: &Block, accumulate: bool, d: &mut [Lanes]) = full_block_body
}

/// The eight registers of two blocks' f32 accumulators += `left` `right`: four rows of four columns are one vector.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn two_blocks(left: &Left, right: [&Block; 2], accumulate: bool, file: &mut [Lanes], slots: &[u32]) {
    use std::arch::x86_64::{
        _mm_loadu_ps, _mm512_broadcast_f32x4, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_setzero_ps, _mm512_storeu_si512,
    };
    let mut sums = [[[_mm512_setzero_ps(); 2]; 4]; 2];
    if accumulate {
        for (sums, slot) in sums.as_flattened_mut().iter_mut().zip(slots) {
            let lanes = file[*slot as usize].as_chunks::<16>().0;
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                // SAFETY: sixteen values of 32 bits.
                *sum = _mm512_castsi512_ps(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) });
            }
        }
    }
    for k in 0..16 {
        let four_rows = |quarter: usize| {
            let sixteen: &[f32] = left.0[k][2 * quarter..2 * quarter + 2].as_flattened();
            // SAFETY: sixteen values.
            unsafe { _mm512_loadu_ps(sixteen.as_ptr()) }
        };
        let rows = [four_rows(0), four_rows(1), four_rows(2), four_rows(3)];
        for (block, sums) in right.iter().zip(&mut sums) {
            for parity in 0..2 {
                let four: &[f32] = &block[k][4 * parity..4 * parity + 4];
                // SAFETY: four values.
                let columns = _mm512_broadcast_f32x4(unsafe { _mm_loadu_ps(four.as_ptr()) });
                for half in 0..2 {
                    for quarter in 0..2 {
                        let sum = &mut sums[2 * half + parity][quarter];
                        *sum = _mm512_fmadd_ps(rows[2 * half + quarter], columns, *sum);
                    }
                }
            }
        }
    }
    for (sums, slot) in sums.as_flattened().iter().zip(slots) {
        let lanes = file[*slot as usize].as_chunks_mut::<16>().0;
        for (sum, lanes) in sums.iter().zip(lanes) {
            // SAFETY: room for sixteen values of 32 bits.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), _mm512_castps_si512(*sum)) }
        }
    }
}
