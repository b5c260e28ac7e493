//! `cvt`: between all integer and float types, with rounding, saturation and packing. Common pairs are compiled for vectors,
//! the rest goes through one careful function.

use half::{bf16, f16};

use super::{
    float::{Rounding, flush, round32, rounding, saturate},
    lanes::{Operation, pick, unary},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder, Reg},
    machine::{Block, Class, Ins, LANES, OpFn, Step, Warp},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int(u32, bool),
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => {
                let (bits, signed) = super::integer::integer_type(name).filter(|_| !name.starts_with('b'))?;
                Self::Int(bits, signed)
            }
        })
    }

    fn bits(self) -> u32 {
        match self {
            Self::Int(bits, _) => bits,
            Self::F16 | Self::Bf16 => 16,
            Self::F32 => 32,
            Self::F64 => 64,
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Int(bits, signed) => bits | u32::from(signed) << 8,
            Self::F16 => 1 << 12,
            Self::Bf16 => 2 << 12,
            Self::F32 => 3 << 12,
            Self::F64 => 4 << 12,
        }
    }

    fn decode(code: u32) -> Self {
        match code >> 12 {
            0 => Self::Int(code & 0xff, code >> 8 & 1 != 0),
            1 => Self::F16,
            2 => Self::Bf16,
            3 => Self::F32,
            _ => Self::F64,
        }
    }
}

const FTZ: u32 = 1;
const SAT: u32 = 2;
const RELU: u32 = 4;
const TO_INTEGER: u32 = 8;

enum Value {
    Int(i128),
    Float(f64),
}

fn load(bits: u64, from: Type) -> Value {
    match from {
        Type::Int(64, true) => Value::Int(i128::from(bits as i64)),
        Type::Int(64, false) => Value::Int(i128::from(bits)),
        Type::Int(width, true) => Value::Int(i128::from((bits << (64 - width)) as i64 >> (64 - width))),
        Type::Int(width, false) => Value::Int(i128::from(bits & ((1 << width) - 1))),
        Type::F16 => Value::Float(f16::from_bits(bits as u16).to_f64()),
        Type::Bf16 => Value::Float(bf16::from_bits(bits as u16).to_f64()),
        Type::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
        Type::F64 => Value::Float(f64::from_bits(bits)),
    }
}

/// A value of a sixteen-bit format by its rounding from f64.
fn narrow(v: f64, mode: Rounding, near: impl Fn(f64) -> u16, wide: impl Fn(u16) -> f64) -> u16 {
    let nearest = near(v);
    let found = wide(nearest);
    let toward_zero = match mode {
        Rounding::Nearest => return nearest,
        Rounding::Zero => true,
        Rounding::Down => v > 0.0,
        Rounding::Up => v < 0.0,
    };
    match () {
        () if v.is_nan() || !v.is_finite() || found == v => nearest,
        () if toward_zero && found.abs() > v.abs() => nearest - 1,
        () if !toward_zero && found.abs() < v.abs() => nearest + 1,
        () => nearest,
    }
}

/// One value converted; the result is zero-extended.
fn convert(bits: u64, from: Type, to: Type, mode: Rounding, flags: u32) -> u64 {
    let mut value = load(bits, from);
    if let Value::Float(v) = &mut value {
        if flags & FTZ != 0 && from == Type::F32 {
            *v = f64::from(flush(*v as f32));
        }
        if flags & TO_INTEGER != 0 {
            *v = match mode {
                Rounding::Nearest => v.round_ties_even(),
                Rounding::Zero => v.trunc(),
                Rounding::Down => v.floor(),
                Rounding::Up => v.ceil(),
            };
        }
    }
    if let Type::Int(width, signed) = to {
        let (low, high) = match signed {
            true => (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1),
            false => (0, (1i128 << width) - 1),
        };
        let cut = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        return match value {
            Value::Int(v) if flags & SAT != 0 => v.clamp(low, high) as u64 & cut,
            Value::Int(v) => v as u64 & cut,
            Value::Float(v) if v.is_nan() => {
                if width == 64 {
                    1 << 63
                } else {
                    0
                }
            }
            Value::Float(v) => (v as i128).clamp(low, high) as u64 & cut,
        };
    }
    // To a float: the value as an exact sum of two f64.
    let (mut high, mut low) = match value {
        Value::Float(v) => (v, 0.0),
        Value::Int(v) => (v as f64, (v - (v as f64) as i128) as f64),
    };
    if flags & RELU != 0 && high < 0.0 {
        (high, low) = (0.0, 0.0);
    }
    if flags & SAT != 0 {
        let clamped = if high > 0.0 { high.min(1.0) } else { 0.0 };
        if clamped != high {
            (high, low) = (clamped, 0.0);
        }
    }
    match to {
        Type::F64 => {
            let stepped = match mode {
                Rounding::Zero if low < 0.0 && high > 0.0 || low > 0.0 && high < 0.0 => {
                    if high > 0.0 {
                        high.next_down()
                    } else {
                        high.next_up()
                    }
                }
                Rounding::Down if low < 0.0 => high.next_down(),
                Rounding::Up if low > 0.0 => high.next_up(),
                _ => high,
            };
            stepped.to_bits()
        }
        Type::F32 => {
            let v = if high.is_finite() { round32(high, low, mode) } else { high as f32 };
            let v = if flags & FTZ != 0 { flush(v) } else { v };
            u64::from(if flags & SAT != 0 { saturate(v) } else { v }.to_bits())
        }
        Type::F16 => u64::from(narrow(high, mode, |v| f16::from_f64(v).to_bits(), |b| f16::from_bits(b).to_f64())),
        _ => u64::from(narrow(high, mode, |v| bf16::from_f64(v).to_bits(), |b| bf16::from_bits(b).to_f64())),
    }
}

/// slots: d, a; `more`: from, to, rounding, flags, width of the destination register
unsafe fn careful(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let [from, to, mode, flags, width] = ins.more[..] else { return Ok(()) };
    let (from, to) = (Type::decode(from), Type::decode(to));
    let mode = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up][(mode & 3) as usize];
    let mut out = [0u64; LANES];
    for lane in 0..LANES {
        let bits = match from.bits() {
            64 => warp.r64[ins.slots[1] as usize][lane],
            _ => u64::from(warp.r32[ins.slots[1] as usize][lane]),
        };
        let value = convert(bits, from, to, mode, flags);
        out[lane] = match to {
            // A signed result in a wider register is sign-extended.
            Type::Int(bits, true) if bits < width => {
                let wide = (value << (64 - bits)) as i64 >> (64 - bits);
                wide as u64 & if width == 64 { u64::MAX } else { (1 << width) - 1 }
            }
            _ => value,
        };
    }
    match width {
        64 => warp.set64(ins.slots[0], out, mask),
        _ => warp.set32(ins.slots[0], out.map(|v| v as u32), mask),
    }
    Ok(())
}

struct Pack<const BRAIN: bool>;

/// slots: d, upper, lower; `immediate`: 1 relu, 2 toward zero
impl<const BRAIN: bool> Operation for Pack<BRAIN> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let mut out = [0u32; LANES];
        let (a, b) = (warp.get32(ins.slots[1]), warp.get32(ins.slots[2]));
        let one = |bits: u32| {
            let mut v = f32::from_bits(bits);
            if ins.immediate & 1 != 0 && v < 0.0 {
                v = 0.0;
            }
            if ins.immediate & 2 != 0 {
                let to = if BRAIN { Type::Bf16 } else { Type::F16 };
                return convert(u64::from(v.to_bits()), Type::F32, to, Rounding::Zero, 0) as u32;
            }
            u32::from(if BRAIN { bf16::from_f32(v).to_bits() } else { f16::from_f32(v).to_bits() })
        };
        for lane in 0..LANES {
            out[lane] = one(a[lane]) << 16 | one(b[lane]);
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

/// Ten bits of mantissa, ties away from zero.
fn tf32_away(a: u32) -> u32 {
    if a & 0x7f80_0000 == 0x7f80_0000 { a & !0x1fff } else { a.wrapping_add(0x1000) & !0x1fff }
}

/// Ten bits of mantissa, ties to even.
fn tf32_even(a: u32) -> u32 {
    if a & 0x7f80_0000 == 0x7f80_0000 { a & !0x1fff } else { a.wrapping_add(0xfff + (a >> 13 & 1)) & !0x1fff }
}

fn fast(to: &str, from: &str, modifiers: &[&str]) -> Option<OpFn> {
    Some(match (to, from, modifiers) {
        ("f32", "s32", ["rn"]) => unary(|a: i32| a as f32),
        ("f32", "u32", ["rn"]) => unary(|a: u32| a as f32),
        ("f32", "u16", ["rn"]) => unary(|a: u16| f32::from(a)),
        ("f32", "s16", ["rn"]) => unary(|a: i16| f32::from(a)),
        ("f32", "u8", ["rn"]) => unary(|a: u8| f32::from(a)),
        ("f32", "f16", []) => unary(|a: f16| a.to_f32()),
        ("f32", "bf16", []) => unary(|a: bf16| a.to_f32()),
        ("f16", "f32", ["rn"]) => unary(|a: f32| f16::from_f32(a)),
        ("bf16", "f32", ["rn"]) => unary(|a: f32| bf16::from_f32(a)),
        ("f32", "f64", ["rn"]) => unary(|a: f64| a as f32),
        ("f64", "f32", []) => unary(|a: f32| f64::from(a)),
        ("s32", "f32", ["rzi"]) => unary(|a: f32| a as i32),
        ("u32", "f32", ["rzi"]) => unary(|a: f32| a as u32),
        ("f32", "f32", ["rni"]) => unary(|a: f32| a.round_ties_even()),
        ("f32", "f32", ["rzi"]) => unary(|a: f32| a.trunc()),
        ("f32", "f32", ["rmi"]) => unary(|a: f32| a.floor()),
        ("f32", "f32", ["rpi"]) => unary(|a: f32| a.ceil()),
        ("f32", "f32", ["sat"]) => unary(saturate),
        ("u64" | "s64", "u32", []) => unary(|a: u32| u64::from(a)),
        ("u64" | "s64", "s32", []) => unary(|a: i32| i64::from(a)),
        ("u32" | "s32", "u64" | "s64", []) => unary(|a: u64| a as u32),
        _ => return None,
    })
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let class = Class::Convert;
    let [.., to, from] = i.parts[..] else { return Ok(None) };
    let modifiers: Vec<&str> = i.parts[1..i.parts.len() - 2].to_vec();
    if to == "tf32" {
        let run = match modifiers[..] {
            ["rna"] | ["rna", "satfinite"] => unary(tf32_away),
            ["rn"] | ["rn", "satfinite"] => unary(tf32_even),
            ["rz"] => unary(|a: u32| a & !0x1fff),
            _ => return Ok(None),
        };
        let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?];
        return Ok(Some(d.with(run, class, &slots)));
    }
    if i.has("pack") {
        return super::eight_bit::pack(d, i);
    }
    if [to, from].iter().any(|kind| matches!(*kind, "e4m3x2" | "e5m2x2")) {
        return super::eight_bit::decode(d, i);
    }
    if to.ends_with("x2") {
        if from != "f32" || i.has("satfinite") || i.operands.len() != 3 {
            return Ok(None);
        }
        let run = match to {
            "f16x2" => pick::<Pack<false>>(),
            "bf16x2" => pick::<Pack<true>>(),
            _ => return Ok(None),
        };
        let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?];
        let mut ins = d.with(run, class, &slots);
        ins.immediate = i64::from(i.has("relu")) | i64::from(i.has("rz")) << 1;
        return Ok(Some(ins));
    }
    let (Some(source), Some(target)) = (Type::of(from), Type::of(to)) else { return Ok(None) };
    let known = ["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu"];
    if modifiers.iter().any(|m| !known.contains(m)) {
        return Ok(None);
    }
    let to_operand = d.operand(i, 0)?.clone();
    let from_operand = d.operand(i, 1)?.clone();
    let (to_slot, width) = match d.register(i, &to_operand)? {
        Reg::R32(slot, width) => (slot, width),
        Reg::R64(slot) => (slot, 64),
        Reg::Predicate(_) => return Err(d.refuse(i, "a predicate cannot be converted")),
    };
    // A source register wider than its type is cut.
    let from_slot = match d.register(i, &from_operand) {
        Ok(Reg::R64(slot)) if source.bits() < 64 => {
            let Type::Int(bits, signed) = source else { return Err(d.refuse(i, "the source register is too wide")) };
            let run = match (width, bits, signed) {
                (64, 32, false) => unary(|a: u64| a & 0xffff_ffff),
                (64, 32, true) => unary(|a: u64| i64::from(a as i32)),
                (64, 16, false) => unary(|a: u64| a & 0xffff),
                (64, 16, true) => unary(|a: u64| i64::from(a as i16)),
                (64, 8, false) => unary(|a: u64| a & 0xff),
                (64, 8, true) => unary(|a: u64| i64::from(a as i8)),
                _ => return Err(d.refuse(i, "the source register is too wide")),
            };
            let wanted = matches!(target, Type::Int(64, _));
            return if wanted { Ok(Some(d.with(run, class, &[to_slot, slot]))) } else { Ok(None) };
        }
        _ if source.bits() == 64 => d.source64(i, &from_operand)?,
        _ => d.source32(i, &from_operand, source.bits())?,
    };
    let fits = if target.bits() == 64 { width == 64 } else { width <= 32 };
    if fits && let Some(run) = fast(to, from, &modifiers) {
        return Ok(Some(d.with(run, class, &[to_slot, from_slot])));
    }
    if target.bits() > width {
        return Err(d.refuse(i, "the destination register is too narrow"));
    }
    let mut flags = 0;
    flags |= if i.has("ftz") { FTZ } else { 0 };
    flags |= if i.has("sat") { SAT } else { 0 };
    flags |= if i.has("relu") { RELU } else { 0 };
    let mode = match () {
        () if i.has("rni") => Rounding::Nearest,
        () if i.has("rzi") => Rounding::Zero,
        () if i.has("rmi") => Rounding::Down,
        () if i.has("rpi") => Rounding::Up,
        () => rounding(i),
    };
    let whole = ["rni", "rzi", "rmi", "rpi"].iter().any(|m| i.has(m));
    flags |= if whole { TO_INTEGER } else { 0 };
    let mut ins = d.with(careful, class, &[to_slot, from_slot]);
    ins.more = vec![source.code(), target.code(), mode as u32, flags, width].into();
    Ok(Some(ins))
}
