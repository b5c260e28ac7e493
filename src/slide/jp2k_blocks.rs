//! JPEG 2000 code-blocks: the MQ arithmetic decoder and the three coding passes of each bit-plane.
//!
//! Source: ITU-T T.800 annexes C and D. Coefficients come out doubled, with half of the last decoded bit-plane added (the
//! midpoint of what is still unknown), which is what OpenJPEG reconstructs. Flags of four rows lie in one 64-bit word,
//! so that empty stripe columns, most of a code-block at first, are skipped at a glance.

use std::sync::LazyLock;

/// Code-block style bits of the coding-style marker.
pub mod style {
    pub const BYPASS: u8 = 0x01;
    pub const RESET_CONTEXTS: u8 = 0x02;
    pub const TERMINATE_ALL: u8 = 0x04;
    pub const VERTICALLY_CAUSAL: u8 = 0x08;
    pub const SEGMENTATION_SYMBOLS: u8 = 0x20;
    pub const HIGH_THROUGHPUT: u8 = 0x40;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubBand {
    LowLow,
    /// Horizontally high-pass.
    HighLow,
    /// Vertically high-pass.
    LowHigh,
    HighHigh,
}

/// Probability states: Qe, next after MPS, next after LPS, whether the LPS flips the sense.
const STATES: [(u16, u8, u8, bool); 47] = [
    (0x5601, 1, 1, true),
    (0x3401, 2, 6, false),
    (0x1801, 3, 9, false),
    (0x0ac1, 4, 12, false),
    (0x0521, 5, 29, false),
    (0x0221, 38, 33, false),
    (0x5601, 7, 6, true),
    (0x5401, 8, 14, false),
    (0x4801, 9, 14, false),
    (0x3801, 10, 14, false),
    (0x3001, 11, 17, false),
    (0x2401, 12, 18, false),
    (0x1c01, 13, 20, false),
    (0x1601, 29, 21, false),
    (0x5601, 15, 14, true),
    (0x5401, 16, 14, false),
    (0x5101, 17, 15, false),
    (0x4801, 18, 16, false),
    (0x3801, 19, 17, false),
    (0x3401, 20, 18, false),
    (0x3001, 21, 19, false),
    (0x2801, 22, 19, false),
    (0x2401, 23, 20, false),
    (0x2201, 24, 21, false),
    (0x1c01, 25, 22, false),
    (0x1801, 26, 23, false),
    (0x1601, 27, 24, false),
    (0x1401, 28, 25, false),
    (0x1201, 29, 26, false),
    (0x1101, 30, 27, false),
    (0x0ac1, 31, 28, false),
    (0x09c1, 32, 29, false),
    (0x08a1, 33, 30, false),
    (0x0521, 34, 31, false),
    (0x0441, 35, 32, false),
    (0x02a1, 36, 33, false),
    (0x0221, 37, 34, false),
    (0x0141, 38, 35, false),
    (0x0111, 39, 36, false),
    (0x0085, 40, 37, false),
    (0x0049, 41, 38, false),
    (0x0025, 42, 39, false),
    (0x0015, 43, 40, false),
    (0x0009, 44, 41, false),
    (0x0005, 45, 42, false),
    (0x0001, 45, 43, false),
    (0x5601, 46, 46, false),
];

/// State and sense in one index: `2 * state + most probable symbol`. Padded to 128 so that an index needs no check.
#[derive(Clone, Copy, Default)]
struct Transition {
    qe: u32,
    after_mps: u8,
    after_lps: u8,
}

static TRANSITIONS: [Transition; 128] = {
    let mut table = [Transition { qe: 0x5601, after_mps: 0, after_lps: 0 }; 128];
    let mut i = 0;
    while i < 94 {
        let (qe, mps, lps, flips) = STATES[i / 2];
        let sense = (i % 2) as u8;
        table[i] = Transition {
            qe: qe as u32,
            after_mps: 2 * mps + sense,
            after_lps: 2 * lps + if flips { 1 - sense } else { sense },
        };
        i += 1;
    }
    table
};

const CONTEXTS: usize = 19;
const SIGN: usize = 9;
const MAGNITUDE: usize = 14;
const RUN: usize = 17;
const UNIFORM: usize = 18;

fn fresh_contexts() -> [u8; CONTEXTS] {
    let mut contexts = [0; CONTEXTS];
    (contexts[0], contexts[RUN], contexts[UNIFORM]) = (2 * 4, 2 * 3, 2 * 46);
    contexts
}

struct Arithmetic<'a> {
    bytes: &'a [u8],
    at: usize,
    a: u32,
    c: u32,
    left: u32,
}

impl<'a> Arithmetic<'a> {
    fn new(bytes: &'a [u8]) -> Arithmetic<'a> {
        let mut mq = Arithmetic { bytes, at: 0, a: 0x8000, c: 0, left: 0 };
        mq.c = u32::from(mq.byte(0)) << 16;
        mq.load();
        mq.c <<= 7;
        mq.left -= 7;
        mq
    }

    /// Past the end the stream goes on with ones.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0xff)
    }

    #[inline]
    fn load(&mut self) {
        let next = self.byte(self.at + 1);
        if self.byte(self.at) == 0xff {
            if next > 0x8f {
                self.c += 0xff00;
                self.left = 8;
            } else {
                self.at += 1;
                self.c += u32::from(next) << 9;
                self.left = 7;
            }
        } else {
            self.at += 1;
            self.c += u32::from(next) << 8;
            self.left = 8;
        }
    }

    #[inline(always)]
    fn renormalise(&mut self) {
        let mut shift = self.a.leading_zeros() - 16;
        while shift > 0 {
            if self.left == 0 {
                self.load();
            }
            let step = shift.min(self.left);
            self.a <<= step;
            self.c <<= step;
            self.left -= step;
            shift -= step;
        }
    }

    #[inline(always)]
    fn decode(&mut self, context: &mut u8) -> u32 {
        let state = *context;
        let transition = &TRANSITIONS[usize::from(state & 127)];
        let qe = transition.qe;
        let sense = u32::from(state & 1);
        self.a -= qe;
        if self.c >> 16 < qe {
            let most_probable = self.a < qe;
            self.a = qe;
            *context = if most_probable { transition.after_mps } else { transition.after_lps };
            self.renormalise();
            return if most_probable { sense } else { 1 - sense };
        }
        self.c -= qe << 16;
        if self.a & 0x8000 != 0 {
            return sense;
        }
        let least_probable = self.a < qe;
        *context = if least_probable { transition.after_lps } else { transition.after_mps };
        self.renormalise();
        if least_probable { 1 - sense } else { sense }
    }
}

/// Raw bits of bypass segments: a zero is stuffed after every 0xFF.
struct Raw<'a> {
    bytes: &'a [u8],
    at: usize,
    hold: u8,
    left: u32,
}

impl Raw<'_> {
    fn bit(&mut self) -> u32 {
        if self.left == 0 {
            let stuffed = self.hold == 0xff;
            self.hold = self.bytes.get(self.at).copied().unwrap_or(0xff);
            self.at += 1;
            self.left = if stuffed { 7 } else { 8 };
        }
        self.left -= 1;
        u32::from(self.hold >> self.left) & 1
    }
}

// A coefficient's flags: which of its eight neighbours are significant, the signs of the four direct ones, and itself.
const N: u16 = 1;
const S: u16 = 1 << 1;
const W: u16 = 1 << 2;
const E: u16 = 1 << 3;
const NW: u16 = 1 << 4;
const NE: u16 = 1 << 5;
const SW: u16 = 1 << 6;
const SE: u16 = 1 << 7;
const NEIGHBOURS: u16 = 0xff;
const NEGATIVE_N: u16 = 1 << 8;
const NEGATIVE_S: u16 = 1 << 9;
const NEGATIVE_W: u16 = 1 << 10;
const NEGATIVE_E: u16 = 1 << 11;
const SIGNIFICANT: u16 = 1 << 12;
const VISITED: u16 = 1 << 13;
const REFINED: u16 = 1 << 14;

const fn every_row(flag: u16) -> u64 {
    flag as u64 * 0x0001_0001_0001_0001
}

struct Tables {
    /// Zero-coding context by sub-band kind and neighbours.
    zero: [[u8; 256]; 3],
    /// Sign context and flip by `flags & 0xf` (direct neighbours) | signs << 4.
    sign: [(u8, u8); 256],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { zero: [[0; 256]; 3], sign: [(0, 0); 256] };
    for flags in 0..256_u16 {
        let count = |mask: u16| (flags & mask).count_ones();
        let (h, v, d) = (count(W | E), count(N | S), count(NW | NE | SW | SE));
        let smooth = |h: u32, v: u32| match (h, v, d) {
            (0, 0, d) => d.min(2),
            (0, 1, _) => 3,
            (0, _, _) => 4,
            (1, 0, 0) => 5,
            (1, 0, _) => 6,
            (1, _, _) => 7,
            _ => 8,
        };
        let diagonal = match (h + v, d) {
            (hv, 0) => hv.min(2),
            (hv, 1) => 3 + hv.min(2),
            (hv, 2) => 6 + hv.min(1),
            _ => 8,
        };
        let i = usize::from(flags);
        (tables.zero[0][i], tables.zero[1][i], tables.zero[2][i]) =
            (smooth(h, v) as u8, smooth(v, h) as u8, diagonal as u8);
        // Contribution of a direct neighbour: 0, +1 or -1.
        let signed = |bit: u16| match (flags & bit != 0, flags & bit << 4 != 0) {
            (false, _) => 0_i32,
            (true, false) => 1,
            (true, true) => -1,
        };
        let h = (signed(W) + signed(E)).clamp(-1, 1);
        let v = (signed(N) + signed(S)).clamp(-1, 1);
        let flip = h < 0 || (h == 0 && v < 0);
        let (h, v) = if flip { (-h, -v) } else { (h, v) };
        let label = if h == 0 { v } else { 3 + v };
        tables.sign[i] = (SIGN as u8 + label as u8, u8::from(flip));
    }
    tables
});

/// One coding segment: passes that share an arithmetic codeword.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub passes: u32,
    pub bytes: Vec<u8>,
}

/// Working memory, reused from block to block.
#[derive(Default)]
pub struct BlockDecoder {
    /// Four rows per word, one column of border on either side and one stripe above and below.
    flags: Vec<[u16; 4]>,
    /// Doubled coefficients, row by row.
    pub values: Vec<i32>,
    width: usize,
    height: usize,
    causal: bool,
    zero_table: usize,
}

enum Coder<'a> {
    Arithmetic(Arithmetic<'a>),
    Raw(Raw<'a>),
}

impl BlockDecoder {
    /// Decodes a block into [`BlockDecoder::values`]. `bit_planes` is the number of magnitude bit-planes, at most 30.
    pub fn decode(
        &mut self,
        (width, height): (usize, usize),
        band: SubBand,
        style: u8,
        bit_planes: u32,
        segments: &[Segment],
    ) {
        (self.width, self.height) = (width, height);
        self.causal = style & style::VERTICALLY_CAUSAL != 0;
        self.zero_table = match band {
            SubBand::LowLow | SubBand::LowHigh => 0,
            SubBand::HighLow => 1,
            SubBand::HighHigh => 2,
        };
        self.flags.clear();
        self.flags.resize((height.div_ceil(4) + 2) * (width + 2), [0; 4]);
        self.values.clear();
        self.values.resize(width * height, 0);
        let mut contexts = fresh_contexts();
        // The first pass of a block is a clean-up pass.
        let (mut kind, mut plane) = (2, bit_planes);
        for segment in segments {
            let raw = style & style::BYPASS != 0 && plane + 4 <= bit_planes && kind < 2;
            let mut coder = if raw {
                Coder::Raw(Raw { bytes: &segment.bytes, at: 0, hold: 0, left: 0 })
            } else {
                Coder::Arithmetic(Arithmetic::new(&segment.bytes))
            };
            for _ in 0..segment.passes {
                if plane == 0 {
                    return;
                }
                match (kind, &mut coder) {
                    (0, Coder::Arithmetic(mq)) => self.significance_pass(mq, &mut contexts, plane),
                    (0, Coder::Raw(raw)) => self.raw_significance_pass(raw, plane),
                    (1, Coder::Arithmetic(mq)) => {
                        self.refinement_pass(plane, |context| mq.decode(&mut contexts[context]))
                    }
                    (1, Coder::Raw(raw)) => self.refinement_pass(plane, |_| raw.bit()),
                    (_, Coder::Arithmetic(mq)) => self.cleanup_pass(mq, &mut contexts, plane, style),
                    (_, Coder::Raw(_)) => return,
                }
                if style & style::RESET_CONTEXTS != 0 {
                    contexts = fresh_contexts();
                }
                kind += 1;
                if kind == 3 {
                    (kind, plane) = (0, plane - 1);
                }
            }
        }
    }

    fn word(&self, stripe: usize, x: usize) -> usize {
        (stripe + 1) * (self.width + 2) + x + 1
    }

    /// Flags as this pass may see them: with vertically causal contexts, nothing of the next stripe.
    #[inline(always)]
    fn seen(&self, flags: u16, row: usize) -> u16 {
        if self.causal && row == 3 { flags & !(S | SW | SE | NEGATIVE_S) } else { flags }
    }

    #[inline(always)]
    fn sign(&self, mq: &mut Arithmetic, contexts: &mut [u8; CONTEXTS], tables: &Tables, flags: u16) -> bool {
        let (context, flip) = tables.sign[usize::from(flags & 15 | flags >> 4 & 0xf0)];
        mq.decode(&mut contexts[usize::from(context)]) ^ u32::from(flip) == 1
    }

    #[inline(always)]
    fn make_significant(&mut self, word: usize, row: usize, at: usize, plane: u32, negative: bool) {
        let value = 3 << (plane - 1);
        self.values[at] = if negative { -value } else { value };
        let across = self.width + 2;
        let (above, above_row) = if row == 0 { (word - across, 3) } else { (word, row - 1) };
        let (below, below_row) = if row == 3 { (word + across, 0) } else { (word, row + 1) };
        let sign = |flag: u16| if negative { flag } else { 0 };
        let flags = &mut self.flags;
        flags[above - 1][above_row] |= SE;
        flags[above][above_row] |= S | sign(NEGATIVE_S);
        flags[above + 1][above_row] |= SW;
        flags[word - 1][row] |= E | sign(NEGATIVE_E);
        flags[word][row] |= SIGNIFICANT;
        flags[word + 1][row] |= W | sign(NEGATIVE_W);
        flags[below - 1][below_row] |= NE;
        flags[below][below_row] |= N | sign(NEGATIVE_N);
        flags[below + 1][below_row] |= NW;
    }

    #[inline(always)]
    fn four(&self, word: usize) -> u64 {
        bytemuck::cast(self.flags[word])
    }

    fn significance_pass(&mut self, mq: &mut Arithmetic, contexts: &mut [u8; CONTEXTS], plane: u32) {
        let tables = &*TABLES;
        for stripe in 0..self.height.div_ceil(4) {
            let rows = (self.height - 4 * stripe).min(4);
            for x in 0..self.width {
                let word = self.word(stripe, x);
                if self.four(word) & every_row(NEIGHBOURS) == 0 {
                    continue;
                }
                for row in 0..rows {
                    let flags = self.seen(self.flags[word][row], row);
                    if flags & SIGNIFICANT != 0 || flags & NEIGHBOURS == 0 {
                        continue;
                    }
                    let context = tables.zero[self.zero_table][usize::from(flags & NEIGHBOURS)];
                    if mq.decode(&mut contexts[usize::from(context)]) == 1 {
                        let negative = self.sign(mq, contexts, tables, flags);
                        self.make_significant(word, row, (4 * stripe + row) * self.width + x, plane, negative);
                    }
                    self.flags[word][row] |= VISITED;
                }
            }
        }
    }

    fn raw_significance_pass(&mut self, raw: &mut Raw, plane: u32) {
        for stripe in 0..self.height.div_ceil(4) {
            let rows = (self.height - 4 * stripe).min(4);
            for x in 0..self.width {
                let word = self.word(stripe, x);
                for row in 0..rows {
                    let flags = self.seen(self.flags[word][row], row);
                    if flags & SIGNIFICANT != 0 || flags & NEIGHBOURS == 0 {
                        continue;
                    }
                    if raw.bit() == 1 {
                        let negative = raw.bit() == 1;
                        self.make_significant(word, row, (4 * stripe + row) * self.width + x, plane, negative);
                    }
                    self.flags[word][row] |= VISITED;
                }
            }
        }
    }

    #[inline(always)]
    fn refinement_pass(&mut self, plane: u32, mut bit: impl FnMut(usize) -> u32) {
        let half = 1 << (plane - 1);
        for stripe in 0..self.height.div_ceil(4) {
            let rows = (self.height - 4 * stripe).min(4);
            for x in 0..self.width {
                let word = self.word(stripe, x);
                if self.four(word) & every_row(SIGNIFICANT) == 0 {
                    continue;
                }
                for row in 0..rows {
                    let flags = self.seen(self.flags[word][row], row);
                    if flags & (SIGNIFICANT | VISITED) != SIGNIFICANT {
                        continue;
                    }
                    let context = match flags & REFINED != 0 {
                        true => MAGNITUDE + 2,
                        false => MAGNITUDE + usize::from(flags & NEIGHBOURS != 0),
                    };
                    let up = bit(context) == 1;
                    let value = &mut self.values[(4 * stripe + row) * self.width + x];
                    *value += if up == (*value >= 0) { half } else { -half };
                    self.flags[word][row] |= REFINED;
                }
            }
        }
    }

    fn cleanup_pass(&mut self, mq: &mut Arithmetic, contexts: &mut [u8; CONTEXTS], plane: u32, style: u8) {
        let tables = &*TABLES;
        for stripe in 0..self.height.div_ceil(4) {
            let rows = (self.height - 4 * stripe).min(4);
            for x in 0..self.width {
                let word = self.word(stripe, x);
                let mut row = 0;
                let mut found = false;
                let mut four = self.four(word);
                if self.causal {
                    four &=
                        !(u64::from(S | SW | SE | NEGATIVE_S) << (if cfg!(target_endian = "little") { 48 } else { 0 }));
                }
                // Four quiet coefficients in a column are coded as a run. Signs alone do not make a noise.
                if rows == 4 && four & every_row(NEIGHBOURS | SIGNIFICANT | VISITED) == 0 {
                    if mq.decode(&mut contexts[RUN]) == 0 {
                        continue;
                    }
                    row = (mq.decode(&mut contexts[UNIFORM]) << 1) as usize;
                    row |= mq.decode(&mut contexts[UNIFORM]) as usize;
                    found = true;
                }
                while row < rows {
                    let flags = self.seen(self.flags[word][row], row);
                    if flags & (SIGNIFICANT | VISITED) == 0 {
                        let context = tables.zero[self.zero_table][usize::from(flags & NEIGHBOURS)];
                        if found || mq.decode(&mut contexts[usize::from(context)]) == 1 {
                            let negative = self.sign(mq, contexts, tables, flags);
                            self.make_significant(word, row, (4 * stripe + row) * self.width + x, plane, negative);
                        }
                        found = false;
                    }
                    row += 1;
                }
                self.flags[word].iter_mut().for_each(|flags| *flags &= !VISITED);
            }
        }
        if style & style::SEGMENTATION_SYMBOLS != 0 {
            (0..4).for_each(|_| {
                mq.decode(&mut contexts[UNIFORM]);
            });
        }
    }
}
