//! The router's choice, and the routed experts.

use moeflux::graph::Op;
use moeflux::weights::ExpertPart;

use super::dense::{product, silu};
use super::{Dense, Oracle};
use crate::HarnessError;

/// `down(silu(gate x) * (up x))`.
pub(super) struct Expert {
    gate: Dense,
    up: Dense,
    down: Dense,
}

impl Expert {
    pub(super) fn of(part: &ExpertPart) -> Result<Expert, HarnessError> {
        Ok(Expert {
            gate: Dense::of(&part.gate)?,
            up: Dense::of(&part.up)?,
            down: Dense::of(&part.down)?,
        })
    }

    fn of_token(&self, x: &[f64]) -> Vec<f64> {
        let (gate, up) = (product(x, &self.gate), product(x, &self.up));
        let act: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
        product(&act, &self.down)
    }
}

impl Oracle<'_> {
    /// Softmax over all experts; the most probable ones, of equal ones those with lower ids.
    pub(super) fn router(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::Router {
            logits,
            experts,
            top_k,
            renormalize,
            ids,
            weights,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let (mut chosen, mut shares) = (Vec::new(), Vec::new());
        for logits in self.get(*logits).chunks_exact(*experts) {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
            let mut order: Vec<usize> = (0..*experts).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            order.truncate(*top_k);
            let share = |&id: &usize| (logits[id] - largest).exp() / total;
            let sum: f64 = match renormalize {
                true => order.iter().map(share).sum(),
                false => 1.0,
            };
            shares.extend(order.iter().map(|id| share(id) / sum));
            chosen.extend(order.iter().map(|&id| id as u32));
        }
        self.ids.insert(ids.index(), chosen);
        self.set(*weights, shares);
        Ok(())
    }

    /// Each token's experts, one after another, with their weights.
    pub(super) fn routed_experts(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            out,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let missing = |what: &str| self.problem(format!("layer {layer} has no {what}"));
        let experts = self.experts.get(layer).ok_or_else(|| missing("experts"))?;
        let ids = self
            .ids
            .get(&ids.index())
            .ok_or_else(|| missing("choice"))?;
        let width = self.get(*x).len() / (ids.len() / top_k);
        let mut sums = Vec::with_capacity(self.get(*x).len());
        for (t, x) in self.get(*x).chunks_exact(width).enumerate() {
            let mut sum = vec![0.0; width];
            for slot in t * top_k..(t + 1) * top_k {
                let expert = experts.get(ids[slot] as usize);
                let result = expert.ok_or_else(|| missing("such expert"))?.of_token(x);
                let weight = self.get(*weights)[slot];
                for (sum, y) in sum.iter_mut().zip(result) {
                    *sum += weight * y;
                }
            }
            sums.extend(sum);
        }
        self.set(*out, sums);
        Ok(())
    }
}
