//! Copies that complete behind the back of the thread that started them: `cp.async`, bulk copies, `mbarrier`.

mod barrier;
mod memory;
mod tensor_map;
mod thread_copies;

pub use tensor_map::{TensorMap, TensorMapError, encode_tensor_map};

use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::Ins,
};

/// Copies a warp's lanes have under way.
#[derive(Default)]
pub struct WarpState {
    copies: thread_copies::Copies,
}

/// State of a block's asynchronous engines.
#[derive(Default)]
pub struct BlockState {}

/// The instructions of this module.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    thread_copies::decode(d, i)
}
