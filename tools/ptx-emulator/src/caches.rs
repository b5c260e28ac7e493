//! What caches make of a launch's addresses, for models of time: a first-level cache of each block, which loads pass and stores write
//! through, and behind all of them the sectors that the launch touches at all, which memory must move at least once.
//!
//! Counted where [`crate::Options::l1_bytes`] is not 0. A block has the cache to itself: blocks of one processor neither help nor
//! evict each other, so that counts do not depend on the order of blocks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::machine::Block;

const SECTOR_BYTES: u64 = 32;
const SECTORS: u64 = 4;
const WAYS: usize = 4;

/// A line of four sectors, of which some are there.
#[derive(Clone, Copy, Default)]
struct Line {
    tag: u64,
    sectors: u8,
    used: u64,
}

/// Four ways, the least recently used line makes room.
pub(crate) struct FirstLevel {
    sets: Vec<[Line; WAYS]>,
    clock: u64,
}

impl FirstLevel {
    /// `None` where nothing is to be counted.
    pub fn new(bytes: u32) -> Option<Self> {
        let sets = (u64::from(bytes) / (SECTOR_BYTES * SECTORS)) as usize / WAYS;
        (sets > 0).then(|| Self { sets: vec![Default::default(); sets], clock: 0 })
    }

    pub fn clear(&mut self) {
        self.sets.fill(Default::default());
    }

    /// Whether a sector was there; it is afterwards.
    fn load(&mut self, sector: u64) -> bool {
        let (tag, bit) = (sector / SECTORS + 1, 1 << (sector % SECTORS));
        self.clock += 1;
        let sets = self.sets.len() as u64;
        let set = &mut self.sets[(tag % sets) as usize];
        let line = match set.iter().position(|line| line.tag == tag) {
            Some(way) => &mut set[way],
            None => {
                let oldest = (0..WAYS).min_by_key(|&way| set[way].used).unwrap_or(0);
                set[oldest] = Line { tag, ..Line::default() };
                &mut set[oldest]
            }
        };
        line.used = self.clock;
        let held = line.sectors & bit != 0;
        line.sectors |= bit;
        held
    }
}

/// Sectors that a launch has loaded, and that it has stored.
#[derive(Default)]
pub(crate) struct Footprint(Mutex<HashMap<(u64, bool), u8>>);

impl Footprint {
    fn touch(&self, sector: u64, store: bool) -> u64 {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, bit) = (lines.entry((sector / SECTORS, store)).or_default(), 1 << (sector % SECTORS));
        let first = *line & bit == 0;
        *line |= bit;
        u64::from(first)
    }
}

/// How an access meets the caches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Load,
    /// Past the first level: bulk copies, and `cp.async.cg`.
    LoadPast,
    Store,
}

/// One request's `(address, bytes)` pieces.
pub(crate) fn count(block: &mut Block<'_>, access: Access, pieces: impl Iterator<Item = (u64, u32)>) {
    let Some(first_level) = &mut block.first_level else { return };
    let mut sectors: Vec<u64> = Vec::with_capacity(32);
    for (address, bytes) in pieces.filter(|(_, bytes)| *bytes > 0) {
        sectors.extend(address / SECTOR_BYTES..=(address + u64::from(bytes) - 1) / SECTOR_BYTES);
    }
    sectors.sort_unstable();
    sectors.dedup();
    for sector in sectors {
        if access != Access::Load || !first_level.load(sector) {
            block.counters.l2_sectors += 1;
            block.counters.dram_sectors += block.launch.footprint.touch(sector, access == Access::Store);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_is_there_until_newer_lines_need_its_place() {
        // Two sets.
        let mut cache = FirstLevel::new(1024).expect("a cache");
        assert!(!cache.load(8) && cache.load(8) && !cache.load(9), "sectors come one by one");
        for line in 1..=3 {
            assert!(!cache.load(8 + line * 8), "the same set");
        }
        assert!(cache.load(8), "four ways");
        assert!(!cache.load(8 + 4 * 8) && !cache.load(8 + 8), "the oldest went");
        cache.clear();
        assert!(!cache.load(8));
        assert!(FirstLevel::new(0).is_none());
    }

    #[test]
    fn a_footprint_counts_sectors_once_each_way() {
        let footprint = Footprint::default();
        assert_eq!([footprint.touch(5, false), footprint.touch(5, false), footprint.touch(5, true)], [1, 0, 1]);
    }
}
