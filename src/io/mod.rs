//! Files of numbers: safetensors, PyTorch weights, checkpoints. Every write is atomic.

pub mod atomic;
