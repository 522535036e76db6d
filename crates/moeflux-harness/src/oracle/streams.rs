//! A residual of several streams.

use moeflux::graph::StreamOp;
use moeflux::kernels::StreamRule;

use super::Oracle;
use super::dense::sigmoid;
use crate::HarnessError;

impl Oracle<'_> {
    pub(super) fn streams(&self, op: &StreamOp) -> Result<Vec<f64>, HarnessError> {
        Ok(match op {
            StreamOp::Weights {
                projected,
                scale_and_base: [scale, base],
                rule,
                ..
            } => {
                let (scale, base) = (self.vector(*scale)?, self.vector(*base)?);
                let rows = self.get(*projected).chunks_exact(rule.width());
                rows.flat_map(|row| weights(row, &scale, &base, *rule))
                    .collect()
            }
            StreamOp::Collapse {
                x, weights, rule, ..
            } => {
                let (x, weights) = (self.get(*x), self.get(*weights));
                let tokens = weights.len() / rule.width();
                let dim = x.len() / (tokens * rule.streams);
                let element = |at: usize| {
                    let (t, i) = (at / dim, at % dim);
                    let term = |j: usize| {
                        weights[t * rule.width() + j] * x[(t * rule.streams + j) * dim + i]
                    };
                    (0..rule.streams).map(term).sum()
                };
                (0..tokens * dim).map(element).collect()
            }
            StreamOp::Mean {
                x, streams, hidden, ..
            } => {
                let x = self.get(*x);
                let element = |at: usize| {
                    let (t, i) = (at / hidden, at % hidden);
                    let sum: f64 = (0..*streams)
                        .map(|j| x[(t * streams + j) * hidden + i])
                        .sum();
                    sum / *streams as f64
                };
                (0..x.len() / streams).map(element).collect()
            }
            StreamOp::Spread {
                x,
                block,
                weights,
                rule,
                ..
            } => {
                let (x, block, weights) = (self.get(*x), self.get(*block), self.get(*weights));
                let (n, tokens) = (rule.streams, weights.len() / rule.width());
                let dim = block.len() / tokens;
                let element = |at: usize| {
                    let (t, k, i) = (at / (n * dim), at / dim % n, at % dim);
                    let weights = &weights[t * rule.width()..][..rule.width()];
                    let mixed = |j: usize| weights[2 * n + j * n + k] * x[(t * n + j) * dim + i];
                    weights[n + k] * block[t * dim + i] + (0..n).map(mixed).sum::<f64>()
                };
                (0..x.len()).map(element).collect()
            }
            other => self.gated(other)?,
        })
    }
}

/// A token's weights: to collapse, to spread, and to mix.
fn weights(row: &[f64], scale: &[f64], base: &[f64], rule: StreamRule) -> Vec<f64> {
    let (n, eps) = (rule.streams, f64::from(rule.eps));
    let shifted = |i: usize| row[i] * scale[(i / n).min(2)] + base[i];
    let mut all: Vec<f64> = (0..n).map(|i| sigmoid(shifted(i)) + eps).collect();
    if rule.iterations == 0 {
        return all;
    }
    all.extend((n..2 * n).map(|i| 2.0 * sigmoid(shifted(i))));
    let mut mixing: Vec<Vec<f64>> = Vec::new();
    for j in 0..n {
        let powers: Vec<f64> = (0..n).map(|k| shifted((2 + j) * n + k).exp()).collect();
        let sum: f64 = powers.iter().sum();
        mixing.push(powers.iter().map(|x| x / sum + eps).collect());
    }
    for round in 0..rule.iterations {
        if round > 0 {
            for row in &mut mixing {
                let sum: f64 = row.iter().sum::<f64>() + eps;
                row.iter_mut().for_each(|x| *x /= sum);
            }
        }
        for k in 0..n {
            let sum: f64 = mixing.iter().map(|row| row[k]).sum::<f64>() + eps;
            mixing.iter_mut().for_each(|row| row[k] /= sum);
        }
    }
    all.extend(mixing.concat());
    all
}
