//! Bit strings, least significant bit first, and the two integer codes the stream's tables use.
//!
//! Everything that is written goes through [`Sink`], which has two forms: [`Count`] only adds up lengths (the score) and
//! [`Writer`] makes bytes (the stream). One description of a table therefore serves both, and they cannot disagree.

/// Where bits go.
pub trait Sink {
    /// Appends the low `bits` (at most 32) bits of `value`; the bits above them are zero.
    fn put(&mut self, value: u32, bits: u32);

    /// Elias gamma code of `value` >= 1: as many zeros as there are bits after the leading one, a one, then those bits.
    fn put_gamma(&mut self, value: u32) {
        let after = value.ilog2();
        self.put(0, after);
        self.put(1, 1);
        self.put(value - (1 << after), after);
    }
}

/// Counts bits, stores none.
#[derive(Default)]
pub struct Count(pub u64);

impl Sink for Count {
    fn put(&mut self, _: u32, bits: u32) {
        self.0 += u64::from(bits);
    }

    fn put_gamma(&mut self, value: u32) {
        self.0 += u64::from(2 * value.ilog2() + 1);
    }
}

/// Makes bytes; the last one is filled up with zero bits.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl Writer {
    pub fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

impl Sink for Writer {
    fn put(&mut self, value: u32, bits: u32) {
        self.pending |= u64::from(value) << self.pending_bits;
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }
}

/// Reads what [`Writer`] wrote. Past the end it reads zeros and remembers that it did.
pub struct Reader<'a> {
    bytes: &'a [u8],
    next: usize,
    pending: u64,
    pending_bits: u32,
    overrun_bits: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, next: 0, pending: 0, pending_bits: 0, overrun_bits: 0 }
    }

    /// Makes at least 32 bits available.
    fn fill(&mut self) {
        while self.pending_bits <= 56 {
            match self.bytes.get(self.next) {
                Some(&byte) => self.pending |= u64::from(byte) << self.pending_bits,
                None => self.overrun_bits = self.overrun_bits.saturating_add(8),
            }
            self.next += 1;
            self.pending_bits += 8;
        }
    }

    /// The next 32 bits without taking them.
    pub fn peek(&mut self) -> u32 {
        if self.pending_bits < 32 {
            self.fill();
        }
        self.pending as u32
    }

    /// Drops bits that [`Reader::peek`] showed (at most 32).
    pub fn skip(&mut self, bits: u32) {
        self.pending >>= bits;
        self.pending_bits -= bits;
    }

    pub fn take(&mut self, bits: u32) -> u32 {
        let value = self.peek() & ((1u64 << bits) - 1) as u32;
        self.skip(bits);
        value
    }

    /// An Elias gamma code of at most `2^16 - 1`; `None` where there is none.
    pub fn take_gamma(&mut self) -> Option<u32> {
        let after = self.peek().trailing_zeros();
        if after > 15 {
            return None;
        }
        self.skip(after + 1);
        Some((1 << after) + self.take(after))
    }

    /// True when every bit that was taken was in the bytes and fewer than eight, all zero, are left.
    pub fn ended_well(&self) -> bool {
        let left_in_bytes = 8 * (self.bytes.len() as i64 - self.next as i64);
        let left = left_in_bytes + i64::from(self.pending_bits);
        (0..8).contains(&left) && self.pending == 0
    }

    /// True once more bits were taken than there were.
    pub fn overran(&self) -> bool {
        self.pending_bits < self.overrun_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bits_come_back() {
        let mut writer = Writer::default();
        let mut count = Count::default();
        for value in [1u32, 2, 3, 9, 255, 256, 49152, 65535] {
            writer.put_gamma(value);
            count.put_gamma(value);
            writer.put(value & 0x1f, 5);
            count.put(value & 0x1f, 5);
        }
        let bytes = writer.finish();
        assert_eq!(count.0.div_ceil(8), bytes.len() as u64);
        let mut reader = Reader::new(&bytes);
        for value in [1u32, 2, 3, 9, 255, 256, 49152, 65535] {
            assert_eq!(reader.take_gamma(), Some(value));
            assert_eq!(reader.take(5), value & 0x1f);
        }
        assert!(reader.ended_well() && !reader.overran());
        reader.take(16);
        assert!(reader.overran() && !reader.ended_well());
    }

    #[test]
    fn a_gamma_code_that_never_ends_is_refused() {
        assert_eq!(Reader::new(&[0; 16]).take_gamma(), None);
        assert_eq!(Reader::new(&[]).take_gamma(), None);
    }
}
