//! From a function on one lane's values to an operation on a warp's registers, compiled for AVX2 and FMA where the
//! processor has them. Rust never fuses or reorders floating point by itself and `mul_add` rounds once on either path, so
//! both give the same bits.

use half::{bf16, f16};

use crate::machine::{Block, Ins, LANES, OpFn, Step, Warp};

/// Whether the processor runs the vector version of the operations.
pub(crate) fn vector() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::LazyLock;
        static FOUND: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("f16c")
        });
        *FOUND
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// An operation as a type, so that each gets its own two compiled versions.
pub(crate) trait Operation {
    /// Executes one warp instruction.
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step;
}

unsafe fn plain<O: Operation>(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    O::run(warp, block, ins, mask)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
unsafe fn vectored<O: Operation>(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    O::run(warp, block, ins, mask)
}

/// The function for an operation on this processor.
pub(crate) fn pick<O: Operation>() -> OpFn {
    #[cfg(target_arch = "x86_64")]
    if vector() {
        return vectored::<O>;
    }
    plain::<O>
}

/// A closure without captures, out of nothing but its type.
#[inline(always)]
pub(crate) fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "operations capture nothing") };
    // SAFETY: F has no bytes, is Copy, and a value of it existed when the operation was registered.
    unsafe { std::mem::transmute_copy::<(), F>(&()) }
}

/// A register file's element.
pub(crate) trait Bits: Copy + Default {
    fn file(warp: &Warp, slot: u32) -> &[Self; LANES];
    fn set(warp: &mut Warp, slot: u32, value: [Self; LANES], mask: u32);
}

impl Bits for u32 {
    #[inline(always)]
    fn file(warp: &Warp, slot: u32) -> &[Self; LANES] {
        &warp.r32[slot as usize]
    }
    #[inline(always)]
    fn set(warp: &mut Warp, slot: u32, value: [Self; LANES], mask: u32) {
        warp.set32(slot, value, mask);
    }
}

impl Bits for u64 {
    #[inline(always)]
    fn file(warp: &Warp, slot: u32) -> &[Self; LANES] {
        &warp.r64[slot as usize]
    }
    #[inline(always)]
    fn set(warp: &mut Warp, slot: u32, value: [Self; LANES], mask: u32) {
        warp.set64(slot, value, mask);
    }
}

/// A PTX type as one lane holds it.
pub(crate) trait Lane: Copy + 'static {
    type Register: Bits;
    fn from_bits(bits: Self::Register) -> Self;
    fn bits(self) -> Self::Register;
}

macro_rules! lanes {
    ($($t:ty, $r:ty, |$b:ident| $from:expr, |$v:ident| $to:expr;)*) => {$(
        impl Lane for $t {
            type Register = $r;
            #[inline(always)]
            fn from_bits($b: $r) -> Self { $from }
            #[inline(always)]
            fn bits(self) -> $r { let $v = self; $to }
        }
    )*};
}

lanes! {
    u8, u32, |b| b as u8, |v| u32::from(v);
    i8, u32, |b| b as i8, |v| u32::from(v as u8);
    u16, u32, |b| b as u16, |v| u32::from(v);
    i16, u32, |b| b as i16, |v| u32::from(v as u16);
    u32, u32, |b| b, |v| v;
    i32, u32, |b| b as i32, |v| v as u32;
    f32, u32, |b| f32::from_bits(b), |v| v.to_bits();
    f16, u32, |b| f16::from_bits(b as u16), |v| u32::from(v.to_bits());
    bf16, u32, |b| bf16::from_bits(b as u16), |v| u32::from(v.to_bits());
    u64, u64, |b| b, |v| v;
    i64, u64, |b| b as i64, |v| v as u64;
    f64, u64, |b| f64::from_bits(b), |v| v.to_bits();
}

impl Lane for [f16; 2] {
    type Register = u32;
    #[inline(always)]
    fn from_bits(b: u32) -> Self {
        [f16::from_bits(b as u16), f16::from_bits((b >> 16) as u16)]
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self[0].to_bits()) | u32::from(self[1].to_bits()) << 16
    }
}

impl Lane for [bf16; 2] {
    type Register = u32;
    #[inline(always)]
    fn from_bits(b: u32) -> Self {
        [bf16::from_bits(b as u16), bf16::from_bits((b >> 16) as u16)]
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self[0].to_bits()) | u32::from(self[1].to_bits()) << 16
    }
}

/// The register of a type, all lanes.
pub(crate) type Row<T> = [<T as Lane>::Register; LANES];

struct Unary<A, R, F>(std::marker::PhantomData<(A, R, F)>);

impl<A: Lane, R: Lane, F: Fn(A) -> R + Copy> Operation for Unary<A, R, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out: Row<R> = [Default::default(); LANES];
        let a = A::Register::file(warp, ins.slots[1]);
        for lane in 0..LANES {
            out[lane] = f(A::from_bits(a[lane])).bits();
        }
        R::Register::set(warp, ins.slots[0], out, mask);
        Ok(())
    }
}

/// slots: d, a
pub(crate) fn unary<A: Lane, R: Lane, F: Fn(A) -> R + Copy>(_: F) -> OpFn {
    pick::<Unary<A, R, F>>()
}

struct Binary<A, B, R, F>(std::marker::PhantomData<(A, B, R, F)>);

impl<A: Lane, B: Lane, R: Lane, F: Fn(A, B) -> R + Copy> Operation for Binary<A, B, R, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out: Row<R> = [Default::default(); LANES];
        let (a, b) = (A::Register::file(warp, ins.slots[1]), B::Register::file(warp, ins.slots[2]));
        for lane in 0..LANES {
            out[lane] = f(A::from_bits(a[lane]), B::from_bits(b[lane])).bits();
        }
        R::Register::set(warp, ins.slots[0], out, mask);
        Ok(())
    }
}

/// slots: d, a, b
pub(crate) fn binary<A: Lane, B: Lane, R: Lane, F: Fn(A, B) -> R + Copy>(_: F) -> OpFn {
    pick::<Binary<A, B, R, F>>()
}

struct Ternary<A, B, C, R, F>(std::marker::PhantomData<(A, B, C, R, F)>);

impl<A: Lane, B: Lane, C: Lane, R: Lane, F: Fn(A, B, C) -> R + Copy> Operation for Ternary<A, B, C, R, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out: Row<R> = [Default::default(); LANES];
        let a = A::Register::file(warp, ins.slots[1]);
        let b = B::Register::file(warp, ins.slots[2]);
        let c = C::Register::file(warp, ins.slots[3]);
        for lane in 0..LANES {
            out[lane] = f(A::from_bits(a[lane]), B::from_bits(b[lane]), C::from_bits(c[lane])).bits();
        }
        R::Register::set(warp, ins.slots[0], out, mask);
        Ok(())
    }
}

/// slots: d, a, b, c
pub(crate) fn ternary<A: Lane, B: Lane, C: Lane, R: Lane, F: Fn(A, B, C) -> R + Copy>(_: F) -> OpFn {
    pick::<Ternary<A, B, C, R, F>>()
}

struct Quaternary<A, F>(std::marker::PhantomData<(A, F)>);

impl<A: Lane, F: Fn(A, A, u32, u32) -> A + Copy> Operation for Quaternary<A, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let mut out: Row<A> = [Default::default(); LANES];
        let (a, b) = (A::Register::file(warp, ins.slots[1]), A::Register::file(warp, ins.slots[2]));
        let (c, d) = (warp.get32(ins.slots[3]), warp.get32(ins.slots[4]));
        for lane in 0..LANES {
            out[lane] = f(A::from_bits(a[lane]), A::from_bits(b[lane]), c[lane], d[lane]).bits();
        }
        A::Register::set(warp, ins.slots[0], out, mask);
        Ok(())
    }
}

/// slots: d, a, b, c, e; c and e are 32 bits wide (bit fields)
pub(crate) fn quaternary<A: Lane, F: Fn(A, A, u32, u32) -> A + Copy>(_: F) -> OpFn {
    pick::<Quaternary<A, F>>()
}

/// A predicate operand, negated where the operand says so.
#[inline(always)]
pub(crate) fn predicate(warp: &Warp, slot: u32) -> u32 {
    let value = warp.predicates[(slot & !crate::decode::NEGATED) as usize];
    if slot & crate::decode::NEGATED != 0 { !value } else { value }
}

struct Compare<A, F>(std::marker::PhantomData<(A, F)>);

/// How a comparison joins its predicate operand.
pub(crate) const JOIN_NONE: i64 = 0;
pub(crate) const JOIN_AND: i64 = 1;
pub(crate) const JOIN_OR: i64 = 2;
pub(crate) const JOIN_XOR: i64 = 3;

impl<A: Lane, F: Fn(A, A) -> bool + Copy> Operation for Compare<A, F> {
    #[inline(always)]
    fn run(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let f = conjure::<F>();
        let (a, b) = (A::Register::file(warp, ins.slots[1]), A::Register::file(warp, ins.slots[2]));
        let mut bytes = [0u8; LANES];
        for lane in 0..LANES {
            bytes[lane] = u8::from(f(A::from_bits(a[lane]), A::from_bits(b[lane])));
        }
        let found = crate::race::runs::bits(&bytes);
        let (yes, no) = match ins.immediate {
            JOIN_NONE => (found, !found),
            join => {
                let other = predicate(warp, ins.slots[4]);
                match join {
                    JOIN_AND => (found & other, !found & other),
                    JOIN_OR => (found | other, !found | other),
                    _ => (found ^ other, !found ^ other),
                }
            }
        };
        warp.set_predicate(ins.slots[3], no, mask);
        warp.set_predicate(ins.slots[0], yes, mask);
        Ok(())
    }
}

/// slots: p, a, b, q, c; `immediate` is how c joins
pub(crate) fn compare<A: Lane, F: Fn(A, A) -> bool + Copy>(_: F) -> OpFn {
    pick::<Compare<A, F>>()
}
