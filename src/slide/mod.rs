//! Whole-slide images: immutable, shareable, decoded in parallel. Knows nothing of tensors.
