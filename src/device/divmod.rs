//! Division by a number known at launch: the host's side of `kernels/common/fast_divmod.cuh`.

use crate::kernel_params;

kernel_params! {
    /// Divides any number below 2³¹: `(⌊n · multiplier / 2³²⌋ + n) >> shift` (Granlund and Montgomery 1994).
    #[derive(PartialEq, Eq)]
    pub struct FastDivmod { value: u32, multiplier: u32, shift: u32 }
}

impl FastDivmod {
    /// `value` is below 2³¹; 0 stands for 1.
    pub fn new(value: u32) -> FastDivmod {
        let value = value.max(1);
        let shift = u32::BITS - (value - 1).leading_zeros();
        // 2^(32 + shift) / value less the 2³² that the sum with n stands for, rounded up: its error times any n below 2³¹
        // stays below one part in `value`.
        let multiplier = ((1u64 << 32) * ((1u64 << shift) - u64::from(value)) / u64::from(value) + 1) as u32;
        FastDivmod { value, multiplier, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(n: u32, by: FastDivmod) -> u32 {
        // The kernels' sum is of 32 bits too: it must not overflow.
        (((u64::from(n) * u64::from(by.multiplier)) >> 32) as u32 + n) >> by.shift
    }

    #[test]
    fn mulhi_add_and_shift_divide() {
        const LAST: u32 = (1 << 31) - 1;
        let powers = (10..31).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in (1..1100).chain(powers).chain([4608, 641, 6_700_417, LAST / 2, LAST / 3, LAST - 1, LAST]) {
            let by = FastDivmod::new(value);
            // Quotients change at multiples; the error is largest at the last ones.
            let last = LAST / value;
            for multiple in (0..4).chain([last / 3, last / 2]).chain(last.saturating_sub(3)..=last) {
                let at = multiple.saturating_mul(value);
                for n in at.saturating_sub(1)..=at.saturating_add(1).min(LAST) {
                    assert_eq!(divide(n, by), n / value, "{n} / {value}");
                }
            }
            assert_eq!(divide(LAST, by), LAST / value, "{LAST} / {value}");
        }
    }
}
