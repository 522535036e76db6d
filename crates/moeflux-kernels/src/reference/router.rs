//! Reference of the router's choice.

use super::{max, sum16};
use crate::{KernelError, math, router::check};

/// See [`Cpu::route`](crate::Cpu::route).
///
/// # Errors
/// As there.
pub fn route(
    logits: &[f32],
    experts: usize,
    top_k: usize,
    renormalize: bool,
    ids: &mut [u32],
    weights: &mut [f32],
) -> Result<(), KernelError> {
    let n = check(logits, experts, top_k, ids, weights)?;
    for t in 0..n {
        let logits = &logits[t * experts..][..experts];
        let m = logits.iter().fold(f32::NEG_INFINITY, |m, &x| max(m, x));
        let e: Vec<f32> = logits.iter().map(|x| math::exp(x - m)).collect();
        let sum = sum16(&e);
        let probabilities: Vec<f32> = e.iter().map(|e| e / sum).collect();
        let ids = &mut ids[t * top_k..][..top_k];
        let weights = &mut weights[t * top_k..][..top_k];
        let mut taken = vec![false; experts];
        for slot in 0..top_k {
            let mut best: Option<usize> = None;
            for id in (0..experts).filter(|&id| !taken[id]) {
                // A later id must be strictly better (and NaN never is).
                if best.is_none_or(|best| probabilities[id] > probabilities[best]) {
                    best = Some(id);
                }
            }
            let Some(best) = best else { break };
            taken[best] = true;
            ids[slot] = best as u32;
            weights[slot] = probabilities[best];
        }
        if renormalize {
            let sum = weights.iter().fold(0.0, |sum, w| sum + w);
            weights.iter_mut().for_each(|w| *w /= sum);
        }
    }
    Ok(())
}
