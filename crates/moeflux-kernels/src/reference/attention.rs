//! Reference of attention and of rotary positions.

use super::{dot16, max, sum16};
use crate::{
    AttentionShape, AttentionSpan, KV_PAGE_TOKENS, KernelError, KvPage, RopeStyle,
    attention as checks, math, rope as rope_checks,
};

/// See [`Cpu::attention`](crate::Cpu::attention).
///
/// # Errors
/// As there.
pub fn attention(
    spans: &mut [AttentionSpan<'_>],
    shape: AttentionShape,
) -> Result<(), KernelError> {
    checks::check(spans, shape)?;
    let dim = shape.head_dim;
    for span in spans {
        for row in 0..span.q.len() / dim {
            let (t, head) = (row / shape.heads, row % shape.heads);
            let kv_head = head / (shape.heads / shape.kv_heads);
            let q = &span.q[row * dim..][..dim];
            let out = &mut span.out[row * dim..][..dim];
            one_query(q, span.start + t + 1, span.pages, kv_head, shape, out);
        }
    }
    Ok(())
}

/// One query of one head over the first `visible` positions.
fn one_query(
    q: &[f32],
    visible: usize,
    pages: &[KvPage<'_>],
    kv_head: usize,
    shape: AttentionShape,
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    let (mut m, mut l, mut acc) = (f32::NEG_INFINITY, 0.0, vec![0.0f32; dim]);
    for first in (0..visible).step_by(KV_PAGE_TOKENS) {
        let page = &pages[first / KV_PAGE_TOKENS];
        let count = KV_PAGE_TOKENS.min(visible - first);
        let at = |j: usize| (kv_head * KV_PAGE_TOKENS + j) * dim;
        let scores: Vec<f32> = (0..count)
            .map(|j| dot16(q, &page.keys[at(j)..][..dim]) * shape.scale)
            .collect();
        let block_max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| max(m, s));
        let new_m = max(m, block_max);
        let p: Vec<f32> = scores.iter().map(|s| math::exp(s - new_m)).collect();
        if first > 0 {
            let c = math::exp(m - new_m);
            l = f32::mul_add(l, c, sum16(&p));
            acc.iter_mut().for_each(|acc| *acc *= c);
        } else {
            l = f32::mul_add(l, 0.0, sum16(&p));
        }
        for (j, p) in p.iter().enumerate() {
            for d in 0..dim {
                acc[d] = p.mul_add(page.values[at(j) + d], acc[d]);
            }
        }
        m = new_m;
    }
    for d in 0..dim {
        out[d] = acc[d] / l;
    }
}

/// See [`Cpu::rope`](crate::Cpu::rope).
///
/// # Errors
/// As there.
pub fn rope(
    x: &[f32],
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    inv_freq: &[f32],
    attention_scale: f32,
    style: RopeStyle,
    out: &mut [f32],
) -> Result<(), KernelError> {
    rope_checks::check(x, positions, heads, head_dim, inv_freq, out)?;
    out.copy_from_slice(x);
    for (row, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let position = positions[row / heads] as f32;
        for (i, frequency) in inv_freq.iter().enumerate() {
            let (sin, cos) = math::sin_cos(position * frequency);
            let (sin, cos) = (sin * attention_scale, cos * attention_scale);
            let (at_a, at_b) = match style {
                RopeStyle::HalfSplit => (i, i + inv_freq.len()),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            };
            let (a, b) = (out[at_a], out[at_b]);
            out[at_a] = a.mul_add(cos, -(b * sin));
            out[at_b] = b.mul_add(cos, a * sin);
        }
    }
    Ok(())
}
