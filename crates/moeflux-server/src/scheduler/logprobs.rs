//! Log probabilities of tokens by the model's logits.

use super::TokenLogprob;

/// The log probability of `token` and the `count` most likely tokens of `logits` `[vocab]`, most
/// likely first, the lower id first among equals.
pub fn of(logits: &[f32], token: u32, count: usize) -> (f32, Vec<TokenLogprob>) {
    let normalizer = moeflux::evaluate::log_sum(logits);
    let logprob = |logit: f32| (f64::from(logit) - normalizer) as f32;
    let own = logits.get(token as usize).copied().unwrap_or(f32::MIN);
    let mut top: Vec<TokenLogprob> = Vec::with_capacity(count + 1);
    for (token, logit) in logits.iter().enumerate() {
        if top.len() == count && top.last().is_none_or(|last| last.logprob >= *logit) {
            continue;
        }
        let at = top.partition_point(|other| other.logprob >= *logit);
        let (token, logprob) = (token as u32, *logit);
        top.insert(at, TokenLogprob { token, logprob });
        top.truncate(count);
    }
    for entry in &mut top {
        entry.logprob = logprob(entry.logprob);
    }
    (logprob(own), top)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn probabilities_are_of_the_softmax_and_in_order() {
        let logits = [0.0, 2.0_f32.ln(), 0.0, 4.0_f32.ln()];
        let (own, top) = of(&logits, 1, 3);
        assert!((own - 0.25_f32.ln()).abs() < 1e-6, "{own}");
        let tokens: Vec<u32> = top.iter().map(|t| t.token).collect();
        assert_eq!(tokens, [3, 1, 0]);
        assert!((top[0].logprob - 0.5_f32.ln()).abs() < 1e-6);
        assert!((top[2].logprob - 0.125_f32.ln()).abs() < 1e-6);
        assert_eq!(of(&logits, 0, 0).1, []);
        assert_eq!(of(&logits, 0, 9).1.len(), 4);
    }
}
