//! Accesses to shared memory that are under way: copies and matrix instructions beside their threads.

use super::{
    super::{
        Conflict, Strength,
        clocks::{BlockClocks, ENGINES},
    },
    CLOCK_SHIFT, IN_FLIGHT, LAST_SHIFT, PLAIN_READ, REMOTE, SEVERAL, SharedShadow, writer,
};

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

    /// An asynchronous instruction of `warp` starts to read. Until [`SharedShadow::read_done`] nobody may write there.
    pub fn begin_read(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        lane: usize,
        address: u32,
        bytes: u32,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        let range = self.range(address.into(), bytes.into());
        let floor = clocks.floor << CLOCK_SHIFT;
        let mut accepted = 0;
        for granule in range.clone() {
            let stamp = self.writes[granule];
            if stamp >= floor && stamp != accepted {
                if let Some((party, case)) = self.read_conflict(clocks, warp, lane, granule, Strength::Plain) {
                    return Err(self.conflict(lane, granule, true, party, case));
                }
                accepted = if stamp >> CLOCK_SHIFT == REMOTE { 0 } else { stamp };
            }
        }
        let row = warp * self.granules;
        self.reads[row + range.start..row + range.end].fill(IN_FLIGHT << CLOCK_SHIFT | PLAIN_READ);
        self.last_read[range].fill(IN_FLIGHT << LAST_SHIFT | SEVERAL);
        Ok(())
    }

    /// The asynchronous read is complete, and counts as one by `warp` itself, now.
    pub fn read_done(&mut self, clocks: &BlockClocks, warp: usize, address: u32, bytes: u32) {
        let range = self.range(address.into(), bytes.into());
        let (row, now) = (warp * self.granules, clocks.now(warp));
        self.reads[row + range.start..row + range.end].fill(now << CLOCK_SHIFT | PLAIN_READ);
        for granule in range {
            let in_flight = (0..clocks.warps())
                .any(|other| self.reads[other * self.granules + granule] >> CLOCK_SHIFT == IN_FLIGHT);
            if !in_flight {
                let highest =
                    (0..clocks.warps()).map(|other| self.reads[other * self.granules + granule] >> CLOCK_SHIFT).max();
                let theirs = self.remote.reads.contains_key(&granule).then_some(REMOTE);
                self.last_read[granule] = theirs.or(highest).unwrap_or(now) << LAST_SHIFT | SEVERAL;
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
