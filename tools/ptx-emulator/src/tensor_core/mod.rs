//! Matrix instructions: `ldmatrix`, `mma.sync`.

use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::Ins,
};

/// The operation of an instruction of this family.
pub(crate) fn decode<'t>(_: &mut Decoder<'_, 't>, _: &Instruction<'t>) -> Decoded<Option<Ins>> {
    Ok(None)
}
