//! Integer and logic instructions.

use crate::{
    Kind::{B16, B32, B64},
    check, s, w,
};

const TWO: [crate::Kind; 2] = [B32, B32];
const THREE: [crate::Kind; 3] = [B32, B32, B32];
const WIDE_TWO: [crate::Kind; 2] = [B64, B64];

#[test]
fn addition_and_multiplication() {
    check(&TWO, B32, "add.s32 %r0, %r1, %r2;", |x| w(s(x[0]).wrapping_add(s(x[1])).into()));
    check(&TWO, B32, "sub.u32 %r0, %r1, %r2;", |x| w(s(x[0]).wrapping_sub(s(x[1])).into()));
    check(&TWO, B32, "add.sat.s32 %r0, %r1, %r2;", |x| w(s(x[0]).saturating_add(s(x[1])).into()));
    check(&TWO, B32, "mul.lo.s32 %r0, %r1, %r2;", |x| w(s(x[0]).wrapping_mul(s(x[1])).into()));
    check(&TWO, B32, "mul.hi.s32 %r0, %r1, %r2;", |x| w((i64::from(s(x[0])) * i64::from(s(x[1]))) >> 32));
    check(&TWO, B32, "mul.hi.u32 %r0, %r1, %r2;", |x| (x[0] * x[1]) >> 32);
    check(&TWO, B64, "mul.wide.s32 %d0, %r1, %r2;", |x| (i64::from(s(x[0])) * i64::from(s(x[1]))) as u64);
    check(&TWO, B64, "mul.wide.u32 %d0, %r1, %r2;", |x| x[0] * x[1]);
    check(&[B16, B16], B32, "mul.wide.u16 %r0, %h1, %h2;", |x| x[0] * x[1]);
    check(&[B16, B16], B32, "mul.wide.s16 %r0, %h1, %h2;", |x| w(i64::from(x[0] as i16) * i64::from(x[1] as i16)));
    check(&[B16, B16], B16, "mul.lo.s16 %h0, %h1, %h2;", |x| (x[0] * x[1]) & 0xFFFF);
    check(&THREE, B32, "mad.lo.s32 %r0, %r1, %r2, %r3;", |x| {
        w(s(x[0]).wrapping_mul(s(x[1])).wrapping_add(s(x[2])).into())
    });
    check(&THREE, B32, "mad.hi.u32 %r0, %r1, %r2, %r3;", |x| (((x[0] * x[1]) >> 32) + x[2]) & 0xFFFF_FFFF);
    check(&[B32, B32, B64], B64, "mad.wide.s32 %d0, %r1, %r2, %d3;", |x| {
        (i64::from(s(x[0])) * i64::from(s(x[1]))).wrapping_add(x[2] as i64) as u64
    });
    check(&[B32, B32, B64], B64, "mad.wide.u32 %d0, %r1, %r2, %d3;", |x| (x[0] * x[1]).wrapping_add(x[2]));
    check(&WIDE_TWO, B64, "add.s64 %d0, %d1, %d2;", |x| x[0].wrapping_add(x[1]));
    check(&WIDE_TWO, B64, "sub.s64 %d0, %d1, %d2;", |x| x[0].wrapping_sub(x[1]));
    check(&WIDE_TWO, B64, "mul.lo.s64 %d0, %d1, %d2;", |x| x[0].wrapping_mul(x[1]));
    check(&WIDE_TWO, B64, "mul.hi.u64 %d0, %d1, %d2;", |x| ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64);
    check(&WIDE_TWO, B64, "mul.hi.s64 %d0, %d1, %d2;", |x| {
        ((i128::from(x[0] as i64) * i128::from(x[1] as i64)) >> 64) as u64
    });
    check(&[B64, B64, B64], B64, "mad.lo.s64 %d0, %d1, %d2, %d3;", |x| x[0].wrapping_mul(x[1]).wrapping_add(x[2]));
    check(&[B16, B16], B16, "add.s16 %h0, %h1, %h2;", |x| (x[0] + x[1]) & 0xFFFF);
    check(&[B16, B16], B16, "sub.s16 %h0, %h1, %h2;", |x| x[0].wrapping_sub(x[1]) & 0xFFFF);
}

#[test]
fn division() {
    check(&TWO, B32, "or.b32 %r2, %r2, 1; div.u32 %r0, %r1, %r2;", |x| x[0] / (x[1] | 1));
    check(&TWO, B32, "or.b32 %r2, %r2, 1; rem.u32 %r0, %r1, %r2;", |x| x[0] % (x[1] | 1));
    check(&TWO, B32, "or.b32 %r2, %r2, 1; div.s32 %r0, %r1, %r2;", |x| w(s(x[0]).wrapping_div(s(x[1] | 1)).into()));
    check(&TWO, B32, "or.b32 %r2, %r2, 1; rem.s32 %r0, %r1, %r2;", |x| w(s(x[0]).wrapping_rem(s(x[1] | 1)).into()));
    check(&WIDE_TWO, B64, "or.b64 %d2, %d2, 1; div.u64 %d0, %d1, %d2;", |x| x[0] / (x[1] | 1));
    check(&WIDE_TWO, B64, "or.b64 %d2, %d2, 1; rem.s64 %d0, %d1, %d2;", |x| {
        (x[0] as i64).wrapping_rem((x[1] | 1) as i64) as u64
    });
    check(&WIDE_TWO, B64, "or.b64 %d2, %d2, 1; div.s64 %d0, %d1, %d2;", |x| {
        (x[0] as i64).wrapping_div((x[1] | 1) as i64) as u64
    });
    check(&WIDE_TWO, B64, "or.b64 %d2, %d2, 1; rem.u64 %d0, %d1, %d2;", |x| x[0] % (x[1] | 1));
}

#[test]
fn signs_and_extremes() {
    check(&[B32], B32, "abs.s32 %r0, %r1;", |x| w(s(x[0]).wrapping_abs().into()));
    check(&[B32], B32, "neg.s32 %r0, %r1;", |x| w(s(x[0]).wrapping_neg().into()));
    check(&[B64], B64, "neg.s64 %d0, %d1;", |x| x[0].wrapping_neg());
    check(&[B64], B64, "abs.s64 %d0, %d1;", |x| (x[0] as i64).wrapping_abs() as u64);
    check(&TWO, B32, "min.s32 %r0, %r1, %r2;", |x| w(s(x[0]).min(s(x[1])).into()));
    check(&TWO, B32, "max.s32 %r0, %r1, %r2;", |x| w(s(x[0]).max(s(x[1])).into()));
    check(&TWO, B32, "min.u32 %r0, %r1, %r2;", |x| x[0].min(x[1]));
    check(&TWO, B32, "max.u32 %r0, %r1, %r2;", |x| x[0].max(x[1]));
    check(&WIDE_TWO, B64, "min.s64 %d0, %d1, %d2;", |x| (x[0] as i64).min(x[1] as i64) as u64);
    check(&WIDE_TWO, B64, "max.u64 %d0, %d1, %d2;", |x| x[0].max(x[1]));
    check(&[B16, B16], B16, "min.s16 %h0, %h1, %h2;", |x| u64::from((x[0] as i16).min(x[1] as i16) as u16));
    check(&[B16, B16], B16, "max.u16 %h0, %h1, %h2;", |x| x[0].max(x[1]));
    check(&THREE, B32, "sad.u32 %r0, %r1, %r2, %r3;", |x| (x[0].abs_diff(x[1]) + x[2]) & 0xFFFF_FFFF);
    check(&THREE, B32, "sad.s32 %r0, %r1, %r2, %r3;", |x| {
        w((i64::from(s(x[0])) - i64::from(s(x[1]))).abs() + i64::from(s(x[2])))
    });
}

#[test]
fn logic_and_shifts() {
    check(&TWO, B32, "and.b32 %r0, %r1, %r2;", |x| x[0] & x[1]);
    check(&TWO, B32, "or.b32 %r0, %r1, %r2;", |x| x[0] | x[1]);
    check(&TWO, B32, "xor.b32 %r0, %r1, %r2;", |x| x[0] ^ x[1]);
    check(&[B32], B32, "not.b32 %r0, %r1;", |x| !x[0] & 0xFFFF_FFFF);
    check(&[B32], B32, "cnot.b32 %r0, %r1;", |x| u64::from(x[0] == 0));
    check(&WIDE_TWO, B64, "and.b64 %d0, %d1, %d2;", |x| x[0] & x[1]);
    check(&WIDE_TWO, B64, "xor.b64 %d0, %d1, %d2;", |x| x[0] ^ x[1]);
    check(&[B64], B64, "not.b64 %d0, %d1;", |x| !x[0]);
    check(&[B16, B16], B16, "and.b16 %h0, %h1, %h2;", |x| x[0] & x[1]);
    // Shifts by the width or more empty the register; arithmetic ones fill it with the sign.
    check(&TWO, B32, "shl.b32 %r0, %r1, %r2;", |x| if x[1] > 31 { 0 } else { (x[0] << x[1]) & 0xFFFF_FFFF });
    check(&TWO, B32, "shr.u32 %r0, %r1, %r2;", |x| if x[1] > 31 { 0 } else { x[0] >> x[1] });
    check(&TWO, B32, "shr.s32 %r0, %r1, %r2;", |x| w((s(x[0]) >> x[1].min(31)).into()));
    check(&[B64, B32], B64, "shl.b64 %d0, %d1, %r2;", |x| if x[1] > 63 { 0 } else { x[0] << x[1] });
    check(&[B64, B32], B64, "shr.u64 %d0, %d1, %r2;", |x| if x[1] > 63 { 0 } else { x[0] >> x[1] });
    check(&[B64, B32], B64, "shr.s64 %d0, %d1, %r2;", |x| ((x[0] as i64) >> x[1].min(63)) as u64);
    check(&[B16, B32], B16, "shl.b16 %h0, %h1, %r2;", |x| if x[1] > 15 { 0 } else { (x[0] << x[1]) & 0xFFFF });
    check(&[B16, B32], B16, "shr.u16 %h0, %h1, %r2;", |x| if x[1] > 15 { 0 } else { x[0] >> x[1] });
    check(&THREE, B32, "shf.l.wrap.b32 %r0, %r1, %r2, %r3;", |x| {
        let both = (x[1] << 32) | x[0];
        ((both << (x[2] & 31)) >> 32) & 0xFFFF_FFFF
    });
    check(&THREE, B32, "shf.r.wrap.b32 %r0, %r1, %r2, %r3;", |x| (((x[1] << 32) | x[0]) >> (x[2] & 31)) & 0xFFFF_FFFF);
    check(&THREE, B32, "shf.r.clamp.b32 %r0, %r1, %r2, %r3;", |x| {
        (((x[1] << 32) | x[0]) >> x[2].min(32)) & 0xFFFF_FFFF
    });
    check(&THREE, B32, "shf.l.clamp.b32 %r0, %r1, %r2, %r3;", |x| {
        ((u128::from((x[1] << 32) | x[0]) << x[2].min(32)) >> 32) as u64 & 0xFFFF_FFFF
    });
    for table in [0x00u8, 0x80, 0xE8, 0x96, 0xCA, 0xFF, 0x1B] {
        check(&THREE, B32, &format!("lop3.b32 %r0, %r1, %r2, %r3, {table:#x};"), move |x| {
            (0..32)
                .map(|bit| {
                    let at = |i: usize| (x[i] >> bit) & 1;
                    (u64::from(table) >> (4 * at(0) + 2 * at(1) + at(2)) & 1) << bit
                })
                .sum()
        });
    }
}

#[test]
fn bits() {
    check(&[B32], B32, "popc.b32 %r0, %r1;", |x| x[0].count_ones().into());
    check(&[B64], B32, "popc.b64 %r0, %d1;", |x| x[0].count_ones().into());
    check(&[B32], B32, "clz.b32 %r0, %r1;", |x| (x[0] as u32).leading_zeros().into());
    check(&[B64], B32, "clz.b64 %r0, %d1;", |x| x[0].leading_zeros().into());
    check(&[B32], B32, "brev.b32 %r0, %r1;", |x| (x[0] as u32).reverse_bits().into());
    check(&[B64], B64, "brev.b64 %d0, %d1;", |x| x[0].reverse_bits());
    check(&[B32], B32, "bfind.u32 %r0, %r1;", |x| x[0].checked_ilog2().map_or(0xFFFF_FFFF, u64::from));
    check(&[B32], B32, "bfind.shiftamt.u32 %r0, %r1;", |x| {
        x[0].checked_ilog2().map_or(0xFFFF_FFFF, |at| u64::from(31 - at))
    });
    check(&[B32], B32, "bfind.s32 %r0, %r1;", |x| {
        let magnitude = if s(x[0]) < 0 { !x[0] as u32 } else { x[0] as u32 };
        magnitude.checked_ilog2().map_or(0xFFFF_FFFF, u64::from)
    });
    check(&[B64], B32, "bfind.u64 %r0, %d1;", |x| x[0].checked_ilog2().map_or(0xFFFF_FFFF, u64::from));
    check(&THREE, B32, "bfe.u32 %r0, %r1, %r2, %r3;", |x| {
        let (at, count) = (x[1] & 255, x[2] & 255);
        let value = if at > 31 { 0 } else { x[0] >> at };
        if count > 31 { value } else { value & ((1 << count) - 1) }
    });
    check(&THREE, B32, "bfe.s32 %r0, %r1, %r2, %r3;", |x| {
        let (at, count) = ((x[1] & 255) as u32, (x[2] & 255) as u32);
        if count == 0 {
            return 0;
        }
        let sign = u64::from(s(x[0]) >> (at + count - 1).min(31) & 1 == 1) * u64::MAX;
        (0..32)
            .map(|bit| {
                let from = at + bit;
                (if bit < count && from < 32 { x[0] >> from } else { sign } & 1) << bit
            })
            .sum()
    });
    check(&THREE, B32, "mov.u32 %r4, %r3; bfi.b32 %r0, %r1, %r2, %r3, 7;", |x| {
        let (at, count) = (x[2] & 255, 7u64);
        if at > 31 {
            return x[1];
        }
        let mask = (((1u64 << count) - 1) << at) & 0xFFFF_FFFF;
        (x[1] & !mask) | ((x[0] << at) & mask)
    });
    check(&THREE, B32, "prmt.b32 %r0, %r1, %r2, %r3;", |x| {
        let bytes = (x[1] << 32) | x[0];
        (0..4)
            .map(|i| {
                let selector = (x[2] >> (4 * i)) & 15;
                let byte = (bytes >> (8 * (selector & 7))) & 0xFF;
                (if selector & 8 == 0 { byte } else { (byte >> 7) * 0xFF }) << (8 * i)
            })
            .sum()
    });
}

#[test]
fn carries() {
    check(
        &WIDE_TWO,
        B64,
        "mov.b64 {%r1, %r2}, %d1; mov.b64 {%r3, %r4}, %d2; add.cc.u32 %r5, %r1, %r3; addc.u32 %r6, %r2, %r4; mov.b64 %d0, {%r5, %r6};",
        |x| x[0].wrapping_add(x[1]),
    );
    check(
        &WIDE_TWO,
        B64,
        "mov.b64 {%r1, %r2}, %d1; mov.b64 {%r3, %r4}, %d2; sub.cc.u32 %r5, %r1, %r3; subc.u32 %r6, %r2, %r4; mov.b64 %d0, {%r5, %r6};",
        |x| x[0].wrapping_sub(x[1]),
    );
    check(
        &[B32, B32, B64],
        B64,
        "mov.b64 {%r3, %r4}, %d3; mad.lo.cc.u32 %r5, %r1, %r2, %r3; madc.hi.u32 %r6, %r1, %r2, %r4; mov.b64 %d0, {%r5, %r6};",
        |x| (x[0] * x[1]).wrapping_add(x[2]),
    );
}

#[test]
fn packed_bytes() {
    let bytes = |x: u64| (0..4).map(move |i| (x >> (8 * i)) & 0xFF);
    check(&THREE, B32, "dp4a.u32.u32 %r0, %r1, %r2, %r3;", move |x| {
        (bytes(x[0]).zip(bytes(x[1])).map(|(a, b)| a * b).sum::<u64>() + x[2]) & 0xFFFF_FFFF
    });
    check(&THREE, B32, "dp4a.s32.s32 %r0, %r1, %r2, %r3;", move |x| {
        let signed = |x: u64| i64::from(x as u8 as i8);
        w(bytes(x[0]).zip(bytes(x[1])).map(|(a, b)| signed(a) * signed(b)).sum::<i64>() + i64::from(s(x[2])))
    });
    check(&TWO, B32, "mov.u32 %r3, 0; vadd4.u32.u32.u32 %r0, %r1, %r2, %r3;", move |x| {
        bytes(x[0]).zip(bytes(x[1])).enumerate().map(|(i, (a, b))| ((a + b) & 0xFF) << (8 * i)).sum()
    });
}

#[test]
fn comparisons_and_selection() {
    type Compare = fn(i64, i64) -> bool;
    let all: [(&str, Compare); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (name, compare) in all {
        let body = |of: &str| format!("setp.{name}.{of} %p1, %r1, %r2; selp.b32 %r0, 1, 0, %p1;");
        check(&TWO, B32, &body("s32"), |x| u64::from(compare(s(x[0]).into(), s(x[1]).into())));
        check(&TWO, B32, &body("u32"), |x| u64::from(compare(x[0] as i64, x[1] as i64)));
    }
    for (name, unsigned) in [("lo", "<"), ("ls", "<="), ("hi", ">"), ("hs", ">=")] {
        check(&TWO, B32, &format!("setp.{name}.u32 %p1, %r1, %r2; selp.u32 %r0, %r1, %r2, %p1;"), |x| {
            let holds = match unsigned {
                "<" => x[0] < x[1],
                "<=" => x[0] <= x[1],
                ">" => x[0] > x[1],
                _ => x[0] >= x[1],
            };
            if holds { x[0] } else { x[1] }
        });
    }
    check(&WIDE_TWO, B64, "setp.lt.s64 %p1, %d1, %d2; selp.b64 %d0, %d1, %d2, %p1;", |x| {
        (x[0] as i64).min(x[1] as i64) as u64
    });
    check(&[B16, B16], B16, "setp.gt.u16 %p1, %h1, %h2; selp.b16 %h0, %h1, %h2, %p1;", |x| x[0].max(x[1]));
    check(
        &TWO,
        B32,
        "setp.lt.s32 %p1|%p2, %r1, %r2; selp.b32 %r3, 1, 0, %p1; selp.b32 %r4, 2, 0, %p2; or.b32 %r0, %r3, %r4;",
        |x| {
            if s(x[0]) < s(x[1]) { 1 } else { 2 }
        },
    );
    check(&TWO, B32, "setp.ne.s32 %p1, %r1, 0; setp.lt.and.s32 %p2, %r1, %r2, %p1; selp.b32 %r0, 1, 0, %p2;", |x| {
        u64::from(x[0] != 0 && s(x[0]) < s(x[1]))
    });
    check(
        &TWO,
        B32,
        "setp.ne.s32 %p1, %r1, 0; setp.ne.s32 %p2, %r2, 0; and.pred %p3, %p1, %p2; xor.pred %p4, %p1, %p2; not.pred %p5, %p3; selp.b32 %r3, 1, 0, %p3; selp.b32 %r4, 2, 0, %p4; selp.b32 %r5, 4, 0, %p5; or.b32 %r3, %r3, %r4; or.b32 %r0, %r3, %r5;",
        |x| {
            let (a, b) = (x[0] != 0, x[1] != 0);
            u64::from(a && b) + 2 * u64::from(a != b) + 4 * u64::from(!(a && b))
        },
    );
    check(&TWO, B32, "set.lt.u32.s32 %r0, %r1, %r2;", |x| if s(x[0]) < s(x[1]) { 0xFFFF_FFFF } else { 0 });
    check(&THREE, B32, "slct.b32.s32 %r0, %r1, %r2, %r3;", |x| if s(x[2]) >= 0 { x[0] } else { x[1] });
}

#[test]
fn sums_of_byte_distances() {
    check(&[B32, B32, B32], B32, "vabsdiff4.u32.u32.u32.add %r0, %r1, %r2, %r3;", |x| {
        let byte = |v: u64, k: u32| v >> (8 * k) & 255;
        (x[2] + (0..4).map(|k| byte(x[0], k).abs_diff(byte(x[1], k))).sum::<u64>()) & 0xffff_ffff
    });
}
