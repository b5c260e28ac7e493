//! Branches, exits, barriers, and what does nothing here.

use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder},
    machine::{Block, Class, Control, Gather, Ins, Step, Warp},
    report::FaultKind,
    weak,
};

/// Nothing: branches and exits are the scheduler's business.
pub(crate) unsafe fn nothing(_: &mut Warp, _: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    Ok(())
}

/// A failed `assert`.
pub(crate) unsafe fn assertion(warp: &mut Warp, block: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    Err(block.fault(warp, mask.trailing_zeros(), FaultKind::Trap, "an assertion of the kernel failed"))
}

unsafe fn trap(warp: &mut Warp, block: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    Err(block.fault(warp, mask.trailing_zeros(), FaultKind::Trap, "the kernel executed trap"))
}

/// A fence: gives the race detector its order.
unsafe fn fence(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, _: u32) -> Step {
    block.race.fence(warp.index, ins.immediate != 0);
    weak::fence(block, warp.index, ins.immediate != 0);
    Ok(())
}

/// What a barrier does with the predicate its threads bring.
pub(crate) const BAR_SYNC: i64 = 0;
pub(crate) const BAR_ARRIVE: i64 = 1;
pub(crate) const BAR_POPC: i64 = 2;
pub(crate) const BAR_AND: i64 = 3;
pub(crate) const BAR_OR: i64 = 4;
/// Bit of `Ins::immediate`: the whole warp must arrive together.
pub(crate) const BAR_ALIGNED: i64 = 8;

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let parts: Vec<&str> = i.parts.clone();
    let ins = match parts[0] {
        "bra" => {
            let Operand::Name(label) = d.operand(i, 0)? else { return Err(d.refuse(i, "a branch needs a label")) };
            let mut ins = d.blank(nothing, Class::Control);
            ins.control = Control::Branch;
            d.jump_to(label, None, i.line);
            ins
        }
        "brx" => {
            let mut ins = d.blank(nothing, Class::Control);
            ins.control = Control::Indexed;
            ins.slots[0] = d.from32(i, 0, 32)?;
            let Operand::Name(list) = d.operand(i, 1)? else { return Err(d.refuse(i, "brx needs a target list")) };
            let Some(targets) = d.find_targets(list) else { return Err(d.refuse(i, format!("no target list {list}"))) };
            ins.more = vec![0; targets.len()].into();
            for (place, label) in targets.into_iter().enumerate() {
                d.jump_to(label, Some(place), i.line);
            }
            ins
        }
        "ret" | "exit" => {
            let mut ins = d.blank(nothing, Class::Control);
            ins.control = Control::Exit;
            ins
        }
        "trap" => d.blank(trap, Class::Control),
        "brkpt" | "nanosleep" | "pmevent" | "griddepcontrol" | "setmaxnreg" | "discard" | "applypriority" => {
            d.blank(nothing, Class::Control)
        }
        "prefetch" | "prefetchu" => d.blank(nothing, Class::Control),
        "membar" | "fence" if !i.has("proxy") && !i.has("mbarrier_init") => {
            d.code.communicates |= !i.has("cta");
            let mut ins = d.blank(fence, Class::Synchronisation);
            ins.immediate = i64::from(parts[0] == "membar" || i.has("sc"));
            ins
        }
        "bar" | "barrier" if !i.has("cluster") => barrier(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(ins))
}

fn barrier<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    if i.has("warp") {
        let mut ins = d.blank(super::collective::warp_barrier, Class::Synchronisation);
        ins.gather = Gather::Members(d.from32(i, 0, 32)?);
        return Ok(ins);
    }
    let kind = match i.parts.iter().skip(1).find(|p| ["sync", "arrive", "red"].contains(p)) {
        Some(&"sync") => BAR_SYNC,
        Some(&"arrive") => BAR_ARRIVE,
        Some(_) if i.has("popc") => BAR_POPC,
        Some(_) if i.has("and") => BAR_AND,
        Some(_) if i.has("or") => BAR_OR,
        _ => return Err(d.unsupported(i)),
    };
    let aligned = i.parts[0] == "bar" || i.has("aligned");
    let mut ins = d.blank(nothing, Class::Synchronisation);
    ins.control = Control::Barrier;
    ins.immediate = kind | if aligned { BAR_ALIGNED } else { 0 };
    let reduces = kind >= BAR_POPC;
    let first = usize::from(reduces);
    let last = i.operands.len() - usize::from(reduces).min(i.operands.len());
    // slots: barrier, thread count, destination, predicate; a count of zero means the block
    ins.slots[0] = d.from32(i, first, 32)?;
    ins.slots[1] = if first + 1 < last { d.from32(i, first + 1, 32)? } else { d.constant32(0) };
    if reduces {
        let operand = d.operand(i, 0)?.clone();
        ins.slots[2] = if kind == BAR_POPC { d.to32(i, 0)? } else { d.to_predicate(i, &operand)? };
        ins.slots[3] = d.from_predicate(i, last)?;
    }
    Ok(ins)
}
