//! `tensormap.replace` and `tensormap.cp_fenceproxy`: tensor maps that kernels make, field by field, in shared or global memory.
//!
//! Fields go to where `tensor_map` keeps them, with the mark of a map made here, so that one may begin with zeros as compilers do.

use super::{
    ends::{self, Use},
    tensor_map::{self, Field},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, FULL, Gather, Ins, Step, Warp},
    memory::{SHARED_WINDOW, WINDOW_SHIFT},
    ops::memory::{self, GENERIC, GLOBAL, SHARED},
    race::{self, Strength},
    report::FaultKind,
};

/// Bytes of a tensor map, a multiple of which its address must be.
const MAP_BYTES: u32 = 128;

/// `tensormap.*`.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ins = match i.parts.get(1) {
        Some(&"replace") => replace(d, i)?,
        Some(&"cp_fenceproxy") => publish(d, i)?,
        _ => return Ok(None),
    };
    // Other blocks may use the map.
    d.code.communicates = true;
    d.code.narrowest_shared = d.code.narrowest_shared.min(4);
    Ok(Some(ins))
}

/// slots of an address; 1 value, 2 whether it is wide, 3 where it goes, 4 how many bytes of it
fn replace<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let field = i.parts.iter().find_map(|part| Field::parse(part)).ok_or_else(|| d.unsupported(i))?;
    if !i.has("tile") || !i.has("b1024") {
        return Err(d.unsupported(i));
    }
    let ordinal = if field.many() { Some(d.integer(i, 1)?) } else { None };
    let value = if field.many() { 2 } else { 1 };
    let wide = i.has("b64");
    let Some((at, bytes)) = field.place(ordinal.unwrap_or(0)) else {
        return Err(d.refuse(i, "dimensions are numbered from 0 to 4, strides to 3"));
    };
    let slot = match field.code(d.integer(i, value).ok()) {
        Some(Ok(code)) => d.constant32(code),
        Some(Err(reason)) => return Err(d.refuse(i, reason)),
        None if wide => d.from64(i, value)?,
        None => d.from32(i, value, 32)?,
    };
    let constant = field.code(Some(0)).is_some();
    let place = d.place(i, 0)?;
    let mut ins = d.blank(put, Class::Memory);
    memory::set_place(&mut ins, place);
    ins.slots[1..5].copy_from_slice(&[slot, u32::from(wide && !constant), at, bytes]);
    ins.slots[5] = u32::from(field == Field::Rank);
    ins.slots[6] = memory::space(i).0.into();
    Ok(ins)
}

/// Which lanes' maps lie in shared memory, and at which address.
fn shared(ins: &Ins, at: u64) -> Option<u32> {
    match ins.slots[6] as u8 {
        SHARED => Some(at as u32),
        GENERIC if at >> WINDOW_SHIFT << WINDOW_SHIFT == SHARED_WINDOW => Some((at & 0xff_ffff) as u32),
        _ => None,
    }
}

unsafe fn put(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let addresses = memory::addresses(warp, ins);
    let [_, value, wide, at, bytes, rank] = std::array::from_fn(|n| ins.slots[n]);
    for lane in race::lanes(mask) {
        // The rank is given less one.
        let value = match wide {
            0 => u64::from(warp.get32(value)[lane].wrapping_add(rank)),
            _ => warp.get64(value)[lane],
        };
        let value = value.to_le_bytes();
        for (offset, bytes) in [(0, &tensor_map::MAGIC.to_le_bytes()[..]), (at, &value[..bytes as usize])] {
            write(warp, block, ins, lane, addresses[lane], offset, bytes)?;
        }
    }
    Ok(())
}

/// Writes bytes of the map at `map`, as a plain store of its thread.
fn write(warp: &Warp, block: &mut Block<'_>, ins: &Ins, lane: usize, map: u64, offset: u32, bytes: &[u8]) -> Step {
    let width = bytes.len() as u32;
    if let Some(map) = shared(ins, map) {
        ends::shared(block, warp, lane, map, MAP_BYTES, MAP_BYTES)?;
        let at = map + offset;
        race::shared_store(block, warp.index, 1 << lane, &[at; 32], width, Strength::Plain, false, None)?;
        block.shared.bytes[at as usize..(at + width) as usize].copy_from_slice(bytes);
        if let Some(written) = block.shared.written.get_mut(at as usize..(at + width) as usize) {
            written.fill(1);
        }
        return Ok(());
    }
    aligned(warp, block, lane, map)?;
    ends::global(block, warp, lane, map, MAP_BYTES as usize, Use::Again)?;
    let at = map + u64::from(offset);
    let target = ends::global(block, warp, lane, at, bytes.len(), Use::Write)?;
    let plain = Strength::Plain;
    race::global_store(block, warp.index, 1 << lane, &[at; 32], width, plain, false, false, None, None)?;
    target.write(bytes);
    Ok(())
}

fn aligned(warp: &Warp, block: &Block<'_>, lane: usize, map: u64) -> Step {
    if map.is_multiple_of(MAP_BYTES.into()) {
        return Ok(());
    }
    let message = format!("a tensor map at {map:#x}, no multiple of {MAP_BYTES}");
    Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message).edit(|r| r.address = Some(map)))
}

/// slots: 0 the global address, 1 the shared one, 2 whether that is wide; more: its offset
fn publish<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    if d.integer(i, 2)? != i64::from(MAP_BYTES) {
        return Err(d.refuse(i, "a tensor map has 128 bytes"));
    }
    let (to, from) = (d.place(i, 0)?, d.place(i, 1)?);
    let mut ins = d.blank(copy, Class::Memory);
    memory::set_place(&mut ins, to);
    let mut source = d.blank(copy, Class::Memory);
    memory::set_place(&mut source, from);
    ins.slots[1] = source.slots[0];
    ins.slots[2] = source.slots[memory::START];
    ins.slots[6] = GLOBAL.into();
    ins.more = [source.immediate as u32].into();
    ins.gather = Gather::All;
    Ok(ins)
}

/// From shared to global memory, on behalf of the whole warp.
unsafe fn copy(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let to = memory::addresses(warp, ins);
    let base = |lane: usize| match ins.slots[2] {
        0 => 0,
        1 => warp.get32(ins.slots[1])[lane],
        _ => warp.get64(ins.slots[1])[lane] as u32,
    };
    let lane = mask.trailing_zeros() as usize & 31;
    let (map, from) = (to[lane], (base(lane).wrapping_add(ins.more[0])) & 0xff_ffff);
    if mask != FULL || race::lanes(mask).any(|other| to[other] != map || base(other) != base(lane)) {
        let message = "tensormap.cp_fenceproxy needs all lanes of its warp, with the same addresses";
        return Err(block.fault(warp, lane as u32, FaultKind::Divergence, message));
    }
    let range = ends::shared(block, warp, lane, from, MAP_BYTES, MAP_BYTES)?;
    aligned(warp, block, lane, map)?;
    let target = ends::global(block, warp, lane, map, MAP_BYTES as usize, Use::Write)?;
    for piece in 0..MAP_BYTES / 16 {
        let (from, to) = (from + 16 * piece, map + u64::from(16 * piece));
        race::shared_load(block, warp.index, 1 << lane, &[from; 32], 16, Strength::Plain)?;
        let plain = Strength::Plain;
        race::global_store(block, warp.index, 1 << lane, &[to; 32], 16, plain, false, false, None, None)?;
    }
    if block.shared.written.get(range.clone()).is_some_and(|written| written.contains(&0)) {
        let message = "a tensor map in shared memory that nobody has written whole";
        let fault = block.fault(warp, lane as u32, FaultKind::Uninitialised, message);
        return Err(fault.edit(|r| (r.address, r.allocation) = (Some(from.into()), block.shared_name(from))));
    }
    target.write(&block.shared.bytes[range]);
    // The copy is a release.
    block.race.fence(warp.index, false);
    Ok(())
}
