//! Loads, stores, atomics, address spaces.

use crate::{
    COUNT,
    Kind::{B16, B32, B64, F32},
    check, check_lanes, f, s, to_f, w,
};

#[test]
fn widths_and_signs() {
    // Four bytes of every lane's own word, through its own stretch of shared memory.
    let stage = "mov.u32 %r2, words; shl.b32 %r3, %r31, 2; add.u32 %r2, %r2, %r3; st.shared.b32 [%r2], %r1; ";
    let shared = ".shared .align 16 .b8 words[512];\n";
    check_lanes(&[B32], B32, shared, &format!("{stage} ld.shared.s8 %r0, [%r2+1];"), |x, i| {
        w(((x[i][0] >> 8) as i8).into())
    });
    check_lanes(&[B32], B32, shared, &format!("{stage} ld.shared.u8 %r0, [%r2+3];"), |x, i| x[i][0] >> 24);
    check_lanes(&[B32], B32, shared, &format!("{stage} ld.shared.s16 %r0, [%r2+2];"), |x, i| {
        w(((x[i][0] >> 16) as i16).into())
    });
    check_lanes(&[B32], B16, shared, &format!("{stage} ld.shared.u16 %h0, [%r2];"), |x, i| x[i][0] & 0xFFFF);
    check_lanes(
        &[B32],
        B32,
        shared,
        &format!("{stage} st.shared.u8 [%r2+2], 171; ld.shared.u32 %r0, [%r2];"),
        |x, i| x[i][0] & 0xFF00_FFFF | 171 << 16,
    );
    check_lanes(
        &[B32],
        B32,
        shared,
        &format!("{stage} cvt.u64.u32 %d1, %r2; cvta.shared.u64 %d2, %d1; ld.u32 %r0, [%d2];"),
        |x, i| x[i][0],
    );
}

#[test]
fn vectors() {
    let shared = ".shared .align 16 .b8 words[2048];\n";
    let address = "mov.u32 %r4, words; shl.b32 %r5, %r31, 4; add.u32 %r4, %r4, %r5; ";
    check_lanes(
        &[B32, B32],
        B32,
        shared,
        &format!(
            "{address} st.shared.v4.u32 [%r4], {{%r1, %r2, %r1, %r31}}; ld.shared.v4.u32 {{%r6, %r7, %r8, %r9}}, [%r4]; add.u32 %r0, %r7, %r9;"
        ),
        |x, i| (x[i][1] + i as u64) & 0xFFFF_FFFF,
    );
    check_lanes(
        &[B64],
        B64,
        shared,
        &format!(
            "{address} st.shared.v2.u64 [%r4], {{%d1, %d1}}; ld.shared.v2.b64 {{%d2, %d3}}, [%r4]; add.s64 %d0, %d2, %d3;"
        ),
        |x, i| x[i][0].wrapping_mul(2),
    );
    check_lanes(
        &[B16],
        B16,
        shared,
        &format!(
            "{address} st.shared.v4.u16 [%r4], {{%h1, %h1, %h1, %h1}}; ld.shared.v2.u16 {{%h2, %h3}}, [%r4+4]; xor.b16 %h4, %h2, %h3; or.b16 %h0, %h4, %h2;"
        ),
        |x, i| x[i][0],
    );
    // Sixteen bytes of the operands themselves: lanes 0, 4, 8, ... read four neighbours.
    check_lanes(
        &[B32],
        B32,
        "",
        "ld.param.u64 %d1, [a]; and.b32 %r4, %r31, 124; mul.wide.u32 %d2, %r4, 4; add.s64 %d1, %d1, %d2; ld.global.nc.v4.u32 {%r5, %r6, %r7, %r8}, [%d1]; xor.b32 %r5, %r5, %r6; xor.b32 %r7, %r7, %r8; xor.b32 %r0, %r5, %r7;",
        |x, i| (i / 4 * 4..i / 4 * 4 + 4).fold(0, |all, lane| all ^ x[lane][0]),
    );
}

#[test]
fn local_constant_and_module_memory() {
    check_lanes(
        &[B32],
        B32,
        ".local .align 8 .b8 own[32];\n",
        "mov.u64 %d1, own; cvta.local.u64 %d2, %d1; st.local.u32 [%d1+8], %r1; ld.u32 %r0, [%d2+8];",
        |x, i| x[i][0],
    );
    let text = crate::kernel(&[], B32, "", "mov.u64 %d1, table; and.b32 %r1, %r31, 3; mul.wide.u32 %d2, %r1, 4; add.s64 %d1, %d1, %d2; ld.const.u32 %r2, [%d1]; mov.u64 %d3, numbers; add.s64 %d3, %d3, %d2; ld.global.u32 %r3, [%d3]; add.u32 %r0, %r2, %r3;")
        .replace(".visible .entry", ".const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.global .align 4 .u32 numbers[4] = {1, 2, 3, 4};\n.visible .entry");
    let y = crate::execute(&text, &[], B32, ptx_emulator::Options::default());
    assert!(y.iter().enumerate().all(|(i, &y)| y == 11 * (i as u64 % 4 + 1)), "{y:?}");
}

#[test]
fn shared_atomics() {
    let cell = ".shared .align 8 .b8 cell[8];\n";
    let begin = |value: &str| {
        format!(
            "mov.u32 %r5, cell; mov.u64 %d5, {value}; setp.eq.u32 %p7, %r31, 0; @%p7 st.shared.u64 [%r5], %d5; bar.sync 0; "
        )
    };
    let end32 = " bar.sync 0; ld.shared.u32 %r0, [%r5];";
    let fold = |op: fn(u64, u64) -> u64, begin: u64| {
        move |x: &[Vec<u64>], _: usize| x.iter().fold(begin, |all, x| op(all, x[0])) & 0xFFFF_FFFF
    };
    for (name, op, first) in [
        ("add.u32", (|a, b| a + b) as fn(u64, u64) -> u64, 5),
        ("and.b32", |a, b| a & b, 0xFFFF_FFFF),
        ("or.b32", |a, b| a | b, 0),
        ("xor.b32", |a, b| a ^ b, 9),
        ("max.u32", |a, b| a.max(b), 0),
        ("min.u32", |a, b| a.min(b), 0xFFFF_FFFF),
        ("max.s32", |a, b| w(s(a).max(s(b)).into()), 0x8000_0000),
        ("min.s32", |a, b| w(s(a).min(s(b)).into()), 0x7FFF_FFFF),
    ] {
        check_lanes(
            &[B32],
            B32,
            cell,
            &format!("{} atom.shared.{name} %r6, [%r5], %r1; {end32}", begin(&first.to_string())),
            fold(op, first),
        );
        check_lanes(
            &[B32],
            B32,
            cell,
            &format!("{} red.shared.{name} [%r5], %r1; {end32}", begin(&first.to_string())),
            fold(op, first),
        );
    }
    // Every lane draws a number of its own: their sum tells.
    check_lanes(
        &[],
        B32,
        cell,
        &format!(
            "{} atom.shared.inc.u32 %r6, [%r5], 1000000; mov.u32 %r7, cell; bar.sync 0; atom.shared.add.u32 %r8, [%r7+4], %r6; bar.sync 0; ld.shared.u32 %r0, [%r7+4];",
            begin("0")
        ),
        |_, _| (COUNT * (COUNT - 1) / 2) as u64,
    );
    check_lanes(
        &[],
        F32,
        cell,
        &format!("{} atom.shared.add.f32 %f1, [%r5], 0f3F800000; bar.sync 0; ld.shared.f32 %f0, [%r5];", begin("0")),
        |_, _| to_f(COUNT as f32),
    );
    check_lanes(
        &[],
        B32,
        cell,
        &format!(
            "{} again: ld.volatile.shared.u32 %r6, [%r5]; add.u32 %r7, %r6, 3; atom.shared.cas.b32 %r8, [%r5], %r6, %r7; setp.ne.u32 %p1, %r8, %r6; @%p1 bra again; {end32}",
            begin("7")
        ),
        |_, _| 7 + 3 * COUNT as u64,
    );
    check_lanes(
        &[B64],
        B64,
        cell,
        &format!(
            "{} atom.shared.exch.b64 %d6, [%r5], %d1; bar.sync 0; mov.u64 %d0, %d6; setp.eq.u32 %p1, %r31, 0; @%p1 st.shared.u64 [%r5], 0; xor.b64 %d0, %d0, %d6;",
            begin("0")
        ),
        |_, _| 0,
    );
}

#[test]
fn global_atomics() {
    // On the first lane's own operand.
    check_lanes(
        &[B32],
        B32,
        "",
        "ld.param.u64 %d1, [a]; bar.sync 0; atom.global.add.u32 %r2, [%d1], 2; bar.sync 0; ld.volatile.global.u32 %r0, [%d1];",
        |x, _| (x[0][0] + 2 * COUNT as u64) & 0xFFFF_FFFF,
    );
    check_lanes(
        &[B64],
        B64,
        "",
        "ld.param.u64 %d2, [a]; bar.sync 0; red.global.max.u64 [%d2], %d1; bar.sync 0; ld.volatile.global.u64 %d0, [%d2];",
        |x, _| x.iter().map(|x| x[0]).max().unwrap_or(0),
    );
    check_lanes(
        &[F32],
        F32,
        "",
        "ld.param.u64 %d2, [a]; mov.u32 %r1, 0; bar.sync 0; setp.eq.u32 %p1, %r31, 0; @%p1 st.global.u32 [%d2], %r1; bar.sync 0; red.global.add.f32 [%d2], 0f3F000000; bar.sync 0; ld.volatile.global.f32 %f0, [%d2];",
        |_, _| to_f(0.5 * COUNT as f32),
    );
}

#[test]
fn orders_and_spaces() {
    check(&[F32], F32, "membar.gl; fence.acq_rel.gpu; membar.cta; mov.f32 %f0, %f1;", |x| to_f(f(x[0])));
    check_lanes(
        &[B32],
        B32,
        "",
        "ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r31, 4; add.s64 %d1, %d1, %d2; st.release.gpu.global.u32 [%d1], %r31; ld.acquire.gpu.global.u32 %r0, [%d1];",
        |_, i| i as u64,
    );
    check_lanes(
        &[],
        B32,
        ".shared .align 4 .b8 word[4];\n",
        "mov.u64 %d1, word; cvta.shared.u64 %d2, %d1; ld.param.u64 %d3, [y]; isspacep.shared %p1, %d2; isspacep.global %p2, %d3; isspacep.shared %p3, %d3; selp.b32 %r1, 1, 0, %p1; selp.b32 %r2, 2, 0, %p2; selp.b32 %r3, 4, 0, %p3; or.b32 %r1, %r1, %r2; or.b32 %r0, %r1, %r3;",
        |_, _| 3,
    );
}

#[test]
fn vector_atomics() {
    let text = ".version 8.1\n.target sm_90\n.address_size 64\n
        .visible .entry t(.param .u64 y)\n{\n
        .reg .b64 %d<3>; .reg .f32 %f<8>; .reg .b32 %r<4>;
        ld.param.u64 %d1, [y];
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000;
        red.global.add.v4.f32 [%d1], {%f1, %f2, %f1, %f2};
        atom.global.v2.f32.add {%f3, %f4}, [%d1+16], {%f2, %f1};
        mov.b32 %r1, 0x3c003c00; mov.b32 %r2, 0x40004000;
        red.global.add.noftz.v2.f16x2 [%d1+24], {%r1, %r2};
        ret;\n}\n";
    let module = ptx_emulator::Module::load(text).unwrap_or_else(|e| panic!("{e}"));
    let mut gpu = ptx_emulator::Gpu::new(ptx_emulator::Options::default());
    let y = gpu.alloc(32).expect("memory");
    gpu.fill(y, 0, 32).expect("own memory");
    let mut launch = |at: u64| gpu.launch(&module, "t", [1, 1, 1], [32, 1, 1], 0, &at.to_le_bytes());
    let counters = launch(y).expect("a clean run");
    assert_eq!((counters.global_store_requests, counters.global_store_sectors), (3, 3));
    assert!(launch(y + 4).is_err(), "no multiple of sixteen");
    let mut bytes = [0; 32];
    gpu.read(y, &mut bytes).expect("own memory");
    let words: Vec<u32> = bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let want = [32f32, 64.0, 32.0, 64.0, 64.0, 32.0].map(f32::to_bits);
    assert_eq!(words[..6], want);
    assert_eq!(words[6..], [0x5000_5000, 0x5400_5400]);
}
