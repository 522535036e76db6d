//! Figures of merit of logits: how surprising a text is, how far two models are apart.

use crate::sampling::exp_negative;

/// Sums that are added up side by side, so that they need not wait for each other.
const LANES: usize = 8;

/// `ln(sum(exp(logits)))`, in f64; a log probability is a logit less this.
pub fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f64::from(most);
    let weight = |logit: f32| exp_negative(f64::from(logit) - most);
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, logit) in sums.iter_mut().zip(chunk) {
            *sum += weight(*logit);
        }
    }
    let rest: f64 = rest.iter().map(|logit| weight(*logit)).sum();
    most + (sums.iter().sum::<f64>() + rest).ln()
}

/// How surprising `token` is to whoever believes `logits`: `-ln p(token)`, in nats; infinite for a
/// token outside of them.
pub fn surprise(logits: &[f32], token: u32) -> f64 {
    match logits.get(token as usize) {
        Some(&logit) => log_sum(logits) - f64::from(logit),
        None => f64::INFINITY,
    }
}

/// The Kullback-Leibler divergence from the belief of `reference` to that of `other`, logits of one
/// vocabulary, in nats: the mean, by the reference, of `ln p_reference - ln p_other`.
pub fn divergence(reference: &[f32], other: &[f32]) -> f64 {
    let (all, all_other) = (log_sum(reference), log_sum(other));
    let pairs = reference.iter().zip(other);
    let sum: f64 = pairs
        .map(|(&a, &b)| {
            let (a, b) = (f64::from(a) - all, f64::from(b) - all_other);
            match a.exp() {
                // What the reference rules out adds nothing, whatever the other says.
                0.0 => 0.0,
                p => p * (a - b),
            }
        })
        .sum();
    // Rounding may leave equal beliefs a hair below zero.
    if sum < 0.0 { 0.0 } else { sum }
}

/// The token of the highest logit, the first of equals.
pub fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_definitions() {
        // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/2, 1/4.
        let a = [2.0_f32.ln() + 5.0, 5.0, 5.0];
        let b = [-90.0, 2.0_f32.ln() - 90.0, -90.0];
        assert!((surprise(&a, 0) - 2.0_f64.ln()).abs() < 1e-6);
        assert!((surprise(&b, 2) - 4.0_f64.ln()).abs() < 1e-6);
        assert_eq!(surprise(&a, 3), f64::INFINITY);
        let expected = 0.5 * 2.0_f64.ln() - 0.25 * 2.0_f64.ln();
        assert!((divergence(&a, &b) - expected).abs() < 1e-6);
        assert_eq!(divergence(&a, &a), 0.0);
        let certain = [0.0, f32::NEG_INFINITY];
        assert!((divergence(&certain, &[0.0, 0.0]) - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!((best(&a), best(&b), best(&[1.0, 1.0])), (0, 1, 0));
        assert!(divergence(&[f32::NAN, 0.0], &[0.0, 0.0]).is_nan());
        assert!(surprise(&[f32::NAN, 0.0], 1).is_nan());
        let many = vec![-3.0; 1001];
        assert!((log_sum(&many) - (1001.0_f64.ln() - 3.0)).abs() < 1e-12);
    }
}
