//! `wgmma.mma_async`: products of a warpgroup, 64 x N by K, with operands in shared memory behind descriptors.
//!
//! A descriptor names a tile made of atoms: eight rows of 16, 32, 64 or 128 bytes. Its two strides step over atoms.
//! K-major tiles have k along the rows of an atom; MN-major ones (16-bit types only) have m or n along them. The
//! swizzle permutes the 16-byte pieces of an atom by bits of the absolute address, as the tensor memory accelerator
//! does when it writes them.

use super::{
    Lanes,
    element::{Element, pair, tf32},
    warpgroup_sums::{Left, Operand, Sums},
};

/// How the 16-byte pieces of an atom are permuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// Rows of 16 bytes, in order.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Length of an atom's row.
    pub fn row_bytes(self) -> u32 {
        match self {
            Self::None => 16,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }

    /// The mode whose rows have that many bytes; 0 is none.
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        Some(match bytes {
            0 | 16 => Self::None,
            32 => Self::Bytes32,
            64 => Self::Bytes64,
            128 => Self::Bytes128,
            _ => return None,
        })
    }

    /// Where the byte of that address really lies.
    #[inline]
    pub fn apply(self, address: u32) -> u32 {
        address ^ (address >> 3 & (self.row_bytes() - 16))
    }
}

/// Which index of an operand runs along the rows of its atoms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// k, the index summed over.
    K,
    /// m or n.
    Mn,
}

/// Permutations repeat after so many bytes.
const PATTERN_BYTES: u32 = 1024;
/// What a permutation moves as a whole.
const PIECE_BYTES: u32 = 16;

/// The shared memory of an operand.
pub struct Tile {
    /// Its pieces of 16 bytes, as [`Descriptor::pieces`] orders them.
    pub pieces: Vec<u32>,
    /// The same bytes as ranges, ascending: address and length.
    pub ranges: Vec<(u32, u32)>,
}

/// A matrix descriptor, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Shared address of the tile.
    pub start: u32,
    /// "Leading dimension byte offset".
    pub leading_bytes: u32,
    /// "Stride dimension byte offset".
    pub stride_bytes: u32,
    /// Phase of the swizzle pattern, for atoms not aligned to eight rows.
    pub base_offset: u32,
    /// The permutation.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// The fields of the 64-bit word.
    pub fn decode(word: u64) -> Self {
        let field = |shift: u32| (word >> shift) as u32 & 0x3fff;
        let swizzle = match word >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        Self {
            start: field(0) << 4,
            leading_bytes: field(16) << 4,
            stride_bytes: field(32) << 4,
            base_offset: (word >> 49) as u32 & 7,
            swizzle,
        }
    }

    /// Where the pattern of addresses begins anew: permutations look at the bits below.
    pub fn origin(&self) -> u32 {
        self.start & !(PATTERN_BYTES - 1)
    }

    /// The tile of `mn` x `k` elements, by addresses from [`Descriptor::origin`] on. Descriptors that differ in nothing but their
    /// origin have equal tiles.
    pub fn tile(&self, major: Major, element: Element, mn: usize, k: usize) -> Tile {
        let moved = Self { start: self.start % PATTERN_BYTES, ..*self };
        let pieces = moved.pieces(major, element, mn, k);
        let mut sorted = pieces.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for piece in sorted {
            match ranges.last_mut() {
                Some((start, bytes)) if start.wrapping_add(*bytes) == piece => *bytes += PIECE_BYTES,
                _ => ranges.push((piece, PIECE_BYTES)),
            }
        }
        Tile { pieces, ranges }
    }

    /// The 16-byte pieces that hold a tile of `mn` x `k` elements, in order: for each piece its address. K-major pieces go
    /// along k first, then mn; MN-major ones along mn first, then k.
    pub fn pieces(&self, major: Major, element: Element, mn: usize, k: usize) -> Vec<u32> {
        let row = self.swizzle.row_bytes();
        let per_piece = 16 / element.bytes();
        let place = |byte: u32| {
            let address = byte.wrapping_sub(self.base_offset << 7);
            self.swizzle.apply(address).wrapping_add(self.base_offset << 7)
        };
        let (leading, stride) = (self.leading_bytes, self.stride_bytes);
        match major {
            Major::K => {
                let along = (k / per_piece) as u32;
                let piece = |i: u32, c: u32| {
                    let atom = self.start + i / 8 * stride + i % 8 * row;
                    let step = if self.swizzle == Swizzle::None { c * leading } else { c * 16 };
                    place(atom + step)
                };
                (0..mn as u32).flat_map(|i| (0..along).map(move |c| piece(i, c))).collect()
            }
            Major::Mn => {
                let along = (mn / per_piece) as u32;
                let pieces_of_row = row / 16;
                let piece = |i: u32, c: u32| {
                    // Without a swizzle the two strides change places.
                    let (across, down) =
                        if self.swizzle == Swizzle::None { (stride, leading) } else { (leading, stride) };
                    let atom = self.start + c / pieces_of_row * across + i / 8 * down;
                    place(atom + i % 8 * row + c % pieces_of_row * 16)
                };
                (0..k as u32).flat_map(|i| (0..along).map(move |c| piece(i, c))).collect()
            }
        }
    }
}

/// Which `wgmma.mma_async` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarpgroupForm {
    /// Type of A, and of B where it has no other.
    pub element: Element,
    /// Type of B.
    pub right: Element,
    /// Columns of the product, a multiple of 8 up to 256.
    pub n: usize,
    /// D is f16, two to a register.
    pub half_accumulator: bool,
}

impl WarpgroupForm {
    /// The form the modifiers after `wgmma` name, e.g. `mma_async sync aligned m64n128k16 f32 bf16 bf16`.
    pub fn parse(modifiers: &[&str]) -> Result<Self, String> {
        let unsupported = || format!("wgmma.{}: a form this emulator does not run", modifiers.join("."));
        let ["mma_async", "sync", "aligned", shape, d, a, b] = modifiers[..] else { return Err(unsupported()) };
        let (Some(element), Some(right)) = (Element::parse(a), Element::parse(b)) else { return Err(unsupported()) };
        if element.is_integer() || element != right && !(element.is_eight_bit_float() && right.is_eight_bit_float()) {
            return Err(unsupported());
        }
        let (n, k) = shape.strip_prefix("m64n").and_then(|s| s.split_once('k')).ok_or_else(unsupported)?;
        let (Ok(n), Ok(k)) = (n.parse::<usize>(), k.parse::<usize>()) else { return Err(unsupported()) };
        let half_accumulator = d == "f16" && (element == Element::F16 || element.is_eight_bit_float());
        if n == 0 || n > 256 || n % 8 != 0 || k * element.bytes() != 32 || d != "f32" && !half_accumulator {
            return Err(unsupported());
        }
        Ok(Self { element, right, n, half_accumulator })
    }

    /// Depth of the product: 32 bytes.
    pub fn k(self) -> usize {
        32 / self.element.bytes()
    }

    /// Accumulator registers of a thread.
    pub fn d_registers(self) -> usize {
        if self.half_accumulator { self.n / 4 } else { self.n / 2 }
    }

    /// Multiply-adds of one instruction of all four warps.
    pub fn macs(self) -> u64 {
        64 * (self.n * self.k()) as u64
    }

    /// One warp's share: D += (or =) A B, with A the 16 rows of this warp from shared memory. `slots` name the registers of D
    /// in `file`.
    pub fn multiply_shared(self, a: &Operand, warp: usize, b: &Operand, sums: Sums, file: &mut [Lanes], slots: &[u32]) {
        for depth in 0..a.depths() {
            b.sweep(depth, &a.rows(warp, depth), sums, self.half_accumulator, file, slots);
        }
    }

    /// One warp's share with A in four registers.
    pub fn multiply_registers(
        self,
        a: [&Lanes; 4],
        negate: bool,
        b: &Operand,
        sums: Sums,
        file: &mut [Lanes],
        slots: &[u32],
    ) {
        for depth in 0..b.depths() {
            let left = match self.element {
                Element::F16 => register_rows::<2>(a, depth, negate, |word, e| halves(pair::<true>(word), e)),
                Element::Bf16 => register_rows::<2>(a, depth, negate, |word, e| halves(pair::<false>(word), e)),
                Element::Tf32 => register_rows::<1>(a, depth, negate, |word, _| tf32(word)),
                element => register_rows::<4>(a, depth, negate, |word, e| element.value(word, e)),
            };
            b.sweep(depth, &left, sums, self.half_accumulator, file, slots);
        }
    }
}

#[inline(always)]
fn halves((low, high): (f32, f32), e: usize) -> f32 {
    if e == 0 { low } else { high }
}

/// Sixteen rows and up to sixteen k of A in registers of `PER` elements, laid out as `mma.sync` has them.
#[inline(always)]
fn register_rows<const PER: usize>(
    a: [&Lanes; 4],
    depth: usize,
    negate: bool,
    value: impl Fn(u32, usize) -> f32,
) -> Left {
    let sign = if negate { -1.0 } else { 1.0 };
    Left::new(|row, at| {
        if at >= 8 * PER {
            return 0.0;
        }
        let k = 16 * depth + at;
        sign * value(a[2 * (k / (4 * PER)) + row / 8][row % 8 * 4 + k / PER % 4], k % PER)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::element::pair, *};

    fn value(seed: usize, i: usize, j: usize) -> f32 {
        ((seed * 31 + i * 7 + j * 13) % 11) as f32 - 5.0
    }

    fn bytes_of(element: Element, v: f32) -> Vec<u8> {
        match element {
            Element::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
            Element::Bf16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
            Element::E4m3 | Element::E5m2 => {
                let bits = (0..256).find(|bits| element.value(*bits, 0) == v).unwrap_or(0);
                vec![bits as u8]
            }
            _ => v.to_le_bytes().to_vec(),
        }
    }

    /// Shared memory holding a tile in the canonical layout, written from the layout's definition in units of elements.
    fn tile(
        element: Element,
        major: Major,
        swizzle: Swizzle,
        mn: usize,
        k: usize,
        seed: usize,
    ) -> (Vec<u8>, Descriptor) {
        let size = element.bytes();
        let row = swizzle.row_bytes() as usize;
        let along = row / size;
        let mut memory = vec![0u8; 1 << 17];
        let start = 4096;
        let (outer, inner) = if major == Major::K { (mn, k) } else { (k, mn) };
        // Atoms of eight rows: those along the row first.
        let atoms_along = inner.div_ceil(along).max(1);
        for i in 0..outer {
            for j in 0..inner {
                let atom = i / 8 * atoms_along + j / along;
                let byte = start + atom * 8 * row + i % 8 * row + j % along * size;
                let place = swizzle.apply(byte as u32) as usize;
                let (m, kk) = if major == Major::K { (i, j) } else { (j, i) };
                memory[place..place + size].copy_from_slice(&bytes_of(element, value(seed, m, kk)));
            }
        }
        let next_along = (8 * row) as u32;
        let next_down = (8 * row * atoms_along) as u32;
        let (leading_bytes, stride_bytes) = match (major, swizzle) {
            (Major::K, _) => (next_along, next_down),
            (Major::Mn, Swizzle::None) => (next_down, next_along),
            (Major::Mn, _) => (next_along, next_down),
        };
        let start = start as u32;
        (memory, Descriptor { start, leading_bytes, stride_bytes, base_offset: 0, swizzle })
    }

    fn fetch(memory: &[u8], pieces: &[u32]) -> Vec<[u32; 4]> {
        let word = |at: usize| u32::from_le_bytes(memory[at..at + 4].try_into().unwrap());
        pieces.iter().map(|&p| std::array::from_fn(|i| word(p as usize + 4 * i))).collect()
    }

    fn operand(element: Element, pieces: &[[u32; 4]], major: Major, mn: usize, negate: bool) -> Operand {
        let mut operand = Operand::default();
        operand.fill(element, pieces, major, mn, negate);
        operand
    }

    fn check(text: &str, major_a: Major, major_b: Major, swizzle: Swizzle) {
        let form = WarpgroupForm::parse(&text.split('.').collect::<Vec<_>>()).unwrap();
        let k = form.k();
        let slots: Vec<u32> = (0..form.d_registers() as u32).collect();
        let (memory_a, at_a) = tile(form.element, major_a, swizzle, 64, k, 1);
        let (memory_b, at_b) = tile(form.right, major_b, swizzle, form.n, k, 2);
        let a = fetch(&memory_a, &at_a.pieces(major_a, form.element, 64, k));
        let b = fetch(&memory_b, &at_b.pieces(major_b, form.element, form.n, k));
        let (a, b) = (operand(form.element, &a, major_a, 64, true), operand(form.right, &b, major_b, form.n, false));
        for warp in 0..4 {
            let one = if form.half_accumulator { 0x3c00_3c00 } else { 1.0f32.to_bits() };
            let mut d = vec![[one; 32]; form.d_registers()];
            form.multiply_shared(&a, warp, &b, Sums { accumulate: true, truncate: false }, &mut d, &slots);
            for lane in 0..32 {
                for column in 0..form.n {
                    for half in 0..2 {
                        if column % 8 / 2 != lane % 4 {
                            continue;
                        }
                        let row = 16 * warp + 8 * half + lane / 4;
                        let want = 1.0 - (0..k).map(|x| value(1, row, x) * value(2, column, x)).sum::<f32>();
                        let got = if form.half_accumulator {
                            let (low, high) = pair::<true>(d[column / 8 * 2 + half][lane]);
                            if column % 2 == 0 { low } else { high }
                        } else {
                            f32::from_bits(d[column / 8 * 4 + 2 * half + column % 2][lane])
                        };
                        assert_eq!(got, want, "{text} {swizzle:?} {major_a:?} {major_b:?} row {row} column {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_layout_and_type_multiplies() {
        for swizzle in [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128] {
            for major in [Major::K, Major::Mn] {
                check("mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", major, Major::K, swizzle);
                check("mma_async.sync.aligned.m64n256k16.f32.f16.f16", major, Major::Mn, swizzle);
            }
            check("mma_async.sync.aligned.m64n24k8.f32.tf32.tf32", Major::K, Major::K, swizzle);
            check("mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3", Major::K, Major::K, swizzle);
            check("mma_async.sync.aligned.m64n16k32.f32.e4m3.e5m2", Major::K, Major::K, swizzle);
            check("mma_async.sync.aligned.m64n16k32.f16.e5m2.e5m2", Major::K, Major::K, swizzle);
            check("mma_async.sync.aligned.m64n64k16.f16.f16.f16", Major::K, Major::K, swizzle);
        }
    }

    #[test]
    fn registers_hold_rows_as_mma_sync_does() {
        let form = WarpgroupForm::parse(&["mma_async", "sync", "aligned", "m64n8k16", "f32", "bf16", "bf16"]).unwrap();
        let (memory, at) = tile(form.element, Major::K, Swizzle::None, 8, 16, 2);
        let pieces = fetch(&memory, &at.pieces(Major::K, form.element, 8, 16));
        let b = operand(form.right, &pieces, Major::K, 8, false);
        let bits = |row, k| u32::from(half::bf16::from_f32(value(1, row, k)).to_bits());
        let a: [Lanes; 4] = std::array::from_fn(|i| {
            std::array::from_fn(|lane| {
                let (row, k) = (lane / 4 + 8 * (i % 2), 2 * (lane % 4) + 8 * (i / 2));
                bits(row, k) | bits(row, k + 1) << 16
            })
        });
        let mut d = vec![[7; 32]; 4];
        for truncate in [true, false] {
            let sums = Sums { accumulate: false, truncate };
            form.multiply_registers([&a[0], &a[1], &a[2], &a[3]], false, &b, sums, &mut d, &[0, 1, 2, 3]);
        }
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let want: f32 = (0..16).map(|k| value(1, row, k) * value(2, column, k)).sum();
                assert_eq!(f32::from_bits(d[i][lane]), want);
            }
        }
    }

    #[test]
    fn descriptors_come_apart() {
        let word = 0x1234 | 0x40 << 16 | 0x80 << 32 | 3 << 49 | 1 << 62;
        let want = Descriptor {
            start: 0x12340,
            leading_bytes: 0x400,
            stride_bytes: 0x800,
            base_offset: 3,
            swizzle: Swizzle::Bytes128,
        };
        assert_eq!(Descriptor::decode(word), want);
    }
}
