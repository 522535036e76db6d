//! Causal attention with grouped queries over paged keys and values.

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
    math as scalar_math,
};

/// Positions in a page of keys and values, and in a block of the online softmax.
pub const KV_PAGE_TOKENS: usize = 64;

/// Keys and values of [`KV_PAGE_TOKENS`] positions; positions not yet reached may hold anything.
#[derive(Debug, Clone, Copy)]
pub struct KvPage<'a> {
    /// `[kv_heads, KV_PAGE_TOKENS, head_dim]`.
    pub keys: &'a [f32],
    /// `[kv_heads, KV_PAGE_TOKENS, head_dim]`.
    pub values: &'a [f32],
}

/// The tokens of one timeline in a batch: queries at positions start .. start + n.
pub struct AttentionSpan<'a> {
    /// Queries, `[n, heads, head_dim]`.
    pub q: &'a [f32],
    /// Position of the first query.
    pub start: usize,
    /// Pages that cover the positions 0 .. start + n, these tokens' keys and values included.
    pub pages: &'a [KvPage<'a>],
    /// Results, shaped as `q`.
    pub out: &'a mut [f32],
}

/// Shape of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Heads of queries, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a query, key or value.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Checks all spans.
pub(crate) fn check(spans: &[AttentionSpan<'_>], shape: AttentionShape) -> Result<(), KernelError> {
    const OP: &str = "attention";
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    check::positive(OP, "head_dim", head_dim)?;
    check::multiple(OP, "heads", heads, kv_heads)?;
    let page_len = check::product(&[kv_heads, KV_PAGE_TOKENS, head_dim]);
    for span in spans {
        let n = check::rows(OP, "q", span.q.len(), check::product(&[heads, head_dim]))?;
        check::size(OP, "out", span.q.len(), span.out.len())?;
        let pages = span.start.saturating_add(n).div_ceil(KV_PAGE_TOKENS);
        if span.pages.len() < pages {
            check::size(OP, "pages", pages, span.pages.len())?;
        }
        for page in &span.pages[..pages] {
            check::size(OP, "page keys", page_len, page.keys.len())?;
            check::size(OP, "page values", page_len, page.values.len())?;
        }
    }
    Ok(())
}

impl Cpu {
    /// Softmax attention: the query at position p sees the keys at 0 ..= p. Blocks of
    /// [`KV_PAGE_TOKENS`] keys at fixed positions are folded in by an online softmax, in order.
    ///
    /// # Errors
    /// If sizes do not fit or pages are missing.
    pub fn attention(
        &self,
        spans: &mut [AttentionSpan<'_>],
        shape: AttentionShape,
    ) -> Result<(), KernelError> {
        check(spans, shape)?;
        let width = shape.heads * shape.head_dim;
        let mut first_query = 0;
        let mut shared = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let n = span.q.len() / width;
            let (q, start, pages) = (span.q, span.start, span.pages);
            shared.push(Span {
                q,
                start,
                pages,
                out: Disjoint::new(span.out),
                first_query,
            });
            first_query += n;
        }
        let group = shape.heads / shape.kv_heads;
        // Heads of a group share their keys' trip through the cache, unless threads would idle.
        let enough = self.pool.threads() * 2;
        let together = if first_query * shape.kv_heads >= enough {
            group
        } else {
            1
        };
        let tasks = shape.heads / together;
        self.split(first_query * tasks, 1, &|first, end| {
            SCRATCH.with_borrow_mut(|scratch| {
                for task in first..end {
                    let query = task / tasks;
                    let after = shared.partition_point(|span| span.first_query <= query);
                    let span = &shared[after - 1];
                    let head = task % tasks * together;
                    let t = query - span.first_query;
                    let heads = Heads {
                        span,
                        shape,
                        t,
                        head,
                        count: together,
                        scratch,
                    };
                    self.backend.run(heads);
                }
            });
        });
        Ok(())
    }
}

struct Span<'a> {
    q: &'a [f32],
    start: usize,
    pages: &'a [KvPage<'a>],
    out: Disjoint<'a, f32>,
    /// Queries of the spans before this one.
    first_query: usize,
}

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Weighted sums of values by head.
    acc: Vec<f32>,
    /// Greatest score and sum of weights by head.
    sums: Vec<(f32, f32)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Some heads of one query that share a head of keys and values.
struct Heads<'a> {
    span: &'a Span<'a>,
    shape: AttentionShape,
    /// The query's token within the span.
    t: usize,
    /// First head.
    head: usize,
    count: usize,
    scratch: &'a mut Scratch,
}

impl Kernel for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
        } = self.shape;
        let Scratch { acc, sums } = self.scratch;
        let kv_at = self.head / (heads / kv_heads) * KV_PAGE_TOKENS * head_dim;
        let at = (self.t * heads + self.head) * head_dim;
        let q = &self.span.q[at..][..self.count * head_dim];
        let visible = self.span.start + self.t + 1;
        acc.clear();
        acc.resize(q.len(), 0.0);
        sums.clear();
        sums.resize(self.count, (f32::NEG_INFINITY, 0.0));
        for first in (0..visible).step_by(KV_PAGE_TOKENS) {
            let page = &self.span.pages[first / KV_PAGE_TOKENS];
            let len = KV_PAGE_TOKENS.min(visible - first) * head_dim;
            let (keys, values) = (&page.keys[kv_at..][..len], &page.values[kv_at..][..len]);
            for (head, q) in q.chunks_exact(head_dim).enumerate() {
                let acc = &mut acc[head * head_dim..][..head_dim];
                sums[head] = block(l, q, keys, values, scale, sums[head], first == 0, acc);
            }
        }
        // SAFETY: each (query, head) has one task.
        let out = unsafe { self.span.out.part(at, q.len()) };
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let (acc, sum) = (&acc[head * head_dim..][..head_dim], l.splat(sums[head].1));
            let mut i = 0;
            while i < head_dim {
                l.store_at(l.div(l.load_at(acc, i), sum), out, i);
                i += 16;
            }
        }
    }
}

/// Folds a block of keys into one head's (greatest score, sum of weights) and weighted sum.
#[inline(always)]
fn block<L: Lanes>(
    l: L,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    scale: f32,
    (m, sum): (f32, f32),
    first: bool,
    acc: &mut [f32],
) -> (f32, f32) {
    let dim = q.len();
    let count = keys.len() / dim;
    let mut p = [0.0; KV_PAGE_TOKENS];
    let p = &mut p[..count];
    scores(l, q, keys, scale, p);
    let block_max = l.max(p);
    let new_m = if block_max > m { block_max } else { m };
    let mut i = 0;
    while i < count {
        l.store_at(math::exp(l, l.sub(l.load_at(p, i), l.splat(new_m))), p, i);
        i += 16;
    }
    // The sums so far are in units of exp(m).
    let shrink = if first {
        0.0
    } else {
        scalar_math::exp(m - new_m)
    };
    let sum = sum.mul_add(shrink, l.sum16(p));
    weigh(l, p, values, if first { 1.0 } else { shrink }, acc);
    (new_m, sum)
}

/// The scores of all keys of a block, four at a time.
#[inline(always)]
fn scores<L: Lanes>(l: L, q: &[f32], keys: &[f32], scale: f32, out: &mut [f32]) {
    let dim = q.len();
    let (q_chunks, q_tail) = q.as_chunks::<16>();
    let mut fours = out.chunks_exact_mut(4);
    let mut j = 0;
    for out in &mut fours {
        let rows = &keys[j * dim..][..4 * dim];
        let mut acc = [l.zero(); 4];
        for (i, q) in q_chunks.iter().enumerate() {
            let q = l.load(q);
            for r in 0..4 {
                acc[r] = l.fma(q, l.load_at(&rows[r * dim..], i * 16), acc[r]);
            }
        }
        for r in 0..4 {
            if !q_tail.is_empty() {
                let row = &rows[r * dim + dim - q_tail.len()..][..q_tail.len()];
                acc[r] = l.fma(l.load_at(q_tail, 0), l.load_at(row, 0), acc[r]);
            }
            out[r] = l.tree(acc[r]) * scale;
        }
        j += 4;
    }
    for out in fours.into_remainder() {
        *out = l.dot16(q, &keys[j * dim..][..dim]) * scale;
        j += 1;
    }
}

/// acc = acc * shrink, then the weighted values are added in order.
#[inline(always)]
fn weigh<L: Lanes>(l: L, p: &[f32], values: &[f32], shrink: f32, acc: &mut [f32]) {
    let dim = acc.len();
    let shrink = l.splat(shrink);
    let mut i = 0;
    while i + 64 <= dim {
        let mut sums = [l.zero(); 4];
        for r in 0..4 {
            sums[r] = l.mul(l.load_at(acc, i + r * 16), shrink);
        }
        for (p, value) in p.iter().zip(values.chunks_exact(dim)) {
            let (p, value) = (l.splat(*p), &value[i..]);
            for r in 0..4 {
                sums[r] = l.fma(p, l.load_at(value, r * 16), sums[r]);
            }
        }
        for r in 0..4 {
            l.store_at(sums[r], acc, i + r * 16);
        }
        i += 64;
    }
    while i < dim {
        let mut sum = l.mul(l.load_at(acc, i), shrink);
        for (p, value) in p.iter().zip(values.chunks_exact(dim)) {
            sum = l.fma(l.splat(*p), l.load_at(value, i), sum);
        }
        l.store_at(sum, acc, i);
        i += 16;
    }
}
