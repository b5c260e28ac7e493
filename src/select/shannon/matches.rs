//! Repeats inside a chunk: which earlier pixel a pixel may copy from, and which copies are taken.
//!
//! A pixel here is its three residuals. Every rule is a function of the chunk's residuals alone, so that all pixels can be examined
//! at once:
//!
//! * **Candidates** of pixel `i`: `i - 1` (a run), and, if `i` is a multiple of 4, the pixel its hash points to. The hash of a pixel
//!   is that of the 8 residuals from its first on (`word * 0x9e3779b185ebca77 mod 2^64 >> 52` of the little-endian word); a hash
//!   points to the greatest pixel with this hash in the slabs of [`SLAB_PX`] pixels before the slab of `i`, or to 0. "Greatest" does
//!   not depend on the order in which pixels are entered. Pixels that fewer than five follow have no hash, and pixels that fewer
//!   than three follow no candidate.
//! * **Length**: as many whole pixels as agree, to the end of the chunk; at least [`LEAST_PX`] for a run, [`LEAST_REPEAT_PX`] for a
//!   repeat: shorter repeats are common in noise and save nothing. Of two candidates the longer one counts, the run if they are
//!   equally long.
//! * **Worth**: a copy is worth taking if coding its samples one by one would cost more than the copy. Both costs are estimates
//!   in 1/256 bit from the counts of all residuals of the chunk in their contexts, before any copy is taken.
//! * **Parse**: from pixel 0 on, the first worthwhile copy is taken and the next one is looked for behind it (greedy), so the
//!   step from a pixel depends on that pixel only.

use super::{
    log2::log2_q16,
    predict::{self, CHUNK_BYTES, CHUNK_PIXELS, CONTEXTS, Symbol},
};

/// The shortest copy.
pub const LEAST_PX: usize = 4;
const LEAST_BYTES: usize = 3 * LEAST_PX;
/// The shortest copy that is no run.
const LEAST_REPEAT_PX: usize = 6;
const LEAST_REPEAT_BYTES: usize = 3 * LEAST_REPEAT_PX;
/// A copy this long is always worth taking: its samples cost at least a bit each, and it never costs more than 25 bits and the
/// logarithm of its length.
const SURE_PX: usize = 9;
/// Pixels that enter the table of hashes together.
pub const SLAB_PX: usize = 512;
const HASH_BITS: u32 = 12;
/// Every so many pixels may copy from where their hash points; every pixel is pointed to.
const HASH_STEP: usize = 4;

/// One copy: `length_px` pixels at pixel `start_px` equal those `distance_px` before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    pub start_px: u16,
    pub length_px: u16,
    pub distance_px: u16,
}

impl Match {
    /// The samples that are copied.
    pub fn samples(self) -> std::ops::Range<usize> {
        let start = 3 * usize::from(self.start_px);
        start..start + 3 * usize::from(self.length_px)
    }
}

/// The symbol of a length or distance (less its least value): two symbols per octave, and the extra bits that follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    pub symbol: u32,
    pub extra_bits: u32,
    pub extra: u32,
}

/// How many symbols [`bucket`] has for values below 2^14.
pub const BUCKETS: usize = 28;

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
    /// Logarithm of how many samples each context has.
    totals: [u32; CONTEXTS],
}

/// A code word has at least one bit.
const LEAST_LITERAL_COST: u32 = 256;
/// What the match symbol, the length symbol and the distance symbol are taken to cost together, in 1/256 bit.
const MATCH_COST: u32 = 13 * 256;
/// The same for a run, whose distance is the commonest one.
const RUN_COST: u32 = 10 * 256;

impl Costs<'_> {
    fn new(counts: &Counts) -> Costs<'_> {
        Costs { counts, totals: counts.literals.each_ref().map(|context| log2_q8(context.iter().sum::<u32>().max(1))) }
    }

    fn literal(&self, symbol: Symbol) -> u32 {
        let (context, residual) = (predict::context_of(symbol), predict::residual_of(symbol));
        self.totals[context].saturating_sub(log2_q8(self.counts.literals[context][residual])).max(LEAST_LITERAL_COST)
    }

    fn copy(&self, length_px: usize, distance_px: usize) -> u32 {
        let extra_bits = bucket((length_px - LEAST_PX) as u32).extra_bits + bucket(distance_px as u32 - 1).extra_bits;
        256 * extra_bits + if distance_px == 1 { RUN_COST } else { MATCH_COST }
    }
}

/// A chunk's residuals, followed by enough room to read eight of them at any pixel without a bounds check.
type Residuals = [u8; RESIDUALS];
pub const RESIDUALS: usize = 3 * PIXELS + 24;
/// Pixels that a 14-bit number can name.
const PIXELS: usize = 1 << 14;
const _: () = assert!(CHUNK_PIXELS <= PIXELS);
/// Zeros before the residuals: what is taken to lie above the first row of the widest chunk.
pub const LEAD: usize = CHUNK_BYTES;
/// Zeros, which nothing overwrites, then the residuals.
pub type Padded = [u8; LEAD + RESIDUALS];

/// Bits of a set of samples: 64 to a word, and a word for the one that looks ahead.
const WORDS: usize = CHUNK_BYTES / 64 + 1;

/// Work space of [`Finder::parse`], reused between chunks.
pub struct Finder {
    /// The pixel that each hash points to.
    heads: Box<[u16; 1 << HASH_BITS]>,
    /// The candidate of each fourth pixel whose bit in `repeats` is set.
    candidates: Box<[u16; PIXELS / HASH_STEP]>,
    /// Bits of the first samples of pixels that continue a run, and of those with an agreeing candidate.
    runs: Box<[u64; WORDS]>,
    repeats: Box<[u64; WORDS]>,
    pub matches: Vec<Match>,
}

impl Default for Finder {
    fn default() -> Finder {
        Finder {
            heads: Box::new([0; 1 << HASH_BITS]),
            candidates: Box::new([0; PIXELS / HASH_STEP]),
            runs: Box::new([0; WORDS]),
            repeats: Box::new([0; WORDS]),
            matches: Vec::new(),
        }
    }
}

/// Eight residuals `ahead` (at most 16) behind a pixel's first.
#[inline(always)]
fn load(residuals: &Residuals, pixel: usize, ahead: usize) -> u64 {
    let bytes = residuals[3 * (pixel % PIXELS) + ahead..].first_chunk().expect("the buffer is longer than any pixel");
    u64::from_le_bytes(*bytes)
}

#[inline(always)]
fn hash(word: u64) -> u16 {
    (word.wrapping_mul(0x9e37_79b1_85eb_ca77) >> (64 - HASH_BITS)) as u16
}

/// How many of the chunk's `n` samples agree from two pixels on, the first of which is the later one; in whole pixels.
fn agreement_px(residuals: &Residuals, n: usize, pixel: usize, candidate: usize) -> usize {
    let most = n - 3 * pixel;
    let (mut here, mut there) = (residuals[3 * pixel..].chunks_exact(8), residuals[3 * candidate..].chunks_exact(8));
    let mut length = 0;
    while length < most
        && let (Some(a), Some(b)) = (here.next(), there.next())
    {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        let different = word(a) ^ word(b);
        if different != 0 {
            return most.min(length + different.trailing_zeros() as usize / 8) / 3;
        }
        length += 8;
    }
    most / 3
}

/// Bit `i` of the result is set where `a[i] == b[i]`; 64 bytes of each.
#[inline(always)]
fn equal_bits(a: &[u8; 64], b: &[u8; 64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8};
        let mut bits = 0;
        for (i, (a, b)) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0).enumerate() {
            let (a, b): (__m128i, __m128i) = (bytemuck::cast(*a), bytemuck::cast(*b));
            // SAFETY: SSE2, which both need, is part of every x86-64 machine.
            let equal = unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) };
            bits |= u64::from(equal as u16) << (16 * i);
        }
        bits
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        a.iter().zip(b).enumerate().fold(0, |bits, (i, (a, b))| bits | u64::from(a == b) << i)
    }
}

/// The first samples of pixels among the 64 samples of word `w`.
const fn pixel_bits(w: usize) -> u64 {
    const EVERY_THIRD: u64 = 0x9249_2492_4924_9249;
    EVERY_THIRD << ((3 - w % 3) % 3)
}

impl Finder {
    /// Fills `self.matches` with the copies taken in a chunk of `n` samples, in order. `padded` is the chunk's residuals behind
    /// [`LEAD`] zeros.
    pub fn parse(&mut self, padded: &Padded, width_px: usize, n: usize, counts: &Counts) {
        self.matches.clear();
        if n <= LEAST_BYTES {
            return;
        }
        let residuals = padded.last_chunk().expect("the buffer ends in the residuals");
        self.mark_runs(padded, n);
        self.mark_repeats(residuals, n);
        let chunk = Chunk { padded, residuals, n, width_px, costs: Costs::new(counts) };
        let (mut at, mut w) = (0, 0);
        while w < n.div_ceil(64) {
            let mut bits = self.runs[w] | self.repeats[w];
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let pixel = (64 * w + bit as usize) / 3;
                if pixel >= at
                    && let Some(copy) = self.best(&chunk, pixel, 1 << bit)
                {
                    self.matches.push(copy);
                    at = pixel + usize::from(copy.length_px);
                    if 3 * at >= 64 * (w + 1) {
                        break;
                    }
                }
            }
            w = (w + 1).max(3 * at / 64);
        }
    }

    /// Marks the pixels from which on [`LEAST_PX`] pixels each equal the one before them.
    fn mark_runs(&mut self, padded: &Padded, n: usize) {
        let words = n.div_ceil(64);
        let (before, here) = (&padded[LEAD - 3..], &padded[LEAD..]);
        for (word, (before, here)) in
            self.runs.iter_mut().zip(before.as_chunks().0.iter().zip(here.as_chunks().0)).take(words)
        {
            *word = equal_bits(before, here);
        }
        // Nothing precedes the first pixel, nothing follows the last.
        self.runs[0] &= !7;
        self.runs[words] = 0;
        if !n.is_multiple_of(64) {
            self.runs[words - 1] &= (1 << (n % 64)) - 1;
        }
        for w in 0..words {
            let mut bits = u128::from(self.runs[w]) | u128::from(self.runs[w + 1]) << 64;
            // Spans of 2, 4 and then 12 equal samples.
            bits &= bits >> 1;
            bits &= bits >> 2;
            bits &= bits >> 4 & bits >> 8;
            self.runs[w] = bits as u64 & pixel_bits(w);
        }
    }

    /// Marks the fourth pixels whose candidate agrees for [`LEAST_REPEAT_PX`] pixels, and notes the candidates.
    fn mark_repeats(&mut self, residuals: &Residuals, n: usize) {
        self.heads.fill(0);
        self.repeats[..n.div_ceil(64)].fill(0);
        let pixels = (n / 3 + 1).saturating_sub(LEAST_REPEAT_PX);
        let mut hashes = [0u16; SLAB_PX];
        // The word of bits that is being filled, in a register: in flat areas every candidate agrees.
        let (mut w, mut word) = (0, 0);
        for slab in (0..pixels).step_by(SLAB_PX) {
            let slab_end = (slab + SLAB_PX).min(pixels);
            let steps = (slab..slab_end).step_by(HASH_STEP);
            for (four, pixel) in hashes.as_chunks_mut::<HASH_STEP>().0.iter_mut().zip(steps) {
                let here = load(residuals, pixel, 0);
                *four = [0, 3, 6, 9].map(|ahead| hash(load(residuals, pixel, ahead)));
                let candidate = self.heads[usize::from(four[0]) % (1 << HASH_BITS)];
                let there = usize::from(candidate);
                let agree = |ahead: usize| load(residuals, pixel, ahead) == load(residuals, there, ahead);
                // Pixel 0 has nothing before it.
                if here == load(residuals, there, 0) && agree(8) && agree(LEAST_REPEAT_BYTES - 8) && pixel > 0 {
                    self.candidates[pixel % PIXELS / HASH_STEP] = candidate;
                    if w != 3 * pixel / 64 {
                        self.repeats[w] = word;
                        (w, word) = (3 * pixel / 64, 0);
                    }
                    word |= 1 << (3 * pixel % 64);
                }
            }
            for (&hash, pixel) in hashes.iter().zip(slab as u16..slab_end as u16) {
                self.heads[usize::from(hash) % (1 << HASH_BITS)] = pixel;
            }
        }
        self.repeats[w] = word;
    }

    /// The copy at a pixel with at least one candidate, if it is worth taking. `bit` is the pixel's in the words of bits.
    fn best(&self, chunk: &Chunk, pixel: usize, bit: u64) -> Option<Match> {
        let w = 3 * pixel / 64;
        let agreement = |candidate: usize| agreement_px(chunk.residuals, chunk.n, pixel, candidate);
        let run = if self.runs[w] & bit == 0 { 0 } else { agreement(pixel - 1) };
        let (mut length_px, mut distance_px) = (run, 1);
        if self.repeats[w] & bit != 0 {
            let candidate = usize::from(self.candidates[pixel / HASH_STEP]);
            let repeat = agreement(candidate);
            if repeat > run {
                (length_px, distance_px) = (repeat, pixel - candidate);
            }
        }
        let copy = Match { start_px: pixel as u16, length_px: length_px as u16, distance_px: distance_px as u16 };
        let is_worth = || {
            let worth: u32 = copy.samples().map(|sample| chunk.literal_cost(sample)).sum();
            worth > chunk.costs.copy(length_px, distance_px)
        };
        (length_px >= SURE_PX || is_worth()).then_some(copy)
    }
}

/// What the parse looks at.
struct Chunk<'a> {
    padded: &'a Padded,
    residuals: &'a Residuals,
    n: usize,
    width_px: usize,
    costs: Costs<'a>,
}

impl Chunk<'_> {
    fn literal_cost(&self, sample: usize) -> u32 {
        let at = LEAD + sample;
        let [left, up, up_right] = predict::neighbours(self.width_px).map(|back| self.padded[at - back]);
        self.costs.literal(Symbol::from(predict::context(left, up, up_right)) << 8 | Symbol::from(self.padded[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_undone() {
        for value in 0..1 << 14 {
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

    #[test]
    fn bits_of_pixels_are_every_third() {
        for sample in 0..640 {
            assert_eq!(pixel_bits(sample / 64) >> (sample % 64) & 1 == 1, sample % 3 == 0, "{sample}");
        }
    }

    #[test]
    fn long_copies_are_always_worth_taking() {
        let counts = Counts { literals: [[0; 256]; CONTEXTS] };
        let costs = Costs::new(&counts);
        for length_px in SURE_PX..PIXELS {
            assert!(LEAST_LITERAL_COST * 3 * length_px as u32 > costs.copy(length_px, PIXELS), "{length_px}");
        }
    }

    const WIDTH_PX: usize = 50;

    /// Residuals as a chunk of lines of `WIDTH_PX` pixels, the last of which may be cut.
    fn counted(residuals: &[u8]) -> (Box<Padded>, Vec<Symbol>, Counts) {
        let mut padded = Box::new([0; LEAD + RESIDUALS]);
        padded[LEAD..][..residuals.len()].copy_from_slice(residuals);
        let mut symbols = vec![0; residuals.len()];
        predict::symbols(&padded[LEAD - 3 * WIDTH_PX..][..3 * WIDTH_PX + residuals.len()], WIDTH_PX, &mut symbols);
        let mut counts = Counts { literals: [[0; 256]; CONTEXTS] };
        symbols.iter().for_each(|&s| counts.literals[predict::context_of(s)][predict::residual_of(s)] += 1);
        (padded, symbols, counts)
    }

    fn parse(residuals: &[u8]) -> Vec<Match> {
        let (padded, _, counts) = counted(residuals);
        let mut finder = Finder::default();
        finder.parse(&padded, WIDTH_PX, residuals.len(), &counts);
        finder.matches
    }

    fn noise(n: usize, mut state: u32) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn a_constant_chunk_is_one_run() {
        assert_eq!(parse(&[7; 49152]), [Match { start_px: 1, length_px: 16383, distance_px: 1 }]);
        assert_eq!(parse(&[7; LEAST_BYTES]), []);
    }

    #[test]
    fn a_repeat_of_an_earlier_slab_is_found() {
        let mut residuals = noise(3000, 9);
        residuals.extend_from_within(99..600);
        assert_eq!(parse(&residuals), [Match { start_px: 1000, length_px: 167, distance_px: 967 }]);
    }

    /// The rules as the page states them, one pixel after another.
    #[test]
    fn copies_are_those_of_the_rules() {
        for (seed, values) in [(1, 2), (2, 3), (3, 5), (4, 250)] {
            let mut residuals: Vec<u8> = noise(9000, seed).iter().map(|r| r % values).collect();
            residuals.extend_from_within(300..4000);
            residuals.truncate(residuals.len() / 3 * 3);
            let (padded, symbols, counts) = counted(&residuals);
            let pixels = residuals.len() / 3;
            let costs = Costs::new(&counts);
            let word = |pixel: usize| u64::from_le_bytes(residuals[3 * pixel..][..8].try_into().unwrap());
            let agree = |a: usize, b: usize| {
                (0..pixels - a)
                    .take_while(|k| (0..3).all(|c| residuals[3 * (a + k) + c] == residuals[3 * (b + k) + c]))
                    .count()
            };
            let mut wanted = Vec::new();
            let mut at = 1;
            while at + LEAST_PX <= pixels {
                let mut best = (agree(at, at - 1), 1);
                if at % HASH_STEP == 0 && at + LEAST_REPEAT_PX <= pixels {
                    let slab = at / SLAB_PX * SLAB_PX;
                    let candidate = (0..slab).rev().find(|p| hash(word(*p)) == hash(word(at))).unwrap_or(0);
                    let repeat = agree(at, candidate);
                    if repeat >= LEAST_REPEAT_PX && repeat > best.0 {
                        best = (repeat, at - candidate);
                    }
                }
                let worth: u32 = symbols[3 * at..][..3 * best.0].iter().map(|s| costs.literal(*s)).sum();
                if best.0 >= LEAST_PX && worth > costs.copy(best.0, best.1) {
                    wanted.push(Match { start_px: at as u16, length_px: best.0 as u16, distance_px: best.1 as u16 });
                    at += best.0;
                } else {
                    at += 1;
                }
            }
            let mut finder = Finder::default();
            finder.parse(&padded, WIDTH_PX, residuals.len(), &counts);
            assert!(!wanted.is_empty());
            assert_eq!(finder.matches, wanted, "{values} values");
        }
    }
}
