//! Reference of pooling windows of positions, and of choosing among the entries.

use std::cmp::Ordering;

use crate::{
    CompressShape, CompressSpan, IndexShape, IndexSpan, KV_PAGE_TOKENS, KernelError,
    choose_entries as index, compress as checks, math,
};

/// See [`Cpu::compress`](crate::Cpu::compress).
///
/// # Errors
/// As there.
pub fn compress(
    spans: &mut [CompressSpan<'_>],
    shape: CompressShape,
    bias: &[f32],
) -> Result<(), KernelError> {
    checks::check(spans, shape, bias)?;
    let (rate, dim, width) = (shape.rate, shape.dim, shape.width());
    for span in spans {
        for d in 0..dim {
            let piece = |series: usize, which: usize| span.state[(3 * series + which) * dim + d];
            let pool = |series: usize| Pool {
                greatest: piece(series, 0),
                sum: piece(series, 1),
                values: piece(series, 2),
            };
            let mut current = pool(0);
            let mut next = if shape.overlaps {
                pool(1)
            } else {
                Pool::default()
            };
            for t in 0..span.values.len() / width {
                let place = (span.start + t) % rate;
                if place == 0 {
                    (current, next) = (next, Pool::default());
                }
                // Values for the entry under way come last.
                let at = width - dim + d;
                let gate = |at: usize| span.gates[t * width + at] + bias[place * width + at];
                current.add(gate(at), span.values[t * width + at]);
                if shape.overlaps {
                    next.add(gate(d), span.values[t * width + d]);
                }
                if place == rate - 1 {
                    let entry = (span.start + t) / rate - span.start / rate;
                    span.out[entry * dim + d] = current.values / current.sum;
                }
            }
            for (series, pool) in [current, next].into_iter().take(width / dim).enumerate() {
                let pieces = [pool.greatest, pool.sum, pool.values];
                for (which, value) in pieces.into_iter().enumerate() {
                    span.next_state[(3 * series + which) * dim + d] = value;
                }
            }
        }
    }
    Ok(())
}

/// An element of an entry that is being pooled.
#[derive(Clone, Copy, Default)]
struct Pool {
    greatest: f32,
    sum: f32,
    values: f32,
}

impl Pool {
    fn add(&mut self, gate: f32, value: f32) {
        let before = if self.sum > 0.0 { self.greatest } else { gate };
        let m = if gate > before { gate } else { before };
        let (old, new) = (math::exp(before - m), math::exp(gate - m));
        self.greatest = m;
        self.sum = self.sum.mul_add(old, new);
        self.values = self.values.mul_add(old, new * value);
    }
}

/// See [`Cpu::choose_entries`](crate::Cpu::choose_entries).
///
/// # Errors
/// As there.
pub fn choose_entries(spans: &mut [IndexSpan<'_>], shape: IndexShape) -> Result<(), KernelError> {
    index::check(spans, shape)?;
    let IndexShape {
        heads,
        dim,
        rate,
        top_k,
    } = shape;
    for span in spans {
        for (t, out) in span.out.chunks_exact_mut(top_k).enumerate() {
            let complete = (span.start + t + 1) / rate;
            let mut scores = Vec::with_capacity(complete);
            for entry in 0..complete {
                let (mut key, mut unused) = (vec![0.0; dim], vec![0.0; dim]);
                let page = &span.pages[entry / KV_PAGE_TOKENS];
                page.read(entry % KV_PAGE_TOKENS, 0, &mut key, &mut unused)?;
                let mut score = 0.0f32;
                for h in 0..heads {
                    let q = &span.q[(t * heads + h) * dim..][..dim];
                    let dot = q
                        .iter()
                        .zip(&key)
                        .fold(0.0, |dot, (q, k)| q.mul_add(*k, dot));
                    let positive = if dot > 0.0 { dot } else { 0.0 };
                    score = f32::mul_add(positive, span.weights[t * heads + h], score);
                }
                scores.push(if score.is_nan() {
                    f32::NEG_INFINITY
                } else {
                    score
                });
            }
            let mut order: Vec<usize> = (0..complete).collect();
            // Stable: of equal scores the first comes first.
            order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal));
            order.truncate(top_k);
            order.sort_unstable();
            out.fill(0);
            for (out, entry) in out.iter_mut().zip(order) {
                *out = entry as u32;
            }
        }
    }
    Ok(())
}
