//! Our own exp, sigmoid, silu, softplus, sine and cosine: IEEE operations and fused multiply-adds
//! only, so that they give the same bits on every platform. NaN gives NaN.
//!
//! Vector kernels use the same sequence of operations lane by lane. Bounds against exact values:
//! exp 1 ulp, sigmoid, silu and softplus 3 ulp, sine and cosine 1 ulp (normal results).

/// Below this exp is 0, above [`EXP_MAX`] infinity; arguments are clamped to the two.
pub(crate) const EXP_MIN: f32 = -104.0;
/// See [`EXP_MIN`].
pub(crate) const EXP_MAX: f32 = 89.0;
/// High part of ln 2: few bits, so that its product with a small integer is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
/// ln 2 minus its high part.
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1 / k! for k = 7, 6, 5, 4, 3: on |r| <= ln 2 / 2 the remainder is below 6e-9.
pub(crate) const EXP_TERMS: [f32; 5] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
];

/// The largest finite binary16.
pub(crate) const F16_MAX: f32 = 65504.0;

/// The bits of the nearest binary16, halves to even; finite values beyond its range become its
/// largest, infinities stay.
pub fn to_f16(x: f32) -> u16 {
    let x = if x.is_finite() {
        x.clamp(-F16_MAX, F16_MAX)
    } else {
        x
    };
    half::f16::from_f32(x).to_bits()
}

/// The value of binary16 bits, exact.
pub fn from_f16(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

/// e^x, with gradual underflow.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let x = if EXP_MIN > x { EXP_MIN } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = EXP_TERMS[0];
    for term in &EXP_TERMS[1..] {
        p = p.mul_add(r, *term);
    }
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 1.0);
    // 2^n in two factors: n reaches from -150 to 128.
    let half = (n * 0.5).round_ties_even();
    p * power_of_two(half) * power_of_two(n - half)
}

/// 2^n for an integral n in [-126, 127]; any value for NaN.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(0.0 - x))
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// ln(1 + e^x) as max(x, 0) + log1p(e^-|x|).
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let positive = if 0.0 > x { 0.0 } else { x };
    positive + log1p_unit(exp(0.0 - x.abs()))
}

/// ln(1 + y) for y in [0, 1]: 2 artanh(s) with s = y / (2 + y) <= 1/3 by its power series.
#[inline(always)]
fn log1p_unit(y: f32) -> f32 {
    let s = y / (2.0 + y);
    let t = s * s;
    let mut p = 1.0 / 17.0;
    for denominator in [15.0f32, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = f32::mul_add(p, t, 1.0 / denominator);
    }
    let twice = s + s;
    (twice * t).mul_add(p, twice)
}

/// pi/2 in two parts.
const HALF_PI_HIGH: f64 = std::f64::consts::FRAC_PI_2;
const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;

/// (sin x, cos x), evaluated in f64 and rounded. Meant for |x| < 2^32 (positions times
/// frequencies); beyond that the results lose accuracy, infinities give NaN.
#[inline(always)]
pub fn sin_cos(x: f32) -> (f32, f32) {
    let x = f64::from(x);
    let k = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = k.mul_add(-HALF_PI_HIGH, x);
    let r = k.mul_add(-HALF_PI_LOW, r);
    let t = r * r;
    // Taylor series on |r| <= pi/4: remainders below 1e-14.
    let mut sine = 1.0 / 6_227_020_800.0;
    for term in [
        -1.0f64 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5_040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
    ] {
        sine = f64::mul_add(sine, t, term);
    }
    let sine = (r * t).mul_add(sine, r);
    let mut cosine = -1.0 / 87_178_291_200.0;
    for term in [
        1.0f64 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
        1.0,
    ] {
        cosine = f64::mul_add(cosine, t, term);
    }
    let (sine, cosine) = match (k as i64) & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    };
    (sine as f32, cosine as f32)
}
