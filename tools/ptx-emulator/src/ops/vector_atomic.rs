//! `atom` and `red` on vectors: each element is an atomic of its own, the request is one.

use super::{access, atomic, memory};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, OpFn, SINK, Step, Warp},
    report::FaultKind,
};

/// slots as those of one element, then in 12 the number of elements and in 13 their width; more: destinations and sources
unsafe fn each(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (count, bytes) = (ins.slots[12], ins.slots[13]);
    let width = u64::from(count * bytes);
    let at = memory::addresses(warp, ins);
    if let Some(lane) = (0..32).find(|lane| mask >> lane & 1 != 0 && !at[*lane].is_multiple_of(width)) {
        let message = format!("a vector atomic of {width} bytes at an address that is no multiple of {width}");
        let fault = block.fault(warp, lane as u32, FaultKind::Misaligned, message);
        return Err(fault.edit(|r| r.address = Some(at[lane])));
    }
    let before = block.counters;
    let run = run_of(bytes);
    for e in 0..count as usize {
        let mut one = ins.clone();
        one.slots[1] = ins.more[e];
        one.slots[2] = ins.more[count as usize + e];
        one.immediate += e as i64 * i64::from(bytes);
        // SAFETY: `run_of` picks by what this processor has.
        unsafe { run(warp, block, &one, mask) }?;
    }
    // One request for all elements, if it went to global memory.
    if block.counters.global_store_requests > before.global_store_requests {
        let at = &access::settled(&at, mask);
        let (touched, ideal) = match width {
            4 => access::sectors::<4>(at, mask),
            8 => access::sectors::<8>(at, mask),
            _ => access::sectors::<16>(at, mask),
        };
        block.counters.global_store_requests = before.global_store_requests + 1;
        block.counters.global_store_sectors = before.global_store_sectors + touched;
        block.counters.global_store_ideal_sectors = before.global_store_ideal_sectors + ideal;
    }
    Ok(())
}

fn run_of(bytes: u32) -> OpFn {
    if bytes == 2 { atomic::generic::<2>() } else { atomic::generic::<4>() }
}

pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, kind: &str) -> Decoded<Option<Ins>> {
    let count = match i.parts.iter().find_map(|p| p.strip_prefix('v')) {
        Some("2") => 2,
        Some("4") => 4,
        Some("8") => 8,
        _ => return Ok(None),
    };
    let Some(bytes) = crate::parse::type_bytes(kind) else { return Ok(None) };
    let (space, _) = memory::space(i);
    let half = matches!(kind, "f16" | "bf16" | "f16x2" | "bf16x2");
    if !matches!(space, memory::GLOBAL | memory::GENERIC) || kind != "f32" && !half || count * bytes > 16 {
        return Ok(None);
    }
    let Some((deed, kind)) = atomic::numbers(i, kind) else { return Ok(None) };
    let first = usize::from(i.parts[0] == "atom");
    let place = d.place(i, first)?;
    let mut ins = d.blank(each, Class::Memory);
    memory::set_place(&mut ins, place);
    let mut more = vec![SINK; count as usize];
    if first == 1 {
        let elements = d.elements(i, 0)?;
        for (slot, element) in more.iter_mut().zip(&elements) {
            *slot = d.destination32(i, element)?;
        }
    }
    let elements = d.elements(i, first + 1)?;
    if elements.len() != count as usize {
        return Err(d.refuse(i, "another number of elements than the vector has"));
    }
    for element in &elements {
        more.push(d.source32(i, element, 8 * bytes)?);
    }
    (ins.slots[10], ins.slots[11], ins.slots[12], ins.slots[13]) = (deed, kind, count, bytes);
    ins.slots[memory::ORDER] = memory::order_bits(i, true);
    ins.more = more.into();
    memory::note(d, space, bytes, 2);
    Ok(Some(ins))
}
