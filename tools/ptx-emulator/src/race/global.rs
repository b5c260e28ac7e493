//! The shadow of global memory: who wrote and who read each granule last, in this launch.

use std::ops::Range;

use super::{
    Conflict, Party, Strength, Values,
    clocks::{BlockClocks, GlobalOrder},
    lanes,
    runs::Runs,
};

/// An access: launch in bits 54.., block 32..54, strong 31, several blocks 30, warp 25..30, atomic 24, clock 0..24.
const LAUNCH_SHIFT: u32 = 54;
const BLOCK_SHIFT: u32 = 32;
const BLOCK_MASK: u32 = (1 << 22) - 1;
const STRONG: u64 = 1 << 31;
const SEVERAL: u64 = 1 << 30;
const WARP_SHIFT: u32 = 25;
const ATOMIC: u64 = 1 << 24;
const CLOCK_MASK: u64 = (1 << 24) - 1;
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
    pub fn begin_launch(&mut self) {
        self.launch += 1;
        if self.launch > LAUNCHES {
            self.launch = 1;
            self.pages.clear();
        }
        self.order.clear();
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
        if strength != Strength::Plain {
            for lane in lanes(mask) {
                clocks.learn_global(&self.order, warp, addresses[lane]);
            }
        }
        let launch = self.launch;
        let mine = stamp(launch, clocks, warp, strength);
        let pages = self.pages(place, bytes);
        for run in Runs::wide(mask, addresses, bytes) {
            let length = u64::from(bytes) * if run.rising { run.lanes as u64 } else { 1 };
            let range = pages.range(addresses[run.first] - place.start, length);
            let mut now = 0;
            for write in &pages.writes[range.clone()] {
                now |= u64::from(write >> LAUNCH_SHIFT == launch);
            }
            if now == 0 {
                note_reads(&mut pages.reads[range], mine);
            } else {
                load_checked(pages, place, clocks, warp, run.mask(), addresses, bytes, strength, launch, mine)?;
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
        if strength != Strength::Plain {
            for lane in lanes(mask) {
                if atomic {
                    clocks.learn_global(&self.order, warp, addresses[lane]);
                }
                clocks.publish_global(&mut self.order, warp, addresses[lane], release);
            }
        }
        let launch = self.launch;
        let mine = stamp(launch, clocks, warp, strength) | if atomic { ATOMIC } else { 0 };
        let pages = self.pages(place, bytes);
        let own = |e: u64| e >> LAUNCH_SHIFT != launch || (e ^ mine) & !(CLOCK_MASK | STRONG | ATOMIC) == 0;
        let runs = Runs::wide(mask, addresses, bytes);
        let row = runs.row();
        let silent = |lane| values.is_some_and(|values| memory(lane).is_some_and(|old| old == values(lane)));
        for run in runs {
            let length = u64::from(bytes) * if run.rising { run.lanes as u64 } else { 1 };
            let range = pages.range(addresses[run.first] - place.start, length);
            let mut foreign = 0;
            for (write, read) in pages.writes[range.clone()].iter().zip(&pages.reads[range.clone()]) {
                foreign |= u64::from(!own(*write)) | u64::from(!own(*read));
            }
            if foreign == 0 {
                pages.writes[range].fill(mine);
            } else {
                let run = run.mask();
                store_checked(pages, place, clocks, warp, run, addresses, bytes, strength, launch, mine, &silent)?;
            }
        }
        if strength != Strength::Plain && !atomic {
            // The order of strong stores shows in their stamps.
            clocks.bump(warp);
        }
        match values {
            Some(values) if !row => simultaneous(warp, mask, addresses, values),
            _ => Ok(()),
        }
    }
}

/// Lanes one by one, where something was written in this launch.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "everything an access is")]
fn load_checked(
    pages: &mut Pages,
    place: Place,
    clocks: &mut BlockClocks,
    warp: usize,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u32,
    strength: Strength,
    launch: u64,
    mine: u64,
) -> Result<(), Conflict> {
    let conflict = |lane: usize, granule: usize, party: Party, shift: u32| {
        let address = place.start + ((granule as u64) << shift);
        Err(Conflict { lane, address, wrote: true, party, in_flight: false, simultaneous: false })
    };
    for lane in lanes(mask) {
        let range = pages.range(addresses[lane] - place.start, bytes.into());
        for granule in range.clone() {
            let write = pages.writes[granule];
            if strength != Strength::Plain
                && write & (STRONG | ATOMIC) == STRONG
                && write >> LAUNCH_SHIFT == launch
                && let Some(Party::Block { block, warp: actor }) = unordered(clocks, warp, write)
                && clocks.sees(warp, block, actor, (write & CLOCK_MASK) as u32, addresses[lane])
            {
                return conflict(lane, granule, Party::Block { block, warp: actor }, pages.shift);
            }
            if write >> LAUNCH_SHIFT == launch
                && !(strength != Strength::Plain && write & STRONG != 0)
                && let Some(party) = unordered(clocks, warp, write)
            {
                return conflict(lane, granule, party, pages.shift);
            }
        }
        note_reads(&mut pages.reads[range], mine);
    }
    Ok(())
}

/// Lanes one by one, where others have written or read in this launch. Those for which `silent` holds change nothing.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "everything an access is")]
fn store_checked(
    pages: &mut Pages,
    place: Place,
    clocks: &BlockClocks,
    warp: usize,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u32,
    strength: Strength,
    launch: u64,
    mine: u64,
    silent: &dyn Fn(usize) -> bool,
) -> Result<(), Conflict> {
    for lane in lanes(mask) {
        let range = pages.range(addresses[lane] - place.start, bytes.into());
        for granule in range.clone() {
            for (entry, wrote) in [(pages.writes[granule], true), (pages.reads[granule], false)] {
                if entry >> LAUNCH_SHIFT == launch
                    && !(strength != Strength::Plain && entry & STRONG != 0)
                    && let Some(party) = unordered(clocks, warp, entry)
                    && !silent(lane)
                {
                    let address = place.start + ((granule as u64) << pages.shift);
                    return Err(Conflict { lane, address, wrote, party, in_flight: false, simultaneous: false });
                }
            }
        }
        pages.writes[range].fill(mine);
    }
    Ok(())
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
            return Err(Conflict { lane, address, wrote: true, party, in_flight: false, simultaneous: true });
        }
    }
    Ok(())
}

fn stamp(launch: u64, clocks: &BlockClocks, warp: usize, strength: Strength) -> u64 {
    launch << LAUNCH_SHIFT
        | u64::from(clocks.block & BLOCK_MASK) << BLOCK_SHIFT
        | if strength == Strength::Plain { 0 } else { STRONG }
        | (warp as u64) << WARP_SHIFT
        | u64::from(clocks.now(warp))
}

/// Marks reads. Granules read by several blocks keep that mark, and a plain read is not hidden by a strong one.
#[inline(always)]
fn note_reads(reads: &mut [u64], mine: u64) {
    for read in reads {
        let old = *read;
        let this_launch = (old ^ mine) >> LAUNCH_SHIFT == 0;
        let same_block = (old ^ mine) >> BLOCK_SHIFT == 0;
        let kept = old & SEVERAL | if same_block { 0 } else { SEVERAL };
        let plain = !(old & STRONG);
        *read = if this_launch { (mine | kept) & (plain | !STRONG | mine & STRONG & old) } else { mine };
    }
}

/// Who made an access of this launch that does not come before what `warp` does now.
fn unordered(clocks: &BlockClocks, warp: usize, entry: u64) -> Option<Party> {
    let block = (entry >> BLOCK_SHIFT) as u32 & BLOCK_MASK;
    let actor = (entry >> WARP_SHIFT & 31) as usize;
    let clock = (entry & CLOCK_MASK) as u32;
    if entry & SEVERAL != 0 {
        // Not all of them are known any more; who has learned of no block at all is certainly wrong.
        return (!clocks.has_foreign(warp)).then_some(Party::Block { block, warp: actor });
    }
    if block == clocks.block & BLOCK_MASK {
        let ordered = actor == warp || clocks.knows(warp, actor, clock);
        return (!ordered).then_some(Party::Warp { warp: actor, lane: None });
    }
    (!clocks.knows_foreign(warp, block, actor, clock)).then_some(Party::Block { block, warp: actor })
}

#[cfg(test)]
mod tests {
    use super::{Strength::*, *};

    const PLACE: Place = Place { allocation: 7, bytes: 1 << 16, start: 7 << 36 };

    fn at(offset: u64) -> [u64; 32] {
        std::array::from_fn(|lane| PLACE.start + offset + 4 * lane as u64)
    }

    struct Launch {
        shadow: GlobalShadow,
        blocks: Vec<BlockClocks>,
    }

    impl Launch {
        fn new(blocks: u32, warps: usize) -> Self {
            let mut shadow = GlobalShadow::default();
            shadow.begin_launch();
            Self { shadow, blocks: (0..blocks).map(|b| BlockClocks::new(b, warps)).collect() }
        }

        fn load(&mut self, block: usize, warp: usize, offset: u64, strength: Strength) -> bool {
            self.shadow.load(PLACE, &mut self.blocks[block], warp, u32::MAX, &at(offset), 4, strength).is_ok()
        }

        fn store(&mut self, block: usize, warp: usize, offset: u64, strength: Strength) -> bool {
            let clocks = &mut self.blocks[block];
            let result = self.shadow.store(
                PLACE,
                clocks,
                warp,
                u32::MAX,
                &at(offset),
                4,
                strength,
                false,
                false,
                &|_| None,
                None,
            );
            result.is_ok()
        }
    }

    #[test]
    fn blocks_may_not_share_without_order() {
        let mut launch = Launch::new(2, 1);
        assert!(launch.store(0, 0, 0, Plain) && launch.load(0, 0, 0, Plain));
        assert!(!launch.load(1, 0, 0, Plain));
        assert!(!launch.store(1, 0, 64, Plain));
        assert!(launch.load(0, 0, 4096, Plain) && launch.load(1, 0, 4096, Plain));
        assert!(!launch.store(1, 0, 4096, Plain));
        launch.shadow.begin_launch();
        assert!(launch.load(1, 0, 0, Plain));
    }

    #[test]
    fn a_fence_before_a_flag_orders_blocks() {
        for fenced in [true, false] {
            let mut launch = Launch::new(2, 2);
            assert!(launch.store(0, 1, 0, Plain));
            launch.blocks[0].barrier_all();
            if fenced {
                launch.blocks[0].fence(0);
            }
            assert!(launch.store(0, 0, 1024, Volatile));
            assert!(launch.load(1, 0, 1024, Volatile));
            assert_eq!(launch.load(1, 0, 0, Plain), fenced);
            assert!(!launch.load(1, 1, 0, Plain), "the other warp waits for nobody");
            launch.blocks[1].barrier_all();
            assert_eq!(launch.load(1, 1, 0, Plain), fenced);
        }
    }

    #[test]
    fn chains_of_flags_order_their_ends() {
        let mut launch = Launch::new(40, 1);
        for block in 0..40 {
            if block > 0 {
                assert!(launch.load(block, 0, 8192 + 128 * (block as u64 - 1), Volatile));
                assert!((0..block).all(|b| launch.load(block, 0, 128 * b as u64, Plain)));
            }
            assert!(launch.store(block, 0, 128 * block as u64, Plain));
            launch.blocks[block].fence(0);
            assert!(launch.store(block, 0, 8192 + 128 * block as u64, Volatile));
        }
    }

    #[test]
    fn data_behind_a_flag_needs_a_fence_even_if_volatile() {
        for fenced in [true, false] {
            let mut launch = Launch::new(2, 1);
            assert!(launch.store(0, 0, 0, Volatile));
            if fenced {
                launch.blocks[0].fence(0);
            }
            assert!(launch.store(0, 0, 1024, Volatile));
            assert!(launch.load(1, 0, 1024, Volatile));
            assert_eq!(launch.load(1, 0, 0, Volatile), fenced);
        }
    }

    #[test]
    fn warps_of_a_block_need_a_barrier_too() {
        let mut launch = Launch::new(1, 2);
        assert!(launch.store(0, 0, 0, Plain));
        assert!(!launch.load(0, 1, 0, Plain));
        launch.blocks[0].barrier_all();
        assert!(launch.load(0, 1, 0, Plain));
    }

    #[test]
    fn bytes_of_a_word_are_apart() {
        let mut launch = Launch::new(2, 1);
        let mut store = |block: usize, offset: u64| {
            let addresses = [PLACE.start + offset; 32];
            let clocks = &mut launch.blocks[block];
            launch.shadow.store(PLACE, clocks, 0, 1, &addresses, 1, Plain, false, false, &|_| None, None).is_ok()
        };
        assert!(store(0, 0) && store(1, 1) && store(0, 2) && !store(1, 2));
    }
}
