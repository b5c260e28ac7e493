//! f32 and f64 arithmetic: add sub mul fma mad div min max neg abs copysign. Round-to-nearest forms are the processor's own;
//! directed roundings are worked out from the exact error of the nearest result.

use super::{
    integer::{four, three, two},
    lanes::{Operation, binary, pick, ternary, unary},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, Step, Warp},
};

/// Subnormals to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(v: f32) -> f32 {
    if v.abs() < f32::MIN_POSITIVE { f32::from_bits(v.to_bits() & 0x8000_0000) } else { v }
}

/// Clamps to [0, 1], NaN to 0.
#[inline(always)]
pub(crate) fn saturate(v: f32) -> f32 {
    if v > 0.0 { if v < 1.0 { v } else { 1.0 } } else { 0.0 }
}

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// The rounding an opcode asks for; nearest if it says nothing.
pub(crate) fn rounding(i: &Instruction<'_>) -> Rounding {
    match () {
        () if i.has("rz") => Rounding::Zero,
        () if i.has("rm") => Rounding::Down,
        () if i.has("rp") => Rounding::Up,
        () => Rounding::Nearest,
    }
}

/// Moves a nearest result one step where the exact value (of which `error` has the sign of exact minus nearest) asks for it.
pub(crate) fn direct32(nearest: f32, error: f64, mode: Rounding) -> f32 {
    let down = match mode {
        Rounding::Nearest => false,
        Rounding::Zero => nearest > 0.0,
        Rounding::Down => true,
        Rounding::Up => false,
    };
    let up = mode == Rounding::Up || mode == Rounding::Zero && nearest < 0.0;
    if error < 0.0 && down {
        nearest.next_down()
    } else if error > 0.0 && up {
        nearest.next_up()
    } else {
        nearest
    }
}

fn direct64(nearest: f64, error: f64, mode: Rounding) -> f64 {
    let down = mode == Rounding::Down || mode == Rounding::Zero && nearest > 0.0;
    let up = mode == Rounding::Up || mode == Rounding::Zero && nearest < 0.0;
    if error < 0.0 && down {
        nearest.next_down()
    } else if error > 0.0 && up {
        nearest.next_up()
    } else {
        nearest
    }
}

/// Rounds the exact sum `high + low` (|low| at most half an ulp of `high`) to f32.
pub(crate) fn round32(high: f64, low: f64, mode: Rounding) -> f32 {
    let mut nearest = high as f32;
    let rest = high - f64::from(nearest);
    // A tie of `high` that `low` breaks.
    if mode == Rounding::Nearest {
        let (down, up) = (f64::from(nearest.next_down()), f64::from(nearest.next_up()));
        if rest > 0.0 && low > 0.0 && rest == up - high {
            nearest = nearest.next_up();
        } else if rest < 0.0 && low < 0.0 && -rest == high - down {
            nearest = nearest.next_down();
        }
        return nearest;
    }
    direct32(nearest, if rest != 0.0 { rest } else { low }, mode)
}

/// Knuth's sum: the rounded sum and its exact error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let back = sum - a;
    (sum, (a - (sum - back)) + (b - back))
}

const ADD: u32 = 0;
const SUB: u32 = 1;
const MUL: u32 = 2;
const FMA: u32 = 3;
const DIV: u32 = 4;
const RCP: u32 = 5;
const SQRT: u32 = 6;
const FTZ: u32 = 8;
const SAT: u32 = 16;

fn mode_bits(mode: Rounding) -> u32 {
    (mode as u32) << 8
}

fn mode_of(flags: u32) -> Rounding {
    [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up][(flags >> 8 & 3) as usize]
}

/// Every f32 operation with every modifier, one lane at a time.
fn careful32(flags: u32, a: f32, b: f32, c: f32) -> f32 {
    let mode = mode_of(flags);
    let [a, b, c] = if flags & FTZ != 0 { [a, b, c].map(flush) } else { [a, b, c] };
    let [x, y, z] = [a, b, c].map(f64::from);
    let nearest = match flags & 7 {
        ADD => a + b,
        SUB => a - b,
        MUL => a * b,
        FMA => a.mul_add(b, c),
        DIV => a / b,
        RCP => 1.0 / a,
        _ => a.sqrt(),
    };
    let mut out = nearest;
    if mode != Rounding::Nearest && !nearest.is_nan() && x.is_finite() && y.is_finite() && z.is_finite() {
        let (high, low) = match flags & 7 {
            ADD => two_sum(x, y),
            SUB => two_sum(x, -y),
            MUL => (x * y, 0.0),
            FMA => two_sum(x * y, z),
            DIV if y != 0.0 => (x / y, (-(x / y)).mul_add(y, x) / y),
            RCP if x != 0.0 => (1.0 / x, (-(1.0 / x)).mul_add(x, 1.0) / x),
            SQRT if x > 0.0 => (x.sqrt(), (-x.sqrt()).mul_add(x.sqrt(), x)),
            _ => (f64::from(nearest), 0.0),
        };
        out = round32(high, low, mode);
    }
    if flags & FTZ != 0 {
        out = flush(out);
    }
    if flags & SAT != 0 { saturate(out) } else { out }
}

struct Careful32;

impl Operation for Careful32 {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let mut out = [0u32; LANES];
        let [a, b, c] = [1, 2, 3].map(|s| &warp.r32[ins.slots[s] as usize]);
        for lane in 0..LANES {
            let [x, y, z] = [a, b, c].map(|r| f32::from_bits(r[lane]));
            out[lane] = careful32(ins.immediate as u32, x, y, z).to_bits();
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

/// Every f64 operation with directed rounding but fma.
unsafe fn careful64(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let flags = ins.immediate as u32;
    let mode = mode_of(flags);
    let mut out = [0u64; LANES];
    for lane in 0..LANES {
        let [a, b] = [1, 2].map(|s| f64::from_bits(warp.r64[ins.slots[s] as usize][lane]));
        let (nearest, error) = match flags & 7 {
            ADD => two_sum(a, b),
            SUB => two_sum(a, -b),
            MUL => (a * b, a.mul_add(b, -(a * b))),
            DIV => (a / b, (-(a / b)).mul_add(b, a) / b),
            RCP => (1.0 / a, (-(1.0 / a)).mul_add(a, 1.0) / a),
            _ => (a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a)),
        };
        out[lane] = direct64(nearest, error, mode).to_bits();
    }
    warp.set64(ins.slots[0], out, mask);
    Ok(())
}

/// Smaller of two, NaN only if both are; -0 below +0.
#[inline(always)]
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let ordered = if a < b {
        a
    } else if b < a {
        b
    } else {
        equal
    };
    if a.is_nan() {
        if b.is_nan() { f32::from_bits(0x7fff_ffff) } else { b }
    } else if b.is_nan() {
        a
    } else {
        ordered
    }
}

/// Larger of two, NaN only if both are.
#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let ordered = if a > b {
        a
    } else if b > a {
        b
    } else {
        equal
    };
    if a.is_nan() {
        if b.is_nan() { f32::from_bits(0x7fff_ffff) } else { b }
    } else if b.is_nan() {
        a
    } else {
        ordered
    }
}

fn minimum64(a: f64, b: f64) -> f64 {
    let equal = f64::from_bits(a.to_bits() | b.to_bits());
    if a < b || b.is_nan() {
        a
    } else if b < a || a.is_nan() {
        b
    } else {
        equal
    }
}

fn maximum64(a: f64, b: f64) -> f64 {
    let equal = f64::from_bits(a.to_bits() & b.to_bits());
    if a > b || b.is_nan() {
        a
    } else if b > a || a.is_nan() {
        b
    } else {
        equal
    }
}

/// `rcp` and `sqrt` with a rounding belong here, their approximations to `special`.
pub(crate) fn rounded<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let which = if i.parts[0] == "rcp" { RCP } else { SQRT };
    let flags = which | mode_bits(rounding(i)) | if i.has("ftz") { FTZ } else { 0 };
    let mut ins = match (super::kind(i), flags == which, which) {
        ("f32", true, RCP) => two(d, i, 32, unary(|a: f32| 1.0 / a), Class::Float32)?,
        ("f32", true, _) => two(d, i, 32, unary(|a: f32| a.sqrt()), Class::Float32)?,
        ("f32", false, _) => two(d, i, 32, pick::<Careful32>(), Class::Float32)?,
        ("f64", true, RCP) => two(d, i, 64, unary(|a: f64| 1.0 / a), Class::Float64)?,
        ("f64", true, _) => two(d, i, 64, unary(|a: f64| a.sqrt()), Class::Float64)?,
        ("f64", false, _) => two(d, i, 64, careful64, Class::Float64)?,
        _ => return Ok(None),
    };
    ins.immediate = i64::from(flags);
    Ok(Some(ins))
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    if super::kind(i) == "f64" { double(d, i) } else { single(d, i) }
}

fn double<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let class = Class::Float64;
    let mode = rounding(i);
    let which = match i.parts[0] {
        "add" => ADD,
        "sub" => SUB,
        "mul" => MUL,
        "div" => DIV,
        "fma" | "mad" if mode != Rounding::Nearest => return Ok(None),
        "fma" | "mad" => return four(d, i, 64, ternary(|a: f64, b: f64, c: f64| a.mul_add(b, c)), class).map(Some),
        "min" => return three(d, i, 64, binary(minimum64), class).map(Some),
        "max" => return three(d, i, 64, binary(maximum64), class).map(Some),
        "neg" => return two(d, i, 64, unary(|a: u64| a ^ 1 << 63), class).map(Some),
        "abs" => return two(d, i, 64, unary(|a: u64| a & !(1 << 63)), class).map(Some),
        // PTX takes the sign of its first operand.
        "copysign" => return three(d, i, 64, binary(|a: f64, b: f64| b.copysign(a)), class).map(Some),
        _ => return Ok(None),
    };
    let run = match (which, mode) {
        (ADD, Rounding::Nearest) => binary(|a: f64, b: f64| a + b),
        (SUB, Rounding::Nearest) => binary(|a: f64, b: f64| a - b),
        (MUL, Rounding::Nearest) => binary(|a: f64, b: f64| a * b),
        (DIV, Rounding::Nearest) => binary(|a: f64, b: f64| a / b),
        _ => careful64,
    };
    let mut ins = three(d, i, 64, run, class)?;
    ins.immediate = i64::from(which | mode_bits(mode));
    Ok(Some(ins))
}

fn single<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let class = Class::Float32;
    let mode = rounding(i);
    let ftz = i.has("ftz");
    let flags = mode_bits(mode) | if ftz { FTZ } else { 0 } | if i.has("sat") { SAT } else { 0 };
    let which = match i.parts[0] {
        "add" => ADD,
        "sub" => SUB,
        "mul" => MUL,
        "fma" | "mad" => FMA,
        "div" if i.has("approx") || i.has("full") => return super::special::divide(d, i).map(Some),
        "div" => DIV,
        "min" | "max" => return extreme(d, i).map(Some),
        "neg" if ftz => return two(d, i, 32, unary(|a: f32| -flush(a)), class).map(Some),
        "neg" => return two(d, i, 32, unary(|a: u32| a ^ 1 << 31), class).map(Some),
        "abs" if ftz => return two(d, i, 32, unary(|a: f32| flush(a).abs()), class).map(Some),
        "abs" => return two(d, i, 32, unary(|a: u32| a & !(1 << 31)), class).map(Some),
        "copysign" => return three(d, i, 32, binary(|a: f32, b: f32| b.copysign(a)), class).map(Some),
        _ => return Ok(None),
    };
    let run = match (which, flags) {
        (ADD, 0) => binary(|a: f32, b: f32| a + b),
        (SUB, 0) => binary(|a: f32, b: f32| a - b),
        (MUL, 0) => binary(|a: f32, b: f32| a * b),
        (DIV, 0) => binary(|a: f32, b: f32| a / b),
        (FMA, 0) => ternary(|a: f32, b: f32, c: f32| a.mul_add(b, c)),
        (ADD, FTZ) => binary(|a: f32, b: f32| flush(flush(a) + flush(b))),
        (SUB, FTZ) => binary(|a: f32, b: f32| flush(flush(a) - flush(b))),
        (MUL, FTZ) => binary(|a: f32, b: f32| flush(flush(a) * flush(b))),
        (FMA, FTZ) => ternary(|a: f32, b: f32, c: f32| flush(flush(a).mul_add(flush(b), flush(c)))),
        (ADD, SAT) => binary(|a: f32, b: f32| saturate(a + b)),
        (MUL, SAT) => binary(|a: f32, b: f32| saturate(a * b)),
        (FMA, SAT) => ternary(|a: f32, b: f32, c: f32| saturate(a.mul_add(b, c))),
        _ => pick::<Careful32>(),
    };
    let mut ins = if which == FMA { four(d, i, 32, run, class)? } else { three(d, i, 32, run, class)? };
    ins.immediate = i64::from(which | flags);
    Ok(Some(ins))
}

fn extreme<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    if i.operands.len() != 3 {
        return Err(d.unsupported(i));
    }
    let run = match (i.parts[0], i.has("NaN"), i.has("ftz"), i.has("xorsign")) {
        ("min", false, false, false) => binary(minimum),
        ("max", false, false, false) => binary(maximum),
        ("min", false, true, false) => binary(|a: f32, b: f32| minimum(flush(a), flush(b))),
        ("max", false, true, false) => binary(|a: f32, b: f32| maximum(flush(a), flush(b))),
        ("min", true, _, false) => binary(|a: f32, b: f32| not_a_number(a, b, minimum(a, b))),
        ("max", true, _, false) => binary(|a: f32, b: f32| not_a_number(a, b, maximum(a, b))),
        ("min", false, _, true) => binary(|a: f32, b: f32| sign_of_product(a, b, minimum(a.abs(), b.abs()))),
        ("max", false, _, true) => binary(|a: f32, b: f32| sign_of_product(a, b, maximum(a.abs(), b.abs()))),
        _ => return Err(d.unsupported(i)),
    };
    three(d, i, 32, run, Class::Float32)
}

#[inline(always)]
fn not_a_number(a: f32, b: f32, otherwise: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::from_bits(0x7fff_ffff) } else { otherwise }
}

#[inline(always)]
fn sign_of_product(a: f32, b: f32, size: f32) -> f32 {
    f32::from_bits(size.abs().to_bits() | (a.to_bits() ^ b.to_bits()) & (1 << 31))
}
