//! Tensor maps: what the tensor memory accelerator is told of a tensor in global memory.
//!
//! NVIDIA keeps the bits of its 128 bytes to itself and offers an encoder in the driver. This is the emulator's own encoding,
//! made by [`encode_tensor_map`] and understood by the emulator alone. Tiled mode, no interleave, one to five dimensions.

use std::fmt;

use crate::tensor_core::Swizzle;

/// What every map begins with.
pub(super) const MAGIC: u32 = 0x5854_4d54;

/// A field of a map that kernels may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    GlobalAddress,
    Rank,
    BoxExtent,
    Extent,
    Stride,
    ElementStride,
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

impl Field {
    /// As `tensormap.replace` calls it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "global_address" => Self::GlobalAddress,
            "rank" => Self::Rank,
            "box_dim" => Self::BoxExtent,
            "global_dim" => Self::Extent,
            "global_stride" => Self::Stride,
            "element_stride" => Self::ElementStride,
            "elemtype" => Self::ElementType,
            "interleave_layout" => Self::Interleave,
            "swizzle_mode" => Self::Swizzle,
            "fill_mode" => Self::Fill,
            _ => return None,
        })
    }

    /// There is one for each dimension.
    pub(super) fn many(self) -> bool {
        matches!(self, Self::BoxExtent | Self::Extent | Self::Stride | Self::ElementStride)
    }

    /// Where it lies, and how long it is.
    pub(super) fn place(self, dimension: i64) -> Option<(u32, u32)> {
        let d = u32::try_from(dimension).ok().filter(|d| *d < if self == Self::Stride { 4 } else { 5 })?;
        Some(match self {
            Self::Rank => (4, 1),
            Self::ElementType => (5, 1),
            Self::Swizzle => (6, 1),
            // Accepted where they change nothing.
            Self::Interleave | Self::Fill => (7, 1),
            Self::GlobalAddress => (8, 8),
            Self::Extent => (16 + 8 * d, 8),
            Self::Stride => (56 + 8 * d, 8),
            Self::BoxExtent => (88 + 2 * d, 2),
            Self::ElementStride => (98 + d, 1),
        })
    }

    /// What a constant of a field that takes nothing else means here; None for fields that take registers.
    pub(super) fn code(self, constant: Option<i64>) -> Option<Result<u32, String>> {
        let known = match self {
            Self::ElementType => [1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4].as_slice(),
            Self::Swizzle => &[0, 32, 64, 128],
            Self::Interleave | Self::Fill => &[0],
            _ => return None,
        };
        let found = constant.and_then(|c| known.get(usize::try_from(c).ok()?).copied());
        Some(found.ok_or_else(|| match self {
            Self::ElementType => "element types are numbered from 0 to 12".to_owned(),
            Self::Swizzle => "swizzles of atoms other than 16 bytes are not supported".to_owned(),
            _ => "interleaved layouts and NaN beyond the tensor are not supported".to_owned(),
        }))
    }
}

/// A tensor in global memory and the box of it that one copy moves. Innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of element 0, a multiple of 16.
    pub base: u64,
    /// Size of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements along each dimension.
    pub extents: Vec<u64>,
    /// Bytes from one index to the next, of all dimensions but the innermost; multiples of 16.
    pub strides_bytes: Vec<u64>,
    /// Elements of the box along each dimension, up to 256.
    pub box_extents: Vec<u32>,
    /// Only every so many elements of the tensor are copied; 1 for all of them.
    pub element_strides: Vec<u32>,
    /// Bytes within which 16-byte pieces are permuted in shared memory: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

/// Why a tensor map cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapError(String);

impl fmt::Display for TensorMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor map: {}", self.0)
    }
}

impl std::error::Error for TensorMapError {}

fn refuse(message: impl Into<String>) -> TensorMapError {
    TensorMapError(message.into())
}

impl TensorMap {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.extents.len()
    }

    /// Bytes of a box in shared memory.
    pub fn box_bytes(&self) -> u32 {
        self.box_extents.iter().product::<u32>() * self.element_bytes
    }

    /// The permutation in shared memory.
    pub fn swizzle(&self) -> Swizzle {
        Swizzle::from_bytes(self.swizzle_bytes).unwrap_or(Swizzle::None)
    }

    /// The rules of `cuTensorMapEncodeTiled`.
    fn check(&self) -> Result<(), TensorMapError> {
        let rank = self.rank();
        if !(1..=5).contains(&rank) {
            return Err(refuse(format!("{rank} dimensions, not 1 to 5")));
        }
        if self.strides_bytes.len() != rank - 1 || self.box_extents.len() != rank || self.element_strides.len() != rank
        {
            return Err(refuse("strides, box and extents disagree about the number of dimensions"));
        }
        if !matches!(self.element_bytes, 1 | 2 | 4 | 8) {
            return Err(refuse(format!("elements of {} bytes", self.element_bytes)));
        }
        if !self.base.is_multiple_of(16) {
            return Err(refuse(format!("base {:#x} is no multiple of 16", self.base)));
        }
        if let Some(extent) = self.extents.iter().find(|e| **e == 0 || **e > 1 << 32) {
            return Err(refuse(format!("an extent of {extent}, not 1 to 2^32")));
        }
        if let Some(stride) = self.strides_bytes.iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40) {
            return Err(refuse(format!("a stride of {stride} bytes, not a multiple of 16 below 2^40")));
        }
        if let Some(extent) = self.box_extents.iter().find(|e| **e == 0 || **e > 256) {
            return Err(refuse(format!("a box extent of {extent}, not 1 to 256")));
        }
        if let Some(stride) = self.element_strides.iter().find(|s| **s == 0 || **s > 8) {
            return Err(refuse(format!("an element stride of {stride}, not 1 to 8")));
        }
        let inner = self.box_extents[0] * self.element_bytes;
        if !inner.is_multiple_of(16) {
            return Err(refuse(format!("a box row of {inner} bytes, not a multiple of 16")));
        }
        match self.swizzle_bytes {
            0 => Ok(()),
            32 | 64 | 128 if inner <= self.swizzle_bytes => Ok(()),
            32 | 64 | 128 => {
                Err(refuse(format!("a box row of {inner} bytes under a swizzle of {}", self.swizzle_bytes)))
            }
            other => Err(refuse(format!("a swizzle of {other} bytes, not 0, 32, 64 or 128"))),
        }
    }

    /// What [`encode_tensor_map`] wrote, or None for bytes it did not write.
    pub fn decode(bytes: &[u8; 128]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC || !(1..=5).contains(&bytes[4]) {
            return None;
        }
        let rank = usize::from(bytes[4]);
        let map = Self {
            base: u64_at(8),
            element_bytes: bytes[5].into(),
            extents: (0..rank).map(|d| u64_at(16 + 8 * d)).collect(),
            strides_bytes: (0..rank - 1).map(|d| u64_at(56 + 8 * d)).collect(),
            box_extents: (0..rank).map(|d| u32::from(bytes[88 + 2 * d]) | u32::from(bytes[89 + 2 * d]) << 8).collect(),
            element_strides: (0..rank).map(|d| bytes[98 + d].into()).collect(),
            swizzle_bytes: bytes[6].into(),
        };
        map.check().is_ok().then_some(map)
    }

    /// Calls `visit(global address or None where out of bounds, offset in shared memory, bytes)` for each contiguous piece
    /// of the box at `coordinates`. `start` is the box's shared address; the swizzle goes by it.
    pub fn pieces(&self, coordinates: &[i32], start: u32, mut visit: impl FnMut(Option<u64>, u32, u32)) {
        let rank = self.rank();
        let inner = self.box_extents[0];
        let rows: u32 = self.box_extents[1..].iter().product();
        // Without a swizzle or a stride in the way, whole rows go at once; else 16 bytes or single elements.
        let (swizzle, dense) = (self.swizzle(), self.element_strides[0] == 1);
        let per_piece = match (swizzle, dense) {
            (_, false) => 1,
            (Swizzle::None, true) => inner,
            (_, true) => 16 / self.element_bytes,
        };
        for row in 0..rows {
            let (mut rest, mut inside, mut address) = (row, true, self.base);
            for d in 1..rank {
                let at = i64::from(coordinates[d]) + i64::from(rest % self.box_extents[d] * self.element_strides[d]);
                rest /= self.box_extents[d];
                inside &= at >= 0 && (at as u64) < self.extents[d];
                address = address.wrapping_add_signed(at.wrapping_mul(self.strides_bytes[d - 1] as i64));
            }
            let mut column = 0;
            while column < inner {
                let first = i64::from(coordinates[0]) + i64::from(column * self.element_strides[0]);
                let end = (column + per_piece).min(inner);
                let shared = |c: u32| swizzle.apply(start + (row * inner + c) * self.element_bytes) - start;
                // The valid part of the piece is one run of elements.
                let low = (-first).clamp(0, (end - column).into()) as u32;
                let limit = self.extents[0] as i64 - first;
                let high = limit.clamp(low.into(), (end - column).into()) as u32;
                let (low, high) = if inside { (low, high) } else { (0, 0) };
                let size = self.element_bytes;
                if low > 0 {
                    visit(None, shared(column), low * size);
                }
                if high > low {
                    let from = address.wrapping_add_signed((first + i64::from(low)) * i64::from(size));
                    visit(Some(from), shared(column) + low * size, (high - low) * size);
                }
                if column + high < end {
                    visit(None, shared(column) + high * size, (end - column - high) * size);
                }
                column = end;
            }
        }
    }
}

/// The 128 bytes a kernel takes as its `CUtensorMap`.
pub fn encode_tensor_map(map: &TensorMap) -> Result<[u8; 128], TensorMapError> {
    map.check()?;
    let mut bytes = [0; 128];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC.to_le_bytes());
    put(4, &[map.rank() as u8, map.element_bytes as u8, map.swizzle_bytes as u8]);
    put(8, &map.base.to_le_bytes());
    for d in 0..map.rank() {
        put(16 + 8 * d, &map.extents[d].to_le_bytes());
        put(88 + 2 * d, &(map.box_extents[d] as u16).to_le_bytes());
        put(98 + d, &[map.element_strides[d] as u8]);
    }
    for (d, stride) in map.strides_bytes.iter().enumerate() {
        put(56 + 8 * d, &stride.to_le_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(swizzle_bytes: u32) -> TensorMap {
        TensorMap {
            base: 1 << 36,
            element_bytes: 2,
            extents: vec![40, 6, 3],
            strides_bytes: vec![96, 1024],
            box_extents: vec![16, 4, 2],
            element_strides: vec![1; 3],
            swizzle_bytes,
        }
    }

    #[test]
    fn maps_survive_their_encoding() {
        for swizzle in [0, 32, 64, 128] {
            assert_eq!(TensorMap::decode(&encode_tensor_map(&map(swizzle)).unwrap()), Some(map(swizzle)));
        }
        assert_eq!(TensorMap::decode(&[0; 128]), None);
    }

    #[test]
    fn impossible_maps_are_refused() {
        let bad = |change: fn(&mut TensorMap)| {
            let mut map = map(32);
            change(&mut map);
            assert!(encode_tensor_map(&map).is_err());
        };
        bad(|m| m.base = 8);
        bad(|m| m.strides_bytes[0] = 8);
        bad(|m| m.box_extents[0] = 32);
        bad(|m| m.box_extents[1] = 257);
        bad(|m| m.swizzle_bytes = 16);
        bad(|m| m.extents.push(1));
    }

    #[test]
    fn boxes_cover_shared_memory_once_and_zero_what_lies_outside() {
        for (swizzle, coordinates) in [(0, [32, 4, 2]), (32, [-3, -1, 1]), (64, [0, 0, 0]), (128, [38, 5, 2])] {
            let map = map(swizzle);
            let start = 4096;
            let mut seen = vec![None; map.box_bytes() as usize];
            map.pieces(&coordinates, start, |from, at, bytes| {
                for i in 0..bytes {
                    let old = seen[(at + i) as usize].replace(from.map(|f| f + u64::from(i)));
                    assert_eq!(old, None);
                }
            });
            for z in 0..2 {
                for y in 0..4 {
                    for x in 0..16 {
                        let at = [coordinates[0] + x, coordinates[1] + y, coordinates[2] + z];
                        let inside = at.iter().zip([40, 6, 3]).all(|(a, e)| (0..e).contains(a));
                        let address =
                            (1i64 << 36) + i64::from(at[2]) * 1024 + i64::from(at[1]) * 96 + i64::from(at[0]) * 2;
                        let linear = start + ((z * 4 + y) * 16 + x) as u32 * 2;
                        let place = map.swizzle().apply(linear) - start;
                        let want = inside.then_some(address as u64);
                        assert_eq!(seen[place as usize], Some(want), "{coordinates:?} {x} {y} {z}");
                    }
                }
            }
        }
    }
}
