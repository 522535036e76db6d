//! Reference of the operations with a state: causal convolution and the gated delta rule.

use super::dot16;
use crate::{
    ConvSpan, Decay, DeltaShape, DeltaSpan, HeadOrder, KernelError, conv1d, gated_delta as delta,
    math,
};

/// See [`Cpu::conv1d_silu`](crate::Cpu::conv1d_silu).
///
/// # Errors
/// As there.
pub fn conv1d_silu(
    spans: &mut [ConvSpan<'_>],
    weight: &[f32],
    channels: usize,
) -> Result<(), KernelError> {
    let kernel = conv1d::check(spans, weight, channels)?;
    for span in spans {
        let inputs = [span.state, span.x].concat();
        for at in 0..span.x.len() {
            let mut acc = 0.0;
            for tap in 0..kernel {
                let w = weight[tap * channels + at % channels];
                acc = w.mul_add(inputs[at + tap * channels], acc);
            }
            span.out[at] = math::silu(acc);
        }
        span.next_state.copy_from_slice(&inputs[span.x.len()..]);
    }
    Ok(())
}

/// See [`Cpu::gated_delta`](crate::Cpu::gated_delta).
///
/// # Errors
/// As there.
pub fn gated_delta(
    spans: &mut [DeltaSpan<'_>],
    shape: DeltaShape,
    a_log: &[f32],
    dt_bias: &[f32],
) -> Result<(), KernelError> {
    delta::check(spans, shape, a_log, dt_bias)?;
    let width = shape.qkv_width();
    for span in spans {
        span.next_state.copy_from_slice(span.state);
        for t in 0..span.qkv.len() / width {
            for h in 0..shape.value_heads {
                let at = t * shape.value_heads + h;
                let (decays, rate) = (shape.head_decays(), math::exp(a_log[h]));
                let factor = |i: usize| {
                    let x = span.a[at * decays + i] + dt_bias[h * decays + i];
                    shape.decay.factor(rate, x)
                };
                let decay: Vec<f32> = (0..decays).map(factor).collect();
                let beta = math::sigmoid(span.b[at]);
                let state_len = shape.key_dim * shape.value_dim;
                let state = &mut span.next_state[h * state_len..][..state_len];
                let out = &mut span.out[at * shape.value_dim..][..shape.value_dim];
                head_step(
                    &span.qkv[t * width..][..width],
                    shape,
                    h,
                    (&decay, beta),
                    state,
                    out,
                );
            }
        }
    }
    Ok(())
}

/// One token of one value head.
fn head_step(
    qkv: &[f32],
    shape: DeltaShape,
    h: usize,
    (decay, beta): (&[f32], f32),
    state: &mut [f32],
    out: &mut [f32],
) {
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        head_order,
        decay: kind,
    } = shape;
    let key_head = match head_order {
        HeadOrder::Grouped => h / (value_heads / key_heads),
        HeadOrder::Tiled => h % key_heads,
    };
    let q = unit(&qkv[key_head * key_dim..][..key_dim]);
    let k = unit(&qkv[(key_heads + key_head) * key_dim..][..key_dim]);
    let v = &qkv[2 * key_heads * key_dim + h * value_dim..][..value_dim];
    let q_scale = 1.0 / (key_dim as f32).sqrt();
    for i in 0..value_dim {
        let mut memory = 0.0;
        for j in 0..key_dim {
            let recall = match kind {
                Decay::Head => k[j],
                _ => k[j] * decay[j],
            };
            memory = state[j * value_dim + i].mul_add(recall, memory);
        }
        let error = match kind {
            Decay::Head => memory.mul_add(0.0 - decay[0], v[i]),
            _ => v[i] - memory,
        };
        let delta = error * beta;
        let mut o = 0.0;
        for j in 0..key_dim {
            let decay = decay[j % decay.len()];
            let s = k[j].mul_add(delta, state[j * value_dim + i] * decay);
            state[j * value_dim + i] = s;
            o = s.mul_add(q[j] * q_scale, o);
        }
        out[i] = o;
    }
}

/// Scaled to unit length.
fn unit(x: &[f32]) -> Vec<f32> {
    let inv = 1.0 / (dot16(x, x) + delta::L2_EPS).sqrt();
    x.iter().map(|x| x * inv).collect()
}
