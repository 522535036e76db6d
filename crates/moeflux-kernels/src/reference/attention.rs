//! Reference of attention and of rotary positions.

use super::{max, sum16};
use crate::{
    AttentionShape, AttentionSpan, Blocks, Entries, KV_CHUNK_TOKENS, KV_PAGE_TOKENS, KernelError,
    KvPage, RopeStyle, attention as checks, kv, math, rope as rope_checks,
};

/// See [`Cpu::kv_append`](crate::Cpu::kv_append).
///
/// # Errors
/// As there.
pub fn kv_append(
    pages: &mut [KvPage],
    start: usize,
    k: &[f32],
    v: &[f32],
) -> Result<(), KernelError> {
    let Some((kv_heads, dim)) = kv::check_append(pages, start, k, v)? else {
        return Ok(());
    };
    for (index, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
        let position = start + index / kv_heads;
        let page = &mut pages[position / KV_PAGE_TOKENS];
        page.write(position % KV_PAGE_TOKENS, index % kv_heads, k, v)?;
    }
    Ok(())
}

/// See [`Cpu::attention`](crate::Cpu::attention).
///
/// # Errors
/// As there.
pub fn attention(
    spans: &mut [AttentionSpan<'_>],
    shape: AttentionShape,
    sinks: Option<&[f32]>,
) -> Result<(), KernelError> {
    checks::check(spans, shape, sinks)?;
    attend(spans, &[], shape, sinks)
}

/// See [`Cpu::sparse_attention`](crate::Cpu::sparse_attention).
///
/// # Errors
/// As there.
pub fn sparse_attention(
    spans: &mut [AttentionSpan<'_>],
    entries: &[Entries<'_>],
    shape: AttentionShape,
    sinks: Option<&[f32]>,
) -> Result<(), KernelError> {
    checks::check(spans, shape, sinks)?;
    checks::check_entries(spans, entries, shape)?;
    attend(spans, entries, shape, sinks)
}

/// See [`Cpu::block_attention`](crate::Cpu::block_attention).
///
/// # Errors
/// As there.
pub fn block_attention(
    spans: &mut [AttentionSpan<'_>],
    blocks: &[Blocks<'_>],
    shape: AttentionShape,
) -> Result<(), KernelError> {
    checks::check(spans, shape, None)?;
    checks::check_blocks(spans, blocks, shape)?;
    let dim = shape.head_dim;
    for (span, blocks) in spans.iter_mut().zip(blocks) {
        for row in 0..span.q.len() / dim {
            let (t, head) = (row / shape.heads, row % shape.heads);
            let list: Vec<usize> = blocks
                .list(t, span.start + t)
                .into_iter()
                .map(|at| at as usize)
                .collect();
            let chunks = list.chunks(KV_CHUNK_TOKENS);
            let all: Vec<Places<'_>> = chunks.map(|at| (span.pages, 0, at.to_vec())).collect();
            let kv_head = head / (shape.heads / shape.kv_heads);
            let q = &span.q[row * dim..][..dim];
            let out = &mut span.out[row * dim..][..dim];
            one_query(q, &all, kv_head, (shape, None), out)?;
        }
    }
    Ok(())
}

fn attend(
    spans: &mut [AttentionSpan<'_>],
    entries: &[Entries<'_>],
    shape: AttentionShape,
    sinks: Option<&[f32]>,
) -> Result<(), KernelError> {
    let dim = shape.head_dim;
    for (number, span) in spans.iter_mut().enumerate() {
        for row in 0..span.q.len() / dim {
            let (t, head) = (row / shape.heads, row % shape.heads);
            let kv_head = head / (shape.heads / shape.kv_heads);
            let q = &span.q[row * dim..][..dim];
            let sink = sinks.map(|sinks| sinks[head]);
            let chunks = match entries.get(number) {
                None => Vec::new(),
                Some(entries) => {
                    let list = entries.list(t, span.start + t);
                    let chunks = list.chunks(KV_CHUNK_TOKENS);
                    chunks.map(|at| (entries.pages, 0, at.to_vec())).collect()
                }
            };
            let mut all = positions(span, shape, span.start + t);
            all.extend(chunks);
            let out = &mut span.out[row * dim..][..dim];
            one_query(q, &all, kv_head, (shape, sink), out)?;
        }
    }
    Ok(())
}

/// Keys and values that are one chunk: their pages, the lanes before the first one, and where they
/// are.
type Places<'a> = (&'a [KvPage], usize, Vec<usize>);

/// The chunks of positions that a query sees, counted from the first page that is there.
fn positions<'a>(
    span: &AttentionSpan<'a>,
    shape: AttentionShape,
    position: usize,
) -> Vec<Places<'a>> {
    let first_seen = shape.first_seen(position);
    let first_chunk = first_seen - first_seen % KV_CHUNK_TOKENS;
    let dropped = span.dropped * KV_PAGE_TOKENS;
    let chunk = |first: usize| {
        let end = (position + 1).min(first + KV_CHUNK_TOKENS);
        let begin = first_seen.max(first);
        // Lanes follow the chunk's positions, those before the window included.
        (
            span.pages,
            begin - first,
            (begin - dropped..end - dropped).collect(),
        )
    };
    let chunks = (first_chunk..=position).step_by(KV_CHUNK_TOKENS);
    chunks.map(chunk).collect()
}

/// A query of one head over chunks in order.
fn one_query(
    q: &[f32],
    chunks: &[Places<'_>],
    kv_head: usize,
    (shape, sink): (AttentionShape, Option<f32>),
    out: &mut [f32],
) -> Result<(), KernelError> {
    let dim = shape.head_dim;
    let (mut m, mut l, mut acc) = (f32::NEG_INFINITY, 0.0, vec![0.0f32; dim]);
    for (pages, hidden, places) in chunks {
        let (mut scores, mut values) = (vec![], vec![]);
        for at in places {
            let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
            let page = &pages[at / KV_PAGE_TOKENS];
            page.read(at % KV_PAGE_TOKENS, kv_head, &mut key, &mut value)?;
            let dot = q.iter().zip(key).fold(0.0, |dot, (q, k)| q.mul_add(k, dot));
            scores.push(dot * shape.scale);
            values.push(value);
        }
        let chunk_m = scores.iter().fold(f32::NEG_INFINITY, |m, &s| max(m, s));
        let mut p = vec![0.0; *hidden];
        p.extend(scores.iter().map(|s| math::exp(s - chunk_m)));
        let chunk_l = sum16(&p);
        let mut chunk_acc = vec![0.0f32; dim];
        for (p, value) in p[*hidden..].iter().zip(&values) {
            for d in 0..dim {
                chunk_acc[d] = p.mul_add(value[d], chunk_acc[d]);
            }
        }
        if m == f32::NEG_INFINITY {
            (m, l, acc) = (chunk_m, chunk_l, chunk_acc);
            continue;
        }
        let new_m = max(m, chunk_m);
        let (old, new) = (math::exp(m - new_m), math::exp(chunk_m - new_m));
        m = new_m;
        l = f32::mul_add(l, old, chunk_l * new);
        for d in 0..dim {
            acc[d] = acc[d].mul_add(old, chunk_acc[d] * new);
        }
    }
    if let Some(sink) = sink {
        let new_m = max(m, sink);
        let old = math::exp(m - new_m);
        l = f32::mul_add(l, old, math::exp(sink - new_m));
        acc.iter_mut().for_each(|acc| *acc *= old);
    }
    for d in 0..dim {
        out[d] = acc[d] / l;
    }
    Ok(())
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
            let tail = head_dim - 2 * inv_freq.len();
            let (at_a, at_b) = match style {
                RopeStyle::HalfSplit => (i, i + inv_freq.len()),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                RopeStyle::InterleavedTail => (tail + 2 * i, tail + 2 * i + 1),
            };
            let (a, b) = (out[at_a], out[at_b]);
            out[at_a] = a.mul_add(cos, -(b * sin));
            out[at_b] = b.mul_add(cos, a * sin);
        }
    }
    Ok(())
}
