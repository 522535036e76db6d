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
            let mut block = Block {
                q,
                keys,
                values,
                head_dim,
                scale,
                first: first == 0,
            };
            let mut head = 0;
            while head < self.count {
                let rest = self.count - head;
                let width = if L::ROOMY && rest >= 4 {
                    4
                } else {
                    rest.min(2)
                };
                block.q = &q[head * head_dim..][..width * head_dim];
                let acc = &mut acc[head * head_dim..][..width * head_dim];
                let sums = &mut sums[head..][..width];
                match width {
                    4 => block.fold::<L, 4, 4>(l, sums, acc),
                    2 => block.fold::<L, 2, 2>(l, sums, acc),
                    _ => block.fold::<L, 1, 4>(l, sums, acc),
                }
                head += width;
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

/// A block of keys and values and some heads' queries.
struct Block<'a> {
    /// `[H, head_dim]`.
    q: &'a [f32],
    /// `[count, head_dim]`.
    keys: &'a [f32],
    values: &'a [f32],
    head_dim: usize,
    scale: f32,
    first: bool,
}

/// Scores, then weights, of the keys of a block for `H` heads.
type Weights<const H: usize> = [[f32; KV_PAGE_TOKENS]; H];

impl Block<'_> {
    /// Folds the block into (greatest score, sum of weights) and weighted sum of `H` heads. Scores
    /// are taken for `J` keys at once.
    #[inline(always)]
    fn fold<L: Lanes, const H: usize, const J: usize>(
        &self,
        l: L,
        sums: &mut [(f32, f32)],
        acc: &mut [f32],
    ) {
        let count = self.keys.len() / self.head_dim;
        let mut p = [[0.0; KV_PAGE_TOKENS]; H];
        let mut j = 0;
        while j + J <= count {
            self.scores::<L, H, J>(l, j, &mut p);
            j += J;
        }
        while j < count {
            self.scores::<L, H, 1>(l, j, &mut p);
            j += 1;
        }
        let mut shrink = [1.0; H];
        for h in 0..H {
            let (m, sum) = sums[h];
            let p = &mut p[h][..count];
            let block_max = l.max(p);
            let new_m = if block_max > m { block_max } else { m };
            let mut i = 0;
            while i < count {
                l.store_at(math::exp(l, l.sub(l.load_at(p, i), l.splat(new_m))), p, i);
                i += 16;
            }
            // The sums so far are in units of exp(m); the first block has none.
            let (factor, new) = (scalar_math::exp(m - new_m), l.sum16(p));
            sums[h] = (
                new_m,
                if self.first {
                    new
                } else {
                    sum.mul_add(factor, new)
                },
            );
            shrink[h] = if self.first { 1.0 } else { factor };
        }
        let mut i = 0;
        while i + 64 <= self.head_dim {
            self.weigh::<L, H, 4>(l, &p, &shrink, i, acc);
            i += 64;
        }
        while i < self.head_dim {
            self.weigh::<L, H, 1>(l, &p, &shrink, i, acc);
            i += 16;
        }
    }

    /// The scores of keys j .. j + J.
    #[inline(always)]
    fn scores<L: Lanes, const H: usize, const J: usize>(&self, l: L, j: usize, p: &mut Weights<H>) {
        let dim = self.head_dim;
        let whole = dim / 16;
        let mut q: [&[[f32; 16]]; H] = [&[]; H];
        let mut keys: [&[[f32; 16]]; J] = [&[]; J];
        for h in 0..H {
            q[h] = &self.q[h * dim..][..dim].as_chunks().0[..whole];
        }
        for r in 0..J {
            keys[r] = &self.keys[(j + r) * dim..][..dim].as_chunks().0[..whole];
        }
        let mut acc = [[l.zero(); J]; H];
        for i in 0..whole {
            let mut key = [l.zero(); J];
            for r in 0..J {
                key[r] = l.load(&keys[r][i]);
            }
            for h in 0..H {
                let q = l.load(&q[h][i]);
                for r in 0..J {
                    acc[h][r] = l.fma(q, key[r], acc[h][r]);
                }
            }
        }
        for h in 0..H {
            for r in 0..J {
                if !dim.is_multiple_of(16) {
                    let q = l.load_at(&self.q[h * dim..][..dim], whole * 16);
                    let key = l.load_at(&self.keys[(j + r) * dim..][..dim], whole * 16);
                    acc[h][r] = l.fma(q, key, acc[h][r]);
                }
                p[h][j + r] = l.tree(acc[h][r]) * self.scale;
            }
        }
    }

    /// Elements i .. i + 16 V: acc = acc * shrink, then the weighted values are added in order.
    #[inline(always)]
    fn weigh<L: Lanes, const H: usize, const V: usize>(
        &self,
        l: L,
        p: &Weights<H>,
        shrink: &[f32; H],
        i: usize,
        acc: &mut [f32],
    ) {
        let dim = self.head_dim;
        let mut sums = [[l.zero(); V]; H];
        for h in 0..H {
            for v in 0..V {
                let acc = l.load_at(&acc[h * dim..][..dim], i + v * 16);
                sums[h][v] = l.mul(acc, l.splat(shrink[h]));
            }
        }
        for (j, values) in self
            .values
            .chunks_exact(dim)
            .enumerate()
            .take(KV_PAGE_TOKENS)
        {
            let mut value = [l.zero(); V];
            for v in 0..V {
                value[v] = l.load_at(values, i + v * 16);
            }
            for h in 0..H {
                let p = l.splat(p[h][j]);
                for v in 0..V {
                    sums[h][v] = l.fma(p, value[v], sums[h][v]);
                }
            }
        }
        for h in 0..H {
            for v in 0..V {
                l.store_at(sums[h][v], &mut acc[h * dim..][..dim], i + v * 16);
            }
        }
    }
}
