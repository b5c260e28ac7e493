//! `atom` and `red`: lanes one after another, in lane order, as one of the orders the hardware may choose.

use half::{bf16, f16};

use super::{
    access,
    lanes::{Operation, pick},
    memory::{self, GENERIC, GLOBAL, SHARED},
    shared_access,
};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, R32, R64, SINK, Step, Warp},
    memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW},
    report::FaultKind,
    weak,
};

/// What is done to the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    Increment,
    Decrement,
}

const DEEDS: [(&str, Deed); 10] = [
    ("add", Deed::Add),
    ("min", Deed::Min),
    ("max", Deed::Max),
    ("and", Deed::And),
    ("or", Deed::Or),
    ("xor", Deed::Xor),
    ("exch", Deed::Exchange),
    ("cas", Deed::Compare),
    ("inc", Deed::Increment),
    ("dec", Deed::Decrement),
];

const KINDS: [&str; 14] =
    ["u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "f16x2", "bf16x2", "b32", "b64", "b16", "v"];

fn changed(deed: Deed, kind: &str, old: u64, b: u64, c: u64) -> u64 {
    let word = |v: u32| u64::from(v);
    let halves = |f: fn(u16, u16) -> u16| {
        u64::from(f(old as u16, b as u16)) | u64::from(f((old >> 16) as u16, (b >> 16) as u16)) << 16
    };
    let add_f16 = |x: u16, y: u16| f16::from_f32(f16::from_bits(x).to_f32() + f16::from_bits(y).to_f32()).to_bits();
    let add_bf16 = |x: u16, y: u16| bf16::from_f32(bf16::from_bits(x).to_f32() + bf16::from_bits(y).to_f32()).to_bits();
    let less_f16 = |x: u16, y: u16| f16::from_f32(f16::from_bits(x).to_f32().min(f16::from_bits(y).to_f32())).to_bits();
    let more_f16 = |x: u16, y: u16| f16::from_f32(f16::from_bits(x).to_f32().max(f16::from_bits(y).to_f32())).to_bits();
    let less_bf16 =
        |x: u16, y: u16| bf16::from_f32(bf16::from_bits(x).to_f32().min(bf16::from_bits(y).to_f32())).to_bits();
    let more_bf16 =
        |x: u16, y: u16| bf16::from_f32(bf16::from_bits(x).to_f32().max(bf16::from_bits(y).to_f32())).to_bits();
    match (deed, kind) {
        (Deed::Add, "f32") => word((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()),
        (Deed::Add, "f64") => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Deed::Add, "f16") => u64::from(add_f16(old as u16, b as u16)),
        (Deed::Add, "bf16") => u64::from(add_bf16(old as u16, b as u16)),
        (Deed::Add, "f16x2") => halves(add_f16),
        (Deed::Add, "bf16x2") => halves(add_bf16),
        (Deed::Add, "u64" | "s64" | "b64") => old.wrapping_add(b),
        (Deed::Add, _) => word((old as u32).wrapping_add(b as u32)),
        (Deed::Min, "f16") => u64::from(less_f16(old as u16, b as u16)),
        (Deed::Max, "f16") => u64::from(more_f16(old as u16, b as u16)),
        (Deed::Min, "bf16") => u64::from(less_bf16(old as u16, b as u16)),
        (Deed::Max, "bf16") => u64::from(more_bf16(old as u16, b as u16)),
        (Deed::Min, "f16x2") => halves(less_f16),
        (Deed::Max, "f16x2") => halves(more_f16),
        (Deed::Min, "bf16x2") => halves(less_bf16),
        (Deed::Max, "bf16x2") => halves(more_bf16),
        (Deed::Min, "s32") => word((old as i32).min(b as i32) as u32),
        (Deed::Max, "s32") => word((old as i32).max(b as i32) as u32),
        (Deed::Min, "s64") => (old as i64).min(b as i64) as u64,
        (Deed::Max, "s64") => (old as i64).max(b as i64) as u64,
        (Deed::Min, _) => old.min(b),
        (Deed::Max, _) => old.max(b),
        (Deed::And, _) => old & b,
        (Deed::Or, _) => old | b,
        (Deed::Xor, _) => old ^ b,
        (Deed::Exchange, _) => b,
        (Deed::Compare, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (Deed::Increment, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (Deed::Decrement, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

struct Atomic<const SPACE: u8, const WIDTH: usize>;

impl<const SPACE: u8, const WIDTH: usize> Operation for Atomic<SPACE, WIDTH> {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let at = memory::addresses(warp, ins);
        match SPACE {
            GLOBAL => global::<WIDTH>(warp, block, ins, mask, &at),
            SHARED => shared::<WIDTH>(warp, block, ins, mask, &at.map(|a| a.min(u64::from(u32::MAX)) as u32)),
            _ => {
                let mut left = mask;
                while left != 0 {
                    let (window, same) = memory::same_window(&at, left);
                    left &= !same;
                    match window {
                        SHARED_WINDOW => shared::<WIDTH>(warp, block, ins, same, &memory::shared_of_generic(&at))?,
                        LOCAL_WINDOW | PARAM_WINDOW => {
                            let lane = same.trailing_zeros();
                            let message = "an atomic on local or parameter memory";
                            return Err(block.fault(warp, lane, FaultKind::Operand, message));
                        }
                        _ => global::<WIDTH>(warp, block, ins, same, &at)?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// The operands of one lane; slots: 0 address, 1 d, 2 b, 3 c, 10 deed, 11 kind.
fn operands<const WIDTH: usize>(warp: &Warp, ins: &Ins, lane: usize) -> (u64, u64) {
    let get = |slot: u32| match WIDTH {
        8 => warp.get64(slot)[lane],
        2 => u64::from(warp.get32(slot)[lane] & 0xffff),
        _ => u64::from(warp.get32(slot)[lane]),
    };
    (get(ins.slots[2]), get(ins.slots[3]))
}

fn set<const WIDTH: usize>(warp: &mut Warp, ins: &Ins, lane: usize, old: u64) {
    match WIDTH {
        8 => warp.r64[ins.slots[1] as usize][lane] = old,
        _ => warp.r32[ins.slots[1] as usize][lane] = old as u32,
    }
}

fn deed(ins: &Ins) -> (Deed, &'static str) {
    let deed = DEEDS.get(ins.slots[10] as usize).map_or(Deed::Add, |d| d.1);
    (deed, KINDS.get(ins.slots[11] as usize).copied().unwrap_or("u32"))
}

/// What the place will hold; most atomics are integer additions.
#[inline(always)]
fn result((deed, kind): (Deed, &'static str), width: usize, old: u64, b: u64, c: u64) -> u64 {
    match (deed, width) {
        (Deed::Add, 4) if kind.starts_with(['u', 's']) => u64::from((old as u32).wrapping_add(b as u32)),
        _ => changed(deed, kind, old, b, c),
    }
}

/// The most lanes on one address.
#[inline(always)]
fn degree(addresses: &R64, mask: u32) -> u64 {
    let (mut rest, mut most) = (mask, 0);
    while rest.count_ones() > most {
        let address = addresses[rest.trailing_zeros() as usize];
        let same = crate::race::runs::bits(&std::array::from_fn(|lane| u8::from(addresses[lane] == address))) & rest;
        most = most.max(same.count_ones());
        rest &= !same;
    }
    most.into()
}

fn active(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

#[inline(always)]
fn global<const WIDTH: usize>(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32, at: &R64) -> Step {
    let (deed, kind) = deed(ins);
    access::global_atomic::<WIDTH>(block, warp, mask, at, memory::order(ins), deed != Deed::Exchange)?;
    block.counters.atomics += u64::from(mask.count_ones());
    block.counters.atomic_serialised += degree(at, mask);
    for lane in active(mask) {
        let Some((cell, written)) = access::global_cell(block, at[lane], WIDTH) else { continue };
        let (b, c) = operands::<WIDTH>(warp, ins, lane);
        let mut bytes = [0; 8];
        // SAFETY: `global_cell` gives WIDTH bytes inside a live allocation; kernels with atomics run on one thread.
        unsafe { std::ptr::copy_nonoverlapping(cell, bytes.as_mut_ptr(), WIDTH) }
        let old = u64::from_le_bytes(bytes);
        let new = result((deed, kind), WIDTH, old, b, c).to_le_bytes();
        if block.launch.weak.is_some() {
            let order = memory::order(ins);
            weak::store(block, warp.index, (false, at[lane]), order, true, &bytes[..WIDTH], &new[..WIDTH]);
        }
        // SAFETY: as above; the shadow is as long as the data.
        unsafe {
            std::ptr::copy_nonoverlapping(new.as_ptr(), cell, WIDTH);
            if let Some(written) = written {
                std::ptr::write_bytes(written, 1, WIDTH);
            }
        }
        set::<WIDTH>(warp, ins, lane, old);
    }
    Ok(())
}

#[inline(always)]
fn shared<const WIDTH: usize>(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32, at: &R32) -> Step {
    let (deed, kind) = deed(ins);
    let at = shared_access::shared_atomic::<WIDTH>(block, warp, mask, at, memory::order(ins), deed != Deed::Exchange)?;
    block.counters.atomics += u64::from(mask.count_ones());
    block.counters.atomic_serialised += degree(&at.map(u64::from), mask);
    for lane in active(mask) {
        let (b, c) = operands::<WIDTH>(warp, ins, lane);
        let start = (at[lane] & 0xff_ffff) as usize;
        let mut bytes = [0; 8];
        let there =
            shared_access::remote::<WIDTH>(block, warp, lane, at[lane], memory::order(ins), access::Deed::Atomic)?;
        let remote = there.is_some();
        bytes[..WIDTH].copy_from_slice(match &there {
            Some((peer, _)) => &peer.shared.bytes[start..start + WIDTH],
            None => &block.shared.bytes[start..start + WIDTH],
        });
        let old = u64::from_le_bytes(bytes);
        let new = result((deed, kind), WIDTH, old, b, c).to_le_bytes();
        if !remote && block.launch.weak.is_some() {
            let order = memory::order(ins);
            weak::store(block, warp.index, (true, start as u64), order, true, &bytes[..WIDTH], &new[..WIDTH]);
        }
        let cells = match there {
            Some((peer, _)) => &mut peer.shared,
            None => &mut block.shared,
        };
        cells.bytes[start..start + WIDTH].copy_from_slice(&new[..WIDTH]);
        if let Some(written) = cells.written.get_mut(start..start + WIDTH) {
            written.fill(1);
        }
        set::<WIDTH>(warp, ins, lane, old);
    }
    Ok(())
}

/// The function of an atomic of that width on a generic address.
pub(super) fn generic<const WIDTH: usize>() -> crate::machine::OpFn {
    pick::<Atomic<GENERIC, WIDTH>>()
}

/// One operation on what a place holds, by the numbers that slots 10 and 11 hold.
pub(crate) fn apply((deed, kind): (u32, u32), old: u64, value: u64) -> u64 {
    let deed = DEEDS.get(deed as usize).map_or(Deed::Add, |d| d.1);
    changed(deed, KINDS.get(kind as usize).copied().unwrap_or("u32"), old, value, 0)
}

/// The numbers of an asynchronous reduction on integers.
pub(crate) fn integer_numbers(i: &Instruction<'_>, kind: &str) -> Option<(u32, u32)> {
    let deed = DEEDS.iter().position(|(name, _)| i.has(name))?;
    let allowed = !matches!(DEEDS[deed].1, Deed::Exchange | Deed::Compare);
    let kind = KINDS.iter().position(|k| *k == kind && matches!(*k, "u32" | "s32" | "b32" | "u64" | "s64" | "b64"))?;
    allowed.then_some((deed as u32, kind as u32))
}

/// The numbers of a bulk reduction.
pub(crate) fn bulk_numbers(i: &Instruction<'_>, kind: &str) -> Option<(u32, u32)> {
    if let Some(numbers) = integer_numbers(i, kind) {
        return Some(numbers);
    }
    let deed = DEEDS.iter().position(|(name, _)| i.has(name))?;
    let half = matches!(kind, "f16" | "bf16");
    let allowed = DEEDS[deed].1 == Deed::Add || half && matches!(DEEDS[deed].1, Deed::Min | Deed::Max);
    let kind = KINDS.iter().position(|k| *k == kind && (half || matches!(*k, "f32" | "f64")))?;
    allowed.then_some((deed as u32, kind as u32))
}

/// What is done and to which type, as slots 10 and 11 hold it, of a vector's elements.
pub(super) fn numbers(i: &Instruction<'_>, kind: &str) -> Option<(u32, u32)> {
    let deed = DEEDS.iter().position(|(name, _)| i.has(name))?;
    let allowed = DEEDS[deed].1 == Deed::Add || kind != "f32" && matches!(DEEDS[deed].1, Deed::Min | Deed::Max);
    let kind = KINDS.iter().position(|k| *k == kind)?;
    allowed.then_some((deed as u32, kind as u32))
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    // The type stands last, or before the operation of a vector's.
    let kind = i.parts.iter().rev().copied().find(|p| KINDS.contains(p)).unwrap_or_default();
    if ["v2", "v4", "v8"].iter().any(|v| i.has(v)) {
        return super::vector_atomic::decode(d, i, kind);
    }
    let (space, _) = memory::space(i);
    let (Some(bytes), Some(kind_at)) = (crate::parse::type_bytes(kind), KINDS.iter().position(|k| *k == kind)) else {
        return Ok(None);
    };
    let found = DEEDS.iter().enumerate().find(|(_, (name, _))| i.parts.iter().skip(1).any(|p| p == name));
    let Some((deed_at, (_, deed))) = found else { return Ok(None) };
    let float = matches!(kind, "f32" | "f64" | "f16" | "bf16" | "f16x2" | "bf16x2");
    if float && *deed != Deed::Add {
        return Ok(None);
    }
    let run = match (space, bytes) {
        (GLOBAL, 2) => pick::<Atomic<GLOBAL, 2>>(),
        (GLOBAL, 4) => pick::<Atomic<GLOBAL, 4>>(),
        (GLOBAL, 8) => pick::<Atomic<GLOBAL, 8>>(),
        (SHARED, 2) => pick::<Atomic<SHARED, 2>>(),
        (SHARED, 4) => pick::<Atomic<SHARED, 4>>(),
        (SHARED, 8) => pick::<Atomic<SHARED, 8>>(),
        (GENERIC, 2) => pick::<Atomic<GENERIC, 2>>(),
        (GENERIC, 4) => pick::<Atomic<GENERIC, 4>>(),
        (GENERIC, 8) => pick::<Atomic<GENERIC, 8>>(),
        _ => return Ok(None),
    };
    let reduction = i.parts[0] == "red";
    let first = usize::from(!reduction);
    let place = d.place(i, first)?;
    let mut ins = d.blank(run, Class::Memory);
    memory::set_place(&mut ins, place);
    let wide = bytes == 8;
    let source = |d: &mut Decoder<'_, 't>, index: usize| -> Decoded<u32> {
        if wide { d.from64(i, index) } else { d.from32(i, index, 8 * bytes) }
    };
    ins.slots[1] = match reduction || *d.operand(i, 0)? == Operand::Name("_") {
        true => SINK,
        false if wide => d.to64(i, 0)?,
        false => d.to32(i, 0)?,
    };
    ins.slots[2] = source(d, first + 1)?;
    ins.slots[3] = if *deed == Deed::Compare { source(d, first + 2)? } else { 0 };
    ins.slots[10] = deed_at as u32;
    ins.slots[11] = kind_at as u32;
    let order = memory::order_bits(i, true);
    ins.slots[memory::ORDER] = order;
    memory::note(d, space, bytes, 2);
    if *deed == Deed::Compare {
        d.guesses.swap(&ins, bytes);
    }
    Ok(Some(ins))
}
