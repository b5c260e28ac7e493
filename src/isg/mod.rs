//! The paper, one file per part.
