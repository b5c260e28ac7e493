//! `mbarrier`: a count of arrivals and of bytes still to come, in phases.
//!
//! The 64-bit object is opaque by definition. Ours: phase in bits 0..20, arrivals expected 20..40, arrivals pending 40..60, a
//! mark 60..64. The byte count lives beside it, as it moves while copies run.

/// What the top bits of a valid object hold.
const MARK: u64 = 0xb;
const FIELD: u64 = (1 << 20) - 1;
/// Most arrivals a barrier can count.
pub const MOST: u32 = FIELD as u32;

/// The state of one barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// Phases completed.
    pub phase: u32,
    expected: u32,
    pending: u32,
    bytes: i64,
}

/// A barrier was arrived at more often than it can be, or is to count more bytes than it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl Mbarrier {
    /// `mbarrier.init`; the count is 1 to [`MOST`].
    pub fn new(count: u32) -> Self {
        Self { phase: 0, expected: count, pending: count, bytes: 0 }
    }

    /// The word in shared memory, which is also the state that `arrive` returns.
    pub fn word(&self) -> u64 {
        let field = |value: u32, shift: u32| (u64::from(value) & FIELD) << shift;
        field(self.phase, 0) | field(self.expected, 20) | field(self.pending, 40) | MARK << 60
    }

    /// The phase that a state returned by `arrive` belongs to.
    pub fn phase_of(word: u64) -> u32 {
        (word & FIELD) as u32
    }

    /// Arrivals still pending in a state returned by `arrive`.
    pub fn pending_of(word: u64) -> u32 {
        (word >> 40 & FIELD) as u32
    }

    /// `count` arrivals. True if they completed the phase.
    pub fn arrive(&mut self, count: u32) -> Result<bool, Overrun> {
        self.pending = self.pending.checked_sub(count).ok_or(Overrun)?;
        Ok(self.turn())
    }

    /// `arrive_drop`: one arrival, and one fewer expected from the next phase on.
    pub fn arrive_drop(&mut self, count: u32) -> Result<bool, Overrun> {
        self.expected = self.expected.checked_sub(count).ok_or(Overrun)?;
        self.arrive(count)
    }

    /// One more arrival to wait for in this phase, for asynchronous arrivals that bring their own.
    pub fn expect_arrival(&mut self, count: u32) {
        self.pending = (self.pending + count).min(MOST);
    }

    /// `expect_tx`: so many more bytes to wait for.
    pub fn expect_bytes(&mut self, bytes: u32) -> Result<(), Overrun> {
        self.bytes += i64::from(bytes);
        self.countable()
    }

    /// Something is under way: arrivals or bytes of this phase have come, and others are awaited.
    pub fn in_use(&self) -> bool {
        self.pending != self.expected || self.bytes != 0
    }

    fn countable(&self) -> Result<(), Overrun> {
        if self.bytes.unsigned_abs() > FIELD { Err(Overrun) } else { Ok(()) }
    }

    /// `complete_tx`: so many bytes came. True if they completed the phase.
    pub fn complete_bytes(&mut self, bytes: u32) -> Result<bool, Overrun> {
        self.bytes -= i64::from(bytes);
        self.countable()?;
        Ok(self.turn())
    }

    /// Whether the phase of that parity is over.
    pub fn passed(&self, parity: u32) -> bool {
        self.phase & 1 != parity & 1
    }

    fn turn(&mut self) -> bool {
        if self.pending > 0 || self.bytes != 0 {
            return false;
        }
        self.phase = (self.phase + 1) & FIELD as u32;
        self.pending = self.expected;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_needs_arrivals_and_bytes() {
        let mut barrier = Mbarrier::new(2);
        assert!(!barrier.passed(0) && barrier.passed(1));
        barrier.expect_bytes(64).unwrap();
        assert_eq!(barrier.arrive(1), Ok(false));
        assert_eq!(barrier.complete_bytes(32), Ok(false));
        assert_eq!(barrier.arrive(1), Ok(false));
        assert!(barrier.complete_bytes(32) == Ok(true) && barrier.passed(0) && !barrier.passed(1));
        assert_eq!(barrier.arrive(3), Err(Overrun));
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let mut barrier = Mbarrier::new(1);
        assert_eq!(barrier.complete_bytes(16), Ok(false));
        assert!(barrier.in_use());
        assert_eq!(barrier.expect_bytes(1 << 21), Err(Overrun));
        let mut barrier = Mbarrier::new(1);
        assert_eq!(barrier.complete_bytes(16), Ok(false));
        barrier.expect_bytes(16).unwrap();
        assert_eq!(barrier.arrive(1), Ok(true));
    }

    #[test]
    fn dropped_arrivals_are_not_expected_again() {
        let mut barrier = Mbarrier::new(2);
        assert_eq!(barrier.arrive_drop(1), Ok(false));
        assert_eq!(barrier.arrive(1), Ok(true));
        assert_eq!(barrier.arrive(1), Ok(true));
        assert_eq!(Mbarrier::phase_of(barrier.word()), 2);
        assert_eq!(Mbarrier::pending_of(barrier.word()), 1);
    }
}
