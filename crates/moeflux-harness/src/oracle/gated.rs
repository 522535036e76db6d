//! A residual of several streams by gates, and rows of tables by n-grams.

use moeflux::graph::{StreamOp, WeightId};
use moeflux::kernels::NgramRule;

use super::Oracle;
use super::dense::{sigmoid, silu};
use super::state::dot;
use crate::HarnessError;

/// A gate's root is taken of no less.
const LEAST_ROOT: f64 = 1e-6;

impl Oracle<'_> {
    pub(super) fn gated(&self, op: &StreamOp) -> Result<Vec<f64>, HarnessError> {
        Ok(match op {
            StreamOp::Norm {
                x,
                weight,
                len,
                eps,
                ..
            } => {
                let weight = self.vector(*weight)?;
                let pieces = self.get(*x).chunks_exact(*len).enumerate();
                let normed = |(at, piece): (usize, &[f64])| -> Vec<f64> {
                    let mean = dot(piece, piece) / *len as f64;
                    let inverse = 1.0 / (mean + f64::from(*eps)).sqrt();
                    let weight = &weight[at * len % weight.len()..][..*len];
                    let own = piece.iter().zip(weight);
                    own.map(|(x, w)| x * inverse * w).collect()
                };
                pieces.flat_map(normed).collect()
            }
            StreamOp::ScaledSilu { x, divisor, .. } => {
                let values = self.get(*x).iter();
                values.map(|x| silu(x / f64::from(*divisor))).collect()
            }
            StreamOp::Mix {
                x, gates, streams, ..
            } => {
                let (x, gates) = (self.get(*x), self.get(*gates));
                let dim = x.len() / (streams * self.rows_of(op));
                let element = |at: usize| {
                    let (t, i) = (at / dim, at % dim);
                    let term = |j: usize| {
                        let at = (t * streams + j) * dim + i;
                        sigmoid(gates[at]) * x[at]
                    };
                    (0..*streams).map(term).sum::<f64>() / *streams as f64
                };
                (0..x.len() / streams).map(element).collect()
            }
            StreamOp::Inject {
                x,
                block,
                weights,
                streams,
                ..
            } => {
                let (x, block, weights) = (self.get(*x), self.get(*block), self.get(*weights));
                let dim = block.len() * streams / weights.len();
                let element = |(at, x): (usize, &f64)| {
                    let (stream, i) = (at / dim, at % dim);
                    let weight = 2.0 * sigmoid(weights[stream] / *streams as f64);
                    x + weight * block[stream / streams * dim + i]
                };
                x.iter().enumerate().map(element).collect()
            }
            StreamOp::Gate { .. } => self.gate_streams(op)?,
            other => return Err(self.unknown(other.name())),
        })
    }

    fn gate_streams(&self, op: &StreamOp) -> Result<Vec<f64>, HarnessError> {
        let StreamOp::Gate {
            keys,
            queries,
            values,
            streams,
            ..
        } = op
        else {
            return Err(self.unknown(op.name()));
        };
        let (keys, queries) = (self.get(*keys), self.get(*queries));
        let values = self.get(*values);
        let dim = values.len() / self.rows_of(op);
        let pairs = keys.chunks_exact(dim).zip(queries.chunks_exact(dim));
        let stream = |(at, (key, query)): (usize, (&[f64], &[f64]))| -> Vec<f64> {
            let met = dot(key, query) / (dim as f64).sqrt();
            let sign = if met == 0.0 { 0.0 } else { met.signum() };
            let gate = sigmoid(sign * met.abs().max(LEAST_ROOT).sqrt());
            let value = &values[at / streams * dim..][..dim];
            value.iter().map(|v| gate * v).collect()
        };
        Ok(pairs.enumerate().flat_map(stream).collect())
    }

    /// Rows of the step: of the tokens, or of those whose logits are wanted.
    fn rows_of(&self, op: &StreamOp) -> usize {
        match self.case.graph.buffers[op.out().index()].rows {
            moeflux::graph::Rows::Tokens => self.tokens.len(),
            moeflux::graph::Rows::Outputs => self.outputs.len(),
        }
        .max(1)
    }

    /// Hashes of a token and those before it, by the definition: tokens of the same text, and ends
    /// where there are none.
    pub(super) fn ngram_rows(
        &self,
        table: WeightId,
        rule: &NgramRule,
    ) -> Result<Vec<f64>, HarnessError> {
        let table = self.matrix(table)?;
        let (longest, mut out) = (rule.factors.len(), Vec::new());
        for rows in &self.rows {
            let mut text = self.history[rows.session].clone();
            text.extend(&self.tokens[rows.first..rows.first + rows.len]);
            for position in text.len() - rows.len..text.len() {
                let back = |shift: usize| {
                    let of_text = |s: &usize| *s <= position && text[position - s] != rule.end;
                    let whole = (1..shift).all(|s| of_text(&s)) && shift <= position;
                    let token = if whole {
                        text[position - shift]
                    } else {
                        rule.end
                    };
                    u128::from(token) * u128::from(rule.factors[shift])
                };
                for (hash, (first, count)) in rule.parts.iter().enumerate() {
                    let tokens = 2 + hash * (longest - 1) / rule.parts.len();
                    let mixed = (0..tokens).fold(0, |mixed, shift| mixed ^ back(shift));
                    let mixed = mixed as u64;
                    let row = (first + mixed % count) as usize * table.cols;
                    let values = &table.values[row..row + table.cols];
                    out.extend(values.iter().map(|&v| f64::from(v)));
                }
            }
        }
        Ok(out)
    }
}
