//! Named arrays of numbers on the host: what weight files and feature stores hold, before any of it becomes a tensor.
//!
//! Bytes are little-endian, rows first, contiguous. Conversions to f32 and f64 go through each element type's exact
//! value; narrowing rounds to nearest even. No alignment is assumed, because bytes may lie anywhere in a mapped file.

use crate::{
    dtype::DType,
    error::{Error, Result},
};

/// The type of one element of an array in a file. Wider than [`DType`]: files hold what no kernel computes with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ElementType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl ElementType {
    pub const fn bytes(self) -> usize {
        match self {
            ElementType::Bool | ElementType::U8 | ElementType::I8 => 1,
            ElementType::U16 | ElementType::I16 | ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::U32 | ElementType::I32 | ElementType::F32 => 4,
            ElementType::U64 | ElementType::I64 | ElementType::F64 => 8,
        }
    }

    /// The name safetensors uses for it.
    pub const fn name(self) -> &'static str {
        match self {
            ElementType::Bool => "BOOL",
            ElementType::U8 => "U8",
            ElementType::I8 => "I8",
            ElementType::U16 => "U16",
            ElementType::I16 => "I16",
            ElementType::U32 => "U32",
            ElementType::I32 => "I32",
            ElementType::U64 => "U64",
            ElementType::I64 => "I64",
            ElementType::F16 => "F16",
            ElementType::Bf16 => "BF16",
            ElementType::F32 => "F32",
            ElementType::F64 => "F64",
        }
    }

    /// The tensor element type of the same bytes, where tensors have one.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            ElementType::U8 => Some(DType::U8),
            ElementType::I32 => Some(DType::I32),
            ElementType::F16 => Some(DType::F16),
            ElementType::Bf16 => Some(DType::Bf16),
            ElementType::F32 => Some(DType::F32),
            ElementType::F64 => Some(DType::F64),
            _ => None,
        }
    }
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> ElementType {
        match dtype {
            DType::F64 => ElementType::F64,
            DType::F32 => ElementType::F32,
            DType::Bf16 => ElementType::Bf16,
            DType::F16 => ElementType::F16,
            DType::U8 => ElementType::U8,
            DType::I32 => ElementType::I32,
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An array borrowed from a mapped file or from a [`NamedArray`].
#[derive(Clone, Copy, Debug)]
pub struct ArrayView<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub element: ElementType,
    /// Little-endian, `shape.product() * element.bytes()` long.
    pub bytes: &'a [u8],
}

impl<'a> ArrayView<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.element.bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Every element rounded to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let b = self.bytes;
        match self.element {
            ElementType::F32 => each(b, f32::from_le_bytes),
            ElementType::F64 => each(b, |x| f64::from_le_bytes(x) as f32),
            ElementType::F16 => each(b, |x| half::f16::from_le_bytes(x).to_f32()),
            ElementType::Bf16 => each(b, |x| half::bf16::from_le_bytes(x).to_f32()),
            ElementType::U64 => each(b, |x| u64::from_le_bytes(x) as f32),
            ElementType::I64 => each(b, |x| i64::from_le_bytes(x) as f32),
            _ => self.to_f64().into_iter().map(|x| x as f32).collect(),
        }
    }

    /// Every element as f64; exact but for 64-bit integers beyond 2^53.
    pub fn to_f64(&self) -> Vec<f64> {
        let b = self.bytes;
        match self.element {
            ElementType::F64 => each(b, f64::from_le_bytes),
            ElementType::F32 => each(b, |x| f64::from(f32::from_le_bytes(x))),
            ElementType::F16 => each(b, |x| half::f16::from_le_bytes(x).to_f64()),
            ElementType::Bf16 => each(b, |x| half::bf16::from_le_bytes(x).to_f64()),
            ElementType::Bool => each(b, |[x]| f64::from(x != 0)),
            ElementType::U8 => each(b, |[x]| f64::from(x)),
            ElementType::I8 => each(b, |x| f64::from(i8::from_le_bytes(x))),
            ElementType::U16 => each(b, |x| f64::from(u16::from_le_bytes(x))),
            ElementType::I16 => each(b, |x| f64::from(i16::from_le_bytes(x))),
            ElementType::U32 => each(b, |x| f64::from(u32::from_le_bytes(x))),
            ElementType::I32 => each(b, |x| f64::from(i32::from_le_bytes(x))),
            ElementType::U64 => each(b, |x| u64::from_le_bytes(x) as f64),
            ElementType::I64 => each(b, |x| i64::from_le_bytes(x) as f64),
        }
    }

    /// Every element of an integer array; `None` for floats and for values beyond i64.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let b = self.bytes;
        Some(match self.element {
            ElementType::Bool => each(b, |[x]| i64::from(x != 0)),
            ElementType::U8 => each(b, |[x]| i64::from(x)),
            ElementType::I8 => each(b, |x| i64::from(i8::from_le_bytes(x))),
            ElementType::U16 => each(b, |x| i64::from(u16::from_le_bytes(x))),
            ElementType::I16 => each(b, |x| i64::from(i16::from_le_bytes(x))),
            ElementType::U32 => each(b, |x| i64::from(u32::from_le_bytes(x))),
            ElementType::I32 => each(b, |x| i64::from(i32::from_le_bytes(x))),
            ElementType::I64 => each(b, i64::from_le_bytes),
            ElementType::U64 => {
                return each(b, u64::from_le_bytes).into_iter().map(|x| i64::try_from(x).ok()).collect();
            }
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => return None,
        })
    }

    pub fn to_owned(&self) -> NamedArray {
        NamedArray {
            name: self.name.to_string(),
            shape: self.shape.to_vec(),
            element: self.element,
            bytes: self.bytes.to_vec(),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&c| f(c)).collect()
}

/// One named array with its own bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct NamedArray {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: ElementType,
    /// Little-endian, rows first, contiguous.
    pub bytes: Vec<u8>,
}

impl NamedArray {
    /// Errors where `bytes` is not exactly as long as shape and element type say.
    pub fn new(name: impl Into<String>, shape: &[usize], element: ElementType, bytes: Vec<u8>) -> Result<NamedArray> {
        let name = name.into();
        let wanted = shape.iter().try_fold(element.bytes(), |n, &d| n.checked_mul(d));
        if wanted != Some(bytes.len()) {
            return Err(Error::shape("array", format!("{name}: {shape:?} {element} is not {} bytes", bytes.len())));
        }
        Ok(NamedArray { name, shape: shape.to_vec(), element, bytes })
    }

    pub fn from_f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Result<NamedArray> {
        NamedArray::new(name, shape, ElementType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub fn from_f64(name: impl Into<String>, shape: &[usize], values: &[f64]) -> Result<NamedArray> {
        NamedArray::new(name, shape, ElementType::F64, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// Rounds to nearest even; values beyond 65,504 become infinite.
    pub fn f16_from_f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Result<NamedArray> {
        let bytes = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        NamedArray::new(name, shape, ElementType::F16, bytes)
    }

    pub fn bf16_from_f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Result<NamedArray> {
        let bytes = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        NamedArray::new(name, shape, ElementType::Bf16, bytes)
    }

    pub fn from_i64(name: impl Into<String>, shape: &[usize], values: &[i64]) -> Result<NamedArray> {
        NamedArray::new(name, shape, ElementType::I64, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub fn from_i32(name: impl Into<String>, shape: &[usize], values: &[i32]) -> Result<NamedArray> {
        NamedArray::new(name, shape, ElementType::I32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub fn from_u8(name: impl Into<String>, shape: &[usize], values: &[u8]) -> Result<NamedArray> {
        NamedArray::new(name, shape, ElementType::U8, values.to_vec())
    }

    pub fn view(&self) -> ArrayView<'_> {
        ArrayView { name: &self.name, shape: &self.shape, element: self.element, bytes: &self.bytes }
    }

    /// Every element rounded to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.view().to_f32()
    }

    pub fn to_f64(&self) -> Vec<f64> {
        self.view().to_f64()
    }
}
