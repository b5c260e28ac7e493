//! What lanes do together.

use crate::{
    Kind::{B32, B64, F64},
    check_lanes, s, w,
};

/// The 32 first operands of a lane's warp.
fn mates(x: &[Vec<u64>], lane: usize) -> Vec<u64> {
    x[lane / 32 * 32..][..32].iter().map(|x| x[0]).collect()
}

#[test]
fn shuffles() {
    check_lanes(&[B32], B32, "", "shfl.sync.idx.b32 %r0, %r1, 5, 31, -1;", |x, i| mates(x, i)[5]);
    check_lanes(&[B32], B32, "", "shfl.sync.up.b32 %r0, %r1, 3, 0, -1;", |x, i| {
        mates(x, i)[if i % 32 < 3 { i % 32 } else { i % 32 - 3 }]
    });
    check_lanes(&[B32], B32, "", "shfl.sync.down.b32 %r0, %r1, 7, 31, -1;", |x, i| {
        mates(x, i)[if i % 32 + 7 > 31 { i % 32 } else { i % 32 + 7 }]
    });
    check_lanes(&[B32], B32, "", "shfl.sync.bfly.b32 %r0, %r1, 16, 31, -1;", |x, i| mates(x, i)[(i % 32) ^ 16]);
    // Segments of eight: c holds the clamp and the segment's mask.
    check_lanes(&[B32], B32, "", "shfl.sync.down.b32 %r0|%p1, %r1, 1, 6175, -1; @!%p1 mov.u32 %r0, 77;", |x, i| {
        if i % 8 == 7 { 77 } else { mates(x, i)[i % 32 + 1] }
    });
    check_lanes(&[B32], B32, "", "and.b32 %r2, %r31, 7; shfl.sync.idx.b32 %r0, %r1, %r2, 6175, -1;", |x, i| {
        mates(x, i)[i % 32]
    });
}

#[test]
fn votes() {
    let count = |x: &[Vec<u64>], i: usize| mates(x, i).iter().filter(|v| **v & 1 == 1).count();
    let odd = "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 1; ";
    check_lanes(&[B32], B32, "", &format!("{odd} vote.sync.ballot.b32 %r0, %p1, -1;"), |x, i| {
        mates(x, i).iter().enumerate().map(|(lane, v)| (v & 1) << lane).sum()
    });
    check_lanes(
        &[B32],
        B32,
        "",
        &format!("{odd} vote.sync.any.pred %p2, %p1, -1; selp.b32 %r0, 1, 0, %p2;"),
        move |x, i| u64::from(count(x, i) > 0),
    );
    check_lanes(
        &[B32],
        B32,
        "",
        &format!("{odd} vote.sync.all.pred %p2, %p1, -1; selp.b32 %r0, 1, 0, %p2;"),
        move |x, i| u64::from(count(x, i) == 32),
    );
    check_lanes(
        &[B32],
        B32,
        "",
        &format!("{odd} vote.sync.uni.pred %p2, %p1, -1; selp.b32 %r0, 1, 0, %p2;"),
        move |x, i| u64::from(count(x, i).is_multiple_of(32)),
    );
    check_lanes(
        &[B32],
        B32,
        "",
        "setp.lt.u32 %p1, %r31, 40; mov.u32 %r0, 0; @%p1 activemask.b32 %r0;",
        |_, i| match i {
            0..32 => 0xFFFF_FFFF,
            32..40 => 0xFF,
            _ => 0,
        },
    );
}

#[test]
fn matches() {
    check_lanes(&[B32], B32, "", "and.b32 %r1, %r1, 3; match.any.sync.b32 %r0, %r1, -1;", |x, i| {
        let mates = mates(x, i);
        mates.iter().enumerate().map(|(lane, v)| u64::from(v & 3 == mates[i % 32] & 3) << lane).sum()
    });
    check_lanes(&[B64], B32, "", "and.b64 %d1, %d1, 1; match.any.sync.b64 %r0, %d1, -1;", |x, i| {
        let mates = mates(x, i);
        mates.iter().enumerate().map(|(lane, v)| u64::from(v & 1 == mates[i % 32] & 1) << lane).sum()
    });
    check_lanes(
        &[B32],
        B32,
        "",
        "shr.u32 %r2, %r31, 5; match.all.sync.b32 %r0|%p1, %r2, -1; @!%p1 mov.u32 %r0, 5;",
        |_, _| 0xFFFF_FFFF,
    );
}

#[test]
fn reductions() {
    check_lanes(&[B32], B32, "", "redux.sync.add.s32 %r0, %r1, -1;", |x, i| {
        mates(x, i).iter().sum::<u64>() & 0xFFFF_FFFF
    });
    check_lanes(&[B32], B32, "", "redux.sync.min.s32 %r0, %r1, -1;", |x, i| {
        w(mates(x, i).iter().map(|v| s(*v)).min().unwrap_or(0).into())
    });
    check_lanes(&[B32], B32, "", "redux.sync.max.u32 %r0, %r1, -1;", |x, i| mates(x, i).into_iter().max().unwrap_or(0));
    check_lanes(&[B32], B32, "", "redux.sync.xor.b32 %r0, %r1, -1;", |x, i| {
        mates(x, i).into_iter().fold(0, |a, b| a ^ b)
    });
    check_lanes(&[B32], B32, "", "redux.sync.and.b32 %r0, %r1, -1;", |x, i| {
        mates(x, i).into_iter().fold(0xFFFF_FFFF, |a, b| a & b)
    });
    check_lanes(&[B32], B32, "", "redux.sync.or.b32 %r0, %r1, -1;", |x, i| {
        mates(x, i).into_iter().fold(0, |a, b| a | b)
    });
}

/// Elements of a matrix operand: row and column of register `i` of a lane.
type Place = fn(usize, usize) -> (usize, usize);

#[test]
fn products_of_doubles() {
    let c: Place = |lane, i| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
    let b: Place = |lane, i| (lane % 4 + 4 * i, lane / 4);
    let eight: Place = |lane, i| (lane / 4, lane % 4 + 4 * i);
    let sixteen: Place = |lane, i| (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2));
    for (rows, k, a) in [(8, 4, eight), (16, 4, sixteen), (16, 8, sixteen), (16, 16, sixteen)] {
        let registers = [(rows / 8 * k / 4, a), (k / 4, b), (rows / 4, c)];
        let value = |which: usize, row: usize, column: usize| ((which * 31 + row * 7 + column * 13) % 11) as f64 - 5.0;
        // Each lane computes its elements from its own place.
        let mut body = String::from("and.b32 %r1, %r31, 31;\n");
        let mut lists = Vec::new();
        let mut inputs = Vec::new();
        for (which, (count, place)) in registers.into_iter().enumerate() {
            let names: Vec<String> = (0..count).map(|i| format!("%m{}", 16 * which + i)).collect();
            for (i, name) in names.iter().enumerate() {
                body.push_str(&format!(
                    "mul.wide.u32 %d1, %r1, 8; mov.u64 %d2, inputs; add.u64 %d2, %d2, %d1; ld.global.f64 {name}, [%d2+{}];\n",
                    256 * inputs.len()
                ));
                inputs.push(
                    (0..32)
                        .map(|lane| {
                            let (row, column) = place(lane, i);
                            value(which, row, column)
                        })
                        .collect::<Vec<f64>>(),
                );
            }
            lists.push(format!("{{{}}}", names.join(", ")));
        }
        let results: Vec<String> = (0..rows / 4).map(|i| format!("%m{}", 48 + i)).collect();
        body.push_str(&format!(
            "mma.sync.aligned.m{rows}n8k{k}.row.col.f64.f64.f64.f64 {{{}}}, {}, {}, {};\n",
            results.join(", "),
            lists[0],
            lists[1],
            lists[2]
        ));
        let bits: Vec<String> = inputs.iter().flatten().map(|v| format!("0d{:016X}", v.to_bits())).collect();
        let table = format!(".global .align 8 .f64 inputs[{}] = {{{}}};\n.visible .entry", bits.len(), bits.join(", "));
        for (i, result) in results.iter().enumerate() {
            let text = crate::kernel(&[], F64, ".reg .f64 %m<64>;\n", &format!("{body}mov.f64 %g0, {result};"));
            let text = text.replace(".visible .entry", &table);
            let ours = crate::execute(&text, &[], F64, ptx_emulator::Options::default());
            for (lane, ours) in ours.iter().enumerate() {
                let (row, column) = c(lane % 32, i);
                let sum: f64 = (0..k).map(|depth| value(0, row, depth) * value(1, depth, column)).sum();
                assert_eq!(
                    f64::from_bits(*ours),
                    sum + value(2, row, column),
                    "m{rows}n8k{k}, lane {lane}, register {i}"
                );
            }
        }
    }
}
