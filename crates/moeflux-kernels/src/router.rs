//! The router's choice: softmax over all experts, then the most probable ones.

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
};

/// Checks a routing's sizes; gives the number of tokens.
pub(crate) fn check(
    logits: &[f32],
    experts: usize,
    top_k: usize,
    ids: &[u32],
    weights: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "route";
    let n = check::rows(OP, "logits", logits.len(), experts)?;
    check::index(OP, "top_k", top_k, experts + 1)?;
    check::size(OP, "ids", check::product(&[n, top_k]), ids.len())?;
    check::size(OP, "weights", ids.len(), weights.len())?;
    Ok(n)
}

impl Cpu {
    /// Chooses `top_k` of `experts` for each token of `logits: [n, experts]`, by descending
    /// probability, ties to the lowest id. `ids` and `weights` are `[n, top_k]`; weights are
    /// probabilities over all experts, or divided by the sum of those chosen if `renormalize`.
    /// A token with a NaN logit gets weights of NaN.
    ///
    /// # Errors
    /// If sizes do not fit or `top_k` exceeds `experts`.
    pub fn route(
        &self,
        logits: &[f32],
        experts: usize,
        top_k: usize,
        renormalize: bool,
        ids: &mut [u32],
        weights: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check(logits, experts, top_k, ids, weights)?;
        let (ids, weights) = (Disjoint::new(ids), Disjoint::new(weights));
        self.split(n, 8192 / experts, &|first, end| {
            PROBABILITIES.with_borrow_mut(|probabilities| {
                for t in first..end {
                    let at = t * top_k;
                    // SAFETY: each token has one task.
                    let (ids, weights) = unsafe { (ids.part(at, top_k), weights.part(at, top_k)) };
                    let logits = &logits[t * experts..][..experts];
                    self.backend.run(Choice {
                        logits,
                        renormalize,
                        probabilities,
                        ids,
                        weights,
                    });
                }
            });
        });
        Ok(())
    }
}

thread_local! {
    /// Probabilities of a token's experts.
    static PROBABILITIES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The choice of one token.
struct Choice<'a> {
    logits: &'a [f32],
    renormalize: bool,
    probabilities: &'a mut Vec<f32>,
    ids: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Kernel for Choice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Choice {
            logits,
            renormalize,
            probabilities,
            ids,
            weights,
        } = self;
        softmax(l, logits, probabilities);
        if probabilities.first().is_some_and(|p| p.is_nan()) {
            // One NaN makes all of them NaN: nothing is better than the lowest ids.
            for slot in 0..ids.len() {
                (ids[slot], weights[slot]) = (slot as u32, f32::NAN);
            }
            return;
        }
        for slot in 0..ids.len() {
            // The greatest, and the first of those that are equal; chosen ones are negative.
            let greatest = l.max(probabilities);
            let mut best = 0;
            while best + 1 < probabilities.len() && probabilities[best] != greatest {
                best += 1;
            }
            (ids[slot], weights[slot]) = (best as u32, greatest);
            probabilities[best] = -1.0;
        }
        if renormalize {
            let mut sum = 0.0;
            for weight in weights.iter() {
                sum += weight;
            }
            for weight in weights {
                *weight /= sum;
            }
        }
    }
}

/// Softmax over all logits.
#[inline(always)]
pub(crate) fn softmax<L: Lanes>(l: L, logits: &[f32], probabilities: &mut Vec<f32>) {
    probabilities.resize(logits.len(), 0.0);
    let m = l.splat(l.max(logits));
    let mut i = 0;
    while i < logits.len() {
        l.store_at(
            math::exp(l, l.sub(l.load_at(logits, i), m)),
            probabilities,
            i,
        );
        i += 16;
    }
    let sum = l.splat(l.sum16(probabilities));
    i = 0;
    while i < logits.len() {
        l.store_at(l.div(l.load_at(probabilities, i), sum), probabilities, i);
        i += 16;
    }
}
