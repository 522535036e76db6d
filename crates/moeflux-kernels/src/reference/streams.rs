//! Reference of hyper-connections.

use super::max;
use crate::{KernelError, StreamRule, math, streams as checks};

/// See [`Cpu::stream_weights`](crate::Cpu::stream_weights).
///
/// # Errors
/// As there.
pub fn stream_weights(
    projected: &[f32],
    scale: &[f32],
    base: &[f32],
    rule: StreamRule,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let tokens = checks::check_weights(projected, scale, base, rule, out)?;
    let (n, width, eps) = (rule.streams, rule.width(), rule.eps);
    for t in 0..tokens {
        let out = &mut out[t * width..][..width];
        let shifted =
            |kind: usize, i: usize| projected[t * width + i].mul_add(scale[kind], base[i]);
        for j in 0..n {
            out[j] = math::sigmoid(shifted(0, j)) + eps;
            if rule.iterations > 0 {
                out[n + j] = 2.0 * math::sigmoid(shifted(1, n + j));
            }
        }
        if rule.iterations > 0 {
            let mixing: Vec<f32> = (2 * n..width).map(|i| shifted(2, i)).collect();
            out[2 * n..].copy_from_slice(&doubly_stochastic(&mixing, rule));
        }
    }
    Ok(())
}

/// A softmax of each row, then columns and rows normed in turn; `[streams, streams]`.
fn doubly_stochastic(logits: &[f32], rule: StreamRule) -> Vec<f32> {
    let (n, eps) = (rule.streams, rule.eps);
    let mut matrix = Vec::with_capacity(n * n);
    for row in logits.chunks_exact(n) {
        let m = row.iter().fold(f32::NEG_INFINITY, |m, &x| max(m, x));
        let powers: Vec<f32> = row.iter().map(|x| math::exp(x - m)).collect();
        let sum = powers.iter().fold(0.0, |sum, x| sum + x);
        matrix.extend(powers.iter().map(|x| x / sum + eps));
    }
    for round in 0..2 * rule.iterations - 1 {
        // Columns first, and last.
        let place = |line: usize, i: usize| match round % 2 {
            0 => i * n + line,
            _ => line * n + i,
        };
        for line in 0..n {
            let sum = (0..n).fold(0.0, |sum, i| sum + matrix[place(line, i)]) + eps;
            for i in 0..n {
                matrix[place(line, i)] /= sum;
            }
        }
    }
    matrix
}

/// See [`Cpu::collapse_streams`](crate::Cpu::collapse_streams).
///
/// # Errors
/// As there.
pub fn collapse_streams(
    x: &[f32],
    weights: &[f32],
    rule: StreamRule,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (tokens, dim) = checks::check_collapse(x, weights, rule, out)?;
    for t in 0..tokens {
        for i in 0..dim {
            let mut sum = 0.0;
            for j in 0..rule.streams {
                let weight = weights[t * rule.width() + j];
                sum = weight.mul_add(x[(t * rule.streams + j) * dim + i], sum);
            }
            out[t * dim + i] = sum;
        }
    }
    Ok(())
}

/// See [`Cpu::mean_streams`](crate::Cpu::mean_streams).
///
/// # Errors
/// As there.
pub fn mean_streams(
    x: &[f32],
    streams: usize,
    dim: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let tokens = checks::check_mean(x, streams, dim, out)?;
    for t in 0..tokens {
        for i in 0..dim {
            let sum = (0..streams).fold(0.0, |sum, j| sum + x[(t * streams + j) * dim + i]);
            out[t * dim + i] = sum / streams as f32;
        }
    }
    Ok(())
}

/// See [`Cpu::spread_streams`](crate::Cpu::spread_streams).
///
/// # Errors
/// As there.
pub fn spread_streams(
    x: &[f32],
    block: &[f32],
    weights: &[f32],
    rule: StreamRule,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (tokens, dim) = checks::check_spread(x, block, weights, rule, out)?;
    let n = rule.streams;
    for t in 0..tokens {
        let weights = &weights[t * rule.width()..][..rule.width()];
        for k in 0..n {
            for i in 0..dim {
                let mut sum = weights[n + k] * block[t * dim + i];
                for j in 0..n {
                    let mixing = weights[2 * n + j * n + k];
                    sum = mixing.mul_add(x[(t * n + j) * dim + i], sum);
                }
                out[(t * n + k) * dim + i] = sum;
            }
        }
    }
    Ok(())
}
