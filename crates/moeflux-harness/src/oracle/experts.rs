//! The router's choice, and the routed experts.

use moeflux::graph::Op;
use moeflux::kernels::Glu;
use moeflux::weights::ExpertPart;

use super::dense::{product, sigmoid, silu};
use super::{Dense, Oracle};
use crate::HarnessError;

/// `down(act(gate x, up x))`.
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

    /// `biases` are those of this expert, where there are any.
    fn of_token(&self, x: &[f64], glu: Glu, biases: Option<[&[f64]; 3]>) -> Vec<f64> {
        let with_bias = |results: Vec<f64>, matrix: usize| match biases {
            Some(biases) => results
                .iter()
                .zip(biases[matrix])
                .map(|(x, b)| x + b)
                .collect(),
            None => results,
        };
        let gate = with_bias(product(x, &self.gate), 0);
        let up = with_bias(product(x, &self.up), 1);
        let pairs = gate.iter().zip(up);
        let act: Vec<f64> = pairs.map(|(g, u)| activation(glu, *g, u)).collect();
        with_bias(product(&act, &self.down), 2)
    }
}

/// The gated activation of one element.
pub(super) fn activation(glu: Glu, gate: f64, up: f64) -> f64 {
    match glu {
        Glu::Silu => silu(gate) * up,
        Glu::Clamped {
            limit,
            alpha,
            offset,
        } => {
            let [limit, alpha, offset] = [limit, alpha, offset].map(f64::from);
            let gate = gate.min(limit);
            (up.clamp(-limit, limit) + offset) * gate * sigmoid(alpha * gate)
        }
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
            form,
            out,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let biases = match form.biases {
            Some([gate, up, down]) => {
                Some([self.vector(gate)?, self.vector(up)?, self.vector(down)?])
            }
            None => None,
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
                let id = ids[slot] as usize;
                let of_expert = |all: &Vec<f64>| -> std::ops::Range<usize> {
                    let rows = all.len() / experts.len();
                    id * rows..(id + 1) * rows
                };
                let own = biases.as_ref().map(|biases| {
                    let [gate, up, down] = biases;
                    [gate, up, down].map(|all| &all[of_expert(all)])
                });
                let expert = experts.get(id).ok_or_else(|| missing("such expert"))?;
                let result = expert.of_token(x, form.glu, own);
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
