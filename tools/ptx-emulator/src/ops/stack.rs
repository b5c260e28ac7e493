//! `alloca`, `stacksave`, `stackrestore`: room in local memory whose size is known when the kernel runs.
//!
//! Each thread has a stack behind its local variables, and a register that says how far it is taken. What a device function
//! allocated is given back where its inlined code ends.

use super::lanes::unary;
use crate::{
    ast::{Instruction, Statement},
    decode::{Decoded, Decoder, Reg},
    machine::{Block, Class, Ins, LANES, Preset, Special, Step, Warp},
    race,
    report::FaultKind,
};

/// A thread's stack. Devices have a kibibyte unless told otherwise (`cudaLimitStackSize`).
pub(crate) const STACK_BYTES: u32 = 16 << 10;

/// Says whether a body takes room on the stack itself.
pub(crate) fn allocates(body: &[Statement<'_>]) -> bool {
    body.iter().any(|statement| match statement {
        Statement::Instruction(i) => i.parts.first() == Some(&"alloca"),
        Statement::Scope(inner) => allocates(inner),
        _ => false,
    })
}

/// The register that says how far the stack is taken.
fn top(d: &mut Decoder<'_, '_>) -> u32 {
    d.code.stack_start.get_or_insert(0);
    d.preset(Preset::Special(Special::StackStart))
}

/// Keeps how far the stack is taken before a call, in the slot it gives.
pub(crate) fn save(d: &mut Decoder<'_, '_>) -> Decoded<u32> {
    let (top, kept) = (top(d), d.new32());
    let ins = d.with(unary(|a: u32| a), Class::CompareMove, &[kept, top]);
    d.push(ins, "call;".into())?;
    Ok(kept)
}

/// Gives back what was taken since.
pub(crate) fn restore(d: &mut Decoder<'_, '_>, kept: u32) -> Decoded<()> {
    let top = top(d);
    let ins = d.with(unary(|a: u32| a), Class::CompareMove, &[top, kept]);
    d.push(ins, "ret;".into())
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let wide = super::kind(i) == "u64" || i.has("b64");
    let top = top(d);
    let ins = match (i.parts[0], wide) {
        ("stacksave", true) => {
            let slots = [d.to64(i, 0)?, top];
            d.with(unary(|a: u32| u64::from(a)), Class::CompareMove, &slots)
        }
        ("stacksave", false) => {
            let slots = [d.to32(i, 0)?, top];
            d.with(unary(|a: u32| a), Class::CompareMove, &slots)
        }
        ("stackrestore", true) => {
            let slots = [top, d.from64(i, 0)?];
            d.with(unary(|a: u64| a as u32), Class::CompareMove, &slots)
        }
        ("stackrestore", false) => {
            let slots = [top, d.from32(i, 0, 32)?];
            d.with(unary(|a: u32| a), Class::CompareMove, &slots)
        }
        _ => {
            let align = if i.operands.len() > 2 { d.integer(i, 2)? } else { 8 };
            if !(1..=1 << 10).contains(&align) || align.count_ones() != 1 {
                return Err(d.refuse(i, "an alignment must be a power of two up to 1024"));
            }
            let to = d.operand(i, 0)?.clone();
            let size = d.operand(i, 1)?.clone();
            let wide_size = wide && !matches!(d.register(i, &size), Ok(Reg::R32(..)));
            let slots = match wide {
                true => [d.destination64(i, &to)?, 1],
                false => [d.destination32(i, &to)?, 0],
            };
            let bytes = if wide_size { d.source64(i, &size)? } else { d.source32(i, &size, 32)? };
            let mut ins = d.with(allocate, Class::Memory, &[slots[0], slots[1], bytes, wide_size.into(), top]);
            ins.immediate = align;
            ins
        }
    };
    Ok(Some(ins))
}

/// slots: destination, whether it is wide, size, whether it is wide, how far the stack is taken; `immediate` is the alignment
unsafe fn allocate(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let start = block.launch.entry.code.stack_start.unwrap_or(0);
    let frame = warp.local.len() / LANES;
    for lane in race::lanes(mask) {
        let bytes = match ins.slots[3] {
            0 => u64::from(warp.get32(ins.slots[2])[lane]),
            _ => warp.get64(ins.slots[2])[lane],
        };
        let at = warp.get32(ins.slots[4])[lane].next_multiple_of(ins.immediate as u32);
        let end = u64::from(at) + bytes;
        if bytes > STACK_BYTES.into() || end > u64::from(start + STACK_BYTES) {
            let message =
                format!("alloca of {bytes} bytes on a stack of {STACK_BYTES}, of which {} are taken", at - start);
            return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
        }
        // What was there before is nobody's any more.
        if let Some(written) = warp.local_written.get_mut(lane * frame + at as usize..lane * frame + end as usize) {
            written.fill(0);
        }
        warp.r32[ins.slots[4] as usize][lane] = end as u32;
        match ins.slots[1] {
            0 => warp.r32[ins.slots[0] as usize][lane] = at,
            _ => warp.r64[ins.slots[0] as usize][lane] = at.into(),
        }
    }
    Ok(())
}
