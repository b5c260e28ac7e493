//! Integer arithmetic: add sub mul mad div rem min max neg abs sad, with carry, and the dot products.

use super::lanes::{binary, predicate, ternary, unary};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, OpFn, Step, Warp},
};

/// Width in bits and signedness of an integer type.
pub(crate) fn integer_type(kind: &str) -> Option<(u32, bool)> {
    Some(match kind {
        "u8" | "b8" => (8, false),
        "s8" => (8, true),
        "u16" | "b16" => (16, false),
        "s16" => (16, true),
        "u32" | "b32" => (32, false),
        "s32" => (32, true),
        "u64" | "b64" => (64, false),
        "s64" => (64, true),
        _ => return None,
    })
}

/// d, a, b of one width.
pub(crate) fn three<'t>(
    d: &mut Decoder<'_, 't>,
    i: &Instruction<'t>,
    bits: u32,
    run: OpFn,
    class: Class,
) -> Decoded<Ins> {
    let slots = match bits {
        64 => [d.to64(i, 0)?, d.from64(i, 1)?, d.from64(i, 2)?],
        _ => [d.to32(i, 0)?, d.from32(i, 1, bits)?, d.from32(i, 2, bits)?],
    };
    Ok(d.with(run, class, &slots))
}

/// d, a of one width.
pub(crate) fn two<'t>(
    d: &mut Decoder<'_, 't>,
    i: &Instruction<'t>,
    bits: u32,
    run: OpFn,
    class: Class,
) -> Decoded<Ins> {
    let slots = match bits {
        64 => [d.to64(i, 0)?, d.from64(i, 1)?],
        _ => [d.to32(i, 0)?, d.from32(i, 1, bits)?],
    };
    Ok(d.with(run, class, &slots))
}

/// d, a, b, c of one width.
pub(crate) fn four<'t>(
    d: &mut Decoder<'_, 't>,
    i: &Instruction<'t>,
    bits: u32,
    run: OpFn,
    class: Class,
) -> Decoded<Ins> {
    let slots = match bits {
        64 => [d.to64(i, 0)?, d.from64(i, 1)?, d.from64(i, 2)?, d.from64(i, 3)?],
        _ => [d.to32(i, 0)?, d.from32(i, 1, bits)?, d.from32(i, 2, bits)?, d.from32(i, 3, bits)?],
    };
    Ok(d.with(run, class, &slots))
}

/// One closure for every integer type: picks by the instruction's.
macro_rules! by_type {
    ($kind:expr, $shape:ident, [], |$($v:ident),*| $body:expr) => { return Ok(None) };
    ($kind:expr, $shape:ident, [$name:literal => $t:ty $(, $names:literal => $ts:ty)*], |$($v:ident),*| $body:expr) => {
        if $kind == $name {
            $shape(|$($v: $t),*| -> $t { $body })
        } else {
            $crate::ops::integer::by_type!($kind, $shape, [$($names => $ts),*], |$($v),*| $body)
        }
    };
}
pub(crate) use by_type;

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    if i.parts[0] == "vabsdiff4" && i.has("add") {
        return packed_bytes(d, i);
    }
    let kind = super::kind(i);
    let Some((bits, _)) = integer_type(kind) else { return Ok(None) };
    let class = Class::Integer;
    let saturate = i.has("sat");
    let ins = match i.parts[0] {
        "add" | "sub" | "addc" | "subc" if i.has("cc") || i.parts[0].ends_with('c') => {
            return carry(d, i, bits).map(Some);
        }
        "mad" | "madc" if i.has("cc") || i.parts[0].ends_with('c') => return carry(d, i, bits).map(Some),
        "add" if saturate => three(d, i, bits, binary(|a: i32, b: i32| a.saturating_add(b)), class)?,
        "sub" if saturate => three(d, i, bits, binary(|a: i32, b: i32| a.saturating_sub(b)), class)?,
        "add" => {
            let run = by_type!(kind, binary, ["u16" => u16, "s16" => u16, "u32" => u32, "s32" => u32, "b32" => u32,
                "u64" => u64, "s64" => u64, "b64" => u64], |a, b| a.wrapping_add(b));
            three(d, i, bits, run, class)?
        }
        "sub" => {
            let run = by_type!(kind, binary, ["u16" => u16, "s16" => u16, "u32" => u32, "s32" => u32, "b32" => u32,
                "u64" => u64, "s64" => u64, "b64" => u64], |a, b| a.wrapping_sub(b));
            three(d, i, bits, run, class)?
        }
        "mul" | "mul24" => return multiply(d, i, kind, bits),
        "mad" | "mad24" => return multiply_add(d, i, kind, bits),
        // Division by zero gives all ones and the dividend, as on the hardware.
        "div" => {
            let run = match kind {
                "u16" => binary(|a: u16, b: u16| a.checked_div(b).unwrap_or(!0)),
                "s16" => binary(|a: i16, b: i16| if b == 0 { -1 } else { a.wrapping_div(b) }),
                "u32" => binary(|a: u32, b: u32| a.checked_div(b).unwrap_or(!0)),
                "s32" => binary(|a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) }),
                "u64" => binary(|a: u64, b: u64| a.checked_div(b).unwrap_or(!0)),
                "s64" => binary(|a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) }),
                _ => return Ok(None),
            };
            three(d, i, bits, run, class)?
        }
        "rem" => {
            let run = match kind {
                "u16" => binary(|a: u16, b: u16| a.checked_rem(b).unwrap_or(a)),
                "s16" => binary(|a: i16, b: i16| if b == 0 { a } else { a.wrapping_rem(b) }),
                "u32" => binary(|a: u32, b: u32| a.checked_rem(b).unwrap_or(a)),
                "s32" => binary(|a: i32, b: i32| if b == 0 { a } else { a.wrapping_rem(b) }),
                "u64" => binary(|a: u64, b: u64| a.checked_rem(b).unwrap_or(a)),
                "s64" => binary(|a: i64, b: i64| if b == 0 { a } else { a.wrapping_rem(b) }),
                _ => return Ok(None),
            };
            three(d, i, bits, run, class)?
        }
        "min" => {
            let run = by_type!(kind, binary, ["u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32, "u64" => u64,
                "s64" => i64], |a, b| a.min(b));
            three(d, i, bits, run, class)?
        }
        "max" => {
            let run = by_type!(kind, binary, ["u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32, "u64" => u64,
                "s64" => i64], |a, b| a.max(b));
            three(d, i, bits, run, class)?
        }
        "neg" => {
            let run = by_type!(kind, unary, ["s16" => i16, "s32" => i32, "s64" => i64], |a| a.wrapping_neg());
            two(d, i, bits, run, class)?
        }
        "abs" => {
            let run = by_type!(kind, unary, ["s16" => i16, "s32" => i32, "s64" => i64], |a| a.wrapping_abs());
            two(d, i, bits, run, class)?
        }
        "sad" => {
            let run = match kind {
                "u16" => ternary(|a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b))),
                "s16" => ternary(|a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b))),
                "u32" => ternary(|a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
                "s32" => ternary(|a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
                "u64" => ternary(|a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b))),
                "s64" => ternary(|a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b))),
                _ => return Ok(None),
            };
            four(d, i, bits, run, class)?
        }
        "dp4a" | "dp2a" => return dot(d, i).map(Some),
        "vadd4" | "vsub4" | "vmin4" | "vmax4" | "vavrg4" | "vabsdiff4" => return packed_bytes(d, i),
        _ => return Ok(None),
    };
    Ok(Some(ins))
}

fn multiply<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, kind: &str, bits: u32) -> Decoded<Option<Ins>> {
    let class = Class::Integer;
    if i.has("wide") {
        let run = match kind {
            "u16" => binary(|a: u16, b: u16| u32::from(a) * u32::from(b)),
            "s16" => binary(|a: i16, b: i16| i32::from(a) * i32::from(b)),
            "u32" => binary(|a: u32, b: u32| u64::from(a) * u64::from(b)),
            "s32" => binary(|a: i32, b: i32| i64::from(a) * i64::from(b)),
            _ => return Ok(None),
        };
        let to = if bits == 32 { d.to64(i, 0)? } else { d.to32(i, 0)? };
        let slots = [to, d.from32(i, 1, bits)?, d.from32(i, 2, bits)?];
        return Ok(Some(d.with(run, class, &slots)));
    }
    let run = if i.parts[0] == "mul24" {
        match (i.has("hi"), kind) {
            (false, "u32") => binary(|a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
            (false, "s32") => binary(|a: i32, b: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8)),
            _ => return Ok(None),
        }
    } else if i.has("hi") {
        match kind {
            "u16" => binary(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
            "s16" => binary(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
            "u32" => binary(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            "s32" => binary(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
            "u64" => binary(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            "s64" => binary(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
            _ => return Ok(None),
        }
    } else {
        by_type!(kind, binary, ["u16" => u16, "s16" => u16, "u32" => u32, "s32" => u32, "b32" => u32, "u64" => u64,
            "s64" => u64, "b64" => u64], |a, b| a.wrapping_mul(b))
    };
    Ok(Some(three(d, i, bits, run, class)?))
}

fn multiply_add<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, kind: &str, bits: u32) -> Decoded<Option<Ins>> {
    let class = Class::Integer;
    if i.has("wide") {
        let run = match kind {
            "u16" => ternary(|a: u16, b: u16, c: u32| c.wrapping_add(u32::from(a) * u32::from(b))),
            "s16" => ternary(|a: i16, b: i16, c: i32| c.wrapping_add(i32::from(a) * i32::from(b))),
            "u32" => ternary(|a: u32, b: u32, c: u64| c.wrapping_add(u64::from(a) * u64::from(b))),
            "s32" => ternary(|a: i32, b: i32, c: i64| c.wrapping_add(i64::from(a) * i64::from(b))),
            _ => return Ok(None),
        };
        let (a, b) = (d.from32(i, 1, bits)?, d.from32(i, 2, bits)?);
        let slots = match bits {
            32 => [d.to64(i, 0)?, a, b, d.from64(i, 3)?],
            _ => [d.to32(i, 0)?, a, b, d.from32(i, 3, 32)?],
        };
        return Ok(Some(d.with(run, class, &slots)));
    }
    let run = if i.has("hi") {
        match kind {
            "u32" => ternary(|a: u32, b: u32, c: u32| c.wrapping_add(((u64::from(a) * u64::from(b)) >> 32) as u32)),
            "s32" => ternary(|a: i32, b: i32, c: i32| c.wrapping_add(((i64::from(a) * i64::from(b)) >> 32) as i32)),
            "u64" => ternary(|a: u64, b: u64, c: u64| c.wrapping_add(((u128::from(a) * u128::from(b)) >> 64) as u64)),
            "s64" => ternary(|a: i64, b: i64, c: i64| c.wrapping_add(((i128::from(a) * i128::from(b)) >> 64) as i64)),
            _ => return Ok(None),
        }
    } else if i.parts[0] == "mad24" {
        match kind {
            "u32" => ternary(|a: u32, b: u32, c: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c)),
            "s32" => ternary(|a: i32, b: i32, c: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c)),
            _ => return Ok(None),
        }
    } else {
        by_type!(kind, ternary, ["u16" => u16, "s16" => u16, "u32" => u32, "s32" => u32, "u64" => u64, "s64" => u64],
            |a, b, c| a.wrapping_mul(b).wrapping_add(c))
    };
    Ok(Some(four(d, i, bits, run, class)?))
}

const TAKES: u32 = 1;
const GIVES: u32 = 2;
const SUBTRACTS: u32 = 4;
const MULTIPLIES: u32 = 8;
const HIGH: u32 = 16;
const SIGNED: u32 = 32;

/// The carry flag `CC.CF` of the threads is a predicate register of its own.
fn carry<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, bits: u32) -> Decoded<Ins> {
    let opcode = i.parts[0];
    let mut flags = 0;
    flags |= if opcode.ends_with('c') { TAKES } else { 0 };
    flags |= if i.has("cc") { GIVES } else { 0 };
    flags |= if opcode.starts_with("sub") { SUBTRACTS } else { 0 };
    flags |= if opcode.starts_with("mad") { MULTIPLIES } else { 0 };
    flags |= if i.has("hi") { HIGH } else { 0 };
    flags |= if super::kind(i).starts_with('s') { SIGNED } else { 0 };
    let run = if bits == 64 { with_carry64 } else { with_carry32 };
    let mut ins = match flags & MULTIPLIES {
        0 => three(d, i, bits, run, Class::Integer)?,
        _ => four(d, i, bits, run, Class::Integer)?,
    };
    ins.immediate = i64::from(flags);
    ins.slots[4] = d.carry_slot();
    Ok(ins)
}

/// One lane of extended-precision arithmetic: result and carry (borrow inverted, as PTX keeps it).
fn carried(a: u64, b: u64, c: u64, carry: bool, flags: u32, bits: u32) -> (u64, bool) {
    let cut = if bits == 64 { u64::MAX } else { u64::from(u32::MAX) };
    let (left, right) = if flags & MULTIPLIES != 0 {
        let product = match flags & SIGNED {
            0 => u128::from(a) * u128::from(b),
            _ if bits == 64 => (i128::from(a as i64) * i128::from(b as i64)) as u128,
            _ => (i128::from(a as u32 as i32) * i128::from(b as u32 as i32)) as u128,
        };
        let part = if flags & HIGH != 0 { (product >> bits) as u64 } else { product as u64 };
        (part & cut, c)
    } else {
        (a, b)
    };
    let carry = u128::from(carry && flags & TAKES != 0);
    if flags & SUBTRACTS != 0 {
        let take = u128::from(right) + carry;
        ((u128::from(left).wrapping_sub(take) as u64) & cut, u128::from(left) < take)
    } else {
        let sum = u128::from(left) + u128::from(right) + carry;
        (sum as u64 & cut, sum > u128::from(cut))
    }
}

unsafe fn with_carry32(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let flags = ins.immediate as u32;
    let held = predicate(warp, ins.slots[4]);
    let (mut out, mut carries) = ([0u32; LANES], 0u32);
    for lane in 0..LANES {
        let [a, b, c] = [1, 2, 3].map(|s| u64::from(warp.r32[ins.slots[s] as usize][lane]));
        let (value, carry) = carried(a, b, c, held >> lane & 1 != 0, flags, 32);
        out[lane] = value as u32;
        carries |= u32::from(carry) << lane;
    }
    warp.set32(ins.slots[0], out, mask);
    if flags & GIVES != 0 {
        warp.set_predicate(ins.slots[4], carries, mask);
    }
    Ok(())
}

unsafe fn with_carry64(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let flags = ins.immediate as u32;
    let held = predicate(warp, ins.slots[4]);
    let (mut out, mut carries) = ([0u64; LANES], 0u32);
    for lane in 0..LANES {
        let [a, b, c] = [1, 2, 3].map(|s| warp.r64[ins.slots[s] as usize][lane]);
        let (value, carry) = carried(a, b, c, held >> lane & 1 != 0, flags, 64);
        out[lane] = value;
        carries |= u32::from(carry) << lane;
    }
    warp.set64(ins.slots[0], out, mask);
    if flags & GIVES != 0 {
        warp.set_predicate(ins.slots[4], carries, mask);
    }
    Ok(())
}

fn signed_bytes(v: u32) -> [i32; 4] {
    v.to_le_bytes().map(|b| i32::from(b as i8))
}

fn unsigned_bytes(v: u32) -> [i32; 4] {
    v.to_le_bytes().map(i32::from)
}

#[inline(always)]
fn sum4(a: [i32; 4], b: [i32; 4], c: u32) -> u32 {
    (0..4).fold(c, |sum, k| sum.wrapping_add((a[k] * b[k]) as u32))
}

/// Two products: `a`'s 16-bit halves with two bytes of `b`.
#[inline(always)]
fn sum2(a: [i32; 2], b: [i32; 4], first: usize, c: u32) -> u32 {
    (0..2).fold(c, |sum, k| sum.wrapping_add(a[k].wrapping_mul(b[first + k]) as u32))
}

fn signed_halves(v: u32) -> [i32; 2] {
    [i32::from(v as i16), i32::from((v >> 16) as i16)]
}

fn unsigned_halves(v: u32) -> [i32; 2] {
    [(v & 0xffff) as i32, (v >> 16) as i32]
}

fn dot<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let kinds: Vec<bool> = i.parts.iter().filter(|p| ["u32", "s32"].contains(p)).map(|p| *p == "s32").collect();
    let (a, b) = match kinds[..] {
        [a, b] => (a, b),
        _ => return Err(d.unsupported(i)),
    };
    let run = match (i.parts[0], i.has("hi"), a, b) {
        ("dp4a", _, true, true) => ternary(|a: u32, b: u32, c: u32| sum4(signed_bytes(a), signed_bytes(b), c)),
        ("dp4a", _, true, false) => ternary(|a: u32, b: u32, c: u32| sum4(signed_bytes(a), unsigned_bytes(b), c)),
        ("dp4a", _, false, true) => ternary(|a: u32, b: u32, c: u32| sum4(unsigned_bytes(a), signed_bytes(b), c)),
        ("dp4a", _, false, false) => ternary(|a: u32, b: u32, c: u32| sum4(unsigned_bytes(a), unsigned_bytes(b), c)),
        (_, false, true, true) => ternary(|a: u32, b: u32, c: u32| sum2(signed_halves(a), signed_bytes(b), 0, c)),
        (_, false, true, false) => ternary(|a: u32, b: u32, c: u32| sum2(signed_halves(a), unsigned_bytes(b), 0, c)),
        (_, false, false, true) => ternary(|a: u32, b: u32, c: u32| sum2(unsigned_halves(a), signed_bytes(b), 0, c)),
        (_, false, false, false) => ternary(|a: u32, b: u32, c: u32| sum2(unsigned_halves(a), unsigned_bytes(b), 0, c)),
        (_, true, true, true) => ternary(|a: u32, b: u32, c: u32| sum2(signed_halves(a), signed_bytes(b), 2, c)),
        (_, true, true, false) => ternary(|a: u32, b: u32, c: u32| sum2(signed_halves(a), unsigned_bytes(b), 2, c)),
        (_, true, false, true) => ternary(|a: u32, b: u32, c: u32| sum2(unsigned_halves(a), signed_bytes(b), 2, c)),
        (_, true, false, false) => ternary(|a: u32, b: u32, c: u32| sum2(unsigned_halves(a), unsigned_bytes(b), 2, c)),
    };
    four(d, i, 32, run, Class::Integer)
}

/// The byte-wise video instructions as compilers write them: all lanes, three types alike, the last operand zero.
fn packed_bytes<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let signed =
        match (i.parts.iter().filter(|p| **p == "u32").count(), i.parts.iter().filter(|p| **p == "s32").count()) {
            (3, 0) => false,
            (0, 3) => true,
            _ => return Ok(None),
        };
    if i.has("sat") {
        return Ok(None);
    }
    if i.has("add") {
        let run = match (i.parts[0], signed) {
            ("vabsdiff4", false) => {
                ternary(|a: u32, b: u32, c: u32| differences(unsigned_bytes(a), unsigned_bytes(b), c))
            }
            ("vabsdiff4", true) => ternary(|a: u32, b: u32, c: u32| differences(signed_bytes(a), signed_bytes(b), c)),
            _ => return Ok(None),
        };
        return Ok(Some(four(d, i, 32, run, Class::Integer)?));
    }
    let run = match (i.parts[0], signed) {
        ("vadd4", _) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| x + y, false)),
        ("vsub4", _) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| x - y, false)),
        ("vmin4", false) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, Ord::min, false)),
        ("vmax4", false) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, Ord::max, false)),
        ("vmin4", true) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, Ord::min, true)),
        ("vmax4", true) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, Ord::max, true)),
        ("vavrg4", false) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| (x + y + 1) >> 1, false)),
        ("vavrg4", true) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| (x + y + 1) >> 1, true)),
        ("vabsdiff4", false) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| (x - y).abs(), false)),
        (_, true) => ternary(|a: u32, b: u32, c: u32| bytewise(a, b, c, |x, y| (x - y).abs(), true)),
        _ => return Ok(None),
    };
    Ok(Some(four(d, i, 32, run, Class::Integer)?))
}

/// The sum of the distances of four bytes.
#[inline(always)]
fn differences(a: [i32; 4], b: [i32; 4], c: u32) -> u32 {
    (0..4).fold(c, |sum, k| sum.wrapping_add(a[k].abs_diff(b[k])))
}

#[inline(always)]
fn bytewise(a: u32, b: u32, _: u32, f: impl Fn(i32, i32) -> i32, signed: bool) -> u32 {
    let (a, b) = if signed { (signed_bytes(a), signed_bytes(b)) } else { (unsigned_bytes(a), unsigned_bytes(b)) };
    u32::from_le_bytes([0, 1, 2, 3].map(|k| f(a[k], b[k]) as u8))
}
