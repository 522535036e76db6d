//! Accuracy of exp, sigmoid, silu, softplus, sine and cosine against f64, and their edge cases.

use moeflux_kernels::math::{exp, sigmoid, silu, sin_cos, softplus};

/// Distance in units of the last place of the exact value's f32.
fn ulps(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got == rounded {
        return 0.0;
    }
    let next = f32::from_bits(rounded.abs().to_bits() + 1);
    let unit = f64::from(next) - f64::from(rounded.abs());
    (f64::from(got) - exact).abs() / unit
}

/// Greatest distance over a range, sampled evenly.
fn worst(function: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
    const SAMPLES: u32 = 200_000;
    let mut worst = 0.0f64;
    for i in 0..=SAMPLES {
        let x = from + (to - from) * (i as f32 / SAMPLES as f32);
        let error = ulps(function(x), exact(f64::from(x)));
        assert!(error.is_finite(), "at {x:e}");
        worst = worst.max(error);
    }
    worst
}

#[test]
fn exp_is_within_one_unit() {
    assert!(worst(exp, f64::exp, -104.0, 88.7) <= 1.0);
    assert!(worst(exp, f64::exp, -1.0, 1.0) <= 1.0);
    assert!(worst(exp, f64::exp, -1e-6, 1e-6) <= 1.0);
}

#[test]
fn sigmoid_and_silu_are_within_three_units() {
    let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
    assert!(worst(sigmoid, exact, -87.0, 90.0) <= 3.0);
    assert!(worst(sigmoid, exact, -2.0, 2.0) <= 3.0);
    assert!(worst(silu, |x| x * exact(x), -80.0, 90.0) <= 3.0);
}

#[test]
fn softplus_is_within_three_units() {
    let exact = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    assert!(worst(softplus, exact, -80.0, 100.0) <= 3.0);
    assert!(worst(softplus, exact, -4.0, 4.0) <= 3.0);
}

#[test]
fn sine_and_cosine_are_within_one_unit() {
    for (from, to) in [(-10.0, 10.0), (0.0, 1e5), (0.0, 4e9)] {
        assert!(
            worst(|x| sin_cos(x).0, f64::sin, from, to) <= 1.0,
            "sine to {to}"
        );
        assert!(
            worst(|x| sin_cos(x).1, f64::cos, from, to) <= 1.0,
            "cosine to {to}"
        );
    }
}

#[test]
fn edges() {
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(-200.0), 0.0);
    assert_eq!(exp(89.0), f32::INFINITY);
    assert!(exp(-100.0) > 0.0, "underflow is gradual");
    assert_eq!(sigmoid(f32::INFINITY), 1.0);
    assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
    assert_eq!(sigmoid(0.0), 0.5);
    assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
    assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
    assert_eq!(sin_cos(0.0), (0.0, 1.0));
    for nan in [
        exp(f32::NAN),
        sigmoid(f32::NAN),
        silu(f32::NAN),
        softplus(f32::NAN),
    ] {
        assert!(nan.is_nan());
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (sin, cos) = sin_cos(bad);
        assert!(sin.is_nan() && cos.is_nan());
    }
}
