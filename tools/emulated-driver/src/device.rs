//! What the emulated GPU says of itself.

use std::ffi::c_int;

use crate::abi::{Answer, error};

pub(crate) const MULTIPROCESSORS: i32 = 132;
pub(crate) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
pub(crate) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
/// Shared memory that a block may have without asking for more.
pub(crate) const SHARED_DEFAULT: u32 = 48 << 10;
/// Shared memory that the system keeps in each block.
pub(crate) const SHARED_RESERVED: u32 = 1 << 10;

/// A compute capability, and what depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub major: i32,
    pub minor: i32,
}

impl Capability {
    /// `80`, `89`, `90`, ...
    pub fn parse(text: &str) -> Option<Self> {
        let number: i32 = text.trim_start_matches("sm_").trim_end_matches('a').replace('.', "").parse().ok()?;
        (70..=129).contains(&number).then_some(Self { major: number / 10, minor: number % 10 })
    }

    pub fn number(self) -> u32 {
        (self.major * 10 + self.minor) as u32
    }

    /// Shared memory of a multiprocessor.
    pub fn shared_per_multiprocessor(self) -> u32 {
        match self.number() {
            90..=109 => 228 << 10,
            80 | 87 => 164 << 10,
            70..=75 => 96 << 10,
            _ => 100 << 10,
        }
    }

    /// The most shared memory that a block may ask for.
    pub fn shared_per_block(self) -> u32 {
        self.shared_per_multiprocessor() - SHARED_RESERVED
    }

    /// `cudaDeviceGetAttribute` and `cuDeviceGetAttribute`, whose numbers are the same.
    pub fn attribute(self, attribute: c_int) -> Answer<c_int> {
        let hopper = c_int::from(self.major >= 9);
        Ok(match attribute {
            1..=3 => 1024,
            4 => 64,
            5 => i32::MAX,
            6 | 7 => 65535,
            8 => SHARED_DEFAULT as c_int,
            9 => 64 << 10,
            10 => 32,
            11 => i32::MAX,
            12 | 82 => 64 << 10,
            13 => 1_000_000,
            14 => 512,
            15 | 19 | 31 | 40 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 95 | 96 | 115 => 1,
            16 => MULTIPROCESSORS,
            21 | 22 | 23 | 27 | 28 | 42 | 45 | 52..=60 => 16384,
            24..=26 | 29 | 30 => 2048,
            36 => 1_000_000,
            37 => 5120,
            38 => 50 << 20,
            39 => THREADS_PER_MULTIPROCESSOR as c_int,
            51 => 32,
            75 => self.major,
            76 => self.minor,
            81 => self.shared_per_multiprocessor() as c_int,
            87 => 2,
            97 => self.shared_per_block() as c_int,
            106 => BLOCKS_PER_MULTIPROCESSOR as c_int,
            111 => SHARED_RESERVED as c_int,
            120 | 127 => hopper,
            _ if (1..=160).contains(&attribute) => 0,
            _ => return Err(error::INVALID_VALUE),
        })
    }

    /// Blocks that fit on a multiprocessor at once, as far as threads and shared memory decide it.
    pub fn blocks_per_multiprocessor(self, threads: u32, shared_bytes: u32) -> u32 {
        if threads == 0 || threads > 1024 || shared_bytes > self.shared_per_block() {
            return 0;
        }
        let by_threads = THREADS_PER_MULTIPROCESSOR / threads.next_multiple_of(32);
        let by_shared = self.shared_per_multiprocessor() / (shared_bytes + SHARED_RESERVED);
        by_threads.min(by_shared).min(BLOCKS_PER_MULTIPROCESSOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_limited_by_threads_and_by_shared_memory() {
        let hopper = Capability::parse("sm_90a").expect("a capability");
        assert_eq!((hopper.major, hopper.minor), (9, 0));
        assert_eq!(hopper.blocks_per_multiprocessor(1024, 0), 2);
        assert_eq!(hopper.blocks_per_multiprocessor(33, 0), 32);
        assert_eq!(hopper.blocks_per_multiprocessor(128, 100 << 10), 2);
        assert_eq!(hopper.blocks_per_multiprocessor(128, 228 << 10), 0);
        assert_eq!(hopper.attribute(97), Ok(227 << 10));
        assert!(hopper.attribute(1000).is_err());
        assert_eq!(Capability::parse("8.6").map(Capability::number), Some(86));
    }
}
