//! The shadow of a block's shared memory: who wrote and who read each granule last.
//!
//! A granule is as wide as the narrowest access of the kernel, so that neighbours never share one.

mod in_flight;

pub(crate) use in_flight::ReadFault;

use super::{
    Case, Conflict, Party, Strength, Values,
    clocks::{BlockClocks, ENGINES, PEERS},
    cluster::{REMOTE, Remote},
    lanes,
    runs::{Run, Runs},
};

/// A write: clock in bits 13.., strong 12, actor 5..11, lane 0..5.
pub(super) const CLOCK_SHIFT: u32 = 13;
pub(super) const STRONG: u32 = 1 << 12;
/// The clock of what is under way: after everything.
pub(super) const IN_FLIGHT: u32 = (1 << 19) - 1;
/// A warp's last read: clock in bits 13.., plain 12, several lanes 11, guess of a compare-and-swap 10, lane 0..5.
pub(super) const PLAIN_READ: u32 = 1 << 12;
const SEVERAL_LANES: u32 = 1 << 11;
const GUESS: u32 = 1 << 10;
/// The last read of any: clock in bits 7.., several actors 6, actor 0..6.
pub(super) const LAST_SHIFT: u32 = 7;
pub(super) const SEVERAL: u32 = 1 << 6;

/// Granules of one block's shared memory.
pub struct SharedShadow {
    shift: u32,
    granules: usize,
    pub(super) writes: Vec<u32>,
    /// For each warp a row: its last read of each granule.
    reads: Vec<u32>,
    pub(super) last_read: Vec<u32>,
    /// Asynchronous reads under way.
    readers: Vec<u16>,
    /// What other blocks of the cluster did here.
    pub(super) remote: Remote,
}

pub(super) fn writer(stamp: u32) -> (usize, usize, u32) {
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
            readers: vec![0; granules],
            remote: Remote::default(),
        }
    }

    /// A new block in the same memory.
    pub fn clear(&mut self) {
        self.writes.fill(0);
        self.reads.fill(0);
        self.last_read.fill(0);
        self.readers.fill(0);
        self.remote.clear();
    }

    pub(super) fn range(&self, address: u64, bytes: u64) -> std::ops::Range<usize> {
        let end = (address + bytes).div_ceil(1 << self.shift) as usize;
        ((address >> self.shift) as usize).min(self.granules)..end.min(self.granules)
    }

    /// A warp loads. Addresses were checked against the block's shared memory, those of inactive lanes too.
    #[inline(always)]
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
        let fitting = bytes >> self.shift != 0;
        let first = (mask.trailing_zeros() & 31) as usize;
        let mut apart = 0;
        for lane in 0..32 {
            apart |= if mask >> lane & 1 != 0 { addresses[lane] ^ addresses[first] } else { 0 };
        }
        if apart == 0 {
            let range = self.range(addresses[first].into(), bytes.into());
            if self.unwritten_since_floor(clocks, range.clone()) {
                self.note_place(clocks, warp, first, range, strength, mask & mask.wrapping_sub(1) != 0);
            } else {
                self.load_checked(clocks, warp, 1 << first, mask, addresses, bytes, strength)?;
            }
        } else {
            let runs = Runs::narrow(mask, addresses, bytes);
            let row = runs.row();
            let scattered = runs.scattered()
                && match bytes >> self.shift {
                    1 => self.load_scattered::<1>(clocks, warp, mask, addresses, strength),
                    2 => self.load_scattered::<2>(clocks, warp, mask, addresses, strength),
                    4 => self.load_scattered::<4>(clocks, warp, mask, addresses, strength),
                    _ => false,
                };
            if scattered {
                return self.learn(clocks, warp, mask, addresses, strength);
            }
            for run in runs {
                let length = bytes * if run.rising { run.lanes as u32 } else { 1 };
                let range = self.range(addresses[run.first].into(), length.into());
                if !fitting || !self.unwritten_since_floor(clocks, range.clone()) {
                    self.load_checked(clocks, warp, run.mask(), 0, addresses, bytes, strength)?;
                } else if run.rising {
                    let lane_shift = bytes.ilog2() - self.shift;
                    self.note_row(clocks, warp, run.first, lane_shift, range, strength);
                    if row {
                        return Ok(());
                    }
                } else {
                    self.note_place(clocks, warp, run.first + run.lanes - 1, range, strength, run.lanes > 1);
                }
            }
        }
        self.learn(clocks, warp, mask, addresses, strength)
    }

    /// What a strong or volatile read learns.
    #[inline(always)]
    fn learn(
        &self,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        strength: Strength,
    ) -> Result<(), Conflict> {
        if strength.learns() {
            lanes(mask).for_each(|lane| clocks.learn_shared(warp, addresses[lane]));
        }
        Ok(())
    }

    /// The stamps of `N` granules from `at` on, unless they are not all there.
    #[inline(always)]
    fn piece<const N: usize>(stamps: &mut [u32], at: usize) -> Option<&mut [u32; N]> {
        stamps.get_mut(at..at + N)?.as_mut_array()
    }

    /// Lanes one by one, `N` granules each, if all they read was written before the floor. Says whether it was.
    #[inline(always)]
    fn load_scattered<const N: usize>(
        &mut self,
        clocks: &BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        strength: Strength,
    ) -> bool {
        let floor = clocks.floor << CLOCK_SHIFT;
        let mut late = 0;
        for address in addresses {
            let Some(writes) = Self::piece::<N>(&mut self.writes, (address >> self.shift) as usize) else {
                return false;
            };
            for write in writes {
                late |= u32::from(*write >= floor);
            }
        }
        if late != 0 {
            return false;
        }
        let (stamp, met) = (Self::read_stamp(clocks, warp, strength), clocks.meeting(warp));
        let own = &mut self.reads[warp * self.granules..];
        let (mine, floor) = (clocks.now(warp) << LAST_SHIFT | warp as u32, clocks.floor << LAST_SHIFT);
        for lane in 0..32 {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let at = (addresses[lane] >> self.shift) as usize;
            let reads = Self::piece::<N>(own, at);
            let lasts = Self::piece::<N>(&mut self.last_read, at);
            let (Some(reads), Some(lasts)) = (reads, lasts) else { continue };
            for (read, last) in reads.iter_mut().zip(lasts) {
                *read = Self::merged(*read, stamp | lane as u32, met);
                *last = Self::later(*last, mine, floor);
            }
        }
        true
    }

    /// The last read of any of a granule whose last was `last`.
    #[inline(always)]
    fn later(last: u32, mine: u32, floor: u32) -> u32 {
        let others = last >= floor && (last ^ mine) & (SEVERAL | 63) != 0;
        mine.max(last) | if others { SEVERAL } else { 0 }
    }

    /// Lanes one by one; `broadcast` are those that read what the one lane does.
    #[inline(never)]
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    fn load_checked(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        broadcast: u32,
        addresses: &[u32; 32],
        bytes: u32,
        strength: Strength,
    ) -> Result<(), Conflict> {
        let floor = clocks.floor << CLOCK_SHIFT;
        let mut accepted = 0;
        for lane in lanes(mask) {
            let range = self.range(addresses[lane].into(), bytes.into());
            for granule in range.clone() {
                let stamp = self.writes[granule];
                if stamp >= floor && stamp != accepted {
                    // All lanes of a broadcast are asked, because the writer may be one of them.
                    for asking in lanes(if broadcast != 0 { broadcast } else { 1 << lane }) {
                        if let Some((party, case)) = self.read_conflict(clocks, warp, asking, granule, strength) {
                            let conflict = self.conflict(asking, granule, true, party, case);
                            match case {
                                Case::Guess => clocks.remarks.push(conflict),
                                _ => return Err(conflict),
                            }
                        }
                    }
                    let (actor, _, clock) = writer(stamp);
                    if clock != REMOTE && (actor != warp || clocks.met(warp, clock)) {
                        accepted = stamp;
                    }
                }
            }
            self.note_place(clocks, warp, lane, range, strength, broadcast & broadcast.wrapping_sub(1) != 0);
        }
        Ok(())
    }

    /// Every write in the range comes before everything now.
    #[inline(always)]
    fn unwritten_since_floor(&self, clocks: &BlockClocks, range: std::ops::Range<usize>) -> bool {
        let floor = clocks.floor << CLOCK_SHIFT;
        let mut late = 0;
        for write in &self.writes[range] {
            late |= u32::from(*write >= floor);
        }
        late == 0
    }

    /// A warp's last read of a granule, `old`, once it has read it again.
    #[inline(always)]
    fn merged(old: u32, stamp: u32, met: u32) -> u32 {
        let others = if (old ^ stamp) & 31 != 0 { SEVERAL_LANES } else { old & SEVERAL_LANES };
        let merged = stamp | others | old & (PLAIN_READ | GUESS);
        let merged = if old >> CLOCK_SHIFT >= met { merged } else { stamp };
        if old >> CLOCK_SHIFT == IN_FLIGHT { old } else { merged }
    }

    #[inline(always)]
    fn read_stamp(clocks: &BlockClocks, warp: usize, strength: Strength) -> u32 {
        let kind = match strength {
            Strength::Plain | Strength::ReadOnly => PLAIN_READ,
            Strength::Guess => GUESS,
            Strength::Volatile | Strength::Strong => 0,
        };
        clocks.now(warp) << CLOCK_SHIFT | kind
    }

    /// One lane reads the range, or `several` of which that lane is to be named.
    #[inline(always)]
    fn note_place(
        &mut self,
        clocks: &BlockClocks,
        warp: usize,
        lane: usize,
        range: std::ops::Range<usize>,
        strength: Strength,
        several: bool,
    ) {
        let (stamp, met) = (Self::read_stamp(clocks, warp, strength) | lane as u32, clocks.meeting(warp));
        let row = warp * self.granules;
        let more = if several { SEVERAL_LANES } else { 0 };
        for read in &mut self.reads[row + range.start..row + range.end] {
            *read = Self::merged(*read, stamp, met) | more;
        }
        self.note_last(clocks, warp, range);
    }

    /// Lanes from `first` on read the range, each `1 << lane_shift` granules.
    #[inline(always)]
    fn note_row(
        &mut self,
        clocks: &BlockClocks,
        warp: usize,
        first: usize,
        lane_shift: u32,
        range: std::ops::Range<usize>,
        strength: Strength,
    ) {
        let (stamp, met) = (Self::read_stamp(clocks, warp, strength), clocks.meeting(warp));
        let row = warp * self.granules;
        for (n, read) in self.reads[row + range.start..row + range.end].iter_mut().enumerate() {
            *read = Self::merged(*read, stamp | (first as u32 + (n as u32 >> lane_shift)) & 31, met);
        }
        self.note_last(clocks, warp, range);
    }

    #[inline(always)]
    fn note_last(&mut self, clocks: &BlockClocks, warp: usize, range: std::ops::Range<usize>) {
        let (mine, floor) = (clocks.now(warp) << LAST_SHIFT | warp as u32, clocks.floor << LAST_SHIFT);
        for last in &mut self.last_read[range] {
            *last = Self::later(*last, mine, floor);
        }
    }

    /// A warp stores, or does atomics, which have no `values`. `memory` is what the block's shared memory holds before.
    #[inline(always)]
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
        if strength.strong() {
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
        let silent = |lane: usize| {
            let first = addresses[lane] as usize;
            let old = memory.get(first..first + bytes as usize);
            values.zip(old).is_some_and(|(values, old)| values(lane)[..old.len()] == *old)
        };
        let runs = Runs::narrow(mask, addresses, bytes);
        let row = runs.row();
        let scattered = runs.scattered()
            && match bytes >> self.shift {
                1 => self.store_scattered::<1>(clocks, warp, mask, addresses, stamp),
                2 => self.store_scattered::<2>(clocks, warp, mask, addresses, stamp),
                4 => self.store_scattered::<4>(clocks, warp, mask, addresses, stamp),
                _ => false,
            };
        let granules = |shadow: &Self, run: Run| {
            let length = bytes * if run.rising { run.lanes as u32 } else { 1 };
            let range = shadow.range(addresses[run.first].into(), length.into());
            match run.rising {
                true => (range, run.first as u32, bytes.ilog2().wrapping_sub(shadow.shift) & 31),
                false => (range, (run.first + run.lanes - 1) as u32, u32::BITS - 1),
            }
        };
        // All lanes are looked at before any leaves its mark, because they write at once.
        let mut quiet = scattered || bytes >> self.shift != 0;
        for run in runs.take_while(|_| !scattered) {
            let (range, first, lane_shift) = granules(self, run);
            quiet = quiet && self.quiet(clocks, warp, range, stamp | first, lane_shift);
        }
        if !quiet {
            self.store_checked(clocks, warp, mask, addresses, bytes, strength, &silent)?;
        } else {
            for run in runs.take_while(|_| !scattered) {
                let (range, first, lane_shift) = granules(self, run);
                for (n, write) in self.writes[range].iter_mut().enumerate() {
                    *write = stamp | (first + (n as u32 >> lane_shift)) & 31;
                }
            }
            if row {
                return Ok(());
            }
        }
        let Some(values) = values else { return Ok(()) };
        for lane in lanes(mask) {
            let granule = (addresses[lane] >> self.shift) as usize;
            let winner = self.writes.get(granule).map_or(lane, |stamp| (stamp & 31) as usize);
            if winner != lane && addresses[winner] == addresses[lane] && values(winner) != values(lane) {
                let party = Party::Warp { warp, lane: Some(lane) };
                return Err(self.conflict(winner, granule, true, party, Case::Simultaneous));
            }
        }
        Ok(())
    }

    /// Lanes one by one, `N` granules each, if all is quiet there. Says whether it was.
    #[inline(always)]
    fn store_scattered<const N: usize>(
        &mut self,
        clocks: &BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        stamp: u32,
    ) -> bool {
        let mut quiet = true;
        for lane in 0..32 {
            // Inactive lanes stand on an active one's address.
            let lane = if mask >> lane & 1 != 0 { lane } else { mask.trailing_zeros() & 31 };
            let at = (addresses[lane as usize] >> self.shift) as usize;
            quiet &= at + N <= self.granules && self.quiet(clocks, warp, at..at + N, stamp | lane, u32::BITS - 1);
        }
        if !quiet {
            return false;
        }
        for lane in 0..32 {
            let at = (addresses[lane] >> self.shift) as usize;
            if mask >> lane & 1 != 0
                && let Some(writes) = Self::piece::<N>(&mut self.writes, at)
            {
                *writes = [stamp | lane as u32; N];
            }
        }
        true
    }

    /// Lanes one by one. Those for which `silent` holds change nothing.
    #[inline(never)]
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    fn store_checked(
        &mut self,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u32; 32],
        bytes: u32,
        strength: Strength,
        silent: &dyn Fn(usize) -> bool,
    ) -> Result<(), Conflict> {
        let stamp = self.stamp(clocks, warp, strength);
        for lane in lanes(mask) {
            let range = self.range(addresses[lane].into(), bytes.into());
            if !self.quiet(clocks, warp, range.clone(), stamp | lane as u32, u32::BITS - 1) {
                for granule in range.clone() {
                    let found = self.write_conflict(clocks, warp, lane, granule, strength);
                    let Some((party, wrote, case)) = found else { continue };
                    let conflict = self.conflict(lane, granule, wrote, party, case);
                    match case {
                        Case::Guess => clocks.remarks.push(conflict),
                        Case::InFlight => return Err(conflict),
                        _ if !silent(lane) => return Err(conflict),
                        _ => {}
                    }
                }
            }
        }
        for lane in lanes(mask) {
            let range = self.range(addresses[lane].into(), bytes.into());
            if !self.remote.reads.is_empty() {
                range.clone().for_each(|granule| drop(self.remote.reads.remove(&granule)));
            }
            self.writes[range].fill(stamp | lane as u32);
        }
        Ok(())
    }

    fn stamp(&self, clocks: &BlockClocks, warp: usize, strength: Strength) -> u32 {
        // A volatile store counts as strong once it has published a fence.
        let kind = if strength == Strength::Strong { STRONG } else { 0 };
        clocks.now(warp) << CLOCK_SHIFT | kind | (warp as u32) << 5
    }

    /// Everything in the range lies before the floor, or was this lane's own, or its warp's and ordered or as strong as now, and
    /// is complete. `stamp` is what the first lane is about to write; each next one comes after `1 << lane_shift` granules.
    #[inline(always)]
    fn quiet(
        &self,
        clocks: &BlockClocks,
        warp: usize,
        range: std::ops::Range<usize>,
        stamp: u32,
        lane_shift: u32,
    ) -> bool {
        let (write_floor, read_floor) = (clocks.floor << CLOCK_SHIFT, clocks.floor << LAST_SHIFT);
        let mut bad = false;
        let (row, met) = (warp * self.granules, clocks.meeting(warp) << CLOCK_SHIFT);
        let own = &self.reads[row + range.start..row + range.end];
        let all = self.writes[range.clone()].iter().zip(&self.last_read[range]).zip(own).enumerate();
        for (n, ((write, last), own)) in all {
            let now = stamp + (n as u32 >> lane_shift);
            bad |= *own >= met && (*own ^ now) & (SEVERAL_LANES | 31) != 0;
            let free = *write < met || (write ^ now) & 31 == 0 || write & now & STRONG != 0;
            let mine = (write ^ now) & 63 << 5 == 0 && write >> CLOCK_SHIFT != IN_FLIGHT && free;
            bad |= *write >= write_floor && !mine;
            bad |= *last >= read_floor && (last & (SEVERAL | 63) != warp as u32 || last >> LAST_SHIFT == IN_FLIGHT);
        }
        !bad
    }

    /// What a write by `lane` now would conflict with: who, whether that was a write, and how.
    fn write_conflict(
        &self,
        clocks: &BlockClocks,
        warp: usize,
        lane: usize,
        granule: usize,
        strength: Strength,
    ) -> Option<(Party, bool, Case)> {
        let stamp = self.writes[granule];
        let (actor, writer_lane, clock) = writer(stamp);
        if clock == IN_FLIGHT {
            return Some((party(actor, Some(writer_lane)), true, Case::InFlight));
        }
        let both_strong = strength == Strength::Strong && stamp & STRONG != 0;
        let known = match actor == warp {
            true => writer_lane == lane || clocks.met(warp, clock),
            false => clocks.knows(warp, actor, clock),
        };
        if !both_strong && clock > 0 && !known {
            match self.remote.writes.get(&granule) {
                Some(theirs) if clock == REMOTE && theirs.known(clocks, warp) => {}
                Some(theirs) if clock == REMOTE => return Some((theirs.party(), true, Case::Unordered)),
                _ => return Some((party(actor, Some(writer_lane)), true, Case::Unordered)),
            }
        }
        if !self.remote.reads.is_empty()
            && let Some(party) = self.remote.unordered_read(clocks, warp, granule, strength)
        {
            return Some((party, false, Case::Unordered));
        }
        // Where nobody else has read since the floor, only this warp's own row can tell something.
        let last = self.last_read[granule];
        let alone = last >> LAST_SHIFT != IN_FLIGHT
            && (last < clocks.floor << LAST_SHIFT || last & (SEVERAL | 63) == warp as u32);
        for other in if alone { warp..warp + 1 } else { 0..clocks.warps() } {
            let read = self.reads[other * self.granules + granule];
            let clock = read >> CLOCK_SHIFT;
            if clock == IN_FLIGHT {
                return Some((party(other, None), false, Case::InFlight));
            }
            let known = match other == warp {
                true => read & (SEVERAL_LANES | 31) == lane as u32 || clocks.met(warp, clock),
                false => clocks.knows(warp, other, clock),
            };
            if clock == 0 || known {
                continue;
            }
            let reader = party(other, (read & SEVERAL_LANES == 0).then_some((read & 31) as usize));
            if strength != Strength::Strong || read & PLAIN_READ != 0 {
                return Some((reader, false, Case::Unordered));
            }
            if read & GUESS != 0 {
                return Some((reader, false, Case::Guess));
            }
        }
        None
    }

    pub(super) fn conflict(&self, lane: usize, granule: usize, wrote: bool, party: Party, case: Case) -> Conflict {
        Conflict { lane, address: (granule as u64) << self.shift, wrote, party, case }
    }

    /// Who wrote the granule and how, if that does not come before a read by `lane` now.
    fn read_conflict(
        &self,
        clocks: &BlockClocks,
        warp: usize,
        lane: usize,
        granule: usize,
        strength: Strength,
    ) -> Option<(Party, Case)> {
        let stamp = self.writes[granule];
        let (actor, other, clock) = writer(stamp);
        if clock == IN_FLIGHT {
            return Some((party(actor, Some(other)), Case::InFlight));
        }
        let known = match actor == warp {
            true => other == lane || clocks.met(warp, clock),
            false => clocks.knows(warp, actor, clock),
        };
        let both_strong = strength.strong() && stamp & STRONG != 0;
        if known || both_strong && strength != Strength::Guess {
            return None;
        }
        let case = if both_strong { Case::Guess } else { Case::Unordered };
        match self.remote.writes.get(&granule) {
            Some(theirs) if clock == REMOTE => (!theirs.known(clocks, warp)).then(|| (theirs.party(), case)),
            _ => Some((party(actor, Some(other)), case)),
        }
    }

    /// A warp's last read of a granule.
    pub(super) fn read_of(&self, warp: usize, granule: usize) -> u32 {
        self.reads[warp * self.granules + granule]
    }
}

fn party(actor: usize, lane: Option<usize>) -> Party {
    match actor {
        0..ENGINES => Party::Warp { warp: actor, lane },
        ENGINES..PEERS => Party::Engine,
        _ => Party::Block { block: (actor - PEERS) as u32, warp: 0 },
    }
}

#[cfg(test)]
mod tests;
