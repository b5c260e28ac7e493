//! Repeats inside a chunk: which earlier position a sample may copy from, and which copies are taken.
//!
//! Every rule is a function of the chunk's residuals alone, so that all positions can be examined at once:
//!
//! * **Candidates** of position `i`: `i - 1` (a run), and, if `i` is a multiple of 4, the position its hash points to. The hash of a position is that of
//!   its next 8 residuals (`(low * 0x9e3779b1 + high * 0x85ebca77) mod 2^32 >> 20` of two little-endian words); a hash points to the greatest position with this hash in the slabs of [`SLAB`]
//!   positions before the slab of `i`, or to 0. "Greatest" does not depend on the order in which positions are entered.
//! * **Length**: as far as the residuals agree, to the end of the chunk, at least [`LEAST_LENGTH`]. Of two candidates the longer
//!   one counts, the run if they are equally long.
//! * **Worth**: a copy is worth taking if coding its samples one by one would cost more than the copy. Both costs are estimates
//!   in 1/256 bit from the counts of all residuals of the chunk in their contexts, before any copy is taken.
//! * **Parse**: from position 0 on, the first worthwhile copy is taken and the next one is looked for behind it (greedy), so the
//!   step from a position depends on that position only.

use super::{
    log2::log2_q16,
    predict::{self, CONTEXTS, Symbol},
    simd::vectorised,
};

/// The shortest copy.
pub const LEAST_LENGTH: usize = 12;
/// Residuals a hash is made of.
const HASHED_BYTES: usize = 8;
/// Positions that enter the table of hashes together.
pub const SLAB: usize = 1024;
const HASH_BITS: u32 = 12;
/// Every so many positions may copy from where their hash points; every position is pointed to.
const HASH_STEP: usize = 4;

/// One copy: `length` residuals at `start` equal those `distance` before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    pub start: u16,
    pub length: u16,
    pub distance: u16,
}

/// The symbol of a length or distance (less its least value): two symbols per octave, and the extra bits that follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    pub symbol: u32,
    pub extra_bits: u32,
    pub extra: u32,
}

/// How many symbols [`bucket`] has for values below 2^16.
pub const BUCKETS: usize = 32;

pub fn bucket(value: u32) -> Bucket {
    if value < 2 {
        return Bucket { symbol: value, extra_bits: 0, extra: 0 };
    }
    let octave = value.ilog2();
    let extra_bits = octave - 1;
    Bucket { symbol: 2 * octave + (value >> extra_bits & 1), extra_bits, extra: value & ((1 << extra_bits) - 1) }
}

/// The least value of a symbol and its extra bits: the inverse of [`bucket`].
pub fn bucket_start(symbol: u32) -> (u32, u32) {
    if symbol < 2 {
        return (symbol, 0);
    }
    let extra_bits = symbol / 2 - 1;
    ((2 + symbol % 2) << extra_bits, extra_bits)
}

vectorised! {
    /// Hashes of `hashes.len()` consecutive positions; `residuals` starts at the first and has 7 more than positions.
    fn hash_slab(residuals: &[u8], hashes: &mut [u16]) {
        let n = hashes.len();
        let byte = |offset: usize| &residuals[offset..][..n];
        let (b0, b1, b2, b3) = (byte(0), byte(1), byte(2), byte(3));
        let (b4, b5, b6, b7) = (byte(4), byte(5), byte(6), byte(7));
        for i in 0..n {
            let word = |a: u8, b: u8, c: u8, d: u8| {
                u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16 | u32::from(d) << 24
            };
            let (low, high) = (word(b0[i], b1[i], b2[i], b3[i]), word(b4[i], b5[i], b6[i], b7[i]));
            let mixed = low.wrapping_mul(0x9e37_79b1).wrapping_add(high.wrapping_mul(0x85eb_ca77));
            hashes[i] = (mixed >> (32 - HASH_BITS)) as u16;
        }
    }
}

/// 256 x log2(1 + k / 256), rounded down.
const LOG2_MANTISSA: [u8; 256] = {
    let mut table = [0; 256];
    let mut k = 0;
    while k < 256 {
        table[k] = (log2_q16(256 + k as u32) >> 8) as u8;
        k += 1;
    }
    table
};

vectorised! {
    /// Marks with 0 the positions where a run of at least [`LEAST_LENGTH`] continues the residual before. `residuals` starts at the
    /// residual before the first position and has [`LEAST_LENGTH`] more than positions; `breaks` is as long as it, of which the
    /// last ones are left over from the work.
    fn mark_runs(residuals: &[u8], breaks: &mut [u8]) {
        // Differences over spans of 1, 2, 4, 8 and at last 8 + 4 = LEAST_LENGTH residuals.
        let n = residuals.len() - 1;
        let (before, after, breaks) = (&residuals[..n], &residuals[1..][..n], &mut breaks[..n]);
        for i in 0..n {
            breaks[i] = before[i] ^ after[i];
        }
        for i in 0..n - 1 {
            breaks[i] |= breaks[i + 1];
        }
        for i in 0..n - 3 {
            breaks[i] |= breaks[i + 2];
        }
        // The last step needs spans of 4 beside those of 8.
        for i in 0..n - 11 {
            breaks[i] |= breaks[i + 4] | breaks[i + 8];
        }
    }
}

/// log2 of `count` >= 1 in 1/256 bit, from its eight bits after the leading one.
fn log2_q8(count: u32) -> u32 {
    let octave = count.ilog2();
    octave << 8 | u32::from(LOG2_MANTISSA[((count << (31 - octave)) >> 23 & 255) as usize])
}

/// How often each residual occurs in each context of a chunk.
#[derive(Clone)]
pub struct Counts {
    pub literals: [[u32; 256]; CONTEXTS],
}

/// Costs in 1/256 bit, estimated from counts.
struct Costs<'a> {
    counts: &'a Counts,
    totals: [u32; CONTEXTS],
}

/// A code word has at least one bit.
const LEAST_LITERAL_COST: u32 = 256;
/// What the match symbol, the length symbol and the distance symbol are taken to cost together, in 1/256 bit.
const MATCH_COST: u32 = 13 * 256;
/// The same for a run, whose distance is the commonest one.
const RUN_COST: u32 = 10 * 256;

impl Costs<'_> {
    fn literal(&self, symbol: Symbol) -> u32 {
        let (context, residual) = (predict::context_of(symbol), predict::residual_of(symbol));
        log2_q8(self.totals[context])
            .saturating_sub(log2_q8(self.counts.literals[context][residual]))
            .max(LEAST_LITERAL_COST)
    }

    fn copy(&self, length: usize, distance: u16) -> u32 {
        let extra_bits = bucket((length - LEAST_LENGTH) as u32).extra_bits + bucket(u32::from(distance) - 1).extra_bits;
        256 * extra_bits + if distance == 1 { RUN_COST } else { MATCH_COST }
    }
}

/// A chunk's residuals, followed by enough room to read eight of them at any 16-bit position without a bounds check.
pub type Residuals = [u8; RESIDUALS];
pub const RESIDUALS: usize = (1 << 16) + LEAST_LENGTH;

/// Work space of [`Finder::parse`], reused between chunks.
pub struct Finder {
    heads: Box<[u16; 1 << HASH_BITS]>,
    hashes: Box<[u16; SLAB]>,
    breaks: Box<[u8; SLAB + LEAST_LENGTH]>,
    pub matches: Vec<Match>,
}

impl Default for Finder {
    fn default() -> Finder {
        Finder {
            heads: Box::new([0; 1 << HASH_BITS]),
            hashes: Box::new([0; SLAB]),
            breaks: Box::new([0; SLAB + LEAST_LENGTH]),
            matches: Vec::new(),
        }
    }
}

/// Eight residuals, `ahead` (at most `LEAST_LENGTH - 8`) behind a position.
#[inline(always)]
fn load(residuals: &Residuals, at: u16, ahead: usize) -> u64 {
    let bytes = residuals[usize::from(at) + ahead..].first_chunk().expect("the buffer is longer than any position");
    u64::from_le_bytes(*bytes)
}

/// Whether [`LEAST_LENGTH`] residuals agree at two positions.
#[inline(always)]
fn agrees(residuals: &Residuals, at: u16, candidate: u16) -> bool {
    const LAST: usize = LEAST_LENGTH - 8;
    load(residuals, at, 0) == load(residuals, candidate, 0)
        && load(residuals, at, LAST) == load(residuals, candidate, LAST)
}

/// How many of the chunk's `n` residuals agree at two positions, the first of which is the later one.
fn agreement(residuals: &Residuals, n: usize, at: u16, candidate: u16) -> usize {
    let most = n - usize::from(at);
    let mut length = 0;
    while length < most {
        let different = load(residuals, at + length as u16, 0) ^ load(residuals, candidate + length as u16, 0);
        if different != 0 {
            return most.min(length + different.trailing_zeros() as usize / 8);
        }
        length += 8;
    }
    most
}

impl Finder {
    /// Fills `self.matches` with the copies taken among the first `symbols.len()` residuals, in order.
    pub fn parse(&mut self, residuals: &Residuals, symbols: &[Symbol], counts: &Counts) {
        self.matches.clear();
        let n = symbols.len();
        if n <= LEAST_LENGTH {
            return;
        }
        let heads = &mut *self.heads;
        heads.fill(0);
        let costs = Costs { counts, totals: counts.literals.map(|context| context.iter().sum()) };
        // Positions with enough residuals behind them.
        let positions = n - LEAST_LENGTH + 1;
        let mut at = 1;
        for slab in (0..positions).step_by(SLAB) {
            let slab_end = (slab + SLAB).min(positions);
            let hashes = &mut self.hashes[..slab_end - slab];
            hash_slab(&residuals[slab..slab_end + HASHED_BYTES - 1], hashes);
            // Position 0 has nothing before it.
            let first = slab.max(1);
            mark_runs(&residuals[first - 1..slab_end + LEAST_LENGTH - 1], &mut self.breaks[first - slab..]);
            let breaks = &self.breaks[..slab_end - slab];
            let repeat = |at: usize| {
                let candidate = heads[usize::from(hashes[at - slab]) % (1 << HASH_BITS)];
                agrees(residuals, at as u16, candidate).then_some(candidate)
            };
            while at < slab_end {
                // Most positions have no candidate: eight at a time are passed over.
                if at % 8 == 0
                    && at + 8 <= slab_end
                    && no_zero(&breaks[at - slab..])
                    && repeat(at).is_none()
                    && repeat(at + HASH_STEP).is_none()
                {
                    at += 8;
                    continue;
                }
                let candidate = if at % HASH_STEP == 0 { repeat(at) } else { None };
                if (candidate.is_some() || breaks[at - slab] == 0)
                    && let Some(copy) = best(residuals, symbols, &costs, at as u16, candidate)
                {
                    self.matches.push(copy);
                    at += usize::from(copy.length);
                    continue;
                }
                at += 1;
            }
            for (&hash, position) in hashes.iter().zip(slab as u16..) {
                heads[usize::from(hash) % (1 << HASH_BITS)] = position;
            }
        }
    }
}

/// Whether none of the first eight bytes is 0.
fn no_zero(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let word = bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    word.wrapping_sub(ONES) & !word & (ONES << 7) == 0
}

/// The copy at a position with at least one candidate, if it is worth taking.
fn best(residuals: &Residuals, symbols: &[Symbol], costs: &Costs, at: u16, candidate: Option<u16>) -> Option<Match> {
    let run = agreement(residuals, symbols.len(), at, at - 1);
    let (length, distance) = match candidate.map(|c| (agreement(residuals, symbols.len(), at, c), at - c)) {
        Some((length, distance)) if length > run => (length, distance),
        _ => (run, 1),
    };
    let price = costs.copy(length, distance);
    let mut worth = 0;
    for &symbol in &symbols[usize::from(at)..][..length] {
        worth += costs.literal(symbol);
        if worth > price {
            return Some(Match { start: at, length: length as u16, distance });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_undone() {
        for value in 0..49152 {
            let Bucket { symbol, extra_bits, extra } = bucket(value);
            assert!((symbol as usize) < BUCKETS);
            assert_eq!(bucket_start(symbol), (value - extra, extra_bits));
        }
    }

    #[test]
    fn logarithms_are_close_and_never_fall() {
        let mut last = 0;
        for count in 1..49153u32 {
            let exact = 256.0 * f64::from(count).log2();
            let q8 = log2_q8(count);
            assert!(q8 >= last && (f64::from(q8) - exact).abs() < 3.0, "{count}: {q8} {exact}");
            last = q8;
        }
    }

    fn parse(residuals: &[u8]) -> Vec<Match> {
        let symbols: Vec<Symbol> = residuals.iter().map(|r| Symbol::from(*r)).collect();
        let mut counts = Counts { literals: [[0; 256]; CONTEXTS] };
        residuals.iter().for_each(|r| counts.literals[0][usize::from(*r)] += 1);
        let mut buffer = [0; RESIDUALS];
        buffer[..residuals.len()].copy_from_slice(residuals);
        let mut finder = Finder::default();
        finder.parse(&buffer, &symbols, &counts);
        finder.matches
    }

    #[test]
    fn a_constant_chunk_is_one_run() {
        assert_eq!(parse(&[7; 49152]), [Match { start: 1, length: 49151, distance: 1 }]);
        assert_eq!(parse(&[7; LEAST_LENGTH]), []);
    }

    #[test]
    fn a_repeat_of_an_earlier_slab_is_found() {
        let mut state = 9u32;
        let mut residuals: Vec<u8> = (0..3000)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 24) as u8
            })
            .collect();
        residuals.extend_from_within(100..600);
        assert_eq!(parse(&residuals), [Match { start: 3000, length: 500, distance: 2900 }]);
    }
}
