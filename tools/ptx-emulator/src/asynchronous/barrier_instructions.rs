//! `mbarrier.*` on a block: counting arrivals, parking those who wait, and the order that comes of it.

use super::{barrier::Mbarrier, ends};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, Start},
    machine::{Block, Class, Control, Ins, Step, Warp},
    memory::{SHARED_WINDOW, WINDOW_SHIFT},
    race::{self, Strength},
    report::{Fault, FaultKind},
    weak,
};

/// Which operation it is; in `Ins::immediate`, with the low bits free for flags.
const INIT: i64 = 0;
const INVALIDATE: i64 = 1;
const EXPECT: i64 = 2;
const COMPLETE: i64 = 3;
const ARRIVE: i64 = 4;
const ARRIVE_DROP: i64 = 5;
const ARRIVE_EXPECT: i64 = 6;
/// The address operand is generic.
const GENERIC: i64 = 16;
/// The wait names a state, not a parity.
const BY_STATE: i64 = 32;

/// `mbarrier.*`, and `cp.async.mbarrier.arrive`.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    if i.parts[..] == ["mbarrier", "pending_count", "b64"] {
        let slots = [d.to32(i, 0)?, d.from64(i, 1)?];
        return Ok(Some(d.with(pending_count, Class::Synchronisation, &slots)));
    }
    if let ["cp", "async", "mbarrier", "arrive", ..] = i.parts[..] {
        let mut ins = at(d, i, 0, asynchronous_arrive)?;
        ins.immediate |= i64::from(i.has("noinc"));
        return Ok(Some(ins));
    }
    if i.parts[0] != "mbarrier" {
        return Ok(None);
    }
    let operation = match i.parts.get(1) {
        Some(&"init") => INIT,
        Some(&"inval") => INVALIDATE,
        Some(&"expect_tx") => EXPECT,
        Some(&"complete_tx") => COMPLETE,
        Some(&"arrive") if i.has("expect_tx") => ARRIVE_EXPECT,
        Some(&"arrive_drop") if i.has("expect_tx") => return Err(d.unsupported(i)),
        Some(&"arrive") => ARRIVE,
        Some(&"arrive_drop") => ARRIVE_DROP,
        Some(&"test_wait" | &"try_wait") => return wait_of(d, i).map(Some),
        _ => return Ok(None),
    };
    let ins = match operation {
        INIT | EXPECT | COMPLETE => {
            let mut ins = at(d, i, 0, change)?;
            ins.slots[3] = d.from32(i, 1, 32)?;
            ins
        }
        INVALIDATE => at(d, i, 0, change)?,
        _ => {
            // The state is optional in the text.
            let first = usize::from(!matches!(d.operand(i, 0)?, Operand::Address { .. }));
            let mut ins = at(d, i, first, change)?;
            if first == 1 {
                ins.slots[0] = d.to64(i, 0)?;
            }
            ins.slots[3] = if i.operands.len() > first + 1 { d.from32(i, first + 1, 32)? } else { d.constant32(1) };
            ins
        }
    };
    Ok(Some(Ins { immediate: ins.immediate | operation, ..ins }))
}

/// slots: destination, address, whether it is wide, operand; more: offset
fn at<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, index: usize, run: crate::machine::OpFn) -> Decoded<Ins> {
    let place = d.place(i, index)?;
    let (base, wide) = match place.start {
        Start::R32(slot) => (slot, 0),
        Start::R64(slot) => (slot, 1),
        Start::None => (d.constant32(0), 0),
    };
    let spaced = i.parts.iter().any(|p| p.starts_with("shared"));
    let mut ins = d.with(run, Class::Synchronisation, &[0, base, wide]);
    ins.immediate = if !spaced && wide == 1 && place.symbol.is_none() { GENERIC } else { 0 };
    ins.more = [place.offset as u32].into();
    Ok(ins)
}

fn wait_of<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let mut ins = at(d, i, 1, wait)?;
    let operand = d.operand(i, 0)?.clone();
    ins.slots[0] = d.to_predicate(i, &operand)?;
    if i.has("parity") {
        ins.slots[3] = d.from32(i, 2, 32)?;
    } else {
        ins.slots[3] = d.from64(i, 2)?;
        ins.immediate |= BY_STATE;
    }
    ins.control = Control::Waiting;
    Ok(ins)
}

/// The shared address of lane `lane`: the rank of a block of the cluster plus one (0 for this block), and the offset there.
pub(super) fn resolve(warp: &Warp, block: &Block<'_>, ins: &Ins, lane: usize) -> Result<(u32, u32), Fault> {
    let offset = ins.more[0];
    if ins.slots[2] == 0 {
        let address = warp.get32(ins.slots[1])[lane].wrapping_add(offset);
        return Ok((address >> 24, address & 0xff_ffff));
    }
    let address = warp.get64(ins.slots[1])[lane].wrapping_add_signed((offset as i32).into());
    if ins.immediate & GENERIC != 0 && address >> WINDOW_SHIFT != SHARED_WINDOW >> WINDOW_SHIFT {
        let message = format!("{address:#x} is no address of shared memory");
        return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
    }
    if ins.immediate & GENERIC != 0 {
        return Ok(((address >> 32) as u32 & 0xff, address as u32));
    }
    Ok((address as u32 >> 24, address as u32 & 0xff_ffff))
}

/// The number under which the race detector knows one phase of a barrier.
pub(super) fn key(address: u32, phase: u32) -> u64 {
    1 << 63 | u64::from(address) << 32 | u64::from(phase)
}

/// The phase under way of the barrier at `address`.
pub(super) fn phase(block: &Block<'_>, address: u32) -> Option<u32> {
    block.asynchronous.barriers.get(&address).map(|barrier| barrier.phase)
}

/// The barrier at `address`, unless something is wrong with it.
pub(super) fn find(block: &Block<'_>, warp: &Warp, lane: usize, address: u32) -> Result<Mbarrier, Fault> {
    let range = ends::shared(block, warp, lane, address, 8, 8)?;
    let Some(barrier) = block.asynchronous.barriers.get(&address) else {
        let message = format!("shared address {address:#x} holds no initialised mbarrier");
        return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
    };
    if block.shared.bytes[range] != barrier.word().to_le_bytes() {
        let message = format!("the mbarrier at shared address {address:#x} was overwritten by something else");
        return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
    }
    Ok(*barrier)
}

/// Puts a barrier's new state in its place; wakes those who wait if a phase is over.
pub(super) fn put(block: &mut Block<'_>, address: u32, barrier: Mbarrier, turned: bool) {
    let range = address as usize..address as usize + 8;
    block.shared.bytes[range.clone()].copy_from_slice(&barrier.word().to_le_bytes());
    if !block.shared.written.is_empty() {
        block.shared.written[range].fill(1);
    }
    block.asynchronous.barriers.insert(address, barrier);
    if turned {
        block.asynchronous.events += 1;
        if barrier.phase >= 3 {
            block.race.forget(key(address, barrier.phase - 3));
        }
    }
}

unsafe fn change(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let operation = ins.immediate & 15;
    for lane in race::lanes(mask) {
        let (rank, address) = resolve(warp, block, ins, lane)?;
        let value = warp.get32(ins.slots[3])[lane];
        if let Some(peer) = super::cluster::peer(warp, block, lane, rank)? {
            super::cluster::change_remote(warp, block, peer, lane, operation, address, value)?;
            continue;
        }
        let state = change_one(warp, block, lane, operation, address, value)?;
        let slot = ins.slots[0] as usize;
        if slot != 0 {
            warp.r64[slot][lane] = state;
        }
    }
    Ok(())
}

/// Whether an operation counts an arrival.
pub(super) fn arrives(operation: i64) -> bool {
    matches!(operation, ARRIVE | ARRIVE_DROP | ARRIVE_EXPECT)
}

/// One thread's operation on a barrier of its own block. Gives the state before it.
pub(super) fn change_one(
    warp: &Warp,
    block: &mut Block<'_>,
    lane: usize,
    operation: i64,
    address: u32,
    value: u32,
) -> Result<u64, Fault> {
    if operation == INIT {
        ends::shared(block, warp, lane, address, 8, 8)?;
        if value == 0 || value > super::barrier::MOST {
            let message = format!("an mbarrier that expects {value} arrivals");
            return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
        }
        let awaited = block.asynchronous.arrivals.iter().any(|arrival| arrival.barrier() == address);
        let barrier = block.asynchronous.barriers.get(&address);
        if awaited || barrier.is_some_and(Mbarrier::in_use) {
            let message =
                format!("the mbarrier at shared address {address:#x} is initialised again while it is in use");
            return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
        }
        if block.race.on {
            let races = &mut block.race;
            let (clocks, index) = (&mut races.clocks, warp.index as usize);
            let stored =
                races.shadow.store(clocks, index, 1 << lane, &[address; 32], 8, Strength::Plain, false, &[], None);
            stored.map_err(|c| race::shared_fault(block, warp.index, c, "initialisation"))?;
        }
        put(block, address, Mbarrier::new(value), false);
        return Ok(0);
    }
    let mut barrier = find(block, warp, lane, address)?;
    ordered_after_init(warp, block, lane, address)?;
    let before = barrier.word();
    let phase = barrier.phase;
    if arrives(operation) {
        block.race.arrive(key(address, phase), warp.index);
    }
    let turned = match operation {
        INVALIDATE => {
            block.asynchronous.barriers.remove(&address);
            return Ok(before);
        }
        EXPECT => barrier.expect_bytes(value).map(|()| false),
        COMPLETE => barrier.complete_bytes(value),
        ARRIVE => barrier.arrive(value),
        ARRIVE_DROP => barrier.arrive_drop(value),
        _ => barrier.expect_bytes(value).and_then(|()| barrier.arrive(1)),
    };
    let turned = turned.map_err(|_| overrun(warp, block, lane, address))?;
    put(block, address, barrier, turned);
    Ok(before)
}

#[cold]
pub(super) fn overrun(warp: &Warp, block: &Block<'_>, lane: usize, address: u32) -> Fault {
    let message =
        format!("more arrivals or bytes at the mbarrier at shared address {address:#x} than it can count in a phase");
    block.fault(warp, lane as u32, FaultKind::Operand, message)
}

/// Whoever uses a barrier must know that it was initialised.
fn ordered_after_init(warp: &Warp, block: &mut Block<'_>, lane: usize, address: u32) -> Step {
    if !block.race.on {
        return Ok(());
    }
    let races = &mut block.race;
    let (clocks, index) = (&mut races.clocks, warp.index as usize);
    let loaded = races.shadow.load(clocks, index, 1 << lane, &[address; 32], 8, Strength::Strong);
    loaded.map_err(|c| race::shared_fault(block, warp.index, c, "use of an mbarrier"))
}

unsafe fn wait(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let mut parked = false;
    for lane in race::lanes(mask) {
        let (_, address) = resolve(warp, block, ins, lane)?;
        let barrier = find(block, warp, lane, address)?;
        let passed = match ins.immediate & BY_STATE {
            0 => barrier.passed(warp.get32(ins.slots[3])[lane]),
            _ => barrier.phase != Mbarrier::phase_of(warp.get64(ins.slots[3])[lane]),
        };
        if !passed {
            parked = true;
            if !block.asynchronous.waited.contains(&address) {
                block.asynchronous.waited.push(address);
            }
        }
    }
    if parked {
        warp.asynchronous.blocked = true;
        return Ok(());
    }
    for lane in race::lanes(mask) {
        let (_, address) = resolve(warp, block, ins, lane)?;
        let phase = find(block, warp, lane, address)?.phase;
        ordered_after_init(warp, block, lane, address)?;
        block.race.wait(key(address, phase.wrapping_sub(1)), warp.index);
        if lane + 1 < 32 && mask >> (lane + 1) != 0 && uniform(warp, ins, mask) {
            break;
        }
    }
    weak::meet(block.launch, &[block.linear]);
    warp.set_predicate(ins.slots[0], !0, mask);
    Ok(())
}

/// All lanes wait for the same barrier.
fn uniform(warp: &Warp, ins: &Ins, mask: u32) -> bool {
    let first = mask.trailing_zeros() as usize;
    let slot = ins.slots[1];
    match ins.slots[2] {
        0 => race::lanes(mask).all(|lane| warp.get32(slot)[lane] == warp.get32(slot)[first]),
        _ => race::lanes(mask).all(|lane| warp.get64(slot)[lane] == warp.get64(slot)[first]),
    }
}

unsafe fn pending_count(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let pending = warp.get64(ins.slots[1]).map(Mbarrier::pending_of);
    warp.set32(ins.slots[0], pending, mask);
    Ok(())
}

/// `cp.async.mbarrier.arrive`: the barrier counts these threads once their copies so far are complete.
unsafe fn asynchronous_arrive(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    for lane in race::lanes(mask) {
        let (_, address) = resolve(warp, block, ins, lane)?;
        let mut barrier = find(block, warp, lane, address)?;
        ordered_after_init(warp, block, lane, address)?;
        if ins.immediate & 1 == 0 {
            barrier.expect_arrival(1);
            put(block, address, barrier, false);
        }
        // The copies are taken as complete at the arrival: nobody but waiters on this barrier learns of them.
        super::thread_copies::finish(warp, block, 1 << lane, -1)?;
        block.race.arrive(key(address, barrier.phase), warp.index);
        let turned = barrier.arrive(1).map_err(|_| overrun(warp, block, lane, address))?;
        put(block, address, barrier, turned);
    }
    Ok(())
}
