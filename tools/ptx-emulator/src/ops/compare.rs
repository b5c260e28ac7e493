//! `setp`, `set`, `testp`.
#![allow(
    clippy::double_comparisons,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::eq_op,
    clippy::nonminimal_bool,
    reason = "with NaN they are not what they look like"
)]

use half::{bf16, f16};

use super::{
    float::flush,
    lanes::{JOIN_AND, JOIN_NONE, JOIN_OR, JOIN_XOR, compare, predicate},
};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, OpFn, Step, Warp},
};

macro_rules! ordered {
    ($name:expr, $t:ty, $make:ident, |$v:ident| $value:expr) => {
        match $name {
            "eq" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a == b
            }),
            "ne" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a < b || a > b
            }),
            "lt" | "lo" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a < b
            }),
            "le" | "ls" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a <= b
            }),
            "gt" | "hi" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a > b
            }),
            "ge" | "hs" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a >= b
            }),
            _ => return None,
        }
    };
}

macro_rules! unordered {
    ($name:expr, $t:ty, $make:ident, |$v:ident| $value:expr) => {
        match $name {
            "equ" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                !(a < b || a > b)
            }),
            "neu" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a != b
            }),
            "ltu" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                !(a >= b)
            }),
            "leu" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                !(a > b)
            }),
            "gtu" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                !(a <= b)
            }),
            "geu" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                !(a < b)
            }),
            "num" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a == a && b == b
            }),
            "nan" => $make(|a: $t, b: $t| {
                let (a, b) = (
                    {
                        let $v = a;
                        $value
                    },
                    {
                        let $v = b;
                        $value
                    },
                );
                a != a || b != b
            }),
            name => ordered!(name, $t, $make, |$v| $value),
        }
    };
}

fn relation(name: &str, kind: &str, ftz: bool) -> Option<OpFn> {
    Some(match kind {
        "u16" | "b16" => ordered!(name, u16, compare, |v| v),
        "s16" => ordered!(name, i16, compare, |v| v),
        "u32" | "b32" => ordered!(name, u32, compare, |v| v),
        "s32" => ordered!(name, i32, compare, |v| v),
        "u64" | "b64" => ordered!(name, u64, compare, |v| v),
        "s64" => ordered!(name, i64, compare, |v| v),
        "f32" if ftz => unordered!(name, f32, compare, |v| flush(v)),
        "f32" => unordered!(name, f32, compare, |v| v),
        "f64" => unordered!(name, f64, compare, |v| v),
        "f16" => unordered!(name, f16, compare, |v| v.to_f32()),
        "bf16" => unordered!(name, bf16, compare, |v| v.to_f32()),
        _ => return None,
    })
}

/// Both halves against both: the low ones decide p, the high ones q.
macro_rules! packed {
    ($name:ident, $t:ty) => {
        unsafe fn $name(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
            let (mut low, mut high) = (0u32, 0u32);
            for lane in 0..LANES {
                let (a, b) = (warp.r32[ins.slots[1] as usize][lane], warp.r32[ins.slots[2] as usize][lane]);
                for (shift, found) in [(0, &mut low), (16, &mut high)] {
                    let x = <$t>::from_bits((a >> shift) as u16).to_f32();
                    let y = <$t>::from_bits((b >> shift) as u16).to_f32();
                    *found |= u32::from(related(ins.more[0], x, y)) << lane;
                }
            }
            let joined = |found: u32| match ins.immediate {
                JOIN_NONE => found,
                JOIN_AND => found & predicate(warp, ins.slots[4]),
                JOIN_OR => found | predicate(warp, ins.slots[4]),
                _ => found ^ predicate(warp, ins.slots[4]),
            };
            let (low, high) = (joined(low), joined(high));
            warp.set_predicate(ins.slots[3], high, mask);
            warp.set_predicate(ins.slots[0], low, mask);
            Ok(())
        }
    };
}

packed!(packed_f16, f16);
packed!(packed_bf16, bf16);

const RELATIONS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

fn related(which: u32, a: f32, b: f32) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match which {
        0 => a == b,
        1 => a < b || a > b,
        2 => a < b,
        3 => a <= b,
        4 => a > b,
        5 => a >= b,
        6 => unordered || a == b,
        7 => unordered || a != b,
        8 => unordered || a < b,
        9 => unordered || a <= b,
        10 => unordered || a > b,
        11 => unordered || a >= b,
        12 => !unordered,
        _ => unordered,
    }
}

/// `set` gives all ones or 1.0; only for f32, s32 and u32 results of unjoined comparisons.
unsafe fn spread(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let which = ins.more[1];
    let mut found = 0u32;
    for lane in 0..LANES {
        let (a, b) = (warp.r32[ins.slots[1] as usize][lane], warp.r32[ins.slots[2] as usize][lane]);
        let yes = match ins.more[2] {
            0 => related(which, f32::from_bits(a), f32::from_bits(b)),
            1 => order(which, (a as i32).cmp(&(b as i32))),
            _ => order(which, a.cmp(&b)),
        };
        found |= u32::from(yes) << lane;
    }
    let _ = block;
    let mut out = [0u32; LANES];
    for lane in 0..LANES {
        out[lane] = if found >> lane & 1 != 0 { ins.more[0] } else { 0 };
    }
    warp.set32(ins.slots[0], out, mask);
    Ok(())
}

fn order(which: u32, found: std::cmp::Ordering) -> bool {
    match which {
        0 => found.is_eq(),
        1 => found.is_ne(),
        2 => found.is_lt(),
        3 => found.is_le(),
        4 => found.is_gt(),
        _ => found.is_ge(),
    }
}

fn join(i: &Instruction<'_>) -> i64 {
    match () {
        () if i.has("and") => JOIN_AND,
        () if i.has("or") => JOIN_OR,
        () if i.has("xor") => JOIN_XOR,
        () => JOIN_NONE,
    }
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    let class = Class::CompareMove;
    let relation_name = i.parts.get(1).copied().unwrap_or_default();
    match i.parts[0] {
        "testp" => {
            let run = match (relation_name, kind) {
                ("finite", "f32") => compare(|a: f32, _: f32| a.is_finite()),
                ("infinite", "f32") => compare(|a: f32, _: f32| a.is_infinite()),
                ("number", "f32") => compare(|a: f32, _: f32| !a.is_nan()),
                ("notanumber", "f32") => compare(|a: f32, _: f32| a.is_nan()),
                ("normal", "f32") => compare(|a: f32, _: f32| a.is_normal()),
                ("subnormal", "f32") => compare(|a: f32, _: f32| a.is_subnormal()),
                ("finite", "f64") => compare(|a: f64, _: f64| a.is_finite()),
                ("infinite", "f64") => compare(|a: f64, _: f64| a.is_infinite()),
                ("number", "f64") => compare(|a: f64, _: f64| !a.is_nan()),
                ("notanumber", "f64") => compare(|a: f64, _: f64| a.is_nan()),
                ("normal", "f64") => compare(|a: f64, _: f64| a.is_normal()),
                ("subnormal", "f64") => compare(|a: f64, _: f64| a.is_subnormal()),
                _ => return Ok(None),
            };
            let to = d.operand(i, 0)?.clone();
            let a = if kind == "f64" { d.from64(i, 1)? } else { d.from32(i, 1, 32)? };
            let slots = [d.to_predicate(i, &to)?, a, a, d.to_predicate(i, &Operand::Name("_"))?];
            Ok(Some(d.with(run, class, &slots)))
        }
        "set" => {
            let result = i.parts.get(i.parts.len().saturating_sub(2)).copied().unwrap_or_default();
            let ones = match result {
                "u32" | "s32" => u32::MAX,
                "f32" => 1f32.to_bits(),
                _ => return Ok(None),
            };
            let name = match relation_name {
                "lo" => "lt",
                "ls" => "le",
                "hi" => "gt",
                "hs" => "ge",
                other => other,
            };
            let Some(which) = RELATIONS.iter().position(|r| *r == name) else { return Ok(None) };
            let source = match kind {
                "f32" => 0,
                "s32" if which < 6 => 1,
                "u32" | "b32" if which < 6 => 2,
                _ => return Ok(None),
            };
            if join(i) != JOIN_NONE {
                return Ok(None);
            }
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?];
            let mut ins = d.with(spread, class, &slots);
            ins.more = vec![ones, which as u32, source].into();
            Ok(Some(ins))
        }
        _ => {
            let (p, q) = match d.operand(i, 0)?.clone() {
                Operand::Pair(p, q) => (d.to_predicate(i, &Operand::Name(p))?, d.to_predicate(i, &Operand::Name(q))?),
                one => (d.to_predicate(i, &one)?, d.to_predicate(i, &Operand::Name("_"))?),
            };
            let (a, b) = match kind {
                "u64" | "s64" | "b64" | "f64" => (d.from64(i, 1)?, d.from64(i, 2)?),
                "u16" | "s16" | "b16" => (d.from32(i, 1, 16)?, d.from32(i, 2, 16)?),
                _ => (d.from32(i, 1, 32)?, d.from32(i, 2, 32)?),
            };
            let joins = join(i);
            let c = if joins == JOIN_NONE { 0 } else { d.from_predicate(i, 3)? };
            let run = match kind {
                "f16x2" => packed_f16,
                "bf16x2" => packed_bf16,
                _ => match relation(relation_name, kind, i.has("ftz")) {
                    Some(run) => run,
                    None => return Ok(None),
                },
            };
            let mut ins = d.with(run, class, &[p, a, b, q, c]);
            ins.immediate = joins;
            if kind.ends_with("x2") {
                let Some(which) = RELATIONS.iter().position(|r| *r == relation_name) else { return Ok(None) };
                ins.more = vec![which as u32].into();
            }
            Ok(Some(ins))
        }
    }
}
