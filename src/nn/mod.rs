//! Layers as plain structs over tensors.
