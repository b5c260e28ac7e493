//! The systems the paper is compared with.

pub mod ridge;
