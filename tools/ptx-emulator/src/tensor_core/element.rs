//! Element types of matrix operands, and how registers of them become floats.

/// What the A and B operands of a matrix product hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE half precision, two to a register.
    F16,
    /// bfloat16, two to a register.
    Bf16,
    /// The upper 19 bits of an f32, one to a register.
    Tf32,
    /// Signed bytes, four to a register.
    S8,
    /// Unsigned bytes, four to a register.
    U8,
}

impl Element {
    /// The type a modifier names.
    pub fn parse(modifier: &str) -> Option<Self> {
        Some(match modifier {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "s8" => Self::S8,
            "u8" => Self::U8,
            _ => return None,
        })
    }

    /// Size in shared memory.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            Self::S8 | Self::U8 => 1,
        }
    }

    /// Sums are kept in i32, not f32.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }
}

/// An f16 as f32, exact, without a branch, so that loops over it vectorise.
#[inline(always)]
pub fn half_to_single(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    // 2^112 moves the exponent's bias from 15 to 127 and normalises subnormals on the way.
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// The two elements of a register, low half first.
#[inline(always)]
pub fn pair<const HALF: bool>(register: u32) -> (f32, f32) {
    match HALF {
        true => (half_to_single(register & 0xffff), half_to_single(register >> 16)),
        false => (f32::from_bits(register << 16), f32::from_bits(register & 0xffff_0000)),
    }
}

/// What a tensor core sees of an f32 given as tf32: the low 13 bits are not there.
#[inline(always)]
pub fn tf32(register: u32) -> f32 {
    f32::from_bits(register & 0xffff_e000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_single(bits.into()), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn pairs_are_low_half_first() {
        assert_eq!(pair::<false>(0x4000_3f80), (1.0, 2.0));
        assert_eq!(pair::<true>(0x4000_3c00), (1.0, 2.0));
        assert_eq!(tf32(1.0f32.to_bits() | 0x1fff), 1.0);
    }
}
