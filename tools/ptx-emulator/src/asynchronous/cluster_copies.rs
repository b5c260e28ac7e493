//! Asynchronous writes into the shared memory of a cluster's blocks that count bytes at an mbarrier there: bulk copies out of
//! the own shared memory, `st.async`, `red.async`.

use super::{
    barrier_instructions::{find, key, overrun, put},
    bulk::{self, Arrival, Body},
    cluster, ends,
};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, Start},
    machine::{Block, Class, Ins, Step, Warp},
    ops::atomic,
    race::{self, Strength},
    report::{Fault, FaultKind},
};

/// `cp.async.bulk.shared::cluster.shared::cta`, `st.async`, `red.async`.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    if !i.has("mbarrier::complete_tx::bytes") || !i.has("shared::cluster") {
        return Ok(None);
    }
    let ins = match i.parts[..] {
        ["cp", "async", "bulk", "shared::cluster", "shared::cta", "mbarrier::complete_tx::bytes"] => copy(d, i)?,
        ["st", "async", ..] => store(d, i)?,
        ["red", "async", ..] => reduce(d, i)?,
        _ => return Ok(None),
    };
    d.code.communicates = true;
    Ok(Some(ins))
}

fn base<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, index: usize) -> Decoded<([u32; 2], u32)> {
    let place = d.place(i, index)?;
    let base = match place.start {
        Start::R32(slot) => [slot, 0],
        Start::R64(slot) => [slot, 1],
        Start::None => [d.constant32(0), 0],
    };
    Ok((base, place.offset as u32))
}

/// Slots of the destination, the barrier and what `fill` adds; more: their offsets.
fn ends_of<'t>(
    d: &mut Decoder<'_, 't>,
    i: &Instruction<'t>,
    run: crate::machine::OpFn,
    barrier: usize,
) -> Decoded<Ins> {
    let (to, to_offset) = base(d, i, 0)?;
    let (barrier, barrier_offset) = base(d, i, barrier)?;
    let mut ins = d.with(run, Class::Memory, &[to[0], to[1], barrier[0], barrier[1]]);
    ins.more = [to_offset, barrier_offset].into();
    Ok(ins)
}

fn copy<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let mut ins = ends_of(d, i, start_copy, 3)?;
    let (from, from_offset) = base(d, i, 1)?;
    (ins.slots[4], ins.slots[5], ins.slots[6]) = (from[0], from[1], d.from32(i, 2, 32)?);
    ins.more = [ins.more[0], ins.more[1], from_offset].into();
    Ok(ins)
}

/// slots from 4: element width, elements, their registers
fn store<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let Some(bytes) = crate::parse::type_bytes(crate::ops::kind(i)).filter(|b| matches!(b, 4 | 8)) else {
        return Err(d.unsupported(i));
    };
    let mut ins = ends_of(d, i, start_store, 2)?;
    let elements = d.elements(i, 1)?;
    let declared = i.parts.iter().find_map(|p| p.strip_prefix('v')?.parse().ok()).unwrap_or(1);
    if elements.len() != declared || elements.len() > 4 {
        return Err(d.refuse(i, "another number of elements than the vector has"));
    }
    (ins.slots[4], ins.slots[5]) = (bytes, elements.len() as u32);
    for (n, element) in elements.iter().enumerate() {
        ins.slots[6 + n] = if bytes == 8 { d.source64(i, element)? } else { d.source32(i, element, 32)? };
    }
    Ok(ins)
}

/// slots from 4: width, register, operation, type
fn reduce<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let kind = crate::ops::kind(i);
    let bytes = crate::parse::type_bytes(kind).filter(|b| matches!(b, 4 | 8)).ok_or_else(|| d.unsupported(i))?;
    let (deed, number) = atomic::integer_numbers(i, kind).ok_or_else(|| d.unsupported(i))?;
    let mut ins = ends_of(d, i, start_reduction, 2)?;
    let operand: Operand<'t> = d.operand(i, 1)?.clone();
    let value = if bytes == 8 { d.source64(i, &operand)? } else { d.source32(i, &operand, 32)? };
    ins.slots[4..8].copy_from_slice(&[bytes, value, deed, number]);
    Ok(ins)
}

/// Rank plus one, zero for none named, and offset.
fn resolve(warp: &Warp, base: u32, wide: u32, offset: u32, lane: usize) -> (u32, u32) {
    if wide != 0 {
        let address = warp.get64(base)[lane].wrapping_add_signed((offset as i32).into());
        if let Some((rank, offset)) = cluster::generic(address) {
            return (rank, offset);
        }
        return (address as u32 >> 24, address as u32 & 0xff_ffff);
    }
    let address = warp.get32(base)[lane].wrapping_add(offset);
    (address >> 24, address & 0xff_ffff)
}

/// Destination and barrier of a lane, which must lie in one block: its rank plus one and the two offsets.
fn target(warp: &Warp, block: &Block<'_>, ins: &Ins, lane: usize) -> Result<(u32, u32, u32), Fault> {
    let (to_rank, to) = resolve(warp, ins.slots[0], ins.slots[1], ins.more[0], lane);
    let (barrier_rank, barrier) = resolve(warp, ins.slots[2], ins.slots[3], ins.more[1], lane);
    let own = |rank: u32| if rank == 0 { cluster::rank(block) + 1 } else { rank };
    if own(to_rank) != own(barrier_rank) {
        let message = "the destination and the mbarrier lie in different blocks of the cluster";
        return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
    }
    Ok((to_rank, to, barrier))
}

/// Queues what arrives later, in the block that it arrives in.
fn queue(warp: &Warp, block: &mut Block<'_>, lane: usize, rank: u32, arrival: Arrival, align: u32) -> Step {
    let (shared, bytes) = arrival.range();
    block.counters.async_copies += 1;
    match cluster::peer(warp, block, lane, rank)? {
        None => {
            ends::shared(block, warp, lane, shared, bytes, align)?;
            bulk::begin(warp, block, lane, arrival)
        }
        Some(peer) => {
            ends::shared(peer, warp, lane, shared, bytes, align)?;
            cluster::note(warp, block, peer, (lane, arrival.barrier(), 8), race::Deed::Barrier, Strength::Strong)?;
            cluster::note(warp, block, peer, (lane, shared, bytes), race::Deed::Copy, Strength::Plain)?;
            let on = std::mem::replace(&mut peer.race.on, false);
            let result = bulk::begin(warp, peer, lane, arrival);
            peer.race.on = on;
            // Whoever waits there looks again.
            peer.asynchronous.events += 1;
            result
        }
    }
}

unsafe fn start_copy(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    for lane in race::lanes(mask) {
        let (rank, shared, barrier) = target(warp, block, ins, lane)?;
        let (_, from) = resolve(warp, ins.slots[4], ins.slots[5], ins.more[2], lane);
        let bytes = warp.get32(ins.slots[6])[lane];
        if bytes == 0 || !bytes.is_multiple_of(16) {
            let message = format!("a bulk copy of {bytes} bytes: a multiple of 16 is needed");
            return Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message));
        }
        bulk::lend(warp, block, lane, from, bytes, 16)?;
        let body = Body::Shared { rank: cluster::rank(block) + 1, from, bytes };
        let arrival = Arrival::new(body, shared, barrier, warp.index, lane, block.pc);
        queue(warp, block, lane, rank, arrival, 16)?;
    }
    Ok(())
}

unsafe fn start_store(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (width, count) = (ins.slots[4], ins.slots[5]);
    for lane in race::lanes(mask) {
        let (rank, shared, barrier) = target(warp, block, ins, lane)?;
        let mut data = Vec::new();
        for slot in &ins.slots[6..6 + count as usize] {
            match width {
                8 => data.extend(warp.get64(*slot)[lane].to_le_bytes()),
                _ => data.extend(warp.get32(*slot)[lane].to_le_bytes()),
            }
        }
        let arrival = Arrival::new(Body::Values(data.into()), shared, barrier, warp.index, lane, block.pc);
        queue(warp, block, lane, rank, arrival, width * count)?;
    }
    Ok(())
}

/// Reductions of several threads may meet in one place, so that each is done when it is issued, the earliest legal moment.
unsafe fn start_reduction(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let [width, slot, deed, kind] = [4, 5, 6, 7].map(|n| ins.slots[n]);
    for lane in race::lanes(mask) {
        let (rank, shared, barrier) = target(warp, block, ins, lane)?;
        let value = if width == 8 { warp.get64(slot)[lane] } else { u64::from(warp.get32(slot)[lane]) };
        block.counters.atomics += 1;
        block.counters.async_copies += 1;
        match cluster::peer(warp, block, lane, rank)? {
            None => {
                let range = ends::shared(block, warp, lane, shared, width, width)?;
                if block.race.on {
                    let (clocks, index) = (&mut block.race.clocks, warp.index as usize);
                    let shadow = &mut block.race.shadow;
                    let all = &[shared; 32];
                    let stored = shadow.store(clocks, index, 1 << lane, all, width, Strength::Strong, false, &[], None);
                    stored.map_err(|c| race::shared_fault(block, warp.index, c, "asynchronous reduction"))?;
                }
                apply(warp, block, lane, range, (deed, kind), value)?;
                let found = find(block, warp, lane, barrier)?;
                block.race.arrive(key(barrier, found.phase), warp.index);
                count(warp, block, lane, barrier, width)?;
            }
            Some(peer) => {
                let range = ends::shared(peer, warp, lane, shared, width, width)?;
                cluster::note(warp, block, peer, (lane, shared, width), race::Deed::Write, Strength::Strong)?;
                cluster::note(warp, block, peer, (lane, barrier, 8), race::Deed::Barrier, Strength::Strong)?;
                apply(warp, peer, lane, range, (deed, kind), value)?;
                let phase = find(peer, warp, lane, barrier)?.phase;
                if block.race.on && peer.race.on {
                    let (own, index) = (&mut block.race.clocks, warp.index as usize);
                    peer.race.clocks.arrive_foreign(key(barrier, phase), own, index);
                }
                count(warp, peer, lane, barrier, width)?;
            }
        }
    }
    Ok(())
}

fn apply(
    warp: &Warp,
    block: &mut Block<'_>,
    lane: usize,
    range: std::ops::Range<usize>,
    operation: (u32, u32),
    value: u64,
) -> Step {
    if block.shared.written.get(range.clone()).is_some_and(|w| w.contains(&0)) {
        let message = "an asynchronous reduction on shared memory that nobody has written";
        return Err(block.fault(warp, lane as u32, FaultKind::Uninitialised, message));
    }
    let mut old = [0; 8];
    old[..range.len()].copy_from_slice(&block.shared.bytes[range.clone()]);
    let new = atomic::apply(operation, u64::from_le_bytes(old), value).to_le_bytes();
    let length = range.len();
    block.shared.bytes[range].copy_from_slice(&new[..length]);
    Ok(())
}

fn count(warp: &Warp, block: &mut Block<'_>, lane: usize, address: u32, bytes: u32) -> Step {
    let mut barrier = find(block, warp, lane, address)?;
    let turned = barrier.complete_bytes(bytes).map_err(|_| overrun(warp, block, lane, address))?;
    put(block, address, barrier, turned);
    block.asynchronous.events += 1;
    Ok(())
}
