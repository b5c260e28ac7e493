//! Element types.

/// The type of one element of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    F64,
    F32,
    Bf16,
    F16,
    U8,
    I32,
}

impl DType {
    pub const fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// Elements of 16 bytes, the widest access of a thread.
    pub const fn vector_elems(self) -> usize {
        16 / self.bytes()
    }

    pub const fn is_float(self) -> bool {
        !matches!(self, DType::U8 | DType::I32)
    }

    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::U8 => "u8",
            DType::I32 => "i32",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
