//! The paper's networks, one module per part.

mod extractor;
mod regressor;
pub(crate) mod simulation;
