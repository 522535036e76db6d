//! The choice by corrected scores and groups.

use moeflux::graph::{BufferId, Op};
use moeflux::kernels::{GroupedRouting, Scores};

use super::Oracle;
use super::dense::sigmoid;
use crate::HarnessError;

impl Oracle<'_> {
    /// The experts that the table has for the tokens, weighed by their scores.
    pub(super) fn token_router(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::TokenRouter {
            logits,
            table,
            rule,
            ids,
            weights,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let (table, tokens) = (self.vector(*table)?, self.tokens.to_vec());
        self.weighed(*logits, rule, (*ids, *weights), |row, _| {
            let first = tokens[row] as usize * rule.top_k;
            let own = table[first..first + rule.top_k].iter();
            own.map(|&id| id as usize).collect()
        });
        Ok(())
    }

    pub(super) fn grouped_router(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::GroupedRouter {
            logits,
            bias,
            rule,
            ids,
            weights,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let bias = match bias {
            Some(bias) => self.vector(*bias)?,
            None => vec![0.0; rule.experts],
        };
        self.weighed(*logits, rule, (*ids, *weights), |_, scores| {
            choice(rule, scores, &bias)
        });
        Ok(())
    }

    /// The experts that `choose` picks for each row by its scores, weighed by these.
    fn weighed(
        &mut self,
        logits: BufferId,
        rule: &GroupedRouting,
        (ids, weights): (BufferId, BufferId),
        choose: impl Fn(usize, &[f64]) -> Vec<usize>,
    ) {
        let (mut chosen, mut shares) = (Vec::new(), Vec::new());
        let rows = self.get(logits).chunks_exact(rule.experts);
        for (row, logits) in rows.enumerate() {
            let scores = scores(rule.scores, logits);
            let order = choose(row, &scores);
            let sum: f64 = match rule.renormalize {
                true => order.iter().map(|&id| scores[id]).sum(),
                false => 1.0,
            };
            let scale = f64::from(rule.scale);
            shares.extend(order.iter().map(|&id| scores[id] / sum * scale));
            chosen.extend(order.iter().map(|&id| id as u32));
        }
        self.ids.insert(ids.index(), chosen);
        self.set(weights, shares);
    }
}

fn scores(kind: Scores, logits: &[f64]) -> Vec<f64> {
    match kind {
        Scores::Sigmoid => logits.iter().map(|&x| sigmoid(x)).collect(),
        Scores::SqrtSoftplus => logits.iter().map(|&x| x.exp().ln_1p().sqrt()).collect(),
        Scores::Softmax => {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            powers.iter().map(|x| x / total).collect()
        }
    }
}

/// The best experts of the best groups.
fn choice(rule: &GroupedRouting, scores: &[f64], bias: &[f64]) -> Vec<usize> {
    let ranks: Vec<f64> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
    let size = rule.experts / rule.groups;
    let by_rank = |ranks: &[f64]| {
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]).then(a.cmp(&b)));
        order
    };
    let group_rank = |group: &[f64]| {
        let best = match rule.scores {
            Scores::Sigmoid | Scores::SqrtSoftplus => 2,
            Scores::Softmax => 1,
        };
        let order = by_rank(group);
        order.iter().take(best).map(|&at| group[at]).sum()
    };
    let groups: Vec<f64> = ranks.chunks_exact(size).map(group_rank).collect();
    let mut kept = by_rank(&groups);
    kept.truncate(rule.kept_groups);
    let mut order = by_rank(&ranks);
    order.retain(|id| kept.contains(&(id / size)));
    order.truncate(rule.top_k);
    order
}
