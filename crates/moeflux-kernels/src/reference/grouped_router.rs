//! Reference of the router's choice by groups.

use super::{max, sum16};
use crate::{
    GroupedRouting, KernelError, Scores,
    grouped_router::{LEAST_SUM, check},
    math,
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
                    Scores::Sigmoid if size > 1 => sorted[0] + sorted[1],
                    _ => sorted[0],
                }
            })
            .collect();
        let kept = best(&group_ranks, rule.kept_groups, |_| true);
        let chosen = best(&ranks, top_k, |expert| kept.contains(&(expert / size)));
        for (slot, &expert) in chosen.iter().enumerate() {
            (ids[slot], weights[slot]) = (expert as u32, scores[expert]);
        }
        let sum = weights.iter().fold(0.0, |sum, w| sum + w) + LEAST_SUM;
        let divisor = if rule.renormalize { sum } else { 1.0 };
        weights
            .iter_mut()
            .for_each(|w| *w = *w / divisor * rule.scale);
    }
    Ok(())
}

fn scores(kind: Scores, logits: &[f32]) -> Vec<f32> {
    if kind == Scores::Sigmoid {
        return logits.iter().map(|&x| math::sigmoid(x)).collect();
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
