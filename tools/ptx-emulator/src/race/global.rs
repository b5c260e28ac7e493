//! The shadow of global memory: who wrote and who read each granule last, in this launch.

use std::ops::Range;

use super::{
    Case, Conflict, Party, Strength, Values,
    clocks::BlockClocks,
    lanes,
    publish::GlobalOrder,
    runs::{Run, Runs},
};

/// An access: launch in bits 54.., block 33..54, several lanes 32, strong 31, several blocks 30, warp 25..30, mark 24, lane
/// 19..24, clock 0..19. The mark of a write is that it is atomic; of a strong read, that it is the guess of a
/// compare-and-swap loop; of a plain read, that it takes the path for read-only memory.
const LAUNCH_SHIFT: u32 = 54;
const BLOCK_SHIFT: u32 = 33;
const BLOCK_MASK: u32 = (1 << 21) - 1;
const SEVERAL_LANES: u64 = 1 << 32;
const STRONG: u64 = 1 << 31;
const SEVERAL: u64 = 1 << 30;
const WARP_SHIFT: u32 = 25;
const MARK: u64 = 1 << 24;
const LANE_SHIFT: u32 = 19;
const LANE: u64 = 31 << LANE_SHIFT;
const CLOCK_MASK: u64 = (1 << 19) - 1;
/// What tells the warps of all launches apart.
const WARP: u64 = !0 << BLOCK_SHIFT | SEVERAL | 31 << WARP_SHIFT;
/// Launch numbers are reused after this many.
const LAUNCHES: u64 = (1 << 10) - 1;

struct Pages {
    shift: u32,
    bytes: u64,
    writes: Vec<u64>,
    reads: Vec<u64>,
}

impl Pages {
    fn new(bytes: u64, shift: u32) -> Self {
        let granules = bytes.div_ceil(1 << shift) as usize;
        Self { shift, bytes, writes: vec![0; granules], reads: vec![0; granules] }
    }

    /// Narrower granules, each with its parent's history.
    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        let spread = |old: &[u64], granules: usize| {
            let mut new: Vec<u64> = old.iter().flat_map(|e| std::iter::repeat_n(*e, copies)).collect();
            new.resize(granules, 0);
            new
        };
        let granules = self.bytes.div_ceil(1 << shift) as usize;
        self.writes = spread(&self.writes, granules);
        self.reads = spread(&self.reads, granules);
        self.shift = shift;
    }

    fn range(&self, offset: u64, bytes: u64) -> Range<usize> {
        let end = (offset + bytes).div_ceil(1 << self.shift) as usize;
        ((offset >> self.shift) as usize).min(self.writes.len())..end.min(self.writes.len())
    }
}

/// Shadows of all allocations, made when first touched.
#[derive(Default)]
pub struct GlobalShadow {
    /// By number of the allocation; numbers are dense.
    pages: Vec<Option<Box<Pages>>>,
    launch: u64,
    /// What addresses hand on in this launch.
    pub order: GlobalOrder,
}

/// Where an access falls: the number of the allocation, its size, and the offset that address 0 of the access space has in it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the allocation.
    pub allocation: u64,
    /// Its size.
    pub bytes: u64,
    /// Address of its first byte.
    pub start: u64,
}

impl GlobalShadow {
    /// A launch starts: everything before it is ordered before it.
    pub fn begin_launch(&mut self, strong_stores: bool) {
        self.launch += 1;
        if self.launch > LAUNCHES {
            self.launch = 1;
            self.pages.clear();
        }
        self.order.clear();
        self.order.keeps_glimpses = strong_stores;
    }

    /// An allocation is gone.
    pub fn free(&mut self, allocation: u64) {
        if let Some(pages) = self.pages.get_mut(allocation as usize) {
            *pages = None;
        }
    }

    #[inline(always)]
    fn pages(&mut self, place: Place, bytes: u32) -> &mut Pages {
        let shift = bytes.clamp(1, 4).ilog2();
        let number = place.allocation as usize;
        let fits = |pages: &Pages| pages.bytes == place.bytes && pages.shift <= shift;
        if !self.pages.get(number).is_some_and(|pages| pages.as_deref().is_some_and(fits)) {
            self.fit(place, shift);
        }
        self.pages[number].as_mut().expect("made just before")
    }

    /// Makes the pages of an allocation, or makes them finer.
    #[cold]
    #[inline(never)]
    fn fit(&mut self, place: Place, shift: u32) {
        let number = place.allocation as usize;
        if self.pages.len() <= number {
            self.pages.resize_with(number + 1, || None);
        }
        match &mut self.pages[number] {
            Some(pages) if pages.bytes == place.bytes => pages.refine(shift),
            pages => *pages = Some(Box::new(Pages::new(place.bytes, shift))),
        }
    }

    /// A warp loads; all addresses lie in `place`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    pub fn load(
        &mut self,
        place: Place,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u64; 32],
        bytes: u32,
        strength: Strength,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        if strength.learns() {
            for lane in lanes(mask) {
                clocks.learn_global(&self.order, warp, addresses[lane]);
            }
        }
        let launch = self.launch;
        let mark = if matches!(strength, Strength::Guess | Strength::ReadOnly) { MARK } else { 0 };
        let access = Access { warp, bytes, strength, launch, mine: stamp(launch, clocks, warp, strength) | mark };
        let pages = self.pages(place, bytes);
        let met = clocks.meeting(warp).into();
        for run in Runs::wide(mask, addresses, bytes) {
            let length = u64::from(bytes) * if run.rising { run.lanes as u64 } else { 1 };
            let range = pages.range(addresses[run.first] - place.start, length);
            let mut now = 0;
            for write in &pages.writes[range.clone()] {
                now |= u64::from(write >> LAUNCH_SHIFT == launch);
            }
            if now != 0 {
                access.load_checked(pages, place, clocks, run.mask(), addresses)?;
            } else if run.rising {
                let lane_shift = bytes.ilog2() - pages.shift;
                for (n, read) in pages.reads[range].iter_mut().enumerate() {
                    note_read(read, access.by(run.first + (n >> lane_shift)), met);
                }
            } else {
                let several = if run.lanes > 1 { SEVERAL_LANES } else { 0 };
                for read in &mut pages.reads[range] {
                    note_read(read, access.by(run.first) | several, met);
                }
            }
        }
        Ok(())
    }

    /// A warp stores, or does atomics; all addresses lie in `place`. `memory` tells what a lane's place holds.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "everything an access is")]
    pub fn store(
        &mut self,
        place: Place,
        clocks: &mut BlockClocks,
        warp: usize,
        mask: u32,
        addresses: &[u64; 32],
        bytes: u32,
        strength: Strength,
        atomic: bool,
        release: bool,
        memory: &dyn Fn(usize) -> Option<[u8; 16]>,
        values: Values<'_>,
    ) -> Result<(), Conflict> {
        clocks.touched |= 1 << warp;
        if strength.strong() {
            if atomic {
                lanes(mask).for_each(|lane| clocks.learn_global(&self.order, warp, addresses[lane]));
            }
            let publication = clocks.publication(&self.order, warp, release);
            lanes(mask).for_each(|lane| self.order.publish(addresses[lane], &publication));
        }
        let launch = self.launch;
        let mine = stamp(launch, clocks, warp, strength) | if atomic { MARK } else { 0 };
        let access = Access { warp, bytes, strength, launch, mine };
        let pages = self.pages(place, bytes);
        let met = u64::from(clocks.meeting(warp));
        // Nothing since the launch began, or this lane's own, or ordered inside the warp, or strong like this one.
        let own = |entry: u64, mine: u64| {
            let free =
                entry & CLOCK_MASK < met || (entry ^ mine) & (LANE | SEVERAL_LANES) == 0 || entry & mine & STRONG != 0;
            entry >> LAUNCH_SHIFT != launch || (entry ^ mine) & WARP == 0 && free
        };
        let runs = Runs::wide(mask, addresses, bytes);
        let row = runs.row();
        let silent = |lane| values.is_some_and(|values| memory(lane).is_some_and(|old| old == values(lane)));
        let granules = |pages: &Pages, run: Run| {
            let length = u64::from(bytes) * if run.rising { run.lanes as u64 } else { 1 };
            let range = pages.range(addresses[run.first] - place.start, length);
            match run.rising {
                true => (range, run.first, bytes.ilog2() - pages.shift),
                false => (range, run.first + run.lanes - 1, u64::BITS - 1),
            }
        };
        // All lanes are looked at before any leaves its mark, because they write at once.
        let mut foreign = 0;
        for run in runs {
            let (range, last, lane_shift) = granules(pages, run);
            for (n, (write, read)) in pages.writes[range.clone()].iter().zip(&pages.reads[range.clone()]).enumerate() {
                let mine = access.by(last + (n >> lane_shift));
                let read_only = read >> LAUNCH_SHIFT == launch && read & (STRONG | MARK) == MARK;
                foreign |= u64::from(!own(*write, mine)) | u64::from(!own(*read, mine) | read_only);
            }
        }
        if foreign != 0 {
            access.store_checked(pages, place, clocks, mask, addresses, &silent)?;
        }
        for run in runs {
            let (range, last, lane_shift) = granules(pages, run);
            for (n, write) in pages.writes[range].iter_mut().enumerate() {
                *write = access.by(last + (n >> lane_shift));
            }
        }
        if strength.strong() && !atomic {
            // The order of strong stores shows in their stamps.
            clocks.bump(warp);
        }
        match values {
            Some(values) if !row => simultaneous(warp, mask, addresses, values),
            _ => Ok(()),
        }
    }
}

/// What all lanes of one access have in common.
struct Access {
    warp: usize,
    bytes: u32,
    strength: Strength,
    launch: u64,
    /// Their stamp, without the lane.
    mine: u64,
}

impl Access {
    /// The stamp of one lane.
    #[inline(always)]
    fn by(&self, lane: usize) -> u64 {
        self.mine | (lane as u64) << LANE_SHIFT
    }

    /// Lanes one by one, where something was written in this launch.
    #[inline(never)]
    fn load_checked(
        &self,
        pages: &mut Pages,
        place: Place,
        clocks: &mut BlockClocks,
        mask: u32,
        addresses: &[u64; 32],
    ) -> Result<(), Conflict> {
        let met = clocks.meeting(self.warp).into();
        for lane in lanes(mask) {
            let range = pages.range(addresses[lane] - place.start, self.bytes.into());
            for granule in range.clone() {
                let write = pages.writes[granule];
                if write >> LAUNCH_SHIFT != self.launch {
                    continue;
                }
                let address = place.start + ((granule as u64) << pages.shift);
                let conflict = |party: Party, case: Case| Conflict { lane, address, wrote: true, party, case };
                if self.strength == Strength::ReadOnly {
                    return Err(conflict(party(clocks, write), Case::ReadOnly));
                }
                let Some(party) = unordered(clocks, self.warp, lane, write) else { continue };
                if !self.strength.strong() || write & STRONG == 0 {
                    return Err(conflict(party, Case::Unordered));
                }
                if self.strength == Strength::Guess {
                    clocks.remarks.push(conflict(party, Case::Guess));
                } else if write & MARK == 0 && glimpsed(clocks, self.warp, write) {
                    return Err(conflict(party, Case::Unfenced));
                }
            }
            for read in &mut pages.reads[range] {
                note_read(read, self.by(lane), met);
            }
        }
        Ok(())
    }

    /// Lanes one by one, where others have written or read in this launch. Those for which `silent` holds change nothing.
    #[inline(never)]
    fn store_checked(
        &self,
        pages: &Pages,
        place: Place,
        clocks: &mut BlockClocks,
        mask: u32,
        addresses: &[u64; 32],
        silent: &dyn Fn(usize) -> bool,
    ) -> Result<(), Conflict> {
        for lane in lanes(mask) {
            for granule in pages.range(addresses[lane] - place.start, self.bytes.into()) {
                for (entry, wrote) in [(pages.writes[granule], true), (pages.reads[granule], false)] {
                    if entry >> LAUNCH_SHIFT != self.launch {
                        continue;
                    }
                    let address = place.start + ((granule as u64) << pages.shift);
                    let conflict = |party: Party, case: Case| Conflict { lane, address, wrote, party, case };
                    if !wrote && entry & (STRONG | MARK) == MARK && !silent(lane) {
                        return Err(conflict(party(clocks, entry), Case::ReadOnly));
                    }
                    let Some(party) = unordered(clocks, self.warp, lane, entry) else { continue };
                    if !self.strength.strong() || entry & STRONG == 0 {
                        if !silent(lane) {
                            return Err(conflict(party, Case::Unordered));
                        }
                    } else if !wrote && entry & MARK != 0 {
                        clocks.remarks.push(conflict(party, Case::Guess));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Lanes that store different values to one place at once.
fn simultaneous(
    warp: usize,
    mask: u32,
    addresses: &[u64; 32],
    values: &dyn Fn(usize) -> [u8; 16],
) -> Result<(), Conflict> {
    let mut rising = mask == u32::MAX;
    for lane in 1..32 {
        rising &= addresses[lane] > addresses[lane - 1];
    }
    let mut rest = if rising { 0 } else { mask };
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        let address = addresses[lane];
        let mut same = 0u32;
        for (other, a) in addresses.iter().enumerate() {
            same |= u32::from(*a == address) << other;
        }
        same &= rest;
        rest &= !same;
        if same.count_ones() > 1
            && let Some(other) = lanes(same).find(|other| values(*other) != values(lane))
        {
            let party = Party::Warp { warp, lane: Some(other) };
            return Err(Conflict { lane, address, wrote: true, party, case: Case::Simultaneous });
        }
    }
    Ok(())
}

fn stamp(launch: u64, clocks: &BlockClocks, warp: usize, strength: Strength) -> u64 {
    launch << LAUNCH_SHIFT
        | u64::from(clocks.block & BLOCK_MASK) << BLOCK_SHIFT
        | if strength.strong() { STRONG } else { 0 }
        | (warp as u64) << WARP_SHIFT
        | u64::from(clocks.now(warp))
}

/// Marks a read. A granule read by several blocks, or since the lanes of its warp last met by several of them, keeps that
/// mark; a plain read is not hidden by a strong one, nor one on the read-only path by any.
#[inline(always)]
fn note_read(read: &mut u64, mine: u64, met: u64) {
    let old = *read;
    let changed = old ^ mine;
    let kept = old & SEVERAL | if changed >> BLOCK_SHIFT == 0 { 0 } else { SEVERAL };
    let fellow = changed & WARP == 0 && old & CLOCK_MASK >= met;
    let others = if changed & LANE == 0 { old & SEVERAL_LANES } else { SEVERAL_LANES };
    let strong = old & mine & STRONG;
    let read_only = (old & !(old >> 7) | mine & !(mine >> 7)) & MARK;
    let guess = (old | mine) & MARK & strong >> 7;
    let merged = mine & !(STRONG | MARK) | kept | strong | read_only | guess | if fellow { others } else { 0 };
    *read = if changed >> LAUNCH_SHIFT == 0 { merged } else { mine };
}

fn origin(entry: u64) -> (u32, usize, u32) {
    ((entry >> BLOCK_SHIFT) as u32 & BLOCK_MASK, (entry >> WARP_SHIFT & 31) as usize, (entry & CLOCK_MASK) as u32)
}

/// Who made an access.
fn party(clocks: &BlockClocks, entry: u64) -> Party {
    let (block, warp, _) = origin(entry);
    match block == clocks.block & BLOCK_MASK && entry & SEVERAL == 0 {
        true => Party::Warp { warp, lane: (entry & SEVERAL_LANES == 0).then_some((entry >> LANE_SHIFT & 31) as usize) },
        false => Party::Block { block, warp },
    }
}

/// Who made an access of this launch that does not come before what `lane` of `warp` does now.
fn unordered(clocks: &BlockClocks, warp: usize, lane: usize, entry: u64) -> Option<Party> {
    let (block, actor, clock) = origin(entry);
    let ordered = if entry & SEVERAL != 0 {
        // Not all of them are known any more; who has learned of no block at all is certainly wrong.
        clocks.has_foreign(warp)
    } else if block != clocks.block & BLOCK_MASK {
        clocks.knows_foreign(warp, block, actor, clock)
    } else if actor == warp {
        let same = (entry >> LANE_SHIFT & 31) as usize == lane && entry & SEVERAL_LANES == 0;
        same || clocks.met(warp, clock)
    } else {
        clocks.knows(warp, actor, clock)
    };
    // A clock that the warp has not reached yet is from before its clocks began anew.
    let past = block == clocks.block & BLOCK_MASK && actor < clocks.warps() && clock > clocks.now(actor);
    (!ordered && !past).then(|| party(clocks, entry))
}

/// Whether `warp` has read strongly what its maker wrote after that access, with no fence between.
fn glimpsed(clocks: &BlockClocks, warp: usize, entry: u64) -> bool {
    let (block, actor, clock) = origin(entry);
    // Glimpses are kept by whole numbers of blocks, which agree with the shortened ones up to two million.
    clocks.glimpsed(warp, block, actor, clock)
}

#[cfg(test)]
mod tests;
