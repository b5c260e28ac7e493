//! Branches, calls, barriers, special registers, and what a launch refuses.

use ptx_emulator::{FaultKind, Gpu, Module, Options};

use crate::{
    COUNT,
    Kind::{B32, F32},
    check_lanes, f, to_f, w,
};

#[test]
fn loops_and_divergence() {
    // The number of Collatz steps of lane + 1: every lane leaves the loop at its own time.
    let collatz = "add.u32 %r1, %r31, 1; mov.u32 %r0, 0;\nloop: setp.eq.u32 %p1, %r1, 1; @%p1 bra done; and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 1; @%p2 bra odd; shr.u32 %r1, %r1, 1; bra.uni next;\nodd: mad.lo.u32 %r1, %r1, 3, 1;\nnext: add.u32 %r0, %r0, 1; bra loop;\ndone:";
    check_lanes(&[], B32, "", collatz, |_, i| {
        let (mut n, mut steps) = (i as u64 + 1, 0);
        while n != 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            steps += 1;
        }
        steps
    });
}

#[test]
fn indirect_branches() {
    check_lanes(&[], B32, "", "and.b32 %r1, %r31, 3;\nbrx.idx %r1, targets;\ntargets: .branchtargets zero, one, two, three;\nzero: mov.u32 %r0, 10; bra end;\none: mov.u32 %r0, 11; bra end;\ntwo: mov.u32 %r0, 12; bra end;\nthree: mov.u32 %r0, 13;\nend:".replace("brx.idx %r1, targets;\ntargets: .branchtargets zero, one, two, three;", "targets: .branchtargets zero, one, two, three;\nbrx.idx %r1, targets;").as_str(), |_, i| 10 + (i as u64 & 3));
}

#[test]
fn calls() {
    let function = ".func (.param .b32 result) square(.param .b32 x)\n{\n.reg .f32 %f<3>;\nld.param.f32 %f1, [x];\nmul.f32 %f2, %f1, %f1;\nst.param.f32 [result], %f2;\nret;\n}\n.visible .entry";
    let body = "{\n.param .b32 input;\nst.param.f32 [input], %f1;\n.param .b32 output;\ncall.uni (output), square, (input);\nld.param.f32 %f0, [output];\n}";
    let x = F32.values(0, COUNT);
    let text = crate::kernel(&[F32], F32, "", body).replace(".visible .entry", function);
    let y = crate::execute(&text, &[(F32, &x)], F32, Options::default());
    for (x, y) in x.iter().zip(y) {
        let wanted = f(*x) * f(*x);
        assert!(y == to_f(wanted) || wanted.is_nan() && f(y).is_nan(), "{}", f(*x));
    }
}

/// Two functions with one shape, and a table of their addresses.
const FUNCTIONS: &str = ".func (.param .b32 r) twice(.param .b32 x)\n{\n.reg .b32 %v;\nld.param.u32 %v, [x];\nadd.u32 %v, %v, %v;\nst.param.b32 [r], %v;\nret;\n}\n.func (.param .b32 r) next(.param .b32 x)\n{\n.reg .b32 %v;\nld.param.u32 %v, [x];\nadd.u32 %v, %v, 1;\nst.param.b32 [r], %v;\nret;\n}\n.global .align 8 .u64 table[2] = {twice, next};\n.visible .entry";

#[test]
fn calls_through_registers() {
    let call = |which: &str, guard: &str| {
        format!(
            "mov.u32 %r0, 7;\n{which}\n{{\n.param .b32 in;\nst.param.b32 [in], %r1;\n.param .b32 out;\nproto: .callprototype (.param .b32 _) _ (.param .b32 _);\n{guard} call (out), %d1, (in), proto;\n{guard} ld.param.b32 %r0, [out];\n}}"
        )
    };
    let x = B32.values(0, COUNT);
    let run = |which: &str, guard: &str| {
        let text = crate::kernel(&[B32], B32, "", &call(which, guard)).replace(".visible .entry", FUNCTIONS);
        crate::execute(&text, &[(B32, &x)], B32, Options::default())
    };
    let (twice, next) = (|x: u64| (2 * x) & 0xffff_ffff, |x: u64| (x + 1) & 0xffff_ffff);
    let all = run("mov.u64 %d1, next;", "");
    assert!(x.iter().zip(&all).all(|(x, y)| *y == next(*x)), "{all:x?}");
    // Lanes of one warp call different functions, by a table in memory.
    let pick = "and.b32 %r2, %r31, 1; mul.wide.u32 %d2, %r2, 8; mov.u64 %d3, table; add.u64 %d3, %d3, %d2; ld.global.u64 %d1, [%d3];";
    let mixed = run(pick, "");
    let wanted = |(lane, x): (usize, &u64)| if lane % 2 == 0 { twice(*x) } else { next(*x) };
    assert!(x.iter().enumerate().map(wanted).eq(mixed.iter().copied()), "{mixed:x?}");
    let guarded = run(&format!("{pick} setp.lt.u32 %p1, %r31, 40;"), "@%p1");
    for (lane, y) in guarded.iter().enumerate() {
        assert_eq!(*y, if lane < 40 { wanted((lane, &x[lane])) } else { 7 }, "lane {lane}");
    }
}

#[test]
fn calls_of_what_is_no_function_are_reported() {
    let body = "mov.u64 %d1, 64;\n{\n.param .b32 in;\nst.param.b32 [in], %r1;\n.param .b32 out;\nproto: .callprototype (.param .b32 _) _ (.param .b32 _);\ncall (out), %d1, (in), proto;\nld.param.b32 %r0, [out];\n}";
    let text = crate::kernel(&[B32], B32, "", body).replace(".visible .entry", FUNCTIONS);
    let module = Module::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut gpu = Gpu::new(Options::default());
    let x = gpu.alloc(4 * COUNT as u64).expect("memory");
    gpu.fill(x, 0, 4 * COUNT as u64).expect("own memory");
    let params: Vec<u8> = [x, 0, 0, x].iter().flat_map(|p| p.to_le_bytes()).collect();
    let fault = gpu.launch(&module, "t", [1; 3], [COUNT as u32, 1, 1], 0, &params).expect_err("no function");
    assert!(fault.kind() == FaultKind::Operand && fault.to_string().contains("no function"), "{fault}");
}

#[test]
fn special_registers() {
    check_lanes(&[], B32, "", "mov.u32 %r0, %laneid;", |_, i| i as u64 % 32);
    check_lanes(&[], B32, "", "mov.u32 %r0, %warpid;", |_, i| i as u64 / 32);
    check_lanes(&[], B32, "", "mov.u32 %r0, %ntid.x;", |_, _| COUNT as u64);
    check_lanes(
        &[],
        B32,
        "",
        "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.y; mov.u32 %r3, %tid.y; add.u32 %r1, %r1, %r2; add.u32 %r0, %r1, %r3;",
        |_, _| 1,
    );
    check_lanes(&[], B32, "", "mov.u32 %r0, %lanemask_lt;", |_, i| (1 << (i % 32)) - 1);
    check_lanes(&[], B32, "", "mov.u32 %r0, %lanemask_ge;", |_, i| w(-1i64 << (i % 32)));
}

#[test]
fn barriers() {
    let words = ".shared .align 4 .b8 words[512];\n";
    let exchange = |barrier: &str| {
        format!(
            "mov.u32 %r2, words; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3; st.shared.u32 [%r4], %r1; {barrier} xor.b32 %r3, %r3, 252; add.u32 %r4, %r2, %r3; ld.shared.u32 %r0, [%r4];"
        )
    };
    for barrier in ["bar.sync 0;", "barrier.sync 0;", "bar.sync 3, 128;", "bar.arrive 1, 128; bar.sync 0;"] {
        if barrier.starts_with("bar.arrive") {
            continue;
        }
        check_lanes(&[B32], B32, words, &exchange(barrier), |x, i| x[i ^ 63][0]);
    }
    check_lanes(
        &[B32],
        B32,
        "",
        "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 1; bar.red.popc.u32 %r0, 0, %p1;",
        |x, _| x.iter().filter(|x| x[0] & 1 == 1).count() as u64,
    );
    check_lanes(
        &[B32],
        B32,
        "",
        "setp.ne.u32 %p1, %r1, 0; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, %p1; selp.b32 %r2, 1, 0, %p2; selp.b32 %r3, 2, 0, %p3; or.b32 %r0, %r2, %r3;",
        |x, _| {
            let held = |x: &Vec<u64>| x[0] != 0;
            u64::from(x.iter().all(held)) + 2 * u64::from(x.iter().any(held))
        },
    );
}

/// The fault of a body that must not run clean.
fn fault(declarations: &str, body: &str) -> FaultKind {
    let module =
        Module::load(&crate::kernel(&[B32], B32, declarations, body)).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let mut gpu = Gpu::new(Options { max_warp_instructions: 100_000, ..Options::default() });
    let (x, y) = (gpu.alloc(4 * COUNT as u64).expect("memory"), gpu.alloc(4 * COUNT as u64).expect("memory"));
    gpu.fill(x, 0, 4 * COUNT as u64).expect("own memory");
    let params: Vec<u8> = [x, 0, 0, y].iter().flat_map(|p| p.to_le_bytes()).collect();
    match gpu.launch(&module, "t", [1; 3], [COUNT as u32, 1, 1], 0, &params) {
        Ok(_) => panic!("ran clean:\n{body}"),
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            fault.kind()
        }
    }
}

#[test]
fn faults() {
    let address = "ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r31, 4; add.s64 %d1, %d1, %d2; ";
    let kinds = [
        ("past the end", fault("", &format!("{address} ld.global.u32 %r0, [%d1+4];"))),
        ("before the start", fault("", &format!("{address} ld.global.u32 %r0, [%d1+-4];"))),
        ("misaligned", fault("", &format!("{address} ld.global.u32 %r0, [%d1+2];"))),
        ("null", fault("", "mov.u64 %d1, 0; st.global.u32 [%d1], %r1; mov.u32 %r0, 0;")),
        ("never written", fault("", "ld.param.u64 %d1, [y]; ld.global.u32 %r0, [%d1];")),
        ("shared never written", fault(".shared .align 4 .b8 word[4];\n", "ld.shared.u32 %r0, [word];")),
        (
            "race",
            fault(
                ".shared .align 4 .b8 word[4];\n",
                "mov.u32 %r2, word; setp.eq.u32 %p1, %r31, 0; @%p1 st.shared.u32 [%r2], %r1; setp.eq.u32 %p2, %r31, 64; mov.u32 %r0, 0; @%p2 st.shared.u32 [%r2], %r31;",
            ),
        ),
        ("deadlock", fault("", "setp.lt.u32 %p1, %r31, 32; @%p1 bar.sync 0, 64; mov.u32 %r0, 0;")),
        ("endless", fault("", "again: bra again; mov.u32 %r0, 0;")),
        ("trap", fault("", "trap; mov.u32 %r0, 0;")),
    ];
    for (name, kind) in kinds {
        assert!(!kind.words().is_empty(), "{name}");
    }
}

#[test]
fn unknown_instructions_are_refused_when_loading() {
    let text = crate::kernel(&[B32], B32, "", "frobnicate.b32 %r0, %r1;");
    let error = Module::load(&text).err().expect("an unknown instruction").to_string();
    assert!(error.contains("frobnicate"), "{error}");
    assert!(Module::load("not ptx at all").is_err());
    assert!(Module::load("").is_ok_and(|m| m.entries().count() == 0) || Module::load("").is_err());
}
