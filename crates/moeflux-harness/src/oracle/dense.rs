//! Operations on the rows of a step, without state.

use moeflux::graph::{Op, WeightId};
use moeflux::kernels::RopeStyle;

use super::experts::activation;
use super::{Dense, Oracle};
use crate::HarnessError;

/// 1 / (1 + e^-x).
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x * sigmoid(x).
pub(super) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `x: [n, cols]` times the transpose of `matrix: [rows, cols]`.
pub(super) fn product(x: &[f64], matrix: &Dense) -> Vec<f64> {
    let rows = x.chunks_exact(matrix.cols);
    let dot =
        |x: &[f64], w: &[f32]| -> f64 { x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum() };
    rows.flat_map(|x| {
        matrix
            .values
            .chunks_exact(matrix.cols)
            .map(move |w| dot(x, w))
    })
    .collect()
}

fn norm(x: &[f64], weight: &[f64], eps: f32) -> Vec<f64> {
    let rows = x.chunks_exact(weight.len());
    rows.flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
        row.iter().zip(weight).map(move |(x, w)| x * inverse * w)
    })
    .collect()
}

fn pairwise(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Rotates pairs of a head's elements by position times frequency; sine and cosine are scaled.
pub(super) fn rotate(
    head: &mut [f64],
    position: f64,
    (inv_freq, scale, style): (&[f32], f32, RopeStyle),
) {
    let pairs = inv_freq.len();
    let tail = head.len() - 2 * pairs;
    for (i, frequency) in inv_freq.iter().enumerate() {
        let (a, b) = match style {
            RopeStyle::HalfSplit => (i, i + pairs),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            RopeStyle::InterleavedTail => (tail + 2 * i, tail + 2 * i + 1),
        };
        let angle = position * f64::from(*frequency);
        let (sin, cos) = (
            angle.sin() * f64::from(scale),
            angle.cos() * f64::from(scale),
        );
        let (x, y) = (head[a], head[b]);
        (head[a], head[b]) = (x * cos - y * sin, x * sin + y * cos);
    }
}

impl Oracle<'_> {
    pub(super) fn rowwise(&mut self, op: &Op) -> Result<(), HarnessError> {
        let out = match op {
            Op::Matmul { x, outputs, .. } => {
                for &(weight, out) in outputs {
                    let result = product(self.get(*x), self.matrix(weight)?);
                    self.set(out, result);
                }
                return Ok(());
            }
            Op::SplitPairs {
                x,
                dim,
                first,
                second,
                ..
            } => {
                for (odd, half) in [first, second].into_iter().enumerate() {
                    let halves = self.get(*x).chunks_exact(*dim).skip(odd).step_by(2);
                    let halves = halves.flatten().copied().collect();
                    self.set(*half, halves);
                }
                return Ok(());
            }
            Op::Embed { weight, .. } => self.embed(*weight)?,
            Op::Rope { .. } => self.rope(op)?,
            Op::Swiglu { gate, up, .. } => {
                pairwise(self.get(*gate), self.get(*up), |g, u| silu(g) * u)
            }
            Op::Glu { gate, up, rule, .. } => pairwise(self.get(*gate), self.get(*up), |g, u| {
                activation(*rule, g, u)
            }),
            Op::SigmoidMul { x, gate, .. } => {
                pairwise(self.get(*x), self.get(*gate), |x, g| x * sigmoid(g))
            }
            Op::ScaleBySigmoid { x, gate, .. } => {
                let (x, gate) = (self.get(*x), self.get(*gate));
                let width = x.len() / gate.len();
                let at = |(at, x): (usize, &f64)| x * sigmoid(gate[at / width]);
                x.iter().enumerate().map(at).collect()
            }
            Op::AddBias { x, bias, .. } => {
                let bias = self.vector(*bias)?;
                let rows = self.get(*x).chunks_exact(bias.len());
                rows.flat_map(|row| pairwise(row, &bias, |x, b| x + b))
                    .collect()
            }
            Op::Add { a, b, .. } => pairwise(self.get(*a), self.get(*b), |a, b| a + b),
            Op::SelectOutputs { x, .. } => {
                let x = self.get(*x);
                let width = x.len() / self.tokens.len();
                let row = |&row: &usize| &x[row * width..(row + 1) * width];
                self.outputs.iter().flat_map(row).copied().collect()
            }
            Op::NgramRows { table, rule, .. } => self.ngram_rows(*table, rule)?,
            Op::Streams(op) => self.streams(op)?,
            other => self.norms(other)?,
        };
        let [buffer] = op.writes()[..] else {
            return Err(self.wrong(op));
        };
        self.set(buffer, out);
        Ok(())
    }

    /// The tokens' rows of a table.
    fn embed(&self, table: WeightId) -> Result<Vec<f64>, HarnessError> {
        let table = self.matrix(table)?;
        let row = |&token: &u32| {
            let first = token as usize * table.cols;
            &table.values[first..first + table.cols]
        };
        let rows = self.tokens.iter().flat_map(row);
        Ok(rows.map(|&v| f64::from(v)).collect())
    }

    fn norms(&self, op: &Op) -> Result<Vec<f64>, HarnessError> {
        Ok(match op {
            Op::RmsNorm { x, weight, eps, .. } => norm(self.get(*x), &self.vector(*weight)?, *eps),
            Op::RmsNormalize { x, len, eps, .. } => norm(self.get(*x), &vec![1.0; *len], *eps),
            Op::LayerNorm {
                x,
                weight_and_bias: [weight, bias],
                eps,
                ..
            } => {
                let (weight, bias) = (self.vector(*weight)?, self.vector(*bias)?);
                let rows = self.get(*x).chunks_exact(weight.len());
                let centered = rows.flat_map(|row| {
                    let mean = row.iter().sum::<f64>() / row.len() as f64;
                    row.iter().map(move |x| x - mean)
                });
                let rows = norm(&centered.collect::<Vec<f64>>(), &weight, *eps);
                let rows = rows.chunks_exact(bias.len());
                rows.flat_map(|row| pairwise(row, &bias, |x, b| x + b))
                    .collect()
            }
            Op::RmsNormGated {
                x,
                gate,
                weight,
                eps,
                ..
            } => {
                let normed = norm(self.get(*x), &self.vector(*weight)?, *eps);
                pairwise(&normed, self.get(*gate), |x, g| x * silu(g))
            }
            other => return Err(self.wrong(other)),
        })
    }

    /// Rotates every head by its position.
    fn rope(&self, op: &Op) -> Result<Vec<f64>, HarnessError> {
        let Op::Rope {
            x,
            heads,
            head_dim,
            inv_freq,
            attention_scale,
            style,
            ..
        } = op
        else {
            return Err(self.wrong(op));
        };
        let mut out = self.get(*x).to_vec();
        for rows in &self.rows {
            for t in 0..rows.len {
                for h in 0..*heads {
                    let head = ((rows.first + t) * heads + h) * head_dim;
                    let head = &mut out[head..head + head_dim];
                    let position = (rows.start + t) as f64;
                    rotate(head, position, (inv_freq, *attention_scale, *style));
                }
            }
        }
        Ok(out)
    }
}
