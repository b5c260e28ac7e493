//! Moves, packing and unpacking of vectors, selections.

use super::{
    integer::integer_type,
    lanes::{predicate, ternary, unary},
};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, Reg, Symbol},
    machine::{Block, Class, Ins, LANES, Step, Warp},
};

/// Bits of any type a move may carry.
fn width(kind: &str) -> Option<u32> {
    match kind {
        "pred" => Some(1),
        _ => crate::parse::type_bytes(kind).map(|b| b * 8),
    }
}

unsafe fn move_predicate(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let value = predicate(warp, ins.slots[1]);
    warp.set_predicate(ins.slots[0], value, mask);
    Ok(())
}

/// Cuts a 64- or 32-bit register into equal parts: slots 0..n are destinations, the last is the source.
unsafe fn unpack(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (bits, count) = ((ins.immediate & 0xff) as u32, (ins.immediate >> 8 & 0xff) as usize);
    let wide = ins.immediate >> 16 & 1 != 0;
    let cut = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
    let source: [u64; LANES] = match wide {
        true => warp.r64[ins.slots[count] as usize],
        false => warp.r32[ins.slots[count] as usize].map(u64::from),
    };
    for (k, slot) in ins.slots[..count].iter().enumerate() {
        let part = source.map(|v| (v >> (bits * k as u32)) as u32 & cut);
        warp.set32(*slot, part, mask);
    }
    Ok(())
}

/// Joins equal parts: slot 0 is the destination.
unsafe fn pack(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (bits, count) = ((ins.immediate & 0xff) as u32, (ins.immediate >> 8 & 0xff) as usize);
    let wide = ins.immediate >> 16 & 1 != 0;
    let mut out = [0u64; LANES];
    for (k, slot) in ins.slots[1..=count].iter().enumerate() {
        let part = &warp.r32[*slot as usize];
        for lane in 0..LANES {
            out[lane] |= u64::from(part[lane]) << (bits * k as u32);
        }
    }
    match wide {
        true => warp.set64(ins.slots[0], out, mask),
        false => warp.set32(ins.slots[0], out.map(|v| v as u32), mask),
    }
    Ok(())
}

unsafe fn select32(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let which = predicate(warp, ins.slots[3]);
    let (a, b) = (&warp.r32[ins.slots[1] as usize], &warp.r32[ins.slots[2] as usize]);
    let mut out = [0u32; LANES];
    for lane in 0..LANES {
        out[lane] = if which >> lane & 1 != 0 { a[lane] } else { b[lane] };
    }
    warp.set32(ins.slots[0], out, mask);
    Ok(())
}

unsafe fn select64(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let which = predicate(warp, ins.slots[3]);
    let (a, b) = (&warp.r64[ins.slots[1] as usize], &warp.r64[ins.slots[2] as usize]);
    let mut out = [0u64; LANES];
    for lane in 0..LANES {
        out[lane] = if which >> lane & 1 != 0 { a[lane] } else { b[lane] };
    }
    warp.set64(ins.slots[0], out, mask);
    Ok(())
}

/// Clocks tick with the block's instructions: monotone, and equal for equal seeds.
unsafe fn clock(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    match ins.immediate {
        64 => warp.set64(ins.slots[0], [block.clock; LANES], mask),
        _ => warp.set32(ins.slots[0], [block.clock as u32; LANES], mask),
    }
    Ok(())
}

unsafe fn dynamic_size(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    warp.set32(ins.slots[0], [block.launch.dynamic_shared; LANES], mask);
    Ok(())
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    let Some(bits) = width(kind) else { return Ok(None) };
    match i.parts[0] {
        "mov" => mov(d, i, bits).map(Some),
        "selp" => {
            let p = d.from_predicate(i, 3)?;
            let ins = match bits {
                64 => {
                    let slots = [d.to64(i, 0)?, d.from64(i, 1)?, d.from64(i, 2)?, p];
                    d.with(select64, Class::CompareMove, &slots)
                }
                _ => {
                    let slots = [d.to32(i, 0)?, d.from32(i, 1, bits)?, d.from32(i, 2, bits)?, p];
                    d.with(select32, Class::CompareMove, &slots)
                }
            };
            Ok(Some(ins))
        }
        "slct" => {
            let of = i.parts.get(i.parts.len().saturating_sub(2)).copied().unwrap_or_default();
            let by = d.from32(i, 3, 32)?;
            let bits = integer_type(of).map(|t| t.0).or(width(of)).unwrap_or(32);
            let run = match (bits, kind) {
                (64, "s32") => ternary(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
                (64, "f32") => ternary(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
                (_, "s32") => ternary(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
                (_, "f32") => ternary(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
                _ => return Ok(None),
            };
            let slots = match bits {
                64 => [d.to64(i, 0)?, d.from64(i, 1)?, d.from64(i, 2)?, by],
                _ => [d.to32(i, 0)?, d.from32(i, 1, bits)?, d.from32(i, 2, bits)?, by],
            };
            Ok(Some(d.with(run, Class::CompareMove, &slots)))
        }
        _ => Ok(None),
    }
}

fn mov<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, bits: u32) -> Decoded<Ins> {
    let class = Class::CompareMove;
    let (to, from) = (d.operand(i, 0)?.clone(), d.operand(i, 1)?.clone());
    if bits == 1 {
        let slots = [d.to_predicate(i, &to)?, d.from_predicate(i, 1)?];
        return Ok(d.with(move_predicate, class, &slots));
    }
    match (&to, &from) {
        (Operand::Vector(parts), _) => {
            let mut slots = Vec::new();
            for part in parts {
                slots.push(d.destination32(i, part)?);
            }
            slots.push(if bits == 64 { d.source64(i, &from)? } else { d.source32(i, &from, bits)? });
            let mut ins = d.with(unpack, class, &slots);
            ins.immediate = packing(d, i, bits, parts.len())?;
            return Ok(ins);
        }
        (_, Operand::Vector(parts)) => {
            let mut slots = vec![if bits == 64 { d.destination64(i, &to)? } else { d.destination32(i, &to)? }];
            for part in parts {
                slots.push(d.source32(i, part, bits / parts.len().max(1) as u32)?);
            }
            let mut ins = d.with(pack, class, &slots);
            ins.immediate = packing(d, i, bits, parts.len())?;
            return Ok(ins);
        }
        (_, Operand::Name("%clock64" | "%globaltimer" | "%clock" | "%clock_hi" | "%globaltimer_lo")) => {
            let slots = [if bits == 64 { d.destination64(i, &to)? } else { d.destination32(i, &to)? }];
            let mut ins = d.with(clock, class, &slots);
            ins.immediate = i64::from(bits);
            return Ok(ins);
        }
        (_, Operand::Name("%dynamic_smem_size")) => {
            let slots = [d.destination32(i, &to)?];
            return Ok(d.with(dynamic_size, class, &slots));
        }
        _ => {}
    }
    if bits == 64 {
        let to = d.destination64(i, &to)?;
        let dynamic = match &from {
            Operand::Name(name) | Operand::Offset(name, _) => matches!(d.find(name), Some(Symbol::Dynamic)),
            _ => false,
        };
        if dynamic {
            let addend = if let Operand::Offset(_, addend) = from { addend } else { 0 };
            let start = d.dynamic_shared();
            let addend = d.constant64(addend as u64);
            let run = super::lanes::binary(|a: u32, b: u64| u64::from(a).wrapping_add(b));
            return Ok(d.with(run, class, &[to, start, addend]));
        }
        // A 32-bit special register read as 64 bits.
        if let Operand::Name(name) = from
            && name.starts_with('%')
            && d.find(name).is_none()
        {
            let slot = d.source32(i, &from, 32)?;
            return Ok(d.with(unary(|a: u32| u64::from(a)), class, &[to, slot]));
        }
        let from = d.source64(i, &from)?;
        return Ok(d.with(unary(|a: u64| a), class, &[to, from]));
    }
    if bits == 32
        && let Operand::Offset(name, addend) = from
        && matches!(d.find(name), Some(Symbol::Dynamic))
    {
        let (to, start, addend) = (d.destination32(i, &to)?, d.dynamic_shared(), d.constant32(addend as u32));
        return Ok(d.with(super::lanes::binary(|a: u32, b: u32| a.wrapping_add(b)), class, &[to, start, addend]));
    }
    let narrow = matches!(d.register(i, &to), Ok(Reg::R32(_, 16 | 8))) || bits == 16;
    let slots = [d.destination32(i, &to)?, d.source32(i, &from, bits)?];
    Ok(match narrow {
        true => d.with(unary(|a: u16| a), class, &slots),
        false => d.with(unary(|a: u32| a), class, &slots),
    })
}

fn packing(d: &Decoder<'_, '_>, i: &Instruction<'_>, bits: u32, count: usize) -> Decoded<i64> {
    let part = bits / count.max(1) as u32;
    match (bits, part) {
        (64, 32 | 16 | 8) | (32, 16 | 8) | (16, 8) => {
            Ok(i64::from(part) | (count as i64) << 8 | i64::from(bits == 64) << 16)
        }
        _ => Err(d.unsupported(i)),
    }
}
