//! `cvt` to and from pairs of eight-bit floats, e4m3 and e5m2, and `cvt.pack`.

use half::f16;

use super::lanes::{binary, ternary, unary};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Class, Ins, OpFn},
    tensor_core::Element,
};

/// Bits of fraction, the exponent of the least normal number, and the code of the greatest finite one.
const E4M3: (u32, i32, u32) = (3, -6, 0x7e);
const E5M2: (u32, i32, u32) = (2, -14, 0x7b);

/// The nearest number of the format, ties to even; what is too large becomes the greatest.
#[inline(always)]
fn narrow((fraction, least, greatest): (u32, i32, u32), v: f32) -> u32 {
    if v.is_nan() {
        return 0x7f;
    }
    let magnitude = f64::from(v.abs());
    let exponent = ((v.to_bits() >> 23 & 0xff) as i32 - 127).max(least);
    // In steps of the last place; codes go on counting where the exponent changes.
    let steps = (magnitude * f64::from(fraction as i32 - exponent).exp2()).round_ties_even().min(1e9) as u32;
    let code = (((exponent - least) as u32) << fraction).saturating_add(steps);
    v.to_bits() >> 24 & 0x80 | code.min(greatest)
}

#[inline(always)]
fn pair(format: (u32, i32, u32), upper: f32, lower: f32) -> u16 {
    (narrow(format, upper) << 8 | narrow(format, lower)) as u16
}

#[inline(always)]
fn positive(v: f32) -> f32 {
    if v < 0.0 { 0.0 } else { v }
}

#[inline(always)]
fn wide(element: Element, pair: u16) -> [f16; 2] {
    [0, 1].map(|e| f16::from_f32(element.value(pair.into(), e)))
}

/// `cvt` with an operand of type e4m3x2 or e5m2x2.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let [_, ref modifiers @ .., to, from] = i.parts[..] else { return Ok(None) };
    let class = Class::Convert;
    let relu = modifiers.contains(&"relu");
    let expected: &[&str] = if to == "f16x2" { &["rn", "relu"] } else { &["rn", "satfinite", "relu"] };
    if modifiers.iter().any(|m| !expected.contains(m)) || to != "f16x2" && !modifiers.contains(&"satfinite") {
        return Ok(None);
    }
    let one = |d: &mut Decoder<'_, 't>, run: OpFn, bits: u32| -> Decoded<Option<Ins>> {
        let slots = [d.to32(i, 0)?, d.from32(i, 1, bits)?];
        Ok(Some(d.with(run, class, &slots)))
    };
    let two = |d: &mut Decoder<'_, 't>, run: OpFn| -> Decoded<Option<Ins>> {
        let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?];
        Ok(Some(d.with(run, class, &slots)))
    };
    match (to, from, relu) {
        ("e4m3x2", "f32", false) => two(d, binary(|a: f32, b: f32| pair(E4M3, a, b))),
        ("e4m3x2", "f32", true) => two(d, binary(|a: f32, b: f32| pair(E4M3, positive(a), positive(b)))),
        ("e5m2x2", "f32", false) => two(d, binary(|a: f32, b: f32| pair(E5M2, a, b))),
        ("e5m2x2", "f32", true) => two(d, binary(|a: f32, b: f32| pair(E5M2, positive(a), positive(b)))),
        ("e4m3x2", "f16x2", false) => one(d, unary(|a: [f16; 2]| pair(E4M3, a[1].to_f32(), a[0].to_f32())), 32),
        ("e4m3x2", "f16x2", true) => {
            one(d, unary(|a: [f16; 2]| pair(E4M3, positive(a[1].to_f32()), positive(a[0].to_f32()))), 32)
        }
        ("e5m2x2", "f16x2", false) => one(d, unary(|a: [f16; 2]| pair(E5M2, a[1].to_f32(), a[0].to_f32())), 32),
        ("e5m2x2", "f16x2", true) => {
            one(d, unary(|a: [f16; 2]| pair(E5M2, positive(a[1].to_f32()), positive(a[0].to_f32()))), 32)
        }
        ("f16x2", "e4m3x2", false) => one(d, unary(|a: u16| wide(Element::E4m3, a)), 16),
        ("f16x2", "e5m2x2", false) => one(d, unary(|a: u16| wide(Element::E5m2, a)), 16),
        ("f16x2", "e4m3x2", true) => {
            one(d, unary(|a: u16| wide(Element::E4m3, a).map(|h| f16::from_f32(positive(h.to_f32())))), 16)
        }
        ("f16x2", "e5m2x2", true) => {
            one(d, unary(|a: u16| wide(Element::E5m2, a).map(|h| f16::from_f32(positive(h.to_f32())))), 16)
        }
        _ => Ok(None),
    }
}

#[inline(always)]
fn saturated(v: i32, low: i32, high: i32, bits: u32) -> u32 {
    v.clamp(low, high) as u32 & (u32::MAX >> (32 - bits))
}

/// `cvt.pack`: two saturated numbers below what a third register shifts up.
pub(super) fn pack<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let class = Class::Convert;
    match i.parts[..] {
        ["cvt", "pack", "sat", to, "s32"] => {
            let run = match to {
                "u16" => binary(|a: i32, b: i32| saturated(a, 0, 0xffff, 16) << 16 | saturated(b, 0, 0xffff, 16)),
                "s16" => {
                    binary(|a: i32, b: i32| saturated(a, -0x8000, 0x7fff, 16) << 16 | saturated(b, -0x8000, 0x7fff, 16))
                }
                _ => return Ok(None),
            };
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?];
            Ok(Some(d.with(run, class, &slots)))
        }
        ["cvt", "pack", "sat", to, "s32", "b32"] => {
            let run = match to {
                "u8" => {
                    ternary(|a: i32, b: i32, c: u32| c << 16 | saturated(a, 0, 255, 8) << 8 | saturated(b, 0, 255, 8))
                }
                "s8" => ternary(|a: i32, b: i32, c: u32| {
                    c << 16 | saturated(a, -128, 127, 8) << 8 | saturated(b, -128, 127, 8)
                }),
                "u4" => ternary(|a: i32, b: i32, c: u32| c << 8 | saturated(a, 0, 15, 4) << 4 | saturated(b, 0, 15, 4)),
                "s4" => ternary(|a: i32, b: i32, c: u32| c << 8 | saturated(a, -8, 7, 4) << 4 | saturated(b, -8, 7, 4)),
                _ => return Ok(None),
            };
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?, d.from32(i, 3, 32)?];
            Ok(Some(d.with(run, class, &slots)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_and_halves_go_to_even() {
        for (format, element, greatest) in [(E4M3, Element::E4m3, 0x7e), (E5M2, Element::E5m2, 0x7b)] {
            for code in 0..=greatest {
                let v = element.value(code, 0);
                assert_eq!((narrow(format, v), narrow(format, -v)), (code, 0x80 | code), "{element:?} {code:#x}");
                if code < greatest {
                    let next = element.value(code + 1, 0);
                    let even = code + (code & 1);
                    assert_eq!(narrow(format, (v + next) / 2.0), even, "{element:?} above {code:#x}");
                }
            }
            assert_eq!(narrow(format, f32::INFINITY), greatest);
            assert_eq!(narrow(format, -1e30), 0x80 | greatest);
            assert_eq!(narrow(format, f32::NAN), 0x7f);
        }
    }
}
