//! The operations, by what they work on; [`decode`] finds the one an opcode names.

pub(crate) mod access;
pub(crate) mod atomic;
pub(crate) mod bits;
pub(crate) mod collective;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod convert;
mod eight_bit;
pub(crate) mod float;
pub(crate) mod halves;
pub(crate) mod integer;
pub(crate) mod lanes;
pub(crate) mod memory;
pub(crate) mod moves;
pub(crate) mod print;
pub(crate) mod shared_access;
pub(crate) mod special;
pub(crate) mod stack;
mod texture;
mod transfers;
mod vector_atomic;

use crate::{
    ast::Instruction,
    asynchronous,
    decode::{Decoded, Decoder},
    machine::Ins,
    tensor_core,
};

/// The last part of an opcode is its type.
pub(crate) fn kind<'t>(i: &Instruction<'t>) -> &'t str {
    i.parts.last().copied().unwrap_or_default()
}

/// The operation of an instruction with its slots; guard and place are the caller's.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let Some(&opcode) = i.parts.first() else { return Ok(None) };
    match opcode {
        "st" | "red" if i.has("async") => asynchronous::decode(d, i),
        "ld" | "ldu" | "st" | "cvta" | "isspacep" => memory::decode(d, i),
        "atom" | "red" => atomic::decode(d, i),
        // Hints for a cache that is not there: any word serves.
        "createpolicy" => {
            let slots = [d.to64(i, 0)?, d.constant64(0)];
            Ok(Some(d.with(lanes::unary(|a: u64| a), crate::machine::Class::CompareMove, &slots)))
        }
        "mov" | "selp" | "slct" => moves::decode(d, i),
        "setp" | "set" | "testp" => compare::decode(d, i),
        "cvt" => convert::decode(d, i),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => special::decode(d, i),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => collective::decode(d, i),
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" | "griddepcontrol"
        | "setmaxnreg" | "discard" | "applypriority" | "prefetchu" => control::decode(d, i),
        "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "wgmma" | "wmma" => tensor_core::decode(d, i),
        "alloca" | "stacksave" | "stackrestore" => stack::decode(d, i),
        "tex" | "suld" | "sust" => texture::decode(d, i),
        "mbarrier" | "cp" | "mapa" | "getctarank" | "tensormap" => asynchronous::decode(d, i),
        "bar" | "barrier" | "membar" | "fence" | "prefetch" => match control::decode(d, i)? {
            Some(ins) => Ok(Some(ins)),
            None => asynchronous::decode(d, i),
        },
        _ => match kind(i) {
            "f32" | "f64" => float::decode(d, i),
            "f16" | "f16x2" | "bf16" | "bf16x2" => halves::decode(d, i),
            _ => match integer::decode(d, i)? {
                Some(ins) => Ok(Some(ins)),
                None => bits::decode(d, i),
            },
        },
    }
}
