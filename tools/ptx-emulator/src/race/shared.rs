//! The shadow of a block's shared memory: who wrote and who read each granule last.
//!
//! A granule is as wide as the narrowest access of the kernel, so that neighbours never share one.

use super::{
    Conflict, Party, Strength, Values,
    clocks::{BlockClocks, ENGINES, PEERS},
    contiguous, lanes,
};

/// A write: clock in bits 13.., strong 12, volatile 11, actor 5..11, lane 0..5.
const CLOCK_SHIFT: u32 = 13;
const STRONG: u32 = 1 << 12;
const VOLATILE: u32 = 1 << 11;
/// The clock of what is under way: after everything.
const IN_FLIGHT: u32 = (1 << 19) - 1;
/// A warp's last read: clock in bits 13.., plain 12, several lanes 11, number among its loads 5..11, lane 0..5.
const PLAIN_READ: u32 = 1 << 12;
const SEVERAL_LANES: u32 = 1 << 11;
const NUMBER_SHIFT: u32 = 5;
/// Lanes in step read before any of them writes: `x[t] += x[t + 1]`. So many loads back a read may lie for that.
const IN_STEP: u32 = 2;
/// The last read of any: clock in bits 7.., several actors 6, actor 0..6.
const LAST_SHIFT: u32 = 7;
const SEVERAL: u32 = 1 << 6;

/// Granules of one block's shared memory.
pub struct SharedShadow {
    shift: u32,
    granules: usize,
    writes: Vec<u32>,
    /// For each warp a row: its last read of each granule.
    reads: Vec<u32>,
    last_read: Vec<u32>,
    /// Loads of each warp so far.
    loads: Vec<u32>,
}

fn writer(stamp: u32) -> (usize, usize, u32) {
    ((stamp >> 5 & 63) as usize, (stamp & 31) as usize, stamp >> CLOCK_SHIFT)
}

impl SharedShadow {
    /// For `bytes` of shared memory whose narrowest access has `narrowest` bytes (a power of two up to 16).
    pub fn new(bytes: usize, narrowest: usize, warps: usize) -> Self {
        let shift = narrowest.clamp(1, 16).ilog2();
        let granules = bytes.div_ceil(1 << shift);
        Self {
            shift,
            granules,
            writes: vec![0; granules],
            reads: vec![0; granules * warps],
            last_read: vec![0; granules],
            loads: vec![0; warps],
        }
    }

    /// A new block in the same memory.
    pub fn clear(&mut self) {
        self.writes.fill(0);
        self.reads.fill(0);
        self.last_read.fill(0);
    }

    fn range(&self, address: u64, bytes: u64) -> std::ops::Range<usize> {
        let end = (address + bytes).div_ceil(1 << self.shift) as usize;
        ((address >> self.shift) as usize).min(self.granules)..end.min(self.granules)
    }

    /// A warp loads. Addresses were checked against the block's shared memory.
    pub fn load(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        bytes: u32,
        strength: Strength,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        self.loads[warp] = self.loads[warp].wrapping_add(1);
        let floor = clocks.floor << CLOCK_SHIFT;
        if let Some((first, length)) = contiguous(mask, addresses, bytes) {
            let range = self.range(first, length);
            let highest = self.writes[range.clone()].iter().fold(0, |a, b| a.max(*b));
            if highest < floor && length >= 32 << self.shift {
                let per_lane = range.len() / 32;
                for lane in 0..32 {
                    let start = range.start + lane * per_lane;
                    self.note_reads(clocks, warp, lane, start..start + per_lane, strength);
                }
                return Ok(());
            }
        }
        let first = mask.trailing_zeros() as usize;
        let same = mask != 0 && lanes(mask).all(|lane| addresses[lane] == addresses[first]);
        let mut accepted = 0;
        for lane in lanes(if same { 1 << first } else { mask }) {
            let range = self.range(addresses[lane].into(), bytes.into());
            for granule in range.clone() {
                let stamp = self.writes[granule];
                if stamp >= floor && stamp != accepted {
                    // All lanes of a broadcast are asked, because the writer may be one of them.
                    for asking in lanes(if same { mask } else { 1 << lane }) {
                        if let Some(party) = read_conflict(clocks, warp, asking, stamp, strength) {
                            return Err(self.conflict(asking, granule, true, party, stamp >> CLOCK_SHIFT == IN_FLIGHT));
                        }
                    }
                    let (actor, _, clock) = writer(stamp);
                    if actor != warp || clock != clocks.now(warp) {
                        accepted = stamp;
                    }
                }
            }
            self.note_reads(clocks, warp, lane, range.clone(), strength);
            if same && mask & (mask - 1) != 0 {
                let row = warp * self.granules;
                self.reads[row + range.start..row + range.end].iter_mut().for_each(|read| *read |= SEVERAL_LANES);
            }
        }
        if strength != Strength::Plain {
            for lane in lanes(mask) {
                clocks.learn_shared(warp, addresses[lane]);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn note_reads(
        &mut self,
        clocks: &BlockClocks,
        warp: usize,
        lane: usize,
        range: std::ops::Range<usize>,
        strength: Strength,
    ) {
        let now = clocks.now(warp);
        let plain = if strength == Strength::Plain { PLAIN_READ } else { 0 };
        let number = (self.loads[warp] & 63) << NUMBER_SHIFT;
        let stamp = now << CLOCK_SHIFT | plain | number | lane as u32;
        let row = warp * self.granules;
        for read in &mut self.reads[row + range.start..row + range.end] {
            let old = *read;
            let same_clock = (old ^ stamp) >> CLOCK_SHIFT == 0;
            let others = if (old ^ stamp) & 31 != 0 { SEVERAL_LANES } else { old & SEVERAL_LANES };
            let merged = if same_clock { stamp | others | old & PLAIN_READ } else { stamp };
            *read = if old >> CLOCK_SHIFT == IN_FLIGHT { old } else { merged };
        }
        let (mine, floor) = (now << LAST_SHIFT | warp as u32, clocks.floor << LAST_SHIFT);
        for last in &mut self.last_read[range] {
            let others = *last >= floor && *last & (SEVERAL | 63) != warp as u32;
            *last = mine.max(*last) | if others { SEVERAL } else { 0 };
        }
    }

    /// A warp stores, or does atomics, which have no `values`. `memory` is what the block's shared memory holds before.
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    pub fn store(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        bytes: u32,
        mut strength: Strength,
        release: bool,
        memory: &[u8],
        values: Values<'_>,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        if strength != Strength::Plain {
            let mut published = false;
            for lane in lanes(mask) {
                if strength == Strength::Strong {
                    clocks.learn_shared(warp, addresses[lane]);
                }
                published |= clocks.publish_shared(warp, addresses[lane], release);
            }
            if published {
                strength = Strength::Strong;
            }
        }
        let stamp = self.stamp(clocks, warp, strength);
        if let Some((first, length)) = contiguous(mask, addresses, bytes) {
            let range = self.range(first, length);
            if self.quiet(clocks, warp, range.clone()) {
                let per_lane = range.len() / 32;
                if per_lane >= 1 && range.len() == 32 * per_lane {
                    for (lane, part) in self.writes[range].chunks_exact_mut(per_lane).enumerate() {
                        part.fill(stamp | lane as u32);
                    }
                    return Ok(());
                }
            }
        }
        let silent = |lane: usize| {
            let first = addresses[lane] as usize;
            let old = memory.get(first..first + bytes as usize);
            values.zip(old).is_some_and(|(values, old)| values(lane)[..old.len()] == *old)
        };
        for lane in lanes(mask) {
            let range = self.range(addresses[lane].into(), bytes.into());
            if !self.quiet(clocks, warp, range.clone()) {
                for granule in range.clone() {
                    if let Some((party, wrote, in_flight)) =
                        self.write_conflict(clocks, warp, lane, granule, strength, IN_STEP)
                        && (in_flight || !silent(lane))
                    {
                        return Err(self.conflict(lane, granule, wrote, party, in_flight));
                    }
                }
            }
            self.writes[range].fill(stamp | lane as u32);
        }
        let Some(values) = values else { return Ok(()) };
        for lane in lanes(mask) {
            let granule = (addresses[lane] >> self.shift) as usize;
            let winner = self.writes.get(granule).map_or(lane, |stamp| (stamp & 31) as usize);
            if winner != lane && addresses[winner] == addresses[lane] && values(winner) != values(lane) {
                let party = Party::Warp { warp, lane: Some(lane) };
                return Err(Conflict { simultaneous: true, ..self.conflict(winner, granule, true, party, false) });
            }
        }
        Ok(())
    }

    fn stamp(&self, clocks: &BlockClocks, warp: usize, strength: Strength) -> u32 {
        let kind = match strength {
            Strength::Plain => 0,
            Strength::Volatile => VOLATILE,
            Strength::Strong => STRONG | VOLATILE,
        };
        clocks.now(warp) << CLOCK_SHIFT | kind | (warp as u32) << 5
    }

    /// Everything in the range lies before the floor, or was this warp's own and is complete.
    #[inline]
    fn quiet(&self, clocks: &BlockClocks, warp: usize, range: std::ops::Range<usize>) -> bool {
        let (write_floor, read_floor) = (clocks.floor << CLOCK_SHIFT, clocks.floor << LAST_SHIFT);
        let mut bad = false;
        let (row, now) = (warp * self.granules, clocks.now(warp));
        let own = &self.reads[row + range.start..row + range.end];
        for ((write, last), own) in self.writes[range.clone()].iter().zip(&self.last_read[range]).zip(own) {
            bad |= own >> CLOCK_SHIFT == now;
            let mine = write >> 5 & 63 == warp as u32 && write >> CLOCK_SHIFT != IN_FLIGHT;
            bad |= *write >= write_floor && !mine;
            bad |= *last >= read_floor && (last & (SEVERAL | 63) != warp as u32 || last >> LAST_SHIFT == IN_FLIGHT);
        }
        !bad
    }

    fn write_conflict(
        &self,
        clocks: &BlockClocks,
        warp: usize,
        lane: usize,
        granule: usize,
        strength: Strength,
        in_step: u32,
    ) -> Option<(Party, bool, bool)> {
        let stamp = self.writes[granule];
        let (actor, writer_lane, clock) = writer(stamp);
        if clock == IN_FLIGHT {
            return Some((party(actor, Some(writer_lane)), true, true));
        }
        let both_strong = strength == Strength::Strong && stamp & STRONG != 0;
        if actor != warp && !both_strong && clock > 0 && !clocks.knows(warp, actor, clock) {
            return Some((party(actor, Some(writer_lane)), true, false));
        }
        for other in 0..clocks.warps() {
            let read = self.reads[other * self.granules + granule];
            let clock = read >> CLOCK_SHIFT;
            if clock == IN_FLIGHT {
                return Some((party(other, None), false, true));
            }
            if other == warp && clock == clocks.now(warp) && strength == Strength::Plain && read & PLAIN_READ != 0 {
                let age = self.loads[warp].wrapping_sub(read >> NUMBER_SHIFT) & 63;
                let another = read & SEVERAL_LANES != 0 || read & 31 != lane as u32;
                if another && age >= in_step {
                    return Some((party(warp, Some((read & 31) as usize)), false, false));
                }
            }
            let both_strong = strength == Strength::Strong && read & PLAIN_READ == 0;
            if other != warp && clock > 0 && !both_strong && !clocks.knows(warp, other, clock) {
                return Some((party(other, None), false, false));
            }
        }
        None
    }

    fn conflict(&self, lane: usize, granule: usize, wrote: bool, party: Party, in_flight: bool) -> Conflict {
        Conflict { lane, address: (granule as u64) << self.shift, wrote, party, in_flight, simultaneous: false }
    }

    /// A copy into shared memory starts, on behalf of `warp`. Until [`SharedShadow::written`] nobody may touch the bytes.
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
        if !self.quiet(clocks, warp, range.clone()) {
            for granule in range.clone() {
                let found = self.write_conflict(clocks, warp, lane, granule, Strength::Plain, 0);
                if let Some((party, wrote, in_flight)) = found {
                    return Err(self.conflict(lane, granule, wrote, party, in_flight));
                }
            }
        }
        self.writes[range].fill(IN_FLIGHT << CLOCK_SHIFT | (warp as u32) << 5 | lane as u32);
        Ok(())
    }

    /// The copy is complete, and counts as a write by `warp` itself, now.
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
                if let Some(party) = read_conflict(clocks, warp, lane, stamp, Strength::Volatile) {
                    return Err(self.conflict(lane, granule, true, party, stamp >> CLOCK_SHIFT == IN_FLIGHT));
                }
                accepted = stamp;
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
                self.last_read[granule] = highest.unwrap_or(now) << LAST_SHIFT | SEVERAL;
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

    /// A warp of another block of the cluster reads or writes here. Only barriers of the whole cluster order that.
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    pub fn remote(
        &mut self,
        clocks: &BlockClocks,
        peer: usize,
        lane: usize,
        address: u32,
        bytes: u32,
        write: bool,
        strength: Strength,
    ) -> Result<(), Conflict> {
        let actor = PEERS + peer % 16;
        let floor = clocks.cluster_floor;
        for granule in self.range(address.into(), bytes.into()) {
            let stamp = self.writes[granule];
            let (who, other, clock) = writer(stamp);
            let both_strong = strength == Strength::Strong && stamp & STRONG != 0;
            if clock >= floor && who != actor && !both_strong {
                return Err(self.conflict(lane, granule, true, party(who, Some(other)), clock == IN_FLIGHT));
            }
            let last = self.last_read[granule];
            if write && last >> LAST_SHIFT >= floor && strength != Strength::Strong {
                let in_flight = last >> LAST_SHIFT == IN_FLIGHT;
                return Err(self.conflict(lane, granule, false, party((last & 31) as usize, None), in_flight));
            }
            if write {
                let strong = if strength == Strength::Strong { STRONG | VOLATILE } else { 0 };
                self.writes[granule] = clocks.floor << CLOCK_SHIFT | strong | (actor as u32) << 5 | lane as u32;
            }
        }
        Ok(())
    }
}

fn party(actor: usize, lane: Option<usize>) -> Party {
    match actor {
        0..ENGINES => Party::Warp { warp: actor, lane },
        ENGINES..PEERS => Party::Engine,
        _ => Party::Block { block: (actor - PEERS) as u32, warp: 0 },
    }
}

fn read_conflict(clocks: &BlockClocks, warp: usize, lane: usize, stamp: u32, strength: Strength) -> Option<Party> {
    let (actor, other, clock) = writer(stamp);
    if clock == IN_FLIGHT {
        return Some(party(actor, Some(other)));
    }
    if actor == warp {
        let ordered = other == lane || clock < clocks.now(warp);
        let tolerated = strength != Strength::Plain || stamp & VOLATILE != 0;
        return (!ordered && !tolerated).then(|| party(actor, Some(other)));
    }
    let both_strong = strength != Strength::Plain && stamp & STRONG != 0;
    (!both_strong && !clocks.knows(warp, actor, clock)).then(|| party(actor, Some(other)))
}

#[cfg(test)]
mod tests {
    use super::{Strength::*, *};

    const ALL: u32 = u32::MAX;

    fn row(first: u32) -> [u32; 32] {
        std::array::from_fn(|lane| first + 4 * lane as u32)
    }

    struct Block {
        clocks: BlockClocks,
        shadow: SharedShadow,
    }

    impl Block {
        fn new(warps: usize) -> Self {
            Self { clocks: BlockClocks::new(0, warps), shadow: SharedShadow::new(4096, 4, warps) }
        }

        fn load(&mut self, warp: usize, mask: u32, addresses: [u32; 32], strength: Strength) -> Result<(), Conflict> {
            self.shadow.load(&mut self.clocks, warp, mask, &addresses, 4, strength)
        }

        fn store(&mut self, warp: usize, mask: u32, addresses: [u32; 32], strength: Strength) -> Result<(), Conflict> {
            self.shadow.store(&mut self.clocks, warp, mask, &addresses, 4, strength, false, &[], None)
        }
    }

    #[test]
    fn a_barrier_orders_warps() {
        let mut block = Block::new(2);
        block.store(0, ALL, row(0), Plain).unwrap();
        assert!(block.load(1, ALL, row(0), Plain).is_err());
        let mut block = Block::new(2);
        block.store(0, ALL, row(0), Plain).unwrap();
        block.clocks.barrier_all();
        block.load(1, ALL, row(0), Plain).unwrap();
        block.load(0, ALL, row(0), Plain).unwrap();
        let conflict = block.store(0, 1, row(0), Plain).unwrap_err();
        assert_eq!((conflict.wrote, conflict.party), (false, Party::Warp { warp: 1, lane: None }));
        block.clocks.barrier_all();
        block.store(0, ALL, row(0), Plain).unwrap();
    }

    #[test]
    fn lanes_need_a_warp_barrier_unless_volatile() {
        let mut block = Block::new(1);
        let mut shifted = row(0);
        shifted.rotate_left(1);
        block.store(0, ALL, row(0), Plain).unwrap();
        block.load(0, ALL, row(0), Plain).unwrap();
        assert!(block.load(0, ALL, shifted, Plain).is_err());
        block.load(0, ALL, shifted, Volatile).unwrap();
        block.clocks.warp_sync(0);
        block.load(0, ALL, shifted, Plain).unwrap();
        block.store(0, 1, row(0), Plain).unwrap();
        assert!(block.load(0, ALL, [0; 32], Plain).is_err(), "a broadcast of one lane's word");
    }

    #[test]
    fn lanes_in_step_read_before_they_write() {
        let mut shifted = row(0);
        shifted.rotate_left(1);
        let mut block = Block::new(1);
        block.load(0, ALL, shifted, Plain).unwrap();
        block.store(0, ALL, row(0), Plain).unwrap();
        let mut block = Block::new(1);
        block.load(0, ALL, shifted, Plain).unwrap();
        for far in [512, 1024] {
            block.load(0, ALL, row(far), Plain).unwrap();
        }
        assert!(block.store(0, ALL, row(0), Plain).is_err(), "too long ago");
        let mut block = Block::new(1);
        block.load(0, ALL, shifted, Plain).unwrap();
        assert!(block.shadow.begin_write(&mut block.clocks, 0, 0, 0, 16).is_err(), "a copy is not in step");
    }

    #[test]
    fn partial_barriers_order_their_participants_only() {
        let mut block = Block::new(3);
        block.store(0, ALL, row(0), Plain).unwrap();
        block.clocks.arrive(1, 0);
        block.clocks.arrive(1, 1);
        block.clocks.wait(1, 1);
        block.load(1, ALL, row(0), Plain).unwrap();
        assert!(block.load(2, ALL, row(0), Plain).is_err());
        block.store(0, ALL, row(128), Plain).unwrap();
        assert!(block.load(1, ALL, row(128), Plain).is_err(), "written after it arrived");
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let mut block = Block::new(2);
        block.store(0, ALL, row(0), Strong).unwrap();
        block.store(1, ALL, row(0), Strong).unwrap();
        assert!(block.load(0, ALL, row(0), Plain).is_err());
        assert!(block.store(0, ALL, row(0), Plain).is_err());
    }

    #[test]
    fn a_fence_and_a_flag_hand_data_on() {
        for fenced in [true, false] {
            let mut block = Block::new(2);
            block.store(0, ALL, row(0), Plain).unwrap();
            if fenced {
                block.clocks.fence(0);
            }
            block.store(0, 1, row(256), Volatile).unwrap();
            assert_eq!(block.load(1, 1, row(256), Volatile).is_ok(), fenced);
            assert_eq!(block.load(1, ALL, row(0), Plain).is_ok(), fenced);
        }
    }

    #[test]
    fn nobody_touches_what_a_copy_writes() {
        let mut block = Block::new(2);
        block.shadow.begin_write(&mut block.clocks, 0, 3, 0, 16).unwrap();
        assert!(block.load(0, 8, row(0), Plain).unwrap_err().in_flight);
        assert!(block.store(1, 1, row(0), Plain).unwrap_err().in_flight);
        block.shadow.written(&mut block.clocks, 0, 3, 0, 16);
        block.load(0, 8, row(0).map(|_| 0), Plain).unwrap();
        assert!(block.load(1, 1, row(0), Plain).is_err());
        block.clocks.barrier_all();
        block.load(1, 1, row(0), Plain).unwrap();
    }

    #[test]
    fn an_engine_orders_only_those_who_wait() {
        let mut block = Block::new(2);
        block.shadow.begin_write(&mut block.clocks, 0, 0, 0, 128).unwrap();
        let clock = block.clocks.engine_now();
        block.shadow.written_by_engine(ENGINES, clock, 0, 128);
        block.clocks.arrive_engine(9, ENGINES, clock);
        block.clocks.wait(9, 1);
        block.load(1, ALL, row(0), Plain).unwrap();
        assert_eq!(block.load(0, ALL, row(0), Plain).unwrap_err().party, Party::Engine);
    }

    #[test]
    fn proxy_fences_reach_through_barriers() {
        for fenced in [true, false] {
            let mut block = Block::new(2);
            block.store(0, ALL, row(0), Plain).unwrap();
            if fenced {
                block.clocks.proxy_fence(0);
            }
            block.clocks.barrier_all();
            assert_eq!(block.shadow.unfenced(&block.clocks, 1, 0, 128).is_none(), fenced);
        }
    }

    #[test]
    fn asynchronous_reads_hold_writers_off() {
        let mut block = Block::new(1);
        block.store(0, ALL, row(0), Plain).unwrap();
        block.clocks.barrier_all();
        block.shadow.begin_read(&mut block.clocks, 0, 0, 0, 128).unwrap();
        assert!(block.store(0, ALL, row(0), Plain).unwrap_err().in_flight);
        block.shadow.read_done(&block.clocks, 0, 0, 128);
        block.store(0, ALL, row(0), Plain).unwrap();
    }

    #[test]
    fn equal_values_do_not_race() {
        let mut block = Block::new(2);
        block.store(0, 1, row(0), Plain).unwrap();
        let memory = [1, 2, 3, 4];
        let value = |_| std::array::from_fn(|n| n as u8 + 1);
        block.shadow.store(&mut block.clocks, 1, 1, &row(0), 4, Plain, false, &memory, Some(&value)).unwrap();
        let value = |_| [9; 16];
        block.shadow.store(&mut block.clocks, 0, 1, &row(0), 4, Plain, false, &memory, Some(&value)).unwrap_err();
    }

    #[test]
    fn lanes_may_not_write_different_values_to_one_place() {
        let mut block = Block::new(1);
        for different in [false, true] {
            let values = |lane: usize| [if different { lane as u8 } else { 0 }; 16];
            let stored =
                block.shadow.store(&mut block.clocks, 0, 7, &[64; 32], 4, Plain, false, &[0; 128], Some(&values));
            assert_eq!(stored.is_err(), different);
        }
    }
}
