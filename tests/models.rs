//! The paper's networks, one module per part.

mod extractor;
mod methods;
mod regressor;
pub(crate) mod simulation;
