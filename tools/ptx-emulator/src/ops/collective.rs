//! What the lanes of a warp do together: shfl vote match redux activemask elect, and `bar.warp.sync`. The scheduler has
//! gathered the lanes of the member mask; lanes with other masks form calls of their own.

use super::lanes::predicate;
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, flow},
    machine::{Block, Class, Gather, Ins, LANES, Step, Warp},
    report::FaultKind,
    undefined,
};

pub(crate) unsafe fn warp_barrier(_: &mut Warp, _: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    Ok(())
}

const UP: i64 = 0;
const DOWN: i64 = 1;
const BUTTERFLY: i64 = 2;
const INDEX: i64 = 3;

/// slots: d, a, lane operand, clamp, p
unsafe fn shuffle(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let a = *warp.get32(ins.slots[1]);
    let (absent, unknown) = (!mask, warp.undefined.lanes32(ins.slots[1]));
    let (mut from_absent, mut from_unknown) = (0u32, 0u32);
    let (b, c) = (warp.get32(ins.slots[2]), warp.get32(ins.slots[3]));
    let mut out = [0u32; LANES];
    let mut valid = 0u32;
    for lane in 0..LANES as u32 {
        let at = lane as usize;
        let by = b[at] & 31;
        let segment = c[at] >> 8 & 31;
        let clamp = c[at] & 31;
        let most = lane & segment | clamp & !segment;
        let least = lane & segment;
        let (from, inside) = match ins.immediate {
            UP => (lane.wrapping_sub(by), lane as i32 - by as i32 >= most as i32),
            DOWN => (lane + by, lane + by <= most),
            BUTTERFLY => (lane ^ by, lane ^ by <= most),
            _ => (least | by & !segment, (least | by & !segment) <= most),
        };
        let from = if inside { from & 31 } else { lane };
        // A lane outside the call has no value to give.
        from_absent |= (absent >> from & 1) << lane;
        from_unknown |= (unknown >> from & 1) << lane;
        out[at] = a[from as usize];
        valid |= u32::from(inside) << lane;
    }
    warp.set_predicate(ins.slots[4], valid, mask);
    warp.set32(ins.slots[0], out, mask);
    if warp.undefined.any() {
        from_unknown |= warp.undefined.lanes32(ins.slots[2]) | warp.undefined.lanes32(ins.slots[3]);
        warp.undefined.derive32(ins.slots[0], mask, from_unknown, &ins.slots[1..4]);
    }
    if from_absent & mask != 0 && block.launch.options.checks.sync {
        let words = "a value shuffled from a lane that has exited or takes no part";
        let register = (flow::r32(ins.slots[0]), from_absent & mask);
        undefined::begin(warp, block, &[register], FaultKind::Divergence, words, None);
    }
    Ok(())
}

const ALL: i64 = 0;
const ANY: i64 = 1;
const UNIFORM: i64 = 2;
const BALLOT: i64 = 3;

/// slots: d, predicate
unsafe fn vote(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let held = predicate(warp, ins.slots[1]) & mask;
    match ins.immediate {
        ALL => warp.set_predicate(ins.slots[0], if held == mask { !0 } else { 0 }, mask),
        ANY => warp.set_predicate(ins.slots[0], if held != 0 { !0 } else { 0 }, mask),
        UNIFORM => warp.set_predicate(ins.slots[0], if held == mask || held == 0 { !0 } else { 0 }, mask),
        _ => warp.set32(ins.slots[0], [held; LANES], mask),
    }
    Ok(())
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

/// slots: d, a, p; `immediate` bit 0: 64 bits, bit 1: all
unsafe fn matching(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let values: [u64; LANES] = match ins.immediate & 1 {
        0 => warp.get32(ins.slots[1]).map(u64::from),
        _ => *warp.get64(ins.slots[1]),
    };
    let mut out = [0u32; LANES];
    for lane in lanes(mask) {
        out[lane] = lanes(mask).filter(|other| values[*other] == values[lane]).fold(0, |m, other| m | 1 << other);
    }
    if ins.immediate & 2 != 0 {
        let same = lanes(mask).all(|lane| out[lane] == mask);
        out = [if same { mask } else { 0 }; LANES];
        warp.set_predicate(ins.slots[2], if same { !0 } else { 0 }, mask);
    }
    warp.set32(ins.slots[0], out, mask);
    Ok(())
}

/// slots: d, a
unsafe fn reduce(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let a = warp.get32(ins.slots[1]);
    let values = lanes(mask).map(|lane| a[lane]);
    let found = match ins.immediate {
        0 => values.fold(0, u32::wrapping_add),
        1 => values.min().unwrap_or(0),
        2 => values.max().unwrap_or(0),
        3 => values.map(|v| v as i32).min().unwrap_or(0) as u32,
        4 => values.map(|v| v as i32).max().unwrap_or(0) as u32,
        5 => values.fold(!0, |x, y| x & y),
        6 => values.fold(0, |x, y| x | y),
        _ => values.fold(0, |x, y| x ^ y),
    };
    warp.set32(ins.slots[0], [found; LANES], mask);
    Ok(())
}

unsafe fn active(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    warp.set32(ins.slots[0], [mask; LANES], mask);
    Ok(())
}

/// slots: d, p: the lowest lane of the call is elected
unsafe fn elect(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let leader = mask.trailing_zeros();
    warp.set32(ins.slots[0], [leader; LANES], mask);
    warp.set_predicate(ins.slots[1], 1u32.checked_shl(leader).unwrap_or(0), mask);
    Ok(())
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let class = Class::Collective;
    let sync = i.has("sync");
    let members = |d: &mut Decoder<'_, 't>, index: usize| -> Decoded<Gather> {
        if sync { Ok(Gather::Members(d.from32(i, index, 32)?)) } else { Ok(Gather::No) }
    };
    let which = i.parts.iter().skip(1).find(|p| **p != "sync").copied().unwrap_or_default();
    let first = |d: &Decoder<'_, 't>| -> Decoded<(Operand<'t>, Operand<'t>)> {
        Ok(match d.operand(i, 0)?.clone() {
            Operand::Pair(a, b) => (Operand::Name(a), Operand::Name(b)),
            one => (one, Operand::Name("_")),
        })
    };
    let ins = match i.parts[0] {
        "shfl" => {
            let kind = match which {
                "up" => UP,
                "down" => DOWN,
                "bfly" => BUTTERFLY,
                "idx" => INDEX,
                _ => return Ok(None),
            };
            let (to, p) = first(d)?;
            let slots = [
                d.destination32(i, &to)?,
                d.from32(i, 1, 32)?,
                d.from32(i, 2, 32)?,
                d.from32(i, 3, 32)?,
                d.to_predicate(i, &p)?,
            ];
            let mut ins = d.with(shuffle, class, &slots);
            ins.immediate = kind;
            ins.gather = members(d, 4)?;
            ins
        }
        "vote" => {
            let kind = match which {
                "all" => ALL,
                "any" => ANY,
                "uni" => UNIFORM,
                "ballot" => BALLOT,
                _ => return Ok(None),
            };
            let to = d.operand(i, 0)?.clone();
            let to = if kind == BALLOT { d.destination32(i, &to)? } else { d.to_predicate(i, &to)? };
            let slots = [to, d.from_predicate(i, 1)?];
            let mut ins = d.with(vote, class, &slots);
            ins.immediate = kind;
            ins.gather = members(d, 2)?;
            ins
        }
        "match" => {
            let wide = super::kind(i) == "b64";
            let (to, p) = first(d)?;
            let a = if wide { d.from64(i, 1)? } else { d.from32(i, 1, 32)? };
            let slots = [d.destination32(i, &to)?, a, d.to_predicate(i, &p)?];
            let mut ins = d.with(matching, class, &slots);
            ins.immediate = i64::from(wide) | i64::from(which == "all") << 1;
            ins.gather = members(d, 2)?;
            ins
        }
        "redux" => {
            let kind = match (which, super::kind(i)) {
                ("add", "u32" | "s32") => 0,
                ("min", "u32") => 1,
                ("max", "u32") => 2,
                ("min", "s32") => 3,
                ("max", "s32") => 4,
                ("and", "b32") => 5,
                ("or", "b32") => 6,
                ("xor", "b32") => 7,
                _ => return Ok(None),
            };
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?];
            let mut ins = d.with(reduce, class, &slots);
            ins.immediate = kind;
            ins.gather = members(d, 2)?;
            ins
        }
        "activemask" => {
            let slots = [d.to32(i, 0)?];
            d.with(active, class, &slots)
        }
        "elect" => {
            let (to, p) = first(d)?;
            let slots = [d.destination32(i, &to)?, d.to_predicate(i, &p)?];
            let mut ins = d.with(elect, class, &slots);
            ins.gather = members(d, 1)?;
            ins
        }
        _ => return Ok(None),
    };
    Ok(Some(ins))
}
