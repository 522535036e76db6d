//! Reference of element by element operations and of the experts' weighted sum.

use crate::{
    Glu, KernelError, add_bias as bias_check, combine as checks,
    elementwise::{check_pair, check_scale, check_split},
    math,
};

/// See [`Cpu::swiglu`](crate::Cpu::swiglu).
///
/// # Errors
/// As there.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    check_pair("swiglu", ("gate", gate), ("up", up), out)?;
    for i in 0..out.len() {
        out[i] = math::silu(gate[i]) * up[i];
    }
    Ok(())
}

/// See [`Cpu::glu`](crate::Cpu::glu).
///
/// # Errors
/// As there.
pub fn glu(gate: &[f32], up: &[f32], rule: Glu, out: &mut [f32]) -> Result<(), KernelError> {
    let Glu::Clamped {
        limit,
        alpha,
        offset,
    } = rule
    else {
        return swiglu(gate, up, out);
    };
    check_pair("glu", ("gate", gate), ("up", up), out)?;
    for i in 0..out.len() {
        let gate = if gate[i] > limit { limit } else { gate[i] };
        let up = if up[i] > limit { limit } else { up[i] };
        let up = if -limit > up { -limit } else { up };
        out[i] = (up + offset) * (gate * math::sigmoid(alpha * gate));
    }
    Ok(())
}

/// See [`Cpu::sigmoid_mul`](crate::Cpu::sigmoid_mul).
///
/// # Errors
/// As there.
pub fn sigmoid_mul(x: &[f32], gate: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    check_pair("sigmoid_mul", ("x", x), ("gate", gate), out)?;
    for i in 0..out.len() {
        out[i] = x[i] * math::sigmoid(gate[i]);
    }
    Ok(())
}

/// See [`Cpu::scale_by_sigmoid`](crate::Cpu::scale_by_sigmoid).
///
/// # Errors
/// As there.
pub fn scale_by_sigmoid(x: &[f32], gate: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    let d = check_scale(x, gate, out)?;
    for i in 0..out.len() {
        out[i] = x[i] * math::sigmoid(gate[i / d]);
    }
    Ok(())
}

/// See [`Cpu::add`](crate::Cpu::add).
///
/// # Errors
/// As there.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    check_pair("add", ("a", a), ("b", b), out)?;
    for i in 0..out.len() {
        out[i] = a[i] + b[i];
    }
    Ok(())
}

/// See [`Cpu::add_bias`](crate::Cpu::add_bias).
///
/// # Errors
/// As there.
pub fn add_bias(x: &[f32], bias: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    bias_check::check(x, bias, out)?;
    for i in 0..out.len() {
        out[i] = x[i] + bias[i % bias.len()];
    }
    Ok(())
}

/// See [`Cpu::add_to_rows`](crate::Cpu::add_to_rows).
///
/// # Errors
/// As there.
pub fn add_to_rows(x: &mut [f32], bias: &[f32]) -> Result<(), KernelError> {
    bias_check::check_in_place(x, bias)?;
    for i in 0..x.len() {
        x[i] += bias[i % bias.len()];
    }
    Ok(())
}

/// See [`Cpu::split_pairs`](crate::Cpu::split_pairs).
///
/// # Errors
/// As there.
pub fn split_pairs(
    x: &[f32],
    heads: usize,
    dim: usize,
    first: &mut [f32],
    second: &mut [f32],
) -> Result<(), KernelError> {
    let n = check_split(x, heads, dim, first, second)?;
    for head in 0..n * heads {
        for i in 0..dim {
            first[head * dim + i] = x[(head * 2) * dim + i];
            second[head * dim + i] = x[(head * 2 + 1) * dim + i];
        }
    }
    Ok(())
}

/// See [`Cpu::combine`](crate::Cpu::combine).
///
/// # Errors
/// As there.
pub fn combine(
    rows: &[f32],
    offsets: &[u32],
    entries: &[(u32, f32)],
    d: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let n = checks::check(rows, offsets, entries, d, out)?;
    for t in 0..n {
        for i in 0..d {
            let mut acc = 0.0;
            for &(row, weight) in &entries[offsets[t] as usize..offsets[t + 1] as usize] {
                acc = weight.mul_add(rows[row as usize * d + i], acc);
            }
            out[t * d + i] = acc;
        }
    }
    Ok(())
}
