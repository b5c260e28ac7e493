//! `cvt`, `mov` between shapes of registers.

use half::{bf16, f16};

use crate::{
    Kind::{B16, B32, B64, F32, F64},
    check, f, s, to_f, w,
};

/// To the nearest integer of the type, saturating; NaN gives 0.
fn saturate(value: f64, low: f64, high: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(low, high) }
}

#[test]
fn integers() {
    check(&[B32], B64, "cvt.s64.s32 %d0, %r1;", |x| i64::from(s(x[0])) as u64);
    check(&[B32], B64, "cvt.u64.u32 %d0, %r1;", |x| x[0]);
    check(&[B64], B32, "cvt.u32.u64 %r0, %d1;", |x| x[0] & 0xFFFF_FFFF);
    check(&[B32], B16, "cvt.u16.u32 %h0, %r1;", |x| x[0] & 0xFFFF);
    check(&[B16], B32, "cvt.s32.s16 %r0, %h1;", |x| w((x[0] as i16).into()));
    check(&[B16], B32, "cvt.u32.u16 %r0, %h1;", |x| x[0]);
    check(&[B32], B32, "cvt.s32.s8 %r0, %r1;", |x| w((x[0] as i8).into()));
    check(&[B32], B32, "cvt.u32.u8 %r0, %r1;", |x| x[0] & 0xFF);
    check(&[B32], B32, "cvt.sat.u8.s32 %r0, %r1;", |x| s(x[0]).clamp(0, 255) as u64);
    check(&[B32], B32, "cvt.sat.s8.s32 %r0, %r1;", |x| w(s(x[0]).clamp(-128, 127).into()));
    check(&[B32], B16, "cvt.sat.u16.s32 %h0, %r1;", |x| s(x[0]).clamp(0, 65535) as u64);
}

#[test]
fn floats_to_integers() {
    let (low, high) = (f64::from(i32::MIN), f64::from(i32::MAX));
    check(&[F32], B32, "cvt.rzi.s32.f32 %r0, %f1;", move |x| w(saturate(f64::from(f(x[0])).trunc(), low, high) as i64));
    check(&[F32], B32, "cvt.rni.s32.f32 %r0, %f1;", move |x| {
        w(saturate(f64::from(f(x[0])).round_ties_even(), low, high) as i64)
    });
    check(&[F32], B32, "cvt.rmi.s32.f32 %r0, %f1;", move |x| w(saturate(f64::from(f(x[0])).floor(), low, high) as i64));
    check(&[F32], B32, "cvt.rpi.s32.f32 %r0, %f1;", move |x| w(saturate(f64::from(f(x[0])).ceil(), low, high) as i64));
    check(&[F32], B32, "cvt.rzi.u32.f32 %r0, %f1;", |x| {
        saturate(f64::from(f(x[0])).trunc(), 0.0, f64::from(u32::MAX)) as u64
    });
    check(&[F32], F32, "cvt.rmi.f32.f32 %f0, %f1;", |x| to_f(f(x[0]).floor()));
    check(&[F32], F32, "cvt.rni.f32.f32 %f0, %f1;", |x| to_f(f(x[0]).round_ties_even()));
    check(&[F32], F32, "cvt.rzi.f32.f32 %f0, %f1;", |x| to_f(f(x[0]).trunc()));
    check(&[F32], F32, "cvt.sat.f32.f32 %f0, %f1;", |x| {
        to_f(if f(x[0]).is_nan() { 0.0 } else { f(x[0]).clamp(0.0, 1.0) + 0.0 })
    });
    check(&[F64], B32, "cvt.rzi.s32.f64 %r0, %g1;", move |x| {
        w(saturate(f64::from_bits(x[0]).trunc(), low, high) as i64)
    });
}

#[test]
fn integers_to_floats() {
    check(&[B32], F32, "cvt.rn.f32.s32 %f0, %r1;", |x| to_f(s(x[0]) as f32));
    check(&[B32], F32, "cvt.rn.f32.u32 %f0, %r1;", |x| to_f(x[0] as u32 as f32));
    check(&[B64], F32, "cvt.rn.f32.u64 %f0, %d1;", |x| to_f(x[0] as f32));
    check(&[B64], F32, "cvt.rn.f32.s64 %f0, %d1;", |x| to_f(x[0] as i64 as f32));
    check(&[B32], F64, "cvt.rn.f64.s32 %g0, %r1;", |x| f64::from(s(x[0])).to_bits());
    check(&[B64], F64, "cvt.rn.f64.u64 %g0, %d1;", |x| (x[0] as f64).to_bits());
    check(&[B16], F32, "cvt.rn.f32.u16 %f0, %h1;", |x| to_f(x[0] as f32));
    check(&[B32], F32, "cvt.rz.f32.u32 %f0, %r1;", |x| {
        let near = x[0] as u32 as f32;
        to_f(if near as u64 > x[0] { near.next_down() } else { near })
    });
}

#[test]
fn floats_to_floats() {
    check(&[F32], F64, "cvt.f64.f32 %g0, %f1;", |x| f64::from(f(x[0])).to_bits());
    check(&[F64], F32, "cvt.rn.f32.f64 %f0, %g1;", |x| to_f(f64::from_bits(x[0]) as f32));
    // NaN payloads are not defined; those lanes give a fixed number.
    let guard = |store: &str| format!("testp.notanumber.f32 %p1, %f1; @%p1 mov.f32 %f1, 0f3F800000; {store}");
    let number = |x: u64| if f(x).is_nan() { 1.0 } else { f(x) };
    check(&[F32], B16, &guard("cvt.rn.f16.f32 %h0, %f1;"), move |x| f16::from_f32(number(x[0])).to_bits().into());
    check(&[F32], B16, &guard("cvt.rn.bf16.f32 %h0, %f1;"), move |x| bf16::from_f32(number(x[0])).to_bits().into());
    check(
        &[F32, F32],
        B32,
        "testp.notanumber.f32 %p1, %f1; @%p1 mov.f32 %f1, 0f3F800000; testp.notanumber.f32 %p1, %f2; @%p1 mov.f32 %f2, 0f3F800000; cvt.rn.f16x2.f32 %r0, %f1, %f2;",
        move |x| {
            // The first operand goes to the upper half.
            u64::from(f16::from_f32(number(x[1])).to_bits()) | u64::from(f16::from_f32(number(x[0])).to_bits()) << 16
        },
    );
    check(
        &[F32, F32],
        B32,
        "testp.notanumber.f32 %p1, %f1; @%p1 mov.f32 %f1, 0f3F800000; testp.notanumber.f32 %p1, %f2; @%p1 mov.f32 %f2, 0f3F800000; cvt.rn.bf16x2.f32 %r0, %f1, %f2;",
        move |x| {
            u64::from(bf16::from_f32(number(x[1])).to_bits()) | u64::from(bf16::from_f32(number(x[0])).to_bits()) << 16
        },
    );
    check(&[B16], F32, "cvt.f32.f16 %f0, %h1;", |x| to_f(f16::from_bits(x[0] as u16).to_f32()));
    check(&[F32], B32, &guard("cvt.rna.tf32.f32 %r0, %f1;"), move |x| {
        let bits = number(x[0]).to_bits();
        let infinite = !number(x[0]).is_finite();
        u64::from(if infinite { bits } else { (bits + 0x1000) & !0x1FFF })
    });
}

#[test]
fn moves() {
    check(&[B64], B32, "mov.b64 {%r1, %r2}, %d1; xor.b32 %r0, %r1, %r2;", |x| (x[0] ^ (x[0] >> 32)) & 0xFFFF_FFFF);
    check(&[B32, B32], B64, "mov.b64 %d0, {%r1, %r2};", |x| x[0] | x[1] << 32);
    check(&[B32], B16, "mov.b32 {%h1, %h0}, %r1;", |x| x[0] >> 16);
    check(&[B16, B16], B32, "mov.b32 %r0, {%h1, %h2};", |x| x[0] | x[1] << 16);
    check(&[F32], B32, "mov.b32 %r0, %f1;", |x| x[0]);
    check(&[B32], F32, "mov.b32 %f0, %r1;", |x| x[0]);
    check(&[F64], B64, "mov.b64 %d0, %g1;", |x| x[0]);
    check(&[], B32, "mov.b32 %r0, -7;", |_| w(-7));
    check(&[], F32, "mov.f32 %f0, 0f40490FDB;", |_| 0x4049_0FDB);
    check(&[], F64, "mov.f64 %g0, 0d400921FB54442D18;", |_| 0x4009_21FB_5444_2D18);
}

/// A number of the format `e4m3`, or of `e5m2`, which is the upper half of an f16.
fn eight(bits: u64, four: bool) -> f32 {
    let (sign, magnitude) = (if bits & 0x80 != 0 { -1.0 } else { 1.0 }, (bits & 0x7f) as i32);
    match four {
        false => f16::from_bits((bits as u16) << 8).to_f32(),
        true if magnitude == 0x7f => f32::NAN,
        true if magnitude < 8 => sign * magnitude as f32 * 2f32.powi(-9),
        true => sign * (1.0 + (magnitude % 8) as f32 / 8.0) * 2f32.powi(magnitude / 8 - 7),
    }
}

/// The finite code nearest to `v`, the even one of two.
fn code(v: f32, four: bool) -> u64 {
    if v.is_nan() {
        return 0x7f;
    }
    let greatest = if four { 0x7e } else { 0x7b };
    let apart = |code: &u64| (f64::from(eight(*code, four)) - f64::from(v).abs().min(1e5), code & 1);
    let nearest = (0..=greatest).min_by(|a, b| {
        let ((x, odd_x), (y, odd_y)) = (apart(a), apart(b));
        x.abs().total_cmp(&y.abs()).then(odd_x.cmp(&odd_y))
    });
    nearest.unwrap_or(0) | if v.is_sign_negative() { 0x80 } else { 0 }
}

#[test]
fn eight_bit_floats() {
    for (name, four) in [("e4m3x2", true), ("e5m2x2", false)] {
        check(&[F32, F32], B16, &format!("cvt.rn.satfinite.{name}.f32 %h0, %f1, %f2;"), |x| {
            code(f(x[0]), four) << 8 | code(f(x[1]), four)
        });
        check(&[F32, F32], B16, &format!("cvt.rn.satfinite.relu.{name}.f32 %h0, %f1, %f2;"), |x| {
            let positive = |v: f32| if v < 0.0 { 0.0 } else { v };
            code(positive(f(x[0])), four) << 8 | code(positive(f(x[1])), four)
        });
        let halves = |bits: u64| [bits as u16, (bits >> 16) as u16].map(|b| f16::from_bits(b).to_f32());
        check(&[B32], B16, &format!("cvt.rn.satfinite.{name}.f16x2 %h0, %r1;"), |x| {
            let [low, high] = halves(x[0]);
            code(high, four) << 8 | code(low, four)
        });
        check(&[B16], B32, &format!("and.b16 %h1, %h1, 0x5e5e;\ncvt.rn.f16x2.{name} %r0, %h1;"), |x| {
            let half = |bits: u64| u64::from(f16::from_f32(eight(bits, four)).to_bits());
            half(x[0] >> 8 & 0x5e) << 16 | half(x[0] & 0x5e)
        });
    }
}

#[test]
fn packed_integers() {
    let clamp = |bits: u64, low: i32, high: i32| u64::from(s(bits).clamp(low, high) as u32);
    check(&[B32, B32, B32], B32, "cvt.pack.sat.u8.s32.b32 %r0, %r1, %r2, %r3;", |x| {
        (x[2] << 16 | clamp(x[0], 0, 255) << 8 | clamp(x[1], 0, 255)) & 0xffff_ffff
    });
    check(&[B32, B32, B32], B32, "cvt.pack.sat.s8.s32.b32 %r0, %r1, %r2, %r3;", |x| {
        (x[2] << 16 | (clamp(x[0], -128, 127) & 255) << 8 | clamp(x[1], -128, 127) & 255) & 0xffff_ffff
    });
    check(&[B32, B32], B32, "cvt.pack.sat.s16.s32 %r0, %r1, %r2;", |x| {
        (clamp(x[0], -32768, 32767) & 0xffff) << 16 | clamp(x[1], -32768, 32767) & 0xffff
    });
}
