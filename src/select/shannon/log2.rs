//! Logarithms in integers, exactly specified, so that every machine counts the same fractions of a bit.

/// log2 of `n` >= 1 in 1/65536 bit, never above the true value: the integer part is the index of the leading one, the sixteen
/// bits behind the point come from squaring the normalised number (a 1.31 fixed-point number, rounded down) sixteen times:
/// a square of 2 or more is a one bit and is halved.
pub const fn log2_q16(n: u32) -> u32 {
    let octave = n.ilog2();
    let mut mantissa = (n as u64) << (31 - octave);
    let mut bits = octave;
    let mut bit = 0;
    while bit < 16 {
        mantissa = (mantissa * mantissa) >> 31;
        bits <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            bits |= 1;
        }
        bit += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_the_last_bit_but_one() {
        for n in (1..70000u32).chain([u32::MAX - 1, u32::MAX]) {
            let exact = 65536.0 * f64::from(n).log2();
            let error = exact - f64::from(log2_q16(n));
            assert!((-1e-6..1.5).contains(&error), "{n}: {error}");
        }
    }
}
