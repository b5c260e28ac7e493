//! Copies that complete behind the back of the thread that started them: `cp.async`, bulk copies, `mbarrier`.

/// Copies a warp's lanes have under way.
#[derive(Default)]
pub struct WarpState {}

/// State of a block's asynchronous engines.
#[derive(Default)]
pub struct BlockState {}

use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::Ins,
};

/// The operation of an instruction of this family.
pub(crate) fn decode<'t>(_: &mut Decoder<'_, 't>, _: &Instruction<'t>) -> Decoded<Option<Ins>> {
    Ok(None)
}
