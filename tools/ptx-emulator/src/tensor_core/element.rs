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
    /// Eight bits, four of exponent, without infinities; four to a register.
    E4m3,
    /// Eight bits, five of exponent: the upper half of an f16; four to a register.
    E5m2,
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
            "e4m3" => Self::E4m3,
            "e5m2" => Self::E5m2,
            _ => return None,
        })
    }

    /// Size in shared memory.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            Self::S8 | Self::U8 | Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// A register full of ones.
    pub fn ones(self) -> u32 {
        match self {
            Self::F16 => 0x3c00_3c00,
            Self::Bf16 => 0x3f80_3f80,
            Self::Tf32 => 0x3f80_0000,
            Self::E4m3 => 0x3838_3838,
            Self::E5m2 => 0x3c3c_3c3c,
            Self::S8 | Self::U8 => 0x0101_0101,
        }
    }

    /// An eight-bit float.
    pub fn is_eight_bit_float(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }

    /// Element `e` of a register, the lowest first; bytes are no floats and have their own products.
    #[inline(always)]
    pub fn value(self, register: u32, e: usize) -> f32 {
        let byte = register >> (8 * e) & 0xff;
        match self {
            Self::F16 if e == 0 => pair::<true>(register).0,
            Self::F16 => pair::<true>(register).1,
            Self::Bf16 if e == 0 => pair::<false>(register).0,
            Self::Bf16 => pair::<false>(register).1,
            Self::Tf32 => tf32(register),
            Self::S8 => f32::from(byte as u8 as i8),
            Self::U8 => f32::from(byte as u8),
            Self::E4m3 => e4m3_to_single(byte),
            Self::E5m2 => half_to_single(byte << 8),
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

/// An e4m3 as f32, exact.
#[inline(always)]
pub fn e4m3_to_single(bits: u32) -> f32 {
    // As an f16 its exponent would be biased by 15, not by 7.
    let scaled = half_to_single((bits & 0x80) << 8 | (bits & 0x7f) << 7) * 256.0;
    if bits & 0x7f == 0x7f { f32::NAN } else { scaled }
}

/// The f32 next to a sum on the side of zero: what tensor cores keep of it.
#[inline(always)]
pub fn truncated(sum: f64) -> f32 {
    let near = sum as f32;
    if f64::from(near).abs() > sum.abs() { f32::from_bits(near.to_bits() - 1) } else { near }
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
    fn eight_bit_floats_convert_exactly() {
        for bits in 0..=0xffu32 {
            let (sign, magnitude) = (if bits & 0x80 != 0 { -1.0 } else { 1.0 }, bits & 0x7f);
            let (exponent, fraction) = ((magnitude >> 3) as i32, (magnitude & 7) as f32);
            let want = match (exponent, magnitude) {
                (_, 0x7f) => f32::NAN,
                (0, _) => sign * fraction * 2f32.powi(-9),
                _ => sign * (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
            };
            let got = Element::E4m3.value(bits << 16, 2);
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got} against {want}");
            let (got, want) = (Element::E5m2.value(bits << 8, 1), half::f16::from_bits((bits as u16) << 8).to_f32());
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got} against {want}");
        }
    }

    #[test]
    fn sums_are_cut_towards_zero() {
        let step = f64::from(f32::EPSILON);
        for (sum, kept) in [(1.0, 1.0), (1.0 + 0.9 * step, 1.0), (-1.0 - 0.9 * step, -1.0), (0.0, 0.0)] {
            assert_eq!(truncated(sum), kept as f32);
        }
        assert_eq!(truncated(1e300), f32::MAX);
        assert_eq!(truncated(f64::INFINITY), f32::INFINITY);
        assert!(truncated(f64::NAN).is_nan());
    }

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
