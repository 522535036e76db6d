//! Reference of hyper-connections by gates.

use super::dot16;
use crate::{KernelError, gated_streams as checks, math};

/// See [`Cpu::scaled_silu`](crate::Cpu::scaled_silu).
///
/// # Errors
/// As there.
pub fn scaled_silu(x: &[f32], divisor: f32, out: &mut [f32]) -> Result<(), KernelError> {
    checks::check_silu(x, out)?;
    for i in 0..x.len() {
        out[i] = math::silu(x[i] / divisor);
    }
    Ok(())
}

/// See [`Cpu::mix_streams`](crate::Cpu::mix_streams).
///
/// # Errors
/// As there.
pub fn mix_streams(
    x: &[f32],
    gates: &[f32],
    (streams, dim): (usize, usize),
    out: &mut [f32],
) -> Result<(), KernelError> {
    let tokens = checks::check_mix(x, gates, (streams, dim), out)?;
    for t in 0..tokens {
        for i in 0..dim {
            let mut sum = 0.0;
            for j in 0..streams {
                let at = (t * streams + j) * dim + i;
                sum = math::sigmoid(gates[at]).mul_add(x[at], sum);
            }
            out[t * dim + i] = sum / streams as f32;
        }
    }
    Ok(())
}

/// See [`Cpu::inject_streams`](crate::Cpu::inject_streams).
///
/// # Errors
/// As there.
pub fn inject_streams(
    x: &[f32],
    block: &[f32],
    weights: &[f32],
    streams: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (tokens, dim) = checks::check_inject(x, block, weights, streams, out)?;
    for t in 0..tokens {
        for k in 0..streams {
            let weight = 2.0 * math::sigmoid(weights[t * streams + k] / streams as f32);
            for i in 0..dim {
                let at = (t * streams + k) * dim + i;
                out[at] = weight.mul_add(block[t * dim + i], x[at]);
            }
        }
    }
    Ok(())
}

/// See [`Cpu::gate_streams`](crate::Cpu::gate_streams).
///
/// # Errors
/// As there.
pub fn gate_streams(
    keys: &[f32],
    queries: &[f32],
    values: &[f32],
    (streams, dim): (usize, usize),
    out: &mut [f32],
) -> Result<(), KernelError> {
    let tokens = checks::check_gate(keys, queries, values, (streams, dim), out)?;
    for t in 0..tokens {
        for k in 0..streams {
            let at = (t * streams + k) * dim;
            let dot = dot16(&keys[at..][..dim], &queries[at..][..dim]) / (dim as f32).sqrt();
            let size = if dot.abs() > checks::LEAST_ROOT {
                dot.abs()
            } else {
                checks::LEAST_ROOT
            };
            let sign = match dot {
                d if d > 0.0 => 1.0,
                d if d < 0.0 => -1.0,
                d => d,
            };
            let gate = math::sigmoid(sign * size.sqrt());
            for i in 0..dim {
                out[at + i] = gate * values[t * dim + i];
            }
        }
    }
    Ok(())
}
