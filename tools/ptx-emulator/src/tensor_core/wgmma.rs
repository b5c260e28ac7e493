//! `wgmma.mma_async`: products of a warpgroup, 64 x N by K, with operands in shared memory behind descriptors.
//!
//! A descriptor names a tile made of atoms: eight rows of 16, 32, 64 or 128 bytes. Its two strides step over atoms.
//! K-major tiles have k along the rows of an atom; MN-major ones (16-bit types only) have m or n along them. The
//! swizzle permutes the 16-byte pieces of an atom by bits of the absolute address, as the tensor memory accelerator
//! does when it writes them.

use super::{
    Lanes,
    element::{Element, pair, tf32, truncated},
    mma::{self, accumulator, half_accumulator},
    vectorised,
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

    /// A's operand of 16-byte pieces, as [`Descriptor::pieces`] orders them, negated where asked.
    pub fn left(self, pieces: &[[u32; 4]], major: Major, negate: bool) -> Operand {
        self.operand(self.element, pieces, major, 64, negate)
    }

    /// B's.
    pub fn right(self, pieces: &[[u32; 4]], major: Major, negate: bool) -> Operand {
        self.operand(self.right, pieces, major, self.n, negate)
    }

    /// Sixteen k at a time.
    fn depths(self) -> usize {
        self.k().div_ceil(16)
    }

    fn operand(self, element: Element, pieces: &[[u32; 4]], major: Major, mn: usize, negate: bool) -> Operand {
        let mut operand = Operand { blocks: vec![[[0.0; 8]; 16]; mn / 8 * self.depths()] };
        match element {
            Element::F16 => self.unpack(&mut operand, pieces, major, mn, negate, halves::<true>),
            Element::Bf16 => self.unpack(&mut operand, pieces, major, mn, negate, halves::<false>),
            Element::Tf32 => self.unpack(&mut operand, pieces, major, mn, negate, |p| p.map(tf32)),
            _ => self.unpack(&mut operand, pieces, major, mn, negate, |p| {
                std::array::from_fn::<f32, 16, _>(|i| element.value(p[i / 4], i % 4))
            }),
        }
        operand
    }

    /// Pieces of `PER` elements into blocks.
    #[inline(always)]
    fn unpack<const PER: usize>(
        self,
        operand: &mut Operand,
        pieces: &[[u32; 4]],
        major: Major,
        mn: usize,
        negate: bool,
        values: impl Fn(&[u32; 4]) -> [f32; PER],
    ) {
        let depths = self.depths();
        let sign = if negate { -1.0 } else { 1.0 };
        let along = if major == Major::K { self.k() } else { mn } / PER;
        for (row, pieces) in pieces.chunks_exact(along).enumerate() {
            for (at, piece) in pieces.iter().enumerate() {
                let values = values(piece).map(|value| sign * value);
                let first = at * PER;
                if major == Major::K {
                    let block = &mut operand.blocks[row / 8 * depths + first / 16];
                    for (i, value) in values.into_iter().enumerate() {
                        block[(first + i) % 16][place(row % 8)] = value;
                    }
                } else {
                    for (i, eight) in values.chunks(8).enumerate() {
                        let to = &mut operand.blocks[(first / 8 + i) * depths + row / 16][row % 16];
                        for (n, value) in eight.iter().enumerate() {
                            to[place(first % 8 + n)] = *value;
                        }
                    }
                }
            }
        }
    }

    /// One warp's share: `d` += (or =) A B, with A the 16 rows of this warp from shared memory.
    pub fn multiply_shared(self, a: &Operand, warp: usize, b: &Operand, sums: Sums, d: &mut [Lanes]) {
        for depth in 0..self.depths() {
            let blocks = [0, 1].map(|half| &a.blocks[(2 * warp + half) * self.depths() + depth]);
            self.sweep(&Left::new(|row, k| blocks[row / 8][k][place(row % 8)]), b, depth, sums, d);
        }
    }

    /// One warp's share with A in four registers.
    pub fn multiply_registers(self, a: &[&Lanes], negate: bool, b: &Operand, sums: Sums, d: &mut [Lanes]) {
        let per = 4 / self.element.bytes();
        let sign = if negate { -1.0 } else { 1.0 };
        for depth in 0..self.depths() {
            let left = Left::new(|row, at| {
                if at >= self.k() {
                    return 0.0;
                }
                let k = 16 * depth + at;
                let register = a[2 * (k / (4 * per)) + row / 8];
                sign * self.element.value(register[row % 8 * 4 + k / per % 4], k % per)
            });
            self.sweep(&left, b, depth, sums, d);
        }
    }

    fn sweep(self, left: &Left, b: &Operand, depth: usize, sums: Sums, d: &mut [Lanes]) {
        let per_block = self.d_registers() * 8 / self.n;
        let accumulate = sums.accumulate || depth > 0;
        for (block, registers) in b.blocks.iter().skip(depth).step_by(self.depths()).zip(d.chunks_exact_mut(per_block))
        {
            if sums.truncate && !self.half_accumulator {
                truncating_block(left, block, accumulate, registers);
            } else if self.half_accumulator {
                half_block(left, block, accumulate, registers);
            } else {
                full_block(left, block, accumulate, registers);
            }
        }
    }
}

/// Where column `n` of eight stands in a block: even ones first, as registers of accumulators hold them.
#[inline(always)]
fn place(n: usize) -> usize {
    n % 2 * 4 + n / 2
}

/// Eight elements of 16 bits.
#[inline(always)]
fn halves<const HALF: bool>(piece: &[u32; 4]) -> [f32; 8] {
    let [a, b, c, d] = piece.map(pair::<HALF>);
    [a.0, a.1, b.0, b.1, c.0, c.1, d.0, d.1]
}

/// A warp's sixteen rows of A, sixteen deep: for each k eight pairs of rows, each row's value as often as a register of
/// accumulators has lanes of it.
struct Left([[[f32; 8]; 8]; 16]);

impl Left {
    #[inline(always)]
    fn new(value: impl Fn(usize, usize) -> f32) -> Self {
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

/// How sums are kept.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    /// D is added to, not replaced.
    pub accumulate: bool,
    /// f32 sums are cut towards zero, as hardware does.
    pub truncate: bool,
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

/// Sixteen rows of k, eight columns in the order of [`place`].
type Block = [[f32; 8]; 16];

/// An operand unpacked: for each eight of m or n, blocks of sixteen rows of k. Shallower products leave the last rows zero.
pub struct Operand {
    blocks: Vec<Block>,
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

    fn check(text: &str, major_a: Major, major_b: Major, swizzle: Swizzle) {
        let form = WarpgroupForm::parse(&text.split('.').collect::<Vec<_>>()).unwrap();
        let k = form.k();
        let (memory_a, at_a) = tile(form.element, major_a, swizzle, 64, k, 1);
        let (memory_b, at_b) = tile(form.right, major_b, swizzle, form.n, k, 2);
        let a = fetch(&memory_a, &at_a.pieces(major_a, form.element, 64, k));
        let b = fetch(&memory_b, &at_b.pieces(major_b, form.element, form.n, k));
        let a = form.left(&a, major_a, true);
        let b = form.right(&b, major_b, false);
        for warp in 0..4 {
            let one = if form.half_accumulator { 0x3c00_3c00 } else { 1.0f32.to_bits() };
            let mut d = vec![[one; 32]; form.d_registers()];
            form.multiply_shared(&a, warp, &b, Sums { accumulate: true, truncate: false }, &mut d);
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
        let b = form.right(&fetch(&memory, &at.pieces(Major::K, form.element, 8, 16)), Major::K, false);
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
            form.multiply_registers(&[&a[0], &a[1], &a[2], &a[3]], false, &b, sums, &mut d);
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
