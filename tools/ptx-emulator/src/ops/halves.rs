//! f16 and bf16 arithmetic, single and packed: add sub mul fma min max neg abs. Sums and products of two are exact in f32
//! before the one rounding; fma goes through f64, where it is exact up to the last bit that could matter.

use half::{bf16, f16};

use super::{
    float::{maximum, minimum, saturate},
    integer::{four, three, two},
    lanes::{Lane, Operation, binary, conjure, pick, ternary, unary},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Class, Ins, OpFn},
};

trait Narrow: Copy {
    fn wide(self) -> f32;
    fn near(v: f32) -> Self;
    fn near64(v: f64) -> Self;
}

impl Narrow for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn near(v: f32) -> Self {
        f16::from_f32(v)
    }
    #[inline(always)]
    fn near64(v: f64) -> Self {
        f16::from_f64(v)
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn near(v: f32) -> Self {
        bf16::from_f32(v)
    }
    #[inline(always)]
    fn near64(v: f64) -> Self {
        bf16::from_f64(v)
    }
}

struct Two<T, F>(std::marker::PhantomData<(T, F)>);
struct TwoPacked<T, F>(std::marker::PhantomData<(T, F)>);

impl<T: Narrow + Lane<Register = u32>, F: Fn(f32, f32) -> f32 + Copy> Operation for Two<T, F> {
    #[inline(always)]
    fn run(
        warp: &mut crate::machine::Warp,
        _: &mut crate::machine::Block<'_>,
        ins: &Ins,
        mask: u32,
    ) -> crate::machine::Step {
        let f = conjure::<F>();
        let (a, b) = (warp.get32(ins.slots[1]), warp.get32(ins.slots[2]));
        let mut out = [0u32; crate::machine::LANES];
        for lane in 0..out.len() {
            out[lane] = T::near(f(T::from_bits(a[lane]).wide(), T::from_bits(b[lane]).wide())).bits();
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

impl<T: Narrow, F: Fn(f32, f32) -> f32 + Copy> Operation for TwoPacked<T, F>
where
    [T; 2]: Lane<Register = u32>,
{
    #[inline(always)]
    fn run(
        warp: &mut crate::machine::Warp,
        _: &mut crate::machine::Block<'_>,
        ins: &Ins,
        mask: u32,
    ) -> crate::machine::Step {
        let f = conjure::<F>();
        let (a, b) = (warp.get32(ins.slots[1]), warp.get32(ins.slots[2]));
        let mut out = [0u32; crate::machine::LANES];
        for lane in 0..out.len() {
            let (x, y) = (<[T; 2]>::from_bits(a[lane]), <[T; 2]>::from_bits(b[lane]));
            out[lane] = [T::near(f(x[0].wide(), y[0].wide())), T::near(f(x[1].wide(), y[1].wide()))].bits();
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

fn pairs<F: Fn(f32, f32) -> f32 + Copy>(kind: &str, _: F) -> Option<OpFn> {
    Some(match kind {
        "f16" => pick::<Two<f16, F>>(),
        "bf16" => pick::<Two<bf16, F>>(),
        "f16x2" => pick::<TwoPacked<f16, F>>(),
        "bf16x2" => pick::<TwoPacked<bf16, F>>(),
        _ => return None,
    })
}

/// One rounding of a*b+c. The product is exact in f64; where the sum is not, its last bit is made sticky (round to odd), so
/// that rounding it to the narrow format is the rounding of the exact value.
#[inline(always)]
fn fused<T: Narrow>(a: T, b: T, c: T) -> f64 {
    let product = f64::from(a.wide()) * f64::from(b.wide());
    let c = f64::from(c.wide());
    let sum = product + c;
    let back = sum - product;
    let error = (product - (sum - back)) + (c - back);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 != 0 {
        return sum;
    }
    if (error > 0.0) == (sum > 0.0) { f64::from_bits(sum.to_bits() | 1) } else { f64::from_bits(sum.to_bits() - 1) }
}

fn fma1<T: Narrow>(a: T, b: T, c: T) -> T {
    T::near64(fused(a, b, c))
}

fn fma2<T: Narrow>(a: [T; 2], b: [T; 2], c: [T; 2]) -> [T; 2] {
    [fma1(a[0], b[0], c[0]), fma1(a[1], b[1], c[1])]
}

fn relu1<T: Narrow>(v: T) -> T {
    if v.wide() > 0.0 || v.wide().is_nan() { v } else { T::near(0.0) }
}

fn saturated1<T: Narrow>(v: T) -> T {
    T::near(saturate(v.wide()))
}

fn nan_or(a: f32, b: f32, v: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { v }
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    let class = Class::Float16;
    let bits = if kind.ends_with("x2") { 32 } else { 16 };
    let sat = i.has("sat");
    let run = match i.parts[0] {
        "add" if sat => pairs(kind, |a: f32, b: f32| saturate(a + b)),
        "sub" if sat => pairs(kind, |a: f32, b: f32| saturate(a - b)),
        "mul" if sat => pairs(kind, |a: f32, b: f32| saturate(a * b)),
        "add" => pairs(kind, |a: f32, b: f32| a + b),
        "sub" => pairs(kind, |a: f32, b: f32| a - b),
        "mul" => pairs(kind, |a: f32, b: f32| a * b),
        "min" if i.has("NaN") => pairs(kind, |a: f32, b: f32| nan_or(a, b, minimum(a, b))),
        "max" if i.has("NaN") => pairs(kind, |a: f32, b: f32| nan_or(a, b, maximum(a, b))),
        "min" => pairs(kind, minimum),
        "max" => pairs(kind, maximum),
        "fma" => {
            let run = match (kind, i.has("relu"), sat) {
                ("f16", false, false) => ternary(fma1::<f16>),
                ("bf16", false, false) => ternary(fma1::<bf16>),
                ("f16x2", false, false) => ternary(fma2::<f16>),
                ("bf16x2", false, false) => ternary(fma2::<bf16>),
                ("f16", true, false) => ternary(|a: f16, b: f16, c: f16| relu1(fma1(a, b, c))),
                ("bf16", true, false) => ternary(|a: bf16, b: bf16, c: bf16| relu1(fma1(a, b, c))),
                ("f16x2", true, false) => ternary(|a: [f16; 2], b: [f16; 2], c: [f16; 2]| fma2(a, b, c).map(relu1)),
                ("bf16x2", true, false) => ternary(|a: [bf16; 2], b: [bf16; 2], c: [bf16; 2]| fma2(a, b, c).map(relu1)),
                ("f16", false, true) => ternary(|a: f16, b: f16, c: f16| saturated1(fma1(a, b, c))),
                ("f16x2", false, true) => {
                    ternary(|a: [f16; 2], b: [f16; 2], c: [f16; 2]| fma2(a, b, c).map(saturated1))
                }
                _ => return Ok(None),
            };
            return four(d, i, bits, run, class).map(Some);
        }
        "neg" => {
            let run = if bits == 32 { unary(|a: u32| a ^ 0x8000_8000) } else { unary(|a: u32| a ^ 0x8000) };
            return two(d, i, bits, run, class).map(Some);
        }
        "abs" => {
            let run = if bits == 32 { unary(|a: u32| a & 0x7fff_7fff) } else { unary(|a: u32| a & 0x7fff) };
            return two(d, i, bits, run, class).map(Some);
        }
        "copysign" => {
            let run = binary(|a: u16, b: u16| a & 0x8000 | b & 0x7fff);
            return three(d, i, bits, run, class).map(Some);
        }
        _ => None,
    };
    match run {
        Some(run) => three(d, i, bits, run, class).map(Some),
        None => Ok(None),
    }
}
