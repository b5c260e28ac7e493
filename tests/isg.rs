//! The paper's networks, one module per part.

mod extractor;
