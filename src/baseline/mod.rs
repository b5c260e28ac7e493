//! The systems the paper is compared with.
