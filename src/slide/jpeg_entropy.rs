//! Huffman-coded JPEG scans: the bit reader, the code tables and the four block decoders (sequential; progressive DC,
//! AC first, AC refinement).
//!
//! Source: ITU-T T.81 annexes F and G. Byte stuffing is removed once per restart interval, so the bit reader loads
//! eight bytes at a time.

/// Zig-zag position to natural position; the tail catches runs past the end of a block.
pub const NATURAL: [u8; 64 + 16] = {
    const Z: [u8; 64] = [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14,
        21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60,
        61, 54, 47, 55, 62, 63,
    ];
    let mut table = [63; 80];
    let mut i = 0;
    while i < 64 {
        table[i] = Z[i];
        i += 1;
    }
    table
};

const LOOK_BITS: u32 = 10;

/// One Huffman table.
pub struct HuffmanTable {
    /// By the next [`LOOK_BITS`] bits: symbol << 8 | code length, or 0 where the code is longer.
    look: Vec<u16>,
    /// By the same index, where a code and the value behind it lie in them: value << 16 | run << 8 | bits of both, else 0. Of AC
    /// coefficients, most of which are small.
    whole: Vec<u32>,
    /// By code length: one past the largest code, left-aligned to 16 bits; and what turns a code into a symbol index.
    limit: [u32; 18],
    offset: [i32; 18],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// From the counts of codes of length 1..=16 and the symbols in code order.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<HuffmanTable, String> {
        let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
        if total > 256 || total != symbols.len() {
            return Err("has a broken Huffman table".into());
        }
        let look = vec![0; 1 << LOOK_BITS];
        let mut table =
            HuffmanTable { look, whole: Vec::new(), limit: [0; 18], offset: [0; 18], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            table.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                if code >= 1 << length {
                    return Err("has a Huffman table with more codes than fit".into());
                }
                if length <= LOOK_BITS {
                    let first = (code << (LOOK_BITS - length)) as usize;
                    let entry = u16::from(symbols[index]) << 8 | length as u16;
                    table.look[first..first + (1 << (LOOK_BITS - length))].fill(entry);
                }
                code += 1;
                index += 1;
            }
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        table.limit[17] = u32::MAX;
        table.whole = (0_u32..).zip(&table.look).map(|(bits, &entry)| whole(bits, entry)).collect();
        Ok(table)
    }
}

/// An entry of [`HuffmanTable::whole`].
fn whole(bits: u32, entry: u16) -> u32 {
    let (length, run, size) = (u32::from(entry & 0xff), u32::from(entry >> 12), u32::from(entry >> 8 & 15));
    if entry == 0 || size == 0 || length + size > LOOK_BITS {
        return 0;
    }
    let value = bits >> (LOOK_BITS - length - size) & ((1 << size) - 1);
    (extended(value as i32, size) as u32) << 16 | run << 8 | (length + size)
}

/// A value of `size` bits, at least one, in JPEG's signed form.
#[inline(always)]
fn extended(value: i32, size: u32) -> i32 {
    if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
}

/// Bits of one restart interval, stuffing removed, most significant first. Past the end it reads zeros and remembers.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    hold: u64,
    held: u32,
    overrun: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0, hold: 0, held: 0, overrun: false }
    }

    /// At least 32 bits are held afterwards: a code and its value bits.
    #[inline(always)]
    fn refill(&mut self) {
        if self.held >= 32 {
            return;
        }
        if let Some(next) = self.bytes.get(self.at..self.at + 8) {
            let next = u64::from_be_bytes([next[0], next[1], next[2], next[3], next[4], next[5], next[6], next[7]]);
            let take = (63 - self.held) / 8;
            // Bits beyond the whole bytes taken are loaded again with the same values next time.
            self.hold |= next >> self.held;
            self.at += take as usize;
            self.held += 8 * take;
            return;
        }
        // A wide load may have left bits of the next byte below the held ones.
        self.hold &= !(u64::MAX >> self.held);
        while self.held <= 56 {
            let byte = self.bytes.get(self.at).copied();
            self.hold |= u64::from(byte.unwrap_or(0)) << (56 - self.held);
            self.held += 8;
            self.at += 1;
        }
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.hold <<= count;
        self.held -= count;
    }

    /// True if more bits were consumed than the interval holds.
    pub fn overran(&self) -> bool {
        self.overrun || (self.at * 8).saturating_sub(self.held as usize) > self.bytes.len() * 8
    }

    #[inline(always)]
    pub fn bit(&mut self) -> u32 {
        self.bits(1)
    }

    /// Up to 16 bits.
    #[inline(always)]
    pub fn bits(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        self.refill();
        let value = (self.hold >> (64 - count)) as u32;
        self.skip(count);
        value
    }

    /// The next [`LOOK_BITS`] bits of those held.
    #[inline(always)]
    fn next(&self) -> usize {
        (self.hold >> (64 - LOOK_BITS)) as usize
    }

    #[inline(always)]
    fn symbol(&mut self, table: &HuffmanTable) -> u8 {
        self.refill();
        let entry = table.look[self.next()];
        if entry != 0 {
            self.skip(u32::from(entry & 0xff));
            return (entry >> 8) as u8;
        }
        self.long_symbol(table)
    }

    #[cold]
    fn long_symbol(&mut self, table: &HuffmanTable) -> u8 {
        let next = (self.hold >> 48) as u32;
        let mut length = LOOK_BITS + 1;
        while length <= 16 && next >= table.limit[length as usize] {
            length += 1;
        }
        if length > 16 {
            // No such code: the data is damaged.
            self.overrun = true;
            return 0;
        }
        self.skip(length);
        let index = (next >> (16 - length)) as i32 + table.offset[length as usize];
        table.symbols.get(index as usize).copied().unwrap_or(0)
    }

    /// A value of `count` bits in JPEG's signed form. [`Bits::symbol`] has left at least 16 bits.
    #[inline(always)]
    fn signed(&mut self, count: u32) -> i32 {
        if count == 0 {
            return 0;
        }
        let count = count.min(16);
        let value = (self.hold >> (64 - count)) as i32;
        self.skip(count);
        extended(value, count)
    }
}

/// A sequential block: DC difference and all AC coefficients. Returns where in zigzag order only zeros are left, at least 1.
#[inline(always)]
pub fn sequential_block(
    bits: &mut Bits,
    dc: &HuffmanTable,
    ac: &HuffmanTable,
    previous_dc: &mut i32,
    block: &mut [i16; 64],
) -> usize {
    let size = bits.symbol(dc);
    *previous_dc = previous_dc.wrapping_add(bits.signed(u32::from(size)));
    block[0] = *previous_dc as i16;
    let mut k = 1;
    let mut end = 1;
    while k < 64 {
        bits.refill();
        let whole = ac.whole[bits.next()];
        if whole != 0 {
            bits.skip(whole & 0xff);
            k += (whole >> 8 & 15) as usize;
            block[usize::from(NATURAL[k] & 63)] = (whole >> 16) as i16;
            k += 1;
            end = k;
            continue;
        }
        let symbol = bits.symbol(ac);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run != 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        block[usize::from(NATURAL[k] & 63)] = bits.signed(size) as i16;
        k += 1;
        end = k;
    }
    end
}

/// What a progressive scan refines.
#[derive(Clone, Copy)]
pub struct Band {
    pub first: usize,
    pub last: usize,
    /// Successive approximation: bit position before (0 in a first scan) and of this scan.
    pub high: u32,
    pub low: u32,
}

pub fn progressive_dc(bits: &mut Bits, dc: Option<&HuffmanTable>, band: Band, previous: &mut i32, block: &mut [i16]) {
    match dc {
        Some(table) if band.high == 0 => {
            let size = bits.symbol(table);
            *previous = previous.wrapping_add(bits.signed(u32::from(size)));
            block[0] = previous.wrapping_shl(band.low) as i16;
        }
        _ => block[0] |= (bits.bit() << band.low) as i16,
    }
}

pub fn progressive_ac_first(bits: &mut Bits, ac: &HuffmanTable, band: Band, end_run: &mut u32, block: &mut [i16]) {
    if *end_run > 0 {
        *end_run -= 1;
        return;
    }
    let mut k = band.first;
    while k <= band.last {
        let symbol = bits.symbol(ac);
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                *end_run = (1 << run) - 1 + bits.bits(run);
                return;
            }
            k += 16;
            continue;
        }
        k += run as usize;
        block[usize::from(NATURAL[k])] = bits.signed(size).wrapping_shl(band.low) as i16;
        k += 1;
    }
}

pub fn progressive_ac_refine(bits: &mut Bits, ac: &HuffmanTable, band: Band, end_run: &mut u32, block: &mut [i16]) {
    let step = 1_i16 << band.low;
    let refine = |bits: &mut Bits, value: &mut i16| {
        if bits.bit() == 1 && *value & step == 0 {
            *value = value.wrapping_add(if *value >= 0 { step } else { -step });
        }
    };
    let mut k = band.first;
    if *end_run == 0 {
        while k <= band.last {
            let symbol = bits.symbol(ac);
            let (mut run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            let mut new_value = 0;
            if size == 0 {
                if run < 15 {
                    *end_run = (1 << run) + bits.bits(run);
                    break;
                }
            } else {
                new_value = if bits.bit() == 1 { step } else { -step };
            }
            // `run` zero-history coefficients are passed over; those with history on the way get their next bit.
            while k <= band.last {
                let value = &mut block[usize::from(NATURAL[k])];
                if *value != 0 {
                    refine(bits, value);
                } else if run == 0 {
                    if new_value != 0 {
                        *value = new_value;
                    }
                    k += 1;
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
        }
    }
    if *end_run > 0 {
        for k in k..=band.last {
            let value = &mut block[usize::from(NATURAL[k])];
            if *value != 0 {
                refine(bits, value);
            }
        }
        *end_run -= 1;
    }
}

/// Splits an entropy-coded segment at its restart markers and removes the stuffing. Returns the intervals' bytes and
/// the number of input bytes consumed (up to the next marker that is not a restart).
pub fn intervals(data: &[u8]) -> (Vec<u8>, Vec<usize>, usize) {
    let mut bytes = Vec::with_capacity(data.len());
    let mut ends = Vec::new();
    let mut at = 0;
    loop {
        let run = data[at..].iter().position(|&b| b == 0xff).unwrap_or(data.len() - at);
        bytes.extend_from_slice(&data[at..at + run]);
        at += run;
        match data.get(at + 1) {
            Some(0) => {
                bytes.push(0xff);
                at += 2;
            }
            Some(0xd0..=0xd7) => {
                ends.push(bytes.len());
                at += 2;
            }
            Some(0xff) => at += 1,
            _ => {
                ends.push(bytes.len());
                return (bytes, ends, at.min(data.len()));
            }
        }
    }
}
