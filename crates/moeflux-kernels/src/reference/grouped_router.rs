//! Reference of the router's choice by groups.

use super::{max, sum16};
use crate::{
    GroupedRouting, KernelError, Scores,
    grouped_router::{LEAST_SUM, check},
    math, token_router as table_check,
};

/// See [`Cpu::route_grouped`](crate::Cpu::route_grouped).
///
/// # Errors
/// As there.
pub fn route_grouped(
    logits: &[f32],
    bias: Option<&[f32]>,
    rule: &GroupedRouting,
    ids: &mut [u32],
    weights: &mut [f32],
) -> Result<(), KernelError> {
    let n = check(logits, bias, rule, ids, weights)?;
    let (experts, top_k) = (rule.experts, rule.top_k);
    for t in 0..n {
        let scores = scores(rule.scores, &logits[t * experts..][..experts]);
        let ranks: Vec<f32> = (0..experts)
            .map(|e| bias.map_or(scores[e], |bias| scores[e] + bias[e]))
            .collect();
        let ids = &mut ids[t * top_k..][..top_k];
        let weights = &mut weights[t * top_k..][..top_k];
        if ranks.iter().any(|rank| !rank.is_finite()) {
            for slot in 0..top_k {
                (ids[slot], weights[slot]) = (slot as u32, f32::NAN);
            }
            continue;
        }
        let size = experts / rule.groups;
        let group_ranks: Vec<f32> = ranks
            .chunks(size)
            .map(|group| {
                let mut sorted = group.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                match rule.scores {
                    Scores::Sigmoid | Scores::SqrtSoftplus if size > 1 => sorted[0] + sorted[1],
                    _ => sorted[0],
                }
            })
            .collect();
        let kept = best(&group_ranks, rule.kept_groups, |_| true);
        let chosen = best(&ranks, top_k, |expert| kept.contains(&(expert / size)));
        for (slot, &expert) in chosen.iter().enumerate() {
            (ids[slot], weights[slot]) = (expert as u32, scores[expert]);
        }
        to_weights(rule, weights);
    }
    Ok(())
}

/// See [`Cpu::route_by_token`](crate::Cpu::route_by_token).
///
/// # Errors
/// As there.
pub fn route_by_token(
    logits: &[f32],
    tokens: &[u32],
    table: &[f32],
    rule: &GroupedRouting,
    ids: &mut [u32],
    weights: &mut [f32],
) -> Result<(), KernelError> {
    table_check::check(logits, (tokens, table), rule, ids, weights)?;
    let (experts, top_k) = (rule.experts, rule.top_k);
    for (t, &token) in tokens.iter().enumerate() {
        let scores = scores(rule.scores, &logits[t * experts..][..experts]);
        for slot in 0..top_k {
            let expert = table[token as usize * top_k + slot] as usize;
            (ids[t * top_k + slot], weights[t * top_k + slot]) = (expert as u32, scores[expert]);
        }
        to_weights(rule, &mut weights[t * top_k..][..top_k]);
    }
    Ok(())
}

fn to_weights(rule: &GroupedRouting, scores: &mut [f32]) {
    let sum = scores.iter().fold(0.0, |sum, w| sum + w) + LEAST_SUM;
    let divisor = if rule.renormalize { sum } else { 1.0 };
    for score in scores {
        *score = *score / divisor * rule.scale;
    }
}

fn scores(kind: Scores, logits: &[f32]) -> Vec<f32> {
    match kind {
        Scores::Sigmoid => return logits.iter().map(|&x| math::sigmoid(x)).collect(),
        Scores::SqrtSoftplus => {
            return logits.iter().map(|&x| math::softplus(x).sqrt()).collect();
        }
        Scores::Softmax => {}
    }
    let m = logits.iter().fold(f32::NEG_INFINITY, |m, &x| max(m, x));
    let e: Vec<f32> = logits.iter().map(|x| math::exp(x - m)).collect();
    let sum = sum16(&e);
    e.iter().map(|e| e / sum).collect()
}

/// The indices of the greatest `count` values that take part, descending, the first of equals
/// first.
fn best(values: &[f32], count: usize, takes_part: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut best: Option<usize> = None;
        for at in (0..values.len()).filter(|&at| takes_part(at) && !chosen.contains(&at)) {
            if best.is_none_or(|best| values[at] > values[best]) {
                best = Some(at);
            }
        }
        chosen.extend(best);
    }
    chosen
}
