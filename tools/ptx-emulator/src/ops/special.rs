//! The approximate functions: rcp rsqrt sqrt ex2 lg2 sin cos tanh, and `div.approx`. Each is worked out exactly enough to
//! round well, then, if the options ask, moved by a seeded amount inside the error that NVIDIA documents for it.

use half::{bf16, f16};

use super::{
    float::flush,
    integer::{three, two},
    lanes::{Bits, Lane, Operation, conjure, pick},
};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, LANES, Step, Warp},
};

/// 2^x by the exponent's integer part and a polynomial of the rest; below 1e-14 relative, so the f32 is well rounded.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: adding it rounds to an integer held in the low bits
    let wide = f64::from(x);
    let x = wide.clamp(-1000.0, 1000.0);
    let shifted = x + ROUND;
    let r = (x - (shifted - ROUND)) * std::f64::consts::LN_2;
    let mut p = 1.0 / 39_916_800.0;
    for c in [3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * r + 1.0 / c;
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    (p * scale) as f32
}

fn log2(x: f32) -> f32 {
    f64::from(x).log2() as f32
}

fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// The documented error of an instruction, as `Ins::immediate` carries it: units in the last place in the low half, or an
/// absolute error of 2^-n in bits 16..24; the flush flag is bit 32.
const FLUSH: i64 = 1 << 32;

fn ulps(count: i64) -> i64 {
    count
}

fn absolute(exponent: i64) -> i64 {
    exponent << 16
}

#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Moves `value` inside the documented error: equal inputs of one launch move equally, as on hardware.
fn perturb(value: f32, input: u32, seed: u64, error: i64) -> f32 {
    if !value.is_normal() {
        return value;
    }
    let draw = mix(seed ^ u64::from(input).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 11;
    let unit = draw as f64 * (2.0 / (1u64 << 53) as f64) - 1.0;
    let moved = match (error & 0xffff, error >> 16 & 0xff) {
        (0, 0) => value,
        (0, exponent) => (f64::from(value) + unit * (-(exponent as f64)).exp2()) as f32,
        (most, _) => {
            let steps = (unit * (most as f64 + 0.999)).trunc() as i32;
            f32::from_bits(value.to_bits().wrapping_add_signed(steps))
        }
    };
    if moved.is_normal() { moved } else { value }
}

struct Approximate<F>(std::marker::PhantomData<F>);

impl<F: Fn(f32) -> f32 + Copy> Operation for Approximate<F> {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out = [0u32; LANES];
        let a = *warp.get32(ins.slots[1]);
        if ins.immediate & FLUSH == 0 {
            for lane in 0..LANES {
                out[lane] = f(f32::from_bits(a[lane])).to_bits();
            }
        } else {
            for lane in 0..LANES {
                out[lane] = flush(f(flush(f32::from_bits(a[lane])))).to_bits();
            }
        }
        if block.launch.options.perturb_approx {
            let seed = block.launch.options.seed ^ u64::from(ins.line) << 32;
            for lane in 0..LANES {
                out[lane] = perturb(f32::from_bits(out[lane]), a[lane], seed, ins.immediate).to_bits();
            }
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

fn approximate<F: Fn(f32) -> f32 + Copy>(_: F) -> crate::machine::OpFn {
    pick::<Approximate<F>>()
}

struct Quotient;

impl Operation for Quotient {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let (a, b) = (*warp.get32(ins.slots[1]), *warp.get32(ins.slots[2]));
        let mut out = [0u32; LANES];
        let ftz = ins.immediate & FLUSH != 0;
        for lane in 0..LANES {
            let (x, y) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]));
            out[lane] = if ftz { flush(flush(x) / flush(y)) } else { x / y }.to_bits();
        }
        if block.launch.options.perturb_approx {
            let seed = block.launch.options.seed ^ u64::from(ins.line) << 32;
            for lane in 0..LANES {
                let input = a[lane] ^ b[lane].rotate_left(16);
                out[lane] = perturb(f32::from_bits(out[lane]), input, seed, ins.immediate).to_bits();
            }
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

/// `div.approx` and `div.full`: within two units in the last place.
pub(crate) fn divide<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let mut ins = three(d, i, 32, pick::<Quotient>(), Class::Special)?;
    ins.immediate = ulps(2) | if i.has("ftz") { FLUSH } else { 0 };
    Ok(ins)
}

struct Narrow<T, F>(std::marker::PhantomData<(T, F)>);

/// Sixteen-bit formats: through f32, and back by rounding.
trait Half: Lane<Register = u32> {
    fn map(self, f: impl Fn(f32) -> f32) -> Self;
}

impl Half for f16 {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        f16::from_f32(f(self.to_f32()))
    }
}
impl Half for bf16 {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        bf16::from_f32(f(self.to_f32()))
    }
}
impl Half for [f16; 2] {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        [self[0].map(&f), self[1].map(&f)]
    }
}
impl Half for [bf16; 2] {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        [self[0].map(&f), self[1].map(&f)]
    }
}

impl<T: Half, F: Fn(f32) -> f32 + Copy> Operation for Narrow<T, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out = [0u32; LANES];
        let a = <u32 as Bits>::file(warp, ins.slots[1]);
        for lane in 0..LANES {
            out[lane] = T::from_bits(a[lane]).map(f).bits();
        }
        warp.set32(ins.slots[0], out, mask);
        Ok(())
    }
}

fn narrow<F: Fn(f32) -> f32 + Copy>(kind: &str, _: F) -> Option<crate::machine::OpFn> {
    Some(match kind {
        "f16" => pick::<Narrow<f16, F>>(),
        "bf16" => pick::<Narrow<bf16, F>>(),
        "f16x2" => pick::<Narrow<[f16; 2], F>>(),
        "bf16x2" => pick::<Narrow<[bf16; 2], F>>(),
        _ => return None,
    })
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    let opcode = i.parts[0];
    if !i.has("approx") {
        return if matches!(opcode, "rcp" | "sqrt") { super::float::rounded(d, i) } else { Ok(None) };
    }
    match kind {
        "f32" => {}
        "f64" if i.has("ftz") => {
            // Only the upper word is meaningful: twenty bits of the result, as the hardware gives.
            let run = match opcode {
                "rcp" => super::lanes::unary(|a: f64| f64::from_bits((1.0 / a).to_bits() & !0xffff_ffff)),
                "rsqrt" => super::lanes::unary(|a: f64| f64::from_bits((1.0 / a.sqrt()).to_bits() & !0xffff_ffff)),
                _ => return Ok(None),
            };
            return two(d, i, 64, run, Class::Special).map(Some);
        }
        _ => {
            let run = match opcode {
                "ex2" => narrow(kind, exp2),
                "tanh" => narrow(kind, |x: f32| f64::from(x).tanh() as f32),
                _ => None,
            };
            let Some(run) = run else { return Ok(None) };
            return two(d, i, 32, run, Class::Special).map(Some);
        }
    }
    let (run, error) = match opcode {
        "rcp" => (approximate(|x: f32| 1.0 / x), ulps(1)),
        "rsqrt" => (approximate(rsqrt), ulps(1)),
        "sqrt" => (approximate(|x: f32| x.sqrt()), ulps(1)),
        "ex2" => (approximate(exp2), ulps(2)),
        "lg2" => (approximate(log2), absolute(22)),
        "sin" => (approximate(|x: f32| f64::from(x).sin() as f32), absolute(21)),
        "cos" => (approximate(|x: f32| f64::from(x).cos() as f32), absolute(21)),
        "tanh" => (approximate(|x: f32| f64::from(x).tanh() as f32), ulps(1 << 12)),
        _ => return Ok(None),
    };
    let mut ins = two(d, i, 32, run, Class::Special)?;
    ins.immediate = error | if i.has("ftz") { FLUSH } else { 0 };
    Ok(Some(ins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_rounds_as_the_exact_power_does() {
        for k in -1500..1300 {
            let x = k as f32 * 0.1 + 0.013;
            let exact = f64::from(x).exp2() as f32;
            let found = exp2(x);
            let apart = found.to_bits().abs_diff(exact.to_bits());
            assert!(apart <= 1, "2^{x}: {found} against {exact}");
        }
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn perturbation_stays_inside_the_documented_error() {
        let mut moved = 0;
        for input in 0..1000u32 {
            let value = 1.0 + input as f32 * 1e-3;
            let apart = perturb(value, input, 7, ulps(2)).to_bits().abs_diff(value.to_bits());
            assert!(apart <= 2);
            moved += u32::from(apart > 0);
            let near = perturb(value, input, 7, absolute(22));
            assert!((f64::from(near) - f64::from(value)).abs() <= 2f64.powi(-22) + 1e-7);
        }
        assert!(moved > 300, "only {moved} of 1000 moved");
    }
}
