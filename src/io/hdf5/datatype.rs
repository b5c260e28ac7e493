//! What the elements of a dataset or an attribute are, and how many there are in each direction.

use super::bytes::{Cursor, PLAINER, damaged, refuse};
use crate::io::{array::ElementType, pickle::Refusal};

pub(super) const MAX_DIMENSIONS: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Datatype {
    Number {
        element: ElementType,
        big_endian: bool,
    },
    /// Text of so many bytes.
    Text(usize),
    /// Text whose bytes lie in a heap.
    VariableText,
    /// What is not read, in words, and its bytes.
    Other(&'static str, usize),
}

impl Datatype {
    pub fn bytes(self, address_bytes: usize) -> usize {
        match self {
            Datatype::Number { element, .. } => element.bytes(),
            Datatype::Text(bytes) | Datatype::Other(_, bytes) => bytes,
            Datatype::VariableText => 8 + address_bytes,
        }
    }

    pub fn read(cursor: &mut Cursor) -> Result<Datatype, Refusal> {
        let class = cursor.u8()? & 0x0f;
        let bits = cursor.uint(3)?;
        let bytes = cursor.u32()? as usize;
        let big_endian = bits & 1 == 1;
        Ok(match class {
            0 => {
                let whole = [cursor.u16()?, cursor.u16()?] == [0, 8 * bytes.min(64) as u16];
                let element = match (bytes, bits & 8 != 0) {
                    _ if !whole => None,
                    (1, true) => Some(ElementType::I8),
                    (1, false) => Some(ElementType::U8),
                    (2, true) => Some(ElementType::I16),
                    (2, false) => Some(ElementType::U16),
                    (4, true) => Some(ElementType::I32),
                    (4, false) => Some(ElementType::U32),
                    (8, true) => Some(ElementType::I64),
                    (8, false) => Some(ElementType::U64),
                    _ => None,
                };
                element.map_or(Datatype::Other("integers of an odd width", bytes), |element| Datatype::Number {
                    element,
                    big_endian,
                })
            }
            1 => {
                // Bits from where, how many; where exponent and mantissa lie, how long they are; the exponent's bias.
                let place = [cursor.u16()?, cursor.u16()?];
                let fields = [cursor.u8()?, cursor.u8()?, cursor.u8()?, cursor.u8()?];
                let bias = cursor.u32()?;
                let sign = (bits >> 8) & 0xff;
                let element = match (bytes, fields, bias, sign) {
                    (2, [10, 5, 0, 10], 15, 15) => Some(ElementType::F16),
                    (2, [7, 8, 0, 7], 127, 15) => Some(ElementType::Bf16),
                    (4, [23, 8, 0, 23], 127, 31) => Some(ElementType::F32),
                    (8, [52, 11, 0, 52], 1023, 63) => Some(ElementType::F64),
                    _ => None,
                };
                let plain = place == [0, 8 * bytes.min(64) as u16] && bits & 0x40 == 0;
                match element.filter(|_| plain) {
                    Some(element) => Datatype::Number { element, big_endian },
                    None => Datatype::Other("floats of an odd kind", bytes),
                }
            }
            3 => Datatype::Text(bytes),
            8 => {
                // NumPy's booleans are an enumeration over bytes; what its values are called does not matter here.
                if cursor.rest.first().is_none_or(|class| class & 0x0f != 0) {
                    return Err(damaged("an enumeration of no integers"));
                }
                Datatype::read(cursor)?
            }
            9 if bits & 0x0f == 1 => Datatype::VariableText,
            9 => Datatype::Other("lists of different lengths", bytes),
            2 => Datatype::Other("times", bytes),
            4 => Datatype::Other("bit fields", bytes),
            5 => Datatype::Other("opaque bytes", bytes),
            6 => Datatype::Other("records", bytes),
            7 => Datatype::Other("references", bytes),
            10 => Datatype::Other("arrays as elements", bytes),
            _ => Datatype::Other("elements of a newer kind", bytes),
        })
    }
}

/// Extents of an array; of what can grow, how far.
pub(super) struct Dataspace {
    pub shape: Vec<u64>,
    /// `None` where an extent has no limit.
    pub largest: Vec<Option<u64>>,
    /// No element at all, not even one.
    pub is_null: bool,
}

impl Dataspace {
    pub fn read(cursor: &mut Cursor) -> Result<Dataspace, Refusal> {
        let [version, rank, flags] = [cursor.u8()?, cursor.u8()?, cursor.u8()?];
        let is_null = match version {
            1 => {
                cursor.skip(5)?;
                false
            }
            2 => cursor.u8()? == 2,
            _ => return Err(refuse("has extents of a newer kind", PLAINER)),
        };
        if usize::from(rank) > MAX_DIMENSIONS {
            return Err(damaged(&format!("an array of {rank} dimensions")));
        }
        let shape: Vec<u64> = (0..rank).map(|_| cursor.length()).collect::<Result<_, _>>()?;
        let unlimited = u64::MAX >> (64 - 8 * cursor.file.length_bytes);
        let largest = match flags & 1 {
            1 => (0..rank).map(|_| Ok(Some(cursor.length()?).filter(|&v| v != unlimited))).collect::<Result<_, _>>()?,
            _ => shape.iter().copied().map(Some).collect(),
        };
        Ok(Dataspace { shape, largest, is_null })
    }

    /// How many elements.
    pub fn count(&self) -> Result<u64, Refusal> {
        let count = self.shape.iter().try_fold(u64::from(!self.is_null), |n, &extent| n.checked_mul(extent));
        count.ok_or_else(|| damaged("an impossible shape"))
    }
}
