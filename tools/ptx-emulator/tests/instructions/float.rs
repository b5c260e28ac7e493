//! Floating-point instructions. Basic ones are correctly rounded; approximate ones stay inside their documented error.
#![allow(
    clippy::double_comparisons,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "with NaN they are not what they look like"
)]

use half::{bf16, f16};

use crate::{
    Kind::{B16, B32, F32, F64},
    check, check_lanes, f, to_f,
};

fn g(bits: u64) -> f64 {
    f64::from_bits(bits)
}

#[test]
fn single_precision() {
    check(&[F32, F32], F32, "add.f32 %f0, %f1, %f2;", |x| to_f(f(x[0]) + f(x[1])));
    check(&[F32, F32], F32, "sub.rn.f32 %f0, %f1, %f2;", |x| to_f(f(x[0]) - f(x[1])));
    check(&[F32, F32], F32, "mul.rn.f32 %f0, %f1, %f2;", |x| to_f(f(x[0]) * f(x[1])));
    check(&[F32, F32], F32, "div.rn.f32 %f0, %f1, %f2;", |x| to_f(f(x[0]) / f(x[1])));
    check(&[F32, F32, F32], F32, "fma.rn.f32 %f0, %f1, %f2, %f3;", |x| to_f(f(x[0]).mul_add(f(x[1]), f(x[2]))));
    check(&[F32, F32, F32], F32, "mad.rn.f32 %f0, %f1, %f2, %f3;", |x| to_f(f(x[0]).mul_add(f(x[1]), f(x[2]))));
    check(&[F32], F32, "sqrt.rn.f32 %f0, %f1;", |x| to_f(f(x[0]).sqrt()));
    check(&[F32], F32, "rcp.rn.f32 %f0, %f1;", |x| to_f(1.0 / f(x[0])));
    check(&[F32], F32, "neg.f32 %f0, %f1;", |x| to_f(-f(x[0])));
    check(&[F32], F32, "abs.f32 %f0, %f1;", |x| to_f(f(x[0]).abs()));
    // A number wins over NaN, unless .NaN is asked for.
    check(&[F32, F32], F32, "max.f32 %f0, %f1, %f2; add.f32 %f0, %f0, 0f00000000;", |x| {
        to_f(f(x[0]).max(f(x[1])) + 0.0)
    });
    check(&[F32, F32], F32, "min.f32 %f0, %f1, %f2; add.f32 %f0, %f0, 0f00000000;", |x| {
        to_f(f(x[0]).min(f(x[1])) + 0.0)
    });
    check(&[F32, F32], F32, "max.NaN.f32 %f0, %f1, %f2; add.f32 %f0, %f0, 0f00000000;", |x| {
        if f(x[0]).is_nan() || f(x[1]).is_nan() { to_f(f32::NAN) } else { to_f(f(x[0]).max(f(x[1])) + 0.0) }
    });
    check(&[F32, F32], F32, "copysign.f32 %f0, %f1, %f2;", |x| to_f(f(x[1]).copysign(f(x[0]))));
    check(&[F32, F32], F32, "add.sat.f32 %f0, %f1, %f2;", |x| {
        let sum = f(x[0]) + f(x[1]);
        to_f(if sum.is_nan() { 0.0 } else { sum.clamp(0.0, 1.0) + 0.0 })
    });
    let flushed = |v: f32| if v.is_subnormal() { 0f32.copysign(v) } else { v };
    check(&[F32, F32], F32, "mul.ftz.f32 %f0, %f1, %f2;", move |x| to_f(flushed(flushed(f(x[0])) * flushed(f(x[1])))));
    check(&[F32, F32], F32, "add.ftz.f32 %f0, %f1, %f2;", move |x| to_f(flushed(flushed(f(x[0])) + flushed(f(x[1])))));
}

#[test]
fn directed_rounding() {
    // In f64 the product of two floats is exact; rounding it down and up brackets it within one unit.
    let next = |v: f32, up: bool| if up { v.next_up() } else { v.next_down() };
    for (mode, up) in [("rm", false), ("rp", true)] {
        check(&[F32, F32], F32, &format!("mul.{mode}.f32 %f0, %f1, %f2;"), move |x| {
            let (a, b) = (f(x[0]), f(x[1]));
            let exact = f64::from(a) * f64::from(b);
            let near = exact as f32;
            let wrong_side = if up { f64::from(near) < exact } else { f64::from(near) > exact };
            to_f(if wrong_side { next(near, up) } else { near })
        });
    }
    check(&[F32, F32], F32, "mul.rz.f32 %f0, %f1, %f2;", move |x| {
        let exact = f64::from(f(x[0])) * f64::from(f(x[1]));
        let near = exact as f32;
        let too_far = f64::from(near).abs() > exact.abs();
        to_f(if too_far { next(near, near < 0.0) } else { near })
    });
}

#[test]
fn double_precision() {
    check(&[F64, F64], F64, "add.rn.f64 %g0, %g1, %g2;", |x| (g(x[0]) + g(x[1])).to_bits());
    check(&[F64, F64], F64, "sub.f64 %g0, %g1, %g2;", |x| (g(x[0]) - g(x[1])).to_bits());
    check(&[F64, F64], F64, "mul.rn.f64 %g0, %g1, %g2;", |x| (g(x[0]) * g(x[1])).to_bits());
    check(&[F64, F64], F64, "div.rn.f64 %g0, %g1, %g2;", |x| (g(x[0]) / g(x[1])).to_bits());
    check(&[F64, F64, F64], F64, "fma.rn.f64 %g0, %g1, %g2, %g3;", |x| g(x[0]).mul_add(g(x[1]), g(x[2])).to_bits());
    check(&[F64], F64, "sqrt.rn.f64 %g0, %g1;", |x| g(x[0]).sqrt().to_bits());
    check(&[F64], F64, "neg.f64 %g0, %g1;", |x| (-g(x[0])).to_bits());
    check(&[F64], F64, "abs.f64 %g0, %g1;", |x| g(x[0]).abs().to_bits());
    check(&[F64, F64], B32, "setp.lt.f64 %p1, %g1, %g2; selp.b32 %r0, 1, 0, %p1;", |x| u64::from(g(x[0]) < g(x[1])));
}

/// Every lane within `relative` or `absolute` of `exact`, whatever the perturbation's seed.
fn approximate(body: &str, exact: fn(f64) -> f64, relative: f64, absolute: f64) {
    let text = crate::kernel(&[F32], F32, "", body);
    let x: Vec<u64> = (0..crate::COUNT).map(|i| to_f(0.03 + i as f32 * 0.023)).collect();
    for seed in 0..3 {
        let options = ptx_emulator::Options { seed, perturb_approx: seed > 0, ..Default::default() };
        let y = crate::execute(&text, &[(F32, &x)], F32, options);
        for (x, y) in x.iter().zip(y) {
            let (exact, ours) = (exact(f64::from(f(*x))), f64::from(f(y)));
            let error = (ours - exact).abs();
            // The documented error, and the rounding of the result.
            let limit = (relative * exact.abs()).max(absolute) + 2f64.powi(-24) * exact.abs();
            assert!(error <= limit, "{body} of {}: {ours}, exactly {exact}", f(*x));
        }
    }
}

#[test]
fn approximate_functions() {
    let ulp = 2f64.powi(-23);
    approximate("rcp.approx.f32 %f0, %f1;", |x| 1.0 / x, 2.0 * ulp, 0.0);
    approximate("rcp.approx.ftz.f32 %f0, %f1;", |x| 1.0 / x, 2.0 * ulp, 0.0);
    approximate("sqrt.approx.f32 %f0, %f1;", f64::sqrt, 2.0 * ulp, 0.0);
    approximate("rsqrt.approx.f32 %f0, %f1;", |x| 1.0 / x.sqrt(), 2f64.powf(-22.4), 0.0);
    approximate("ex2.approx.f32 %f0, %f1;", f64::exp2, 2.0 * ulp, 0.0);
    approximate("ex2.approx.ftz.f32 %f0, %f1;", f64::exp2, 2.0 * ulp, 0.0);
    approximate("lg2.approx.f32 %f0, %f1;", f64::log2, 2f64.powf(-21.0), 2f64.powi(-22));
    approximate("sin.approx.f32 %f0, %f1;", f64::sin, 0.0, 2f64.powf(-20.4));
    approximate("cos.approx.f32 %f0, %f1;", f64::cos, 0.0, 2f64.powf(-20.4));
    approximate("tanh.approx.f32 %f0, %f1;", f64::tanh, 2f64.powi(-10), 0.0);
    approximate("mov.f32 %f2, 0f40400000; div.approx.f32 %f0, %f1, %f2;", |x| x / 3.0, 2.0 * 2.0 * ulp, 0.0);
    approximate("mov.f32 %f2, 0f40400000; div.full.f32 %f0, %f1, %f2;", |x| x / 3.0, 2.0 * 2.0 * ulp, 0.0);
}

#[test]
fn float_comparisons() {
    type Compare = fn(f32, f32) -> bool;
    let all: [(&str, Compare); 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, compare) in all {
        check(&[F32, F32], B32, &format!("setp.{name}.f32 %p1, %f1, %f2; selp.b32 %r0, 1, 0, %p1;"), move |x| {
            u64::from(compare(f(x[0]), f(x[1])))
        });
    }
    check(
        &[F32],
        B32,
        "testp.finite.f32 %p1, %f1; testp.infinite.f32 %p2, %f1; testp.notanumber.f32 %p3, %f1; testp.subnormal.f32 %p4, %f1; selp.b32 %r1, 1, 0, %p1; selp.b32 %r2, 2, 0, %p2; selp.b32 %r3, 4, 0, %p3; selp.b32 %r4, 8, 0, %p4; or.b32 %r1, %r1, %r2; or.b32 %r3, %r3, %r4; or.b32 %r0, %r1, %r3;",
        |x| {
            let v = f(x[0]);
            u64::from(v.is_finite())
                + 2 * u64::from(v.is_infinite())
                + 4 * u64::from(v.is_nan())
                + 8 * u64::from(v.is_subnormal())
        },
    );
}

fn halves(x: u64) -> [f16; 2] {
    [f16::from_bits(x as u16), f16::from_bits((x >> 16) as u16)]
}

fn brains(x: u64) -> [bf16; 2] {
    [bf16::from_bits(x as u16), bf16::from_bits((x >> 16) as u16)]
}

fn pair(low: u16, high: u16) -> u64 {
    u64::from(low) | u64::from(high) << 16
}

/// Packed pairs made of moderate numbers, so that NaN patterns do not come in.
fn packed(body: &str, wanted: impl Fn([u64; 3]) -> u64, brain: bool) {
    let value = |i: usize, operand: usize| {
        let number = ((i * 37 + operand * 11) % 61) as f32 * 0.37 - 11.0;
        let other = ((i * 13 + operand * 29) % 53) as f32 * 0.29 - 7.0;
        match brain {
            true => pair(bf16::from_f32(number).to_bits(), bf16::from_f32(other).to_bits()),
            false => pair(f16::from_f32(number).to_bits(), f16::from_f32(other).to_bits()),
        }
    };
    let x: Vec<Vec<u64>> = (0..3).map(|operand| (0..crate::COUNT).map(|i| value(i, operand)).collect()).collect();
    let operands = [(B32, &x[0][..]), (B32, &x[1][..]), (B32, &x[2][..])];
    let text = crate::kernel(&[B32, B32, B32], B32, "", body).replace(".target sm_80", ".target sm_90");
    let y = crate::execute(&text, &operands, B32, ptx_emulator::Options::default());
    for (i, y) in y.into_iter().enumerate() {
        let wanted = wanted([x[0][i], x[1][i], x[2][i]]);
        assert_eq!(y, wanted, "{body}, lane {i}: {y:#x}, wanted {wanted:#x}");
    }
}

#[test]
fn packed_half_precision() {
    let map = |x: [u64; 3], op: fn(f32, f32, f32) -> f32| {
        let [a, b, c] = x.map(halves);
        let one = |i: usize| f16::from_f32(op(a[i].to_f32(), b[i].to_f32(), c[i].to_f32())).to_bits();
        pair(one(0), one(1))
    };
    packed("add.f16x2 %r0, %r1, %r2;", move |x| map(x, |a, b, _| a + b), false);
    packed("sub.f16x2 %r0, %r1, %r2;", move |x| map(x, |a, b, _| a - b), false);
    packed("mul.f16x2 %r0, %r1, %r2;", move |x| map(x, |a, b, _| a * b), false);
    packed("max.f16x2 %r0, %r1, %r2;", move |x| map(x, |a, b, _| a.max(b)), false);
    packed("neg.f16x2 %r0, %r1;", move |x| map(x, |a, _, _| -a), false);
    packed(
        "fma.rn.f16x2 %r0, %r1, %r2, %r3;",
        |x| {
            let [a, b, c] = x.map(halves);
            let one = |i: usize| f16::from_f64(a[i].to_f64() * b[i].to_f64() + c[i].to_f64()).to_bits();
            pair(one(0), one(1))
        },
        false,
    );
}

#[test]
fn packed_brain_floats() {
    packed(
        "fma.rn.bf16x2 %r0, %r1, %r2, %r3;",
        |x| {
            let [a, b, c] = x.map(brains);
            let one = |i: usize| bf16::from_f64(a[i].to_f64() * b[i].to_f64() + c[i].to_f64()).to_bits();
            pair(one(0), one(1))
        },
        true,
    );
    packed(
        "max.bf16x2 %r0, %r1, %r2;",
        |x| {
            let [a, b, _] = x.map(brains);
            let one = |i: usize| bf16::from_f32(a[i].to_f32().max(b[i].to_f32())).to_bits();
            pair(one(0), one(1))
        },
        true,
    );
}

#[test]
fn half_precision_scalars() {
    let half = |bits: u64| f16::from_bits(bits as u16);
    // Through registers of 16 bits; finite operands only.
    check_lanes(
        &[B32],
        B16,
        "",
        "cvt.rn.f16.s32 %h1, %r31; mov.b16 %h2, 0x3800; mul.f16 %h0, %h1, %h2;",
        move |_, lane| u64::from((f16::from_f32(lane as f32) * half(0x3800)).to_bits()),
    );
}
