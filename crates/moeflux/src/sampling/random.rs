//! Random numbers by position, and the exponential that weighs tokens.
//!
//! Both give the same bits on every machine: integers, and IEEE operations in a fixed order. (Fused
//! multiply-adds would be slow calls where the compiler may not assume that the processor has them.)

/// Odd constant near 2^64 / golden ratio: successive positions land far apart.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number in [0, 1) with 53 random bits: a hash of the seed and the position of the token drawn.
pub fn uniform(seed: u64, position: u64) -> f64 {
    let stream = mix(seed.wrapping_add(STEP));
    let bits = mix(stream.wrapping_add(position.wrapping_add(1).wrapping_mul(STEP)));
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// exp(x) for x <= 0, within 2e-15 of the true value relatively; 0 below -700, not a number for none.
pub(crate) fn exp_negative(x: f64) -> f64 {
    /// 1/n! for n from 13 down to 0.
    const SERIES: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    /// ln 2 in two parts: the first with its low bits zero, so that its multiples are exact.
    const LN_2: [f64; 2] = [
        f64::from_bits(0x3fe6_2e42_fee0_0000),
        1.908_214_929_270_587_7e-10,
    ];
    /// 1.5 * 2^52: a number added to it is rounded to an integer, which the low bits then hold.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let inside = if x < -700.0 { -700.0 } else { x };
    let rounded = inside * std::f64::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (inside - n * LN_2[0]) - n * LN_2[1];
    let power = SERIES.iter().fold(0.0_f64, |sum, term| sum * r + *term);
    // n is between -1010 and 0, so the biased exponent stays positive.
    let scale = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { power * scale }
}

#[cfg(test)]
mod tests {
    use super::{exp_negative, uniform};

    #[test]
    fn exponential_is_accurate() {
        for step in 0..70_000 {
            let x = -f64::from(step) * 0.01;
            let expected = x.exp();
            let error = (exp_negative(x) - expected).abs() / expected;
            assert!(error < 2e-15, "exp({x}) is off by {error}");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert_eq!(exp_negative(f64::NEG_INFINITY), 0.0);
        assert!(exp_negative(f64::NAN).is_nan());
    }

    #[test]
    fn numbers_are_uniform_over_seeds_and_positions() {
        // Chi-square with 99 degrees of freedom: 99.9 % of uniform samples stay below 148.2.
        for (what, draw) in [
            ("positions", (|i| uniform(7, i)) as fn(u64) -> f64),
            ("seeds", |i| uniform(i, 0)),
            ("both", |i| uniform(i, i)),
        ] {
            let mut counts = [0_u32; 100];
            (0..100_000).for_each(|i| counts[(draw(i) * 100.0) as usize] += 1);
            let chi: f64 = counts
                .iter()
                .map(|n| (f64::from(*n) - 1000.0).powi(2) / 1000.0)
                .sum();
            assert!(chi < 148.2, "{what}: {chi}");
        }
    }
}
