//! Logic, shifts and bit fields: and or xor not cnot lop3 shl shr shf prmt bfe bfi bfind brev clz popc fns, on words and on
//! predicates.

use super::{
    integer::{by_type, four, integer_type, three, two},
    lanes::{binary, predicate, quaternary, ternary, unary},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, Step, Warp},
};

/// Bit-field extraction by PTX's rules: past the top, zeros or copies of the sign bit.
fn extract(a: u64, position: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let top = bits - 1;
    let sign_at = (position + length).saturating_sub(1).min(top);
    let sign = signed && length > 0 && a >> sign_at & 1 != 0;
    let mut out = 0;
    for k in 0..bits {
        let bit = if k < length && position + k <= top { a >> (position + k) & 1 != 0 } else { sign };
        out |= u64::from(bit) << k;
    }
    out
}

fn insert(a: u64, b: u64, position: u32, length: u32, bits: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= bits || length == 0 {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let field = ones << position;
    b & !field | (a << position) & field
}

/// `prmt` without a mode: each nibble of `selector` picks a byte of {b, a}, its top bit replicates the sign.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |k: u32| {
        let nibble = selector >> (4 * k) & 0xf;
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// The selectors of `prmt`'s special modes, by mode and the two low bits of the selector.
fn permute_mode(mode: &str, low: u32) -> Option<u32> {
    let table = match mode {
        "f4e" => [0x3210, 0x4321, 0x5432, 0x6543],
        "b4e" => [0x5670, 0x6701, 0x7012, 0x0123],
        "rc8" => [0x0000, 0x1111, 0x2222, 0x3333],
        "ecl" => [0x3210, 0x3211, 0x3222, 0x3333],
        "ecr" => [0x0000, 0x1110, 0x2210, 0x3210],
        "rc16" => [0x1010, 0x3232, 0x1010, 0x3232],
        _ => return None,
    };
    Some(table[(low & 3) as usize])
}

unsafe fn lop3(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let mut out = [0u32; LANES];
    let table = ins.immediate as u32;
    let [a, b, c] = [1, 2, 3].map(|s| &warp.r32[ins.slots[s] as usize]);
    for k in 0..8 {
        if table >> k & 1 != 0 {
            for lane in 0..LANES {
                let pick = |v: u32, bit: u32| if bit != 0 { v } else { !v };
                out[lane] |= pick(a[lane], k & 4) & pick(b[lane], k & 2) & pick(c[lane], k & 1);
            }
        }
    }
    warp.set32(ins.slots[0], out, mask);
    Ok(())
}

unsafe fn predicate_logic(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (a, b) = (predicate(warp, ins.slots[1]), predicate(warp, ins.slots[2]));
    let value = match ins.immediate {
        0 => a & b,
        1 => a | b,
        2 => a ^ b,
        _ => !a,
    };
    warp.set_predicate(ins.slots[0], value, mask);
    Ok(())
}

fn predicates<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let which = match i.parts[0] {
        "and" => 0,
        "or" => 1,
        "xor" => 2,
        "not" => 3,
        _ => return Ok(None),
    };
    let to = d.operand(i, 0)?.clone();
    let (to, a) = (d.to_predicate(i, &to)?, d.from_predicate(i, 1)?);
    let b = if which == 3 { a } else { d.from_predicate(i, 2)? };
    let mut ins = d.with(predicate_logic, Class::CompareMove, &[to, a, b]);
    ins.immediate = which;
    Ok(Some(ins))
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    if kind == "pred" {
        return predicates(d, i);
    }
    let Some((bits, signed)) = integer_type(kind) else {
        // `shf.l.wrap.b32`, `prmt.b32.f4e` and the like end otherwise.
        return if i.parts[0] == "prmt" { prmt(d, i) } else { Ok(None) };
    };
    let class = Class::Integer;
    let ins = match i.parts[0] {
        "and" => three(
            d,
            i,
            bits,
            if bits == 64 { binary(|a: u64, b: u64| a & b) } else { binary(|a: u32, b: u32| a & b) },
            class,
        )?,
        "or" => three(
            d,
            i,
            bits,
            if bits == 64 { binary(|a: u64, b: u64| a | b) } else { binary(|a: u32, b: u32| a | b) },
            class,
        )?,
        "xor" => three(
            d,
            i,
            bits,
            if bits == 64 { binary(|a: u64, b: u64| a ^ b) } else { binary(|a: u32, b: u32| a ^ b) },
            class,
        )?,
        "not" => {
            let run = by_type!(kind, unary, ["b16" => u16, "b32" => u32, "b64" => u64], |a| !a);
            two(d, i, bits, run, class)?
        }
        "cnot" => {
            let run = match kind {
                "b16" => unary(|a: u16| u16::from(a == 0)),
                "b32" => unary(|a: u32| u32::from(a == 0)),
                "b64" => unary(|a: u64| u64::from(a == 0)),
                _ => return Ok(None),
            };
            two(d, i, bits, run, class)?
        }
        "lop3" => {
            let mut ins = four(d, i, 32, lop3, class)?;
            ins.immediate = d.integer(i, 4)?;
            ins
        }
        "shl" | "shr" => return shift(d, i, kind, bits),
        "shf" => {
            let run = match (i.has("l"), i.has("clamp")) {
                (true, true) => {
                    ternary(|a: u32, b: u32, c: u32| (((u64::from(b) << 32 | u64::from(a)) << c.min(32)) >> 32) as u32)
                }
                (true, false) => {
                    ternary(|a: u32, b: u32, c: u32| (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32)
                }
                (false, true) => {
                    ternary(|a: u32, b: u32, c: u32| ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32)
                }
                (false, false) => {
                    ternary(|a: u32, b: u32, c: u32| ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32)
                }
            };
            four(d, i, 32, run, class)?
        }
        "prmt" => return prmt(d, i),
        "bfe" => {
            let run = match (bits, signed) {
                (32, false) => ternary(|a: u32, p: u32, n: u32| extract(a.into(), p, n, 32, false) as u32),
                (32, true) => ternary(|a: u32, p: u32, n: u32| extract(a.into(), p, n, 32, true) as u32),
                (64, false) => ternary(|a: u64, p: u32, n: u32| extract(a, p, n, 64, false)),
                (64, true) => ternary(|a: u64, p: u32, n: u32| extract(a, p, n, 64, true)),
                _ => return Ok(None),
            };
            let (p, n) = (d.from32(i, 2, 32)?, d.from32(i, 3, 32)?);
            let (to, a) =
                if bits == 64 { (d.to64(i, 0)?, d.from64(i, 1)?) } else { (d.to32(i, 0)?, d.from32(i, 1, 32)?) };
            d.with(run, class, &[to, a, p, n])
        }
        "bfi" => {
            let run = match bits {
                32 => quaternary(|a: u32, b: u32, p: u32, n: u32| insert(a.into(), b.into(), p, n, 32) as u32),
                64 => quaternary(|a: u64, b: u64, p: u32, n: u32| insert(a, b, p, n, 64)),
                _ => return Ok(None),
            };
            let mut ins = three(d, i, bits, run, class)?;
            (ins.slots[3], ins.slots[4]) = (d.from32(i, 3, 32)?, d.from32(i, 4, 32)?);
            ins
        }
        "bfind" => {
            // Position of the highest bit that is not the sign, or its distance from the top.
            let run = match (kind, i.has("shiftamt")) {
                ("u32", false) => unary(|a: u32| 31u32.wrapping_sub(a.leading_zeros())),
                ("u32", true) => unary(|a: u32| if a == 0 { !0 } else { a.leading_zeros() }),
                ("s32", false) => unary(|a: i32| 31u32.wrapping_sub((if a < 0 { !a } else { a }).leading_zeros())),
                ("s32", true) => unary(|a: i32| match if a < 0 { !a } else { a } {
                    0 => !0,
                    v => v.leading_zeros(),
                }),
                ("u64", false) => unary(|a: u64| 63u32.wrapping_sub(a.leading_zeros())),
                ("u64", true) => unary(|a: u64| if a == 0 { !0 } else { a.leading_zeros() }),
                ("s64", false) => unary(|a: i64| 63u32.wrapping_sub((if a < 0 { !a } else { a }).leading_zeros())),
                ("s64", true) => unary(|a: i64| match if a < 0 { !a } else { a } {
                    0 => !0,
                    v => v.leading_zeros(),
                }),
                _ => return Ok(None),
            };
            let a = if bits == 64 { d.from64(i, 1)? } else { d.from32(i, 1, 32)? };
            let to = d.to32(i, 0)?;
            d.with(run, class, &[to, a])
        }
        "brev" => two(
            d,
            i,
            bits,
            if bits == 64 { unary(|a: u64| a.reverse_bits()) } else { unary(|a: u32| a.reverse_bits()) },
            class,
        )?,
        "clz" | "popc" => {
            let run = match (i.parts[0], bits) {
                ("clz", 32) => unary(|a: u32| a.leading_zeros()),
                ("clz", _) => unary(|a: u64| a.leading_zeros()),
                (_, 32) => unary(|a: u32| a.count_ones()),
                _ => unary(|a: u64| a.count_ones()),
            };
            let a = if bits == 64 { d.from64(i, 1)? } else { d.from32(i, 1, 32)? };
            let to = d.to32(i, 0)?;
            d.with(run, class, &[to, a])
        }
        "fns" => {
            let run = ternary(|mask: u32, base: u32, offset: i32| find_nth_set(mask, base, offset));
            four(d, i, 32, run, class)?
        }
        "bmsk" => {
            let run = match i.has("clamp") {
                true => binary(|a: u32, b: u32| field(a, b)),
                false => binary(|a: u32, b: u32| field(a & 31, b & 31)),
            };
            three(d, i, 32, run, class)?
        }
        "szext" => {
            let run = match (i.has("clamp"), signed) {
                (true, false) => binary(|a: u32, b: u32| extract(a.into(), 0, b.min(32), 32, false) as u32),
                (true, true) => binary(|a: u32, b: u32| extract(a.into(), 0, b.min(32), 32, true) as u32),
                (false, false) => binary(|a: u32, b: u32| extract(a.into(), 0, b & 31, 32, false) as u32),
                (false, true) => binary(|a: u32, b: u32| extract(a.into(), 0, b & 31, 32, true) as u32),
            };
            three(d, i, 32, run, class)?
        }
        _ => return Ok(None),
    };
    Ok(Some(ins))
}

fn field(position: u32, length: u32) -> u32 {
    let ones = if length >= 32 { u32::MAX } else { (1 << length) - 1 };
    if position >= 32 { 0 } else { ones << position }
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    let mut left = offset.unsigned_abs();
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { !0 };
    }
    let up: Vec<u32> = if offset > 0 { (base..32).collect() } else { (0..=base).rev().collect() };
    for position in up {
        if mask >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position;
            }
        }
    }
    !0
}

fn shift<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, kind: &str, bits: u32) -> Decoded<Option<Ins>> {
    let run = match (i.parts[0], kind) {
        ("shl", "b16" | "u16" | "s16") => binary(|a: u16, n: u32| if n > 15 { 0 } else { a << n }),
        ("shl", "b32" | "u32" | "s32") => binary(|a: u32, n: u32| if n > 31 { 0 } else { a << n }),
        ("shl", "b64" | "u64" | "s64") => binary(|a: u64, n: u32| if n > 63 { 0 } else { a << n }),
        (_, "b16" | "u16") => binary(|a: u16, n: u32| if n > 15 { 0 } else { a >> n }),
        (_, "s16") => binary(|a: i16, n: u32| a >> n.min(15)),
        (_, "b32" | "u32") => binary(|a: u32, n: u32| if n > 31 { 0 } else { a >> n }),
        (_, "s32") => binary(|a: i32, n: u32| a >> n.min(31)),
        (_, "b64" | "u64") => binary(|a: u64, n: u32| if n > 63 { 0 } else { a >> n }),
        (_, "s64") => binary(|a: i64, n: u32| a >> n.min(63)),
        _ => return Ok(None),
    };
    let n = d.from32(i, 2, 32)?;
    let (to, a) = if bits == 64 { (d.to64(i, 0)?, d.from64(i, 1)?) } else { (d.to32(i, 0)?, d.from32(i, 1, bits)?) };
    Ok(Some(d.with(run, Class::Integer, &[to, a, n])))
}

unsafe fn prmt_mode(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let mut out = [0u32; LANES];
    for lane in 0..LANES {
        let [a, b, c] = [1, 2, 3].map(|s| warp.r32[ins.slots[s] as usize][lane]);
        out[lane] = permute(a, b, ins.more.get((c & 3) as usize).copied().unwrap_or(0));
    }
    warp.set32(ins.slots[0], out, mask);
    Ok(())
}

fn prmt<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let mode = super::kind(i);
    if mode == "b32" {
        let run = ternary(|a: u32, b: u32, s: u32| permute(a, b, s));
        return Ok(Some(four(d, i, 32, run, Class::Integer)?));
    }
    let table: Option<Vec<u32>> = (0..4).map(|low| permute_mode(mode, low)).collect();
    let Some(table) = table else { return Ok(None) };
    let mut ins = four(d, i, 32, prmt_mode, Class::Integer)?;
    ins.more = table.into();
    Ok(Some(ins))
}
