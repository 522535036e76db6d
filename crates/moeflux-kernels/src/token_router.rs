//! Experts by the token itself: a table says which ones each token of the vocabulary has; the
//! router's scores weigh them.

use std::cell::RefCell;

use crate::{
    Cpu, GroupedRouting, KernelError, check,
    disjoint::Disjoint,
    grouped_router::{score, to_weights},
    lanes::{Kernel, Lanes},
};

/// Checks sizes, tokens and the experts that they have.
pub(crate) fn check(
    logits: &[f32],
    (tokens, table): (&[u32], &[f32]),
    rule: &GroupedRouting,
    ids: &[u32],
    weights: &[f32],
) -> Result<(), KernelError> {
    const OP: &str = "route_by_token";
    let &GroupedRouting { experts, top_k, .. } = rule;
    let n = check::rows(OP, "logits", logits.len(), experts)?;
    check::size(OP, "tokens", n, tokens.len())?;
    check::size(OP, "ids", check::product(&[n, top_k]), ids.len())?;
    check::size(OP, "weights", ids.len(), weights.len())?;
    let vocab = check::rows(OP, "table", table.len(), top_k)?;
    for &token in tokens {
        check::index(OP, "token", token as usize, vocab)?;
        for &expert in &table[token as usize * top_k..][..top_k] {
            // Negative numbers and NaN count as the first.
            check::index(OP, "expert of a token", expert as usize, experts)?;
        }
    }
    Ok(())
}

impl Cpu {
    /// The experts that `table: [vocab, top_k]` has for each of `tokens: [n]`, in its order, as
    /// whole numbers; weights are their scores as of [`Cpu::route_grouped`], of `logits:
    /// [n, experts]`. `ids` and `weights` are `[n, top_k]`.
    ///
    /// # Errors
    /// If sizes do not fit, or a token or an expert is not there.
    pub fn route_by_token(
        &self,
        logits: &[f32],
        tokens: &[u32],
        table: &[f32],
        rule: &GroupedRouting,
        ids: &mut [u32],
        weights: &mut [f32],
    ) -> Result<(), KernelError> {
        check(logits, (tokens, table), rule, ids, weights)?;
        let &GroupedRouting { experts, top_k, .. } = rule;
        let (ids, weights) = (Disjoint::new(ids), Disjoint::new(weights));
        self.split(tokens.len(), 8192 / experts, &|first, end| {
            SCORES.with_borrow_mut(|scores| {
                for t in first..end {
                    let at = t * top_k;
                    // SAFETY: each token has one task.
                    let (ids, weights) = unsafe { (ids.part(at, top_k), weights.part(at, top_k)) };
                    self.backend.run(Choice {
                        logits: &logits[t * experts..][..experts],
                        row: &table[tokens[t] as usize * top_k..][..top_k],
                        rule,
                        scores,
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
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The choice of one token.
struct Choice<'a> {
    logits: &'a [f32],
    row: &'a [f32],
    rule: &'a GroupedRouting,
    scores: &'a mut Vec<f32>,
    ids: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Kernel for Choice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        score(l, self.rule.scores, self.logits, self.scores);
        for (slot, &expert) in self.row.iter().enumerate() {
            let expert = expert as usize;
            (self.ids[slot], self.weights[slot]) = (expert as u32, self.scores[expert]);
        }
        to_weights(self.rule, self.weights);
    }
}
