//! The addresses of a warp as runs of lanes: side by side, or all on one place. Checks and copies work run by run.

/// Neighbouring active lanes whose accesses lie side by side (`rising`) or on one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first lane.
    pub first: usize,
    /// How many.
    pub lanes: usize,
    /// Each accesses what follows the one before.
    pub rising: bool,
}

impl Run {
    /// Its lanes as a mask.
    #[inline(always)]
    pub fn mask(self) -> u32 {
        (((1u64 << self.lanes) - 1) << self.first) as u32
    }
}

/// Which lanes access what the lane before accesses, and which what follows it.
#[derive(Clone, Copy)]
pub struct Runs {
    mask: u32,
    same: u32,
    next: u32,
}

/// One bit for each byte, which is 0 or 1.
#[inline(always)]
pub fn bits(flags: &[u8; 32]) -> u32 {
    let mut out = 0;
    for (n, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
        // The factor moves byte i to bit 56 + i; no two of its products meet.
        out |= ((u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32) << (8 * n);
    }
    out
}

impl Runs {
    /// Of 32-bit addresses of accesses `bytes` wide.
    #[inline(always)]
    pub fn narrow(mask: u32, addresses: &[u32; 32], bytes: u32) -> Self {
        let (mut same, mut next) = ([0; 32], [0; 32]);
        for lane in 1..32 {
            let step = addresses[lane].wrapping_sub(addresses[lane - 1]);
            same[lane] = u8::from(step == 0);
            next[lane] = u8::from(step == bytes);
        }
        Self { mask, same: bits(&same) & mask & mask << 1, next: bits(&next) & mask & mask << 1 }
    }

    /// Of 64-bit addresses.
    #[inline(always)]
    pub fn wide(mask: u32, addresses: &[u64; 32], bytes: u32) -> Self {
        let (mut same, mut next) = ([0; 32], [0; 32]);
        for lane in 1..32 {
            let step = addresses[lane].wrapping_sub(addresses[lane - 1]);
            same[lane] = u8::from(step == 0);
            next[lane] = u8::from(step == u64::from(bytes));
        }
        Self { mask, same: bits(&same) & mask & mask << 1, next: bits(&next) & mask & mask << 1 }
    }

    /// Too many to be worth the name: lanes one by one are faster.
    #[inline(always)]
    pub fn scattered(&self) -> bool {
        (self.mask & !(self.same | self.next)).count_ones() > 4
    }

    /// All 32 lanes in one rising run.
    #[inline(always)]
    pub fn row(&self) -> bool {
        self.next == !1
    }
}

impl Iterator for Runs {
    type Item = Run;

    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        if self.mask == 0 {
            return None;
        }
        let first = self.mask.trailing_zeros();
        let after = |bits: u32| (u64::from(bits) >> (first + 1)).trailing_ones();
        let (same, next) = (after(self.same), after(self.next));
        let run = Run { first: first as usize, lanes: 1 + same.max(next) as usize, rising: next > 0 };
        self.mask &= !run.mask();
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_bits() {
        for n in 0..32 {
            let mut flags = [0; 32];
            flags[n] = 1;
            flags[31 - n] = 1;
            assert_eq!(bits(&flags), 1 << n | 1 << (31 - n));
        }
        assert_eq!(bits(&[1; 32]), u32::MAX);
    }

    #[test]
    fn runs_cover_the_active_lanes_once() {
        let addresses: [u32; 32] = std::array::from_fn(|lane| match lane {
            0..8 => 64,
            8..24 => 4 * lane as u32,
            _ => 4096 - 8 * lane as u32,
        });
        let mask = !(1 << 12);
        let runs: Vec<Run> = Runs::narrow(mask, &addresses, 4).collect();
        assert_eq!(runs.iter().fold(0, |all, run| all | run.mask()), mask);
        assert_eq!(runs.iter().map(|run| run.lanes).sum::<usize>(), 31);
        assert_eq!(runs[0], Run { first: 0, lanes: 8, rising: false });
        assert_eq!(runs[1], Run { first: 8, lanes: 4, rising: true });
        assert_eq!(runs[2], Run { first: 13, lanes: 11, rising: true });
        let wide = addresses.map(u64::from);
        assert_eq!(Runs::wide(mask, &wide, 4).collect::<Vec<_>>(), runs);
        let row: [u32; 32] = std::array::from_fn(|lane| 16 * lane as u32);
        assert!(Runs::narrow(u32::MAX, &row, 16).row() && !Runs::narrow(u32::MAX, &row, 8).row());
        assert!(!Runs::narrow(u32::MAX >> 1, &row, 16).row());
    }
}
