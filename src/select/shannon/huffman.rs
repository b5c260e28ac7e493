//! Canonical Huffman codes: lengths from integer counts by an exactly specified algorithm, their description in the
//! stream, and a decoder that refuses what is no code.
//!
//! **Code lengths.** Symbols with a count are sorted by (count, symbol). The two lightest trees are joined until one is
//! left; of a leaf and a joined tree of equal weight the leaf is taken first, joined trees are taken in the order they were
//! made. If a code word is longer than [`MAX_LENGTH_BITS`], every count `c > 0` becomes `(c + 1) >> 1` and the tree is
//! built again (counts all equal give a balanced tree of at most 9 levels, so this ends). A lone symbol has length 1.
//! Only integers are compared, so every machine finds the same lengths.
//!
//! **Code words.** Canonical: shorter words first, equal lengths by symbol; stored most significant bit first within the
//! least-significant-first bit string, as deflate does.

use super::bits::{Reader, Sink};

pub const MAX_LENGTH_BITS: usize = 15;
/// The largest alphabet: 256 residuals and the match symbol.
pub const MAX_SYMBOLS: usize = 257;
/// What a table's first length is predicted from.
const FIRST_PREDICTED_BITS: u8 = 4;

/// Work space of [`code_lengths`], reused between calls.
pub struct Builder {
    /// (count, symbol) of the used symbols, ascending.
    leaves: Vec<(u32, u16)>,
    sorted: Vec<(u32, u16)>,
    /// Weights of the joined trees in the order they were made.
    joined: Vec<u32>,
    /// Parent (an index into `joined`) of every leaf and, after them, of every joined tree.
    parent: Vec<u16>,
    depth: Vec<u8>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            leaves: Vec::with_capacity(MAX_SYMBOLS),
            sorted: Vec::with_capacity(MAX_SYMBOLS),
            joined: Vec::with_capacity(MAX_SYMBOLS),
            parent: Vec::with_capacity(2 * MAX_SYMBOLS),
            depth: Vec::with_capacity(MAX_SYMBOLS),
        }
    }
}

impl Builder {
    /// Sorts the leaves by count, equal counts in the order they have: two passes of counting sort over bytes (counts in
    /// one chunk stay below 2^16).
    fn sort_leaves(&mut self) {
        for shift in [0, 8] {
            let mut starts = [0u32; 257];
            for &(count, _) in &self.leaves {
                starts[((count >> shift) & 255) as usize + 1] += 1;
            }
            if starts[1] as usize == self.leaves.len() {
                continue;
            }
            for i in 1..257 {
                starts[i] += starts[i - 1];
            }
            self.sorted.clear();
            self.sorted.resize(self.leaves.len(), (0, 0));
            for &leaf in &self.leaves {
                let at = &mut starts[((leaf.0 >> shift) & 255) as usize];
                self.sorted[*at as usize] = leaf;
                *at += 1;
            }
            std::mem::swap(&mut self.leaves, &mut self.sorted);
        }
    }

    /// Depths of the sorted leaves; returns the greatest.
    fn join(&mut self) -> u8 {
        let n = self.leaves.len();
        self.joined.clear();
        self.parent.clear();
        self.parent.resize(2 * n - 1, 0);
        let (mut leaf, mut tree) = (0, 0);
        for made in 0..n - 1 {
            let mut weight = 0;
            for _ in 0..2 {
                let take_leaf = leaf < n && (tree >= made || self.leaves[leaf].0 <= self.joined[tree]);
                if take_leaf {
                    weight += self.leaves[leaf].0;
                    self.parent[leaf] = made as u16;
                    leaf += 1;
                } else {
                    weight += self.joined[tree];
                    self.parent[n + tree] = made as u16;
                    tree += 1;
                }
            }
            self.joined.push(weight);
        }
        self.depth.clear();
        self.depth.resize(n - 1, 0);
        for made in (0..n - 2).rev() {
            self.depth[made] = self.depth[self.parent[n + made] as usize] + 1;
        }
        // The lightest leaf is the deepest.
        self.depth[self.parent[0] as usize] + 1
    }
}

/// Lengths in bits of a Huffman code for `counts` (below 2^16 each); symbols without a count get 0.
pub fn code_lengths(builder: &mut Builder, counts: &[u32], lengths: &mut [u8]) {
    lengths.fill(0);
    builder.leaves.clear();
    let used = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    builder.leaves.extend(used.map(|(symbol, &count)| (count, symbol as u16)));
    match builder.leaves[..] {
        [] => return,
        [(_, symbol)] => {
            lengths[symbol as usize] = 1;
            return;
        }
        _ => {}
    }
    builder.sort_leaves();
    while builder.join() as usize > MAX_LENGTH_BITS {
        // Halving keeps the order of the counts; equal ones must be put back in the order of their symbols.
        for leaf in &mut builder.leaves {
            leaf.0 = (leaf.0 + 1) >> 1;
        }
        builder.leaves.sort_unstable();
    }
    for (leaf, &(_, symbol)) in builder.leaves.iter().enumerate() {
        lengths[symbol as usize] = builder.depth[builder.parent[leaf] as usize] + 1;
    }
}

/// Describes code lengths. With `n` the number of symbols up to the last used one, the description is gamma(n + 1), then for
/// the symbols in order, each against the last length that was not 0 (at first 4):
/// `0` the same; `10s` one more (s = 0) or one less (s = 1); `110` gamma(r) a run of r unused symbols; `1110s` two more or
/// less; `1111llll` the length itself. Bits are named in the order they are written.
pub fn put_lengths(sink: &mut impl Sink, lengths: &[u8]) {
    let used = lengths.iter().rposition(|l| *l > 0).map_or(0, |last| last + 1);
    sink.put_gamma(used as u32 + 1);
    let mut predicted = FIRST_PREDICTED_BITS;
    let mut symbol = 0;
    while symbol < used {
        let length = lengths[symbol];
        if length == 0 {
            let run = lengths[symbol..used].iter().take_while(|l| **l == 0).count();
            sink.put(0b011, 3);
            sink.put_gamma(run as u32);
            symbol += run;
            continue;
        }
        match i32::from(length) - i32::from(predicted) {
            0 => sink.put(0b0, 1),
            1 => sink.put(0b001, 3),
            -1 => sink.put(0b101, 3),
            2 => sink.put(0b00111, 5),
            -2 => sink.put(0b10111, 5),
            _ => sink.put(0b1111 | u32::from(length) << 4, 8),
        }
        predicted = length;
        symbol += 1;
    }
}

/// Reads what [`put_lengths`] wrote into `lengths`; an error says what cannot be.
pub fn take_lengths(reader: &mut Reader, lengths: &mut [u8]) -> Result<(), &'static str> {
    lengths.fill(0);
    let used = reader.take_gamma().ok_or("a code table has no size")? as usize - 1;
    if used > lengths.len() {
        return Err("a code table is larger than its alphabet");
    }
    let mut predicted = i32::from(FIRST_PREDICTED_BITS);
    let mut symbol = 0;
    while symbol < used {
        let length = match reader.peek().trailing_ones().min(4) {
            ones @ (0 | 1 | 3) => {
                let step = (ones as i32 + 1) / 2;
                reader.skip(ones + 1);
                if step > 0 && reader.take(1) == 1 { predicted - step } else { predicted + step }
            }
            2 => {
                reader.skip(3);
                let run = reader.take_gamma().ok_or("a code table has a run without a length")? as usize;
                if run >= used - symbol {
                    return Err("a code table ends in unused symbols");
                }
                symbol += run;
                continue;
            }
            _ => {
                reader.skip(4);
                reader.take(4) as i32
            }
        };
        if !(1..=MAX_LENGTH_BITS as i32).contains(&length) {
            return Err("a code word has an impossible length");
        }
        lengths[symbol] = length as u8;
        predicted = length;
        symbol += 1;
    }
    Ok(())
}

/// Code words for `lengths`, ready for a least-significant-first bit string.
pub fn code_words(lengths: &[u8]) -> Vec<u16> {
    let mut next = first_words(lengths);
    let word = |&length: &u8| {
        let word = next[length as usize];
        next[length as usize] += 1;
        if length == 0 { 0 } else { (word as u16).reverse_bits() >> (16 - length) }
    };
    lengths.iter().map(word).collect()
}

/// The first canonical code word of every length.
fn first_words(lengths: &[u8]) -> [u32; MAX_LENGTH_BITS + 2] {
    let mut counts = [0u32; MAX_LENGTH_BITS + 2];
    lengths.iter().filter(|l| **l > 0).for_each(|l| counts[*l as usize] += 1);
    let mut first = [0u32; MAX_LENGTH_BITS + 2];
    for length in 1..=MAX_LENGTH_BITS + 1 {
        first[length] = (first[length - 1] + counts[length - 1]) << 1;
    }
    first
}

/// How many bits the direct table of [`Decoder`] resolves at once.
const DIRECT_BITS: u32 = 10;

/// Decodes one canonical code.
pub struct Decoder {
    /// For the next `DIRECT_BITS` bits: symbol << 4 | length, or 0 where the word is longer or no word.
    direct: Vec<u16>,
    /// Symbols by (length, symbol), for longer words.
    symbols: Vec<u16>,
    counts: [u32; MAX_LENGTH_BITS + 1],
}

impl Decoder {
    /// Refuses lengths that no prefix code has. An incomplete code is fine: its unused words fail when they are met.
    pub fn new(lengths: &[u8]) -> Result<Decoder, &'static str> {
        let mut counts = [0u32; MAX_LENGTH_BITS + 1];
        lengths.iter().filter(|l| **l > 0).for_each(|l| counts[*l as usize] += 1);
        let space: u32 = (1..=MAX_LENGTH_BITS).map(|l| counts[l] << (MAX_LENGTH_BITS - l)).sum();
        if space > 1 << MAX_LENGTH_BITS {
            return Err("a code table describes more words than there are");
        }
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).filter(|s| lengths[*s as usize] > 0).collect();
        symbols.sort_by_key(|s| lengths[*s as usize]);
        let mut direct = vec![0; 1 << DIRECT_BITS];
        let words = code_words(lengths);
        for &symbol in &symbols {
            let length = u32::from(lengths[symbol as usize]);
            if length <= DIRECT_BITS {
                let entry = symbol << 4 | length as u16;
                direct[words[symbol as usize] as usize..].iter_mut().step_by(1 << length).for_each(|d| *d = entry);
            }
        }
        Ok(Decoder { direct, symbols, counts })
    }

    pub fn take(&self, reader: &mut Reader) -> Result<usize, &'static str> {
        let bits = reader.peek();
        let entry = self.direct[(bits & ((1 << DIRECT_BITS) - 1)) as usize];
        if entry != 0 {
            reader.skip(u32::from(entry & 15));
            return Ok(usize::from(entry >> 4));
        }
        let (mut word, mut first, mut before) = (0u32, 0u32, 0u32);
        for length in 1..=MAX_LENGTH_BITS {
            word = word << 1 | (bits >> (length - 1) & 1);
            let count = self.counts[length];
            if word - first < count {
                reader.skip(length as u32);
                return Ok(usize::from(self.symbols[(before + word - first) as usize]));
            }
            before += count;
            first = (first + count) << 1;
        }
        Err("a code word is not in its table")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::bits::{Count, Writer},
        *,
    };

    fn lengths_of(counts: &[u32]) -> Vec<u8> {
        let mut lengths = vec![0; counts.len()];
        code_lengths(&mut Builder::default(), counts, &mut lengths);
        lengths
    }

    #[test]
    fn textbook_lengths() {
        assert_eq!(lengths_of(&[0, 0, 0]), [0, 0, 0]);
        assert_eq!(lengths_of(&[0, 7, 0]), [0, 1, 0]);
        assert_eq!(lengths_of(&[5, 9, 12, 13, 16, 45]), [4, 4, 3, 3, 3, 1]);
        assert_eq!(lengths_of(&[1, 1, 1, 1]), [2, 2, 2, 2]);
    }

    #[test]
    fn fibonacci_counts_are_limited_to_the_longest_word() {
        let mut counts = vec![1u32, 1];
        while counts.len() < 22 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
        }
        let lengths = lengths_of(&counts);
        assert!(lengths.iter().all(|l| (1..=MAX_LENGTH_BITS as u8).contains(l)), "{lengths:?}");
        let space: u32 = lengths.iter().map(|l| 1 << (MAX_LENGTH_BITS - *l as usize)).sum();
        assert_eq!(space, 1 << MAX_LENGTH_BITS, "the code is complete");
    }

    #[test]
    fn tables_and_words_come_back() {
        let mut state = 12345u32;
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state >> 16
        };
        for symbols in [1, 2, 3, 32, 257] {
            for skew in [0, 3, 9] {
                let counts: Vec<u32> = (0..symbols).map(|i| (random() >> (i * skew / 16).min(16)) & 0xfff).collect();
                let lengths = lengths_of(&counts);
                let (mut writer, mut count) = (Writer::default(), Count::default());
                put_lengths(&mut writer, &lengths);
                put_lengths(&mut count, &lengths);
                let words = code_words(&lengths);
                let used: Vec<usize> = (0..symbols as usize).filter(|s| lengths[*s] > 0).collect();
                for &symbol in &used {
                    writer.put(u32::from(words[symbol]), u32::from(lengths[symbol]));
                }
                let bytes = writer.finish();
                let mut reader = Reader::new(&bytes);
                let mut read = vec![9; symbols as usize];
                take_lengths(&mut reader, &mut read).unwrap();
                assert_eq!(read, lengths);
                let decoder = Decoder::new(&read).unwrap();
                for &symbol in &used {
                    assert_eq!(decoder.take(&mut reader), Ok(symbol));
                }
                let payload: u64 = used.iter().map(|s| u64::from(lengths[*s])).sum();
                assert_eq!(bytes.len() as u64, (count.0 + payload).div_ceil(8));
            }
        }
    }

    #[test]
    fn impossible_codes_are_refused() {
        assert!(Decoder::new(&[1, 1, 1]).is_err());
        let incomplete = Decoder::new(&[2, 2]).unwrap();
        assert!(incomplete.take(&mut Reader::new(&[0xff; 4])).is_err());
    }
}
