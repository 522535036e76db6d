//! Reference of the norms.

use super::{dot16, sum16};
use crate::{
    KernelError, layer_norm as layer, math,
    rms_norm::{check, check_pieces, check_plain},
};

/// See [`Cpu::rms_norm`](crate::Cpu::rms_norm).
///
/// # Errors
/// As there.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    check("rms_norm", x, None, weight, out)?;
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let inv = inverse_rms(x, eps);
        for i in 0..dim {
            out[i] = (x[i] * inv) * weight[i];
        }
    }
    Ok(())
}

/// See [`Cpu::rms_normalize`](crate::Cpu::rms_normalize).
///
/// # Errors
/// As there.
pub fn rms_normalize(x: &[f32], dim: usize, eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    check_plain(x, dim, out)?;
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let inv = inverse_rms(x, eps);
        for i in 0..dim {
            out[i] = x[i] * inv;
        }
    }
    Ok(())
}

/// See [`Cpu::rms_norm_pieces`](crate::Cpu::rms_norm_pieces).
///
/// # Errors
/// As there.
pub fn rms_norm_pieces(
    x: &[f32],
    weight: &[f32],
    dim: usize,
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_pieces(x, weight, dim, out)?;
    for (piece, x) in x.chunks_exact(dim).enumerate() {
        let inv = inverse_rms(x, eps);
        for i in 0..dim {
            let at = piece * dim + i;
            out[at] = (x[i] * inv) * weight[at % weight.len()];
        }
    }
    Ok(())
}

/// See [`Cpu::rms_norm_gated`](crate::Cpu::rms_norm_gated).
///
/// # Errors
/// As there.
pub fn rms_norm_gated(
    x: &[f32],
    gate: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check("rms_norm_gated", x, Some(gate), weight, out)?;
    let dim = weight.len();
    for (r, x) in x.chunks_exact(dim).enumerate() {
        let inv = inverse_rms(x, eps);
        for i in 0..dim {
            let at = r * dim + i;
            out[at] = ((x[i] * inv) * weight[i]) * math::silu(gate[at]);
        }
    }
    Ok(())
}

/// See [`Cpu::layer_norm`](crate::Cpu::layer_norm).
///
/// # Errors
/// As there.
pub fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    layer::check(x, weight, bias, out)?;
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = sum16(x) / dim as f32;
        let centered: Vec<f32> = x.iter().map(|x| x - mean).collect();
        let inv = inverse_rms(&centered, eps);
        for i in 0..dim {
            out[i] = (centered[i] * inv).mul_add(weight[i], bias[i]);
        }
    }
    Ok(())
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot16(x, x) / x.len() as f32 + eps).sqrt()
}
