//! Elementary functions at the precision of their argument.
//!
//! In f32 they are branch-free polynomials without fused multiply-adds: the compiler vectorises them, and every CPU
//! gives bit-identical results. Coefficients are our own weighted minimax fits; the unit tests hold every function against libm
//! over its whole range. In f64, the reference, they are libm's. NaN stays NaN.

/// The two types that are computed in, and the functions they compute in different ways.
pub trait Elementary: num_traits::Float {
    /// A constant at this precision.
    fn constant(value: f64) -> Self;
    fn exp_elementary(self) -> Self;
    fn ln_elementary(self) -> Self;
    fn tanh_elementary(self) -> Self;
    fn erf_elementary(self) -> Self;
    fn ln_1p_elementary(self) -> Self;
}

/// `eˣ`. f32: within 2 ulp.
#[inline(always)]
pub fn exp<T: Elementary>(x: T) -> T {
    x.exp_elementary()
}

/// The natural logarithm. f32: within 2 ulp.
#[inline(always)]
pub fn ln<T: Elementary>(x: T) -> T {
    x.ln_elementary()
}

/// The hyperbolic tangent. f32: within 3 ulp.
#[inline(always)]
pub fn tanh<T: Elementary>(x: T) -> T {
    x.tanh_elementary()
}

/// The error function. f32: within 4 ulp.
#[inline(always)]
pub fn erf<T: Elementary>(x: T) -> T {
    x.erf_elementary()
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid<T: Elementary>(x: T) -> T {
    (T::one() + exp(-x)).recip()
}

/// `ln(1 + eˣ)`, which neither overflows nor loses small values.
#[inline(always)]
pub fn softplus<T: Elementary>(x: T) -> T {
    let positive = if x > T::zero() { x } else { T::zero() };
    let rest = exp(-x.abs()).ln_1p_elementary();
    if x.is_nan() { x } else { positive + rest }
}

/// `x · clamp(x + 3, 0, 6) / 6`.
#[inline(always)]
pub fn hardswish<T: Elementary>(x: T) -> T {
    let (zero, six) = (T::zero(), T::constant(6.0));
    let gate = x + T::constant(3.0);
    let gate = if gate < zero { zero } else { gate };
    x * (if gate > six { six } else { gate } / six)
}

/// The standard normal distribution's density.
#[inline(always)]
pub fn normal_pdf<T: Elementary>(x: T) -> T {
    T::constant(0.398_942_280_401_432_7) * exp(T::constant(-0.5) * x * x)
}

/// The standard normal distribution's cumulative distribution function.
#[inline(always)]
pub fn normal_cdf<T: Elementary>(x: T) -> T {
    T::constant(0.5) * (T::one() + erf(T::constant(std::f64::consts::FRAC_1_SQRT_2) * x))
}

impl Elementary for f64 {
    #[inline(always)]
    fn constant(value: f64) -> f64 {
        value
    }
    #[inline(always)]
    fn exp_elementary(self) -> f64 {
        self.exp()
    }
    #[inline(always)]
    fn ln_elementary(self) -> f64 {
        self.ln()
    }
    #[inline(always)]
    fn tanh_elementary(self) -> f64 {
        self.tanh()
    }
    #[inline(always)]
    fn erf_elementary(self) -> f64 {
        libm::erf(self)
    }
    #[inline(always)]
    fn ln_1p_elementary(self) -> f64 {
        self.ln_1p()
    }
}

/// ln 2 in two parts, the first with so few bits that small multiples of it are exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds a small float to an integer, held in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Horner's rule, highest power last in `c`.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut y = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = y * x + c[i];
    }
    y
}

/// `2ⁿ` for n in [-126, 127].
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

impl Elementary for f32 {
    #[inline(always)]
    fn constant(value: f64) -> f32 {
        value as f32
    }
    #[inline(always)]
    fn exp_elementary(self) -> f32 {
        // Beyond these, the result is 0 or infinity; NaN passes both comparisons unchanged.
        let x = if self < -105.0 { -105.0 } else { self };
        let x = if x > 90.0 { 90.0 } else { x };
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        let tail = polynomial(r, [0.5, 0.166_666_67, 0.041_666_254, 0.008_333_263, 0.001_394_722_5, 0.000_199_193_78]);
        let y = (r * r) * tail + r + 1.0;
        // Two factors reach subnormal results and overflow to infinity.
        let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = n >> 1;
        y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn ln_elementary(self) -> f32 {
        let small = self < f32::MIN_POSITIVE;
        let x = if small { self * 8_388_608.0 } else { self };
        // Mantissa in [√½, √2), so that the series is about 1.
        let bits = (x.to_bits() as i32).wrapping_sub(0x3F35_04F3);
        let n = (bits >> 23) as f32 - if small { 23.0 } else { 0.0 };
        let mantissa = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(0x3F35_04F3) as u32);
        let r = mantissa - 1.0;
        let square = r * r;
        let tail = polynomial(
            r,
            [
                0.333_333_1,
                -0.249_999_87,
                0.200_022_27,
                -0.166_692_5,
                0.142_186_56,
                -0.123_843_685,
                0.118_730_13,
                -0.117_897_05,
                0.069_151_655,
            ],
        );
        let y = (r * square * tail + n * LN_2_LOW) - 0.5 * square;
        let y = (r + y) + n * LN_2_HIGH;
        let y = if self == f32::INFINITY { self } else { y };
        let y = if self == 0.0 { f32::NEG_INFINITY } else { y };
        if self >= 0.0 { y } else { f32::NAN }
    }

    #[inline(always)]
    fn tanh_elementary(self) -> f32 {
        let x = self.abs();
        let square = x * x;
        let series = polynomial(square, [-0.333_332_83, 0.133_314_7, -0.053_741_62, 0.020_644_128, -0.005_709_488_5]);
        let near = x + x * square * series;
        let far = 1.0 - 2.0 / ((2.0 * x).exp_elementary() + 1.0);
        (if x < 0.625 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn erf_elementary(self) -> f32 {
        let x = self.abs();
        let square = x * x;
        let series = polynomial(
            square,
            [0.128_379_15, -0.376_124_94, 0.112_818_03, -0.026_765_567, 0.004_990_98, -0.000_597_689_4],
        );
        let near = x + x * series;
        // 1 - erf is e to minus a polynomial; beyond 4 it is below half an ulp of 1.
        let t = if x > 4.0 { 4.0 } else { x };
        let exponent = polynomial(
            t,
            [
                0.000_207_008_49,
                1.127_627_4,
                0.637_265_75,
                0.103_856_38,
                -0.022_189_777,
                0.003_033_692_4,
                -0.000_194_946_76,
            ],
        );
        let far = 1.0 - (-exponent).exp_elementary();
        (if x < 0.93 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn ln_1p_elementary(self) -> f32 {
        // ln(w) errs by what 1 + x lost to rounding; x / (w - 1) puts it back.
        let w = 1.0 + self;
        let lost = w - 1.0;
        let corrected = w.ln_elementary() * (self / lost);
        if lost == 0.0 { self } else { corrected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error in units of the last place of f32, over evenly spaced points.
    fn worst_ulp(low: f32, high: f32, ours: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let points = 200_000;
        (0..=points).fold(0.0, |worst: f64, i| {
            let x = low + (high - low) * (i as f32 / points as f32);
            let wanted = exact(f64::from(x));
            let ulp = f64::from((wanted.abs() as f32).max(f32::MIN_POSITIVE)) * 2f64.powi(-23);
            worst.max((f64::from(ours(x)) - wanted).abs() / ulp)
        })
    }

    #[test]
    fn single_precision_agrees_with_libm() {
        for (name, low, high, ours, exact, limit) in [
            ("exp", -87.0, 88.7, exp::<f32> as fn(f32) -> f32, f64::exp as fn(f64) -> f64, 2.0),
            ("exp near 0", -1e-3, 1e-3, exp::<f32>, f64::exp, 1.0),
            ("ln", 1e-3, 4.0, ln::<f32>, f64::ln, 2.0),
            ("ln of large numbers", 1.0, 3e38, ln::<f32>, f64::ln, 2.0),
            ("tanh", -10.0, 10.0, tanh::<f32>, f64::tanh, 3.0),
            ("erf", -5.0, 5.0, erf::<f32>, libm::erf, 4.0),
            ("sigmoid", -80.0, 30.0, sigmoid::<f32>, |x| 1.0 / (1.0 + (-x).exp()), 4.0),
            ("softplus", -80.0, 40.0, softplus::<f32>, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 4.0),
        ] {
            let worst = worst_ulp(low, high, ours, exact);
            assert!(worst <= limit, "{name}: {worst} ulp");
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0f32), 0.0);
        assert_eq!(exp(89.0f32), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(-100.0f32) > 0.0, "subnormal results are kept");
        assert_eq!(exp(0.0f32), 1.0);
        assert_eq!(ln(0.0f32), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(ln(-1.0f32).is_nan());
        assert!((ln(1e-40f32) - 1e-40f32.ln()).abs() < 1e-4);
        assert_eq!([tanh(50.0f32), tanh(-50.0f32), tanh(0.0f32)], [1.0, -1.0, 0.0]);
        assert_eq!([erf(9.0f32), erf(-9.0f32), erf(0.0f32)], [1.0, -1.0, 0.0]);
        assert_eq!(
            [sigmoid(-200.0f32), sigmoid(200.0f32), softplus(-200.0f32), softplus(200.0f32)],
            [0.0, 1.0, 0.0, 200.0]
        );
        for f in [exp::<f32>, ln::<f32>, tanh::<f32>, erf::<f32>, sigmoid::<f32>, softplus::<f32>] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
