//! Accesses to shared memory that are under way: copies and matrix instructions beside their threads.

use super::{
    super::{
        Conflict, Strength,
        clocks::{BlockClocks, ENGINES},
    },
    CLOCK_SHIFT, IN_FLIGHT, LAST_SHIFT, PLAIN_READ, REMOTE, SEVERAL, SharedShadow, writer,
};

/// Why an asynchronous instruction may not read.
#[derive(Debug)]
pub(crate) enum ReadFault {
    /// From this address on, the last write came through the generic proxy and has passed no proxy fence.
    Unfenced(u32),
    /// Nothing orders it after a write.
    Conflict(Conflict),
}

impl SharedShadow {
    /// A copy into shared memory starts, on behalf of `warp`. Until [`SharedShadow::written`] nobody may touch the bytes.
    #[inline(always)]
    pub fn begin_write(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        lane: usize,
        address: u32,
        bytes: u32,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        let range = self.range(address.into(), bytes.into());
        let who = (warp as u32) << 5 | lane as u32;
        if !self.quiet(clocks, warp, range.clone(), who, u32::BITS - 1) {
            for granule in range.clone() {
                let found = self.write_conflict(clocks, warp, lane, granule, Strength::Plain);
                if let Some((party, wrote, case)) = found {
                    return Err(self.conflict(lane, granule, wrote, party, case));
                }
            }
        }
        self.writes[range].fill(IN_FLIGHT << CLOCK_SHIFT | who);
        Ok(())
    }

    /// The copy is complete, and counts as a write by `warp` itself, now.
    #[inline(always)]
    pub fn written(&mut self, clocks: &mut BlockClocks, warp: usize, lane: usize, address: u32, bytes: u32) {
        clocks.touched |= 1 << warp;
        let stamp = self.stamp(clocks, warp, Strength::Plain) | lane as u32;
        let range = self.range(address.into(), bytes.into());
        self.writes[range].fill(stamp);
    }

    /// The copy is complete, done by an engine at `clock`: visible to those who learn of it.
    pub fn written_by_engine(&mut self, engine: usize, clock: u32, address: u32, bytes: u32) {
        let range = self.range(address.into(), bytes.into());
        self.writes[range].fill(clock << CLOCK_SHIFT | (engine as u32) << 5);
    }

    /// An asynchronous instruction of `warp` starts to read these ranges, each an address and a length. Until
    /// [`SharedShadow::reads_done`] nobody may write there.
    pub(crate) fn begin_reads(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        lane: usize,
        ranges: &[(u32, u32)],
    ) -> Result<(), ReadFault> {
        clocks.touched |= 1 << warp;
        let floor = clocks.floor << CLOCK_SHIFT;
        // What is known of one stamp holds wherever it stands.
        let (mut fenced, mut ordered) = (0, 0);
        for (address, bytes) in ranges {
            let range = self.range((*address).into(), (*bytes).into());
            let stamps = &self.writes[range.clone()];
            let news = |stamp: &u32| u32::from(*stamp != fenced && *stamp != 0 || *stamp >= floor && *stamp != ordered);
            if stamps.iter().fold(0, |all, stamp| all | news(stamp)) != 0 {
                if let Some(at) = self.unfenced(clocks, warp, *address, *bytes) {
                    return Err(ReadFault::Unfenced(at));
                }
                for granule in range.clone() {
                    let stamp = self.writes[granule];
                    if stamp >= floor && stamp != ordered {
                        if let Some((party, case)) = self.read_conflict(clocks, warp, lane, granule, Strength::Plain) {
                            return Err(ReadFault::Conflict(self.conflict(lane, granule, true, party, case)));
                        }
                        ordered = if stamp >> CLOCK_SHIFT == REMOTE { 0 } else { stamp };
                    }
                }
                fenced = self.writes[range.end - 1];
            }
            self.last_read[range.clone()].fill(IN_FLIGHT << LAST_SHIFT | SEVERAL);
            self.readers[range].iter_mut().for_each(|readers| *readers = readers.saturating_add(1));
        }
        self.still_read(warp, ranges);
        Ok(())
    }

    /// Asynchronous instructions of `warp` that have begun to read these ranges are not complete.
    pub fn still_read(&mut self, warp: usize, ranges: &[(u32, u32)]) {
        let row = warp * self.granules;
        for (address, bytes) in ranges {
            let range = self.range((*address).into(), (*bytes).into());
            self.reads[row + range.start..row + range.end].fill(IN_FLIGHT << CLOCK_SHIFT | PLAIN_READ);
        }
    }

    /// The asynchronous reads are complete, and count as reads by `warp` itself, now.
    pub fn reads_done(&mut self, clocks: &BlockClocks, warp: usize, ranges: &[(u32, u32)]) {
        let (row, now) = (warp * self.granules, clocks.now(warp));
        // A clock that is late enough makes writers look at each warp's own reads.
        let latest = (0..clocks.warps()).map(|other| clocks.now(other)).max().unwrap_or(now);
        for (address, bytes) in ranges {
            let range = self.range((*address).into(), (*bytes).into());
            self.reads[row + range.start..row + range.end].fill(now << CLOCK_SHIFT | PLAIN_READ);
            let lasts = self.last_read[range.clone()].iter_mut().zip(&mut self.readers[range.clone()]);
            for (last, readers) in lasts {
                *readers = readers.saturating_sub(1);
                *last = if *readers == 0 { latest << LAST_SHIFT | SEVERAL } else { *last };
            }
            if !self.remote.reads.is_empty() {
                let theirs =
                    range.filter(|granule| self.readers[*granule] == 0 && self.remote.reads.contains_key(granule));
                theirs.for_each(|granule| self.last_read[granule] = REMOTE << LAST_SHIFT | SEVERAL);
            }
        }
    }

    /// The first granule of the range whose last write came through the generic proxy and has passed no proxy fence that
    /// `warp` knows of.
    pub fn unfenced(&self, clocks: &BlockClocks, warp: usize, address: u32, bytes: u32) -> Option<u32> {
        let mut accepted = 0;
        let range = self.range(address.into(), bytes.into());
        for granule in range {
            let stamp = self.writes[granule];
            if stamp == 0 || stamp == accepted {
                continue;
            }
            let (actor, _, clock) = writer(stamp);
            if actor < ENGINES && !clocks.proxied(warp, actor, clock) {
                return Some((granule << self.shift) as u32);
            }
            accepted = stamp;
        }
        None
    }
}
