//! `cp.async`: copies of 4, 8 or 16 bytes by threads, in groups.
//!
//! The adversary's view: nothing arrives before the wait that promises it, and until then the source may still be read. Both
//! ends are watched: touching the destination early is a hazard, and so is a source that changed on the way.

use super::ends::{self, Use};
use crate::{
    ast::Instruction,
    caches,
    decode::{Decoded, Decoder, Start},
    machine::{Block, Class, FULL, Ins, R32, R64, Step, Warp},
    memory::Global,
    ops::{
        access::{self, Deed},
        lanes::{Operation, pick},
        shared_access,
    },
    race,
    report::{Fault, FaultKind},
};

/// One `cp.async` of a warp that is not complete.
pub(super) struct Copy {
    mask: u32,
    destinations: R32,
    sources: R64,
    bytes: u32,
    /// Bytes that come from the source; the rest is zero.
    taken: R32,
    /// Groups the lanes had committed before.
    group: u32,
    /// What the source held when the copy started.
    data: Box<[[u8; 16]; 32]>,
}

/// Copies under way of one warp.
#[derive(Default)]
pub(super) struct Copies {
    open: Vec<Copy>,
    committed: [u32; 32],
    #[allow(clippy::vec_box, reason = "the boxes move between the two lists")]
    spare: Vec<Box<[[u8; 16]; 32]>>,
}

/// `cp.async` and its waits. Bulk copies are elsewhere.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ins = match i.parts[1..] {
        ["async", "commit_group"] => d.blank(commit, Class::Synchronisation),
        ["async", "wait_group"] => {
            let mut ins = d.blank(wait, Class::Synchronisation);
            ins.immediate = d.integer(i, 0)?;
            ins
        }
        ["async", "wait_all"] => {
            let mut ins = d.blank(wait, Class::Synchronisation);
            ins.immediate = -1;
            ins
        }
        ["async", "ca" | "cg", ..] => copy(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(ins))
}

const NO_SLOT: u32 = u32::MAX;

/// slots: destination base, whether it is wide, source base, source size, bytes, ignoring predicate; more: offsets
fn copy<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let spaces = (i.has("shared") || i.has("shared::cta")) && i.has("global");
    let bytes = d.integer(i, 2)?;
    if !spaces || !matches!(bytes, 4 | 8 | 16) || i.has("cg") && bytes != 16 {
        return Err(d.unsupported(i));
    }
    let (to, from) = (d.place(i, 0)?, d.place(i, 1)?);
    let (base, wide) = match to.start {
        Start::R32(slot) => (slot, 0),
        Start::R64(slot) => (slot, 1),
        Start::None => (d.constant32(0), 0),
    };
    let source = match from.start {
        Start::R64(slot) => slot,
        Start::R32(_) => return Err(d.refuse(i, "a 32-bit global address")),
        Start::None => d.constant64(0),
    };
    let (mut size, mut ignore) = (NO_SLOT, NO_SLOT);
    // The last operand may be an L2 cache policy; it changes nothing here.
    let last = i.operands.len() - usize::from(i.has("L2::cache_hint"));
    if last > 3 {
        match d.from_predicate(i, 3) {
            Ok(slot) if !matches!(d.operand(i, 3)?, crate::ast::Operand::Integer(_)) => ignore = slot,
            _ => size = d.from32(i, 3, 32)?,
        }
    }
    let run = match bytes {
        4 => pick::<Begin<4>>(),
        8 => pick::<Begin<8>>(),
        _ => pick::<Begin<16>>(),
    };
    let mut ins = d.with(run, Class::Memory, &[base, wide, source, size, bytes as u32, ignore]);
    ins.more = [to.offset as u32, from.offset as u32, (from.offset as u64 >> 32) as u32].into();
    Ok(ins)
}

struct Begin<const WIDTH: usize>;

impl<const WIDTH: usize> Operation for Begin<WIDTH> {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        start::<WIDTH>(warp, block, ins, mask)
    }
}

/// All lanes at once, if each takes its bytes whole, from one allocation where all was written, to a place that it may write.
/// Says whether it did anything: whatever is wrong, lane by lane tells it.
#[inline(always)]
fn start_whole<const WIDTH: usize>(
    warp: &Warp,
    block: &mut Block<'_>,
    mask: u32,
    destinations: &R32,
    sources: &R64,
    data: &mut [[u8; 16]; 32],
) -> Result<bool, Fault> {
    let (to, from) = (&shared_access::settled32(destinations, mask), &access::settled(sources, mask));
    let Some(allocation) = access::common_allocation::<WIDTH>(block.launch.memory, from) else { return Ok(false) };
    let written = allocation.written.as_ref().is_none_or(|w| access::all_written::<WIDTH>(w, from));
    if !written || shared_access::shared_check::<WIDTH>(block, warp, mask, to, Deed::Store).is_err() {
        return Ok(false);
    }
    for lane in 0..32 {
        let start = allocation.data.pointer().wrapping_add(Global::offset(from[lane]) as usize);
        data[lane] = [0; 16];
        // SAFETY: `common_allocation` checked that the lane's bytes lie in the allocation, which lives through the launch.
        unsafe { std::ptr::copy_nonoverlapping(start, data[lane].as_mut_ptr(), WIDTH) }
    }
    if block.race.on {
        for lane in race::lanes(mask) {
            let races = &mut block.race;
            let begun = races.shadow.begin_write(&mut races.clocks, warp.index as usize, lane, to[lane], WIDTH as u32);
            begun.map_err(|c| race::shared_fault(block, warp.index, c, "asynchronous write"))?;
        }
    }
    let width = WIDTH as u32;
    race::global_load(block, warp.index, mask, from, width, race::Strength::Plain, Some(allocation))?;
    let bytes = u64::from(mask.count_ones()) * WIDTH as u64;
    block.counters.global_load_requests += 1;
    block.counters.global_load_sectors += access::sectors::<WIDTH>(from, mask).0;
    block.counters.global_load_ideal_sectors += bytes.div_ceil(32);
    block.counters.global_load_bytes += bytes;
    // 16 bytes are `cp.async.cg`.
    let access = if WIDTH == 16 { caches::Access::LoadPast } else { caches::Access::Load };
    caches::count(block, access, race::lanes(mask).map(|lane| (from[lane], WIDTH as u32)));
    Ok(true)
}

#[inline(always)]
fn start<const WIDTH: usize>(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let [base, wide, source, size, bytes, ignore] = [0, 1, 2, 3, 4, 5].map(|n| ins.slots[n]);
    let offset = u64::from(ins.more[1]) | u64::from(ins.more[2]) << 32;
    let destinations: R32 = match wide {
        0 => warp.get32(base).map(|a| a.wrapping_add(ins.more[0])),
        _ => warp.get64(base).map(|a| (a as u32).wrapping_add(ins.more[0])),
    };
    let sources: R64 = warp.get64(source).map(|a| a.wrapping_add(offset));
    let mut taken: R32 = if size == NO_SLOT { [bytes; 32] } else { *warp.get32(size) };
    if ignore != NO_SLOT {
        let ignored = crate::ops::lanes::predicate(warp, ignore);
        taken = std::array::from_fn(|lane| if ignored >> lane & 1 != 0 { 0 } else { taken[lane] });
    }
    let mut data = warp.asynchronous.copies.spare.pop().unwrap_or_else(|| Box::new([[0; 16]; 32]));
    let whole = taken.iter().enumerate().all(|(lane, taken)| mask >> lane & 1 == 0 || *taken == bytes);
    if !whole || !start_whole::<WIDTH>(warp, block, mask, &destinations, &sources, &mut data)? {
        start_apart(warp, block, mask, (&destinations, &sources), (bytes, &taken), &mut data)?;
    }
    block.counters.async_copies += u64::from(mask.count_ones());
    block.counters.shared_store_bytes += u64::from(mask.count_ones() * bytes);
    // Lanes whose groups have fallen apart are kept apart.
    let copies = &mut warp.asynchronous.copies;
    let mut rest = mask;
    while rest != 0 {
        let group = copies.committed[rest.trailing_zeros() as usize];
        let flags = std::array::from_fn(|lane| u8::from(copies.committed[lane] == group));
        let same = race::runs::bits(&flags) & rest;
        rest &= !same;
        let data = if rest == 0 { std::mem::take(&mut data) } else { data.clone() };
        copies.open.push(Copy { mask: same, destinations, sources, bytes, taken, group, data });
    }
    Ok(())
}

/// Lane by lane.
fn start_apart(
    warp: &Warp,
    block: &mut Block<'_>,
    mask: u32,
    (destinations, sources): (&R32, &R64),
    (bytes, taken): (u32, &R32),
    data: &mut [[u8; 16]; 32],
) -> Step {
    let mut reading = 0;
    for lane in race::lanes(mask) {
        if taken[lane] > bytes {
            let message = format!("cp.async takes {} bytes for a copy of {bytes}", taken[lane]);
            return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
        }
        ends::shared(block, warp, lane, destinations[lane], bytes, bytes)?;
        data[lane] = [0; 16];
        if !sources[lane].is_multiple_of(u64::from(bytes)) {
            let message = format!("global address {:#x} is no multiple of {bytes}", sources[lane]);
            return Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message));
        }
        if taken[lane] > 0 {
            let taken = taken[lane] as usize;
            let range = ends::global(block, warp, lane, sources[lane], taken, Use::Read)?;
            range.read(&mut data[lane][..taken]);
            reading |= 1 << lane;
        }
        if block.race.on {
            let races = &mut block.race;
            let begun =
                races.shadow.begin_write(&mut races.clocks, warp.index as usize, lane, destinations[lane], bytes);
            begun.map_err(|c| race::shared_fault(block, warp.index, c, "asynchronous write"))?;
        }
    }
    race::global_load(block, warp.index, reading, sources, bytes, race::Strength::Plain, None)?;
    ends::count_load(block, race::lanes(reading).map(|lane| (sources[lane], taken[lane])));
    Ok(())
}

unsafe fn commit(warp: &mut Warp, _: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    let committed = &mut warp.asynchronous.copies.committed;
    if mask == FULL {
        committed.iter_mut().for_each(|c| *c += 1);
    } else {
        race::lanes(mask).for_each(|lane| committed[lane] += 1);
    }
    Ok(())
}

/// `immediate`: how many groups may stay under way, -1 for no copy at all.
unsafe fn wait(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    finish(warp, block, mask, ins.immediate)
}

/// Completes the copies of these lanes, but for the last `keep` groups.
pub(super) fn finish(warp: &mut Warp, block: &mut Block<'_>, mask: u32, keep: i64) -> Step {
    let mut open = std::mem::take(&mut warp.asynchronous.copies.open);
    for copy in &mut open {
        let committed = &warp.asynchronous.copies.committed;
        let done = |lane: &usize| keep < 0 || i64::from(copy.group) + keep < i64::from(committed[*lane]);
        let lanes = race::lanes(copy.mask & mask).filter(done).fold(0, |m, lane| m | 1 << lane);
        if lanes != 0 {
            complete(warp, block, copy, lanes)?;
            copy.mask &= !lanes;
        }
    }
    let copies = &mut warp.asynchronous.copies;
    for copy in open {
        if copy.mask != 0 {
            copies.open.push(copy);
        } else if copies.spare.len() < 64 {
            copies.spare.push(copy.data);
        }
    }
    Ok(())
}

fn complete(warp: &Warp, block: &mut Block<'_>, copy: &Copy, lanes: u32) -> Step {
    match copy.bytes {
        4 => complete_width::<4>(warp, block, copy, lanes),
        8 => complete_width::<8>(warp, block, copy, lanes),
        _ => complete_width::<16>(warp, block, copy, lanes),
    }
}

fn complete_width<const WIDTH: usize>(warp: &Warp, block: &mut Block<'_>, copy: &Copy, lanes: u32) -> Step {
    for lane in race::lanes(lanes) {
        let (to, taken) = (copy.destinations[lane], copy.taken[lane] as usize);
        let data = &copy.data[lane];
        if taken > 0 {
            let range = ends::global(block, warp, lane, copy.sources[lane], taken, Use::Again)?;
            let unchanged = if taken == WIDTH { range.holds(&data[..WIDTH]) } else { range.holds(&data[..taken]) };
            if !unchanged {
                let message = "the source of a cp.async changed before the wait that completes the copy";
                let fault = block.fault(warp, lane as u32, FaultKind::AsyncHazard, message);
                return Err(fault.edit(|r| r.address = Some(copy.sources[lane])));
            }
        }
        let range = to as usize..to as usize + WIDTH;
        block.shared.bytes[range.clone()].copy_from_slice(&data[..WIDTH]);
        if !block.shared.written.is_empty() {
            block.shared.written[range].fill(1);
        }
        if block.race.on {
            let races = &mut block.race;
            races.shadow.written(&mut races.clocks, warp.index as usize, lane, to, WIDTH as u32);
        }
    }
    Ok(())
}
