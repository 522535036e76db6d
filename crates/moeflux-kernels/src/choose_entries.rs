//! The entries that each query attends to: those with the best scores by an index of their own.

use std::{cell::RefCell, cmp::Ordering};

use crate::{
    Cpu, KV_PAGE_TOKENS, KernelError, KvPage, KvType, check,
    disjoint::Disjoint,
    kv::KvElement,
    lanes::{Kernel, Lanes},
};

/// How entries are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexShape {
    /// Heads of a query; entries have one.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Positions that an entry stands for.
    pub rate: usize,
    /// Entries that a query attends to, at most.
    pub top_k: usize,
}

/// The tokens of one timeline in a batch.
pub struct IndexSpan<'a> {
    /// Queries, `[n, heads, dim]`.
    pub q: &'a [f32],
    /// Weights of the heads, `[n, heads]`.
    pub weights: &'a [f32],
    /// Position of the first token.
    pub start: usize,
    /// Pages with the entries' keys.
    pub pages: &'a [KvPage],
    /// The entries chosen, `[n, top_k]`.
    pub out: &'a mut [u32],
}

/// Checks all spans.
pub(crate) fn check(spans: &[IndexSpan<'_>], shape: IndexShape) -> Result<(), KernelError> {
    const OP: &str = "choose_entries";
    let IndexShape {
        heads,
        dim,
        rate,
        top_k,
    } = shape;
    check::positive(OP, "rate", rate)?;
    check::positive(OP, "top_k", top_k)?;
    check::positive(OP, "dim", dim)?;
    for span in spans {
        let n = check::rows(OP, "q", span.q.len(), check::product(&[heads, dim]))?;
        check::size(OP, "weights", n * heads, span.weights.len())?;
        check::size(OP, "out", check::product(&[n, top_k]), span.out.len())?;
        let pages = (span.start.saturating_add(n) / rate).div_ceil(KV_PAGE_TOKENS);
        if span.pages.len() < pages {
            check::size(OP, "pages", pages, span.pages.len())?;
        }
        for page in span.pages {
            check::size(OP, "heads of a page", 1, page.shape().0)?;
            check::size(OP, "dim of a page", dim, page.shape().1)?;
            let expected = span.pages[0].kv_type().bytes();
            check::size(OP, "element of a page", expected, page.kv_type().bytes())?;
        }
    }
    Ok(())
}

/// Queries whose scores are in memory together.
const TOGETHER: usize = 64;
/// Pages of a task.
const TASK_PAGES: usize = 8;

impl Cpu {
    /// The entries that each query attends to. The query at position p sees the entries that are
    /// complete with it, (p + 1) / rate; of more than `top_k` it attends to those with the best
    /// scores, of equals to the first. They are given in ascending order, then zeros that mean
    /// nothing.
    ///
    /// A score is a sum by fused multiply-adds over the heads in order of max(dot, 0) times the
    /// head's weight; dot is by fused multiply-adds over the elements in order. A score that is
    /// NaN is the lowest.
    ///
    /// # Errors
    /// If sizes do not fit or pages are missing.
    pub fn choose_entries(
        &self,
        spans: &mut [IndexSpan<'_>],
        shape: IndexShape,
    ) -> Result<(), KernelError> {
        check(spans, shape)?;
        for span in spans {
            let n = span.out.len() / shape.top_k;
            for first in (0..n).step_by(TOGETHER) {
                self.choose(span, shape, first..n.min(first + TOGETHER));
            }
        }
        Ok(())
    }

    /// Chooses for some queries of a span.
    fn choose(&self, span: &mut IndexSpan<'_>, shape: IndexShape, queries: std::ops::Range<usize>) {
        let IndexShape { rate, top_k, .. } = shape;
        let start = span.start;
        let complete = |query: usize| (start + query + 1) / rate;
        let ranked: Vec<usize> = queries.clone().filter(|&q| complete(q) > top_k).collect();
        let pages = complete(queries.end - 1).div_ceil(KV_PAGE_TOKENS);
        let row = pages * KV_PAGE_TOKENS;
        let mut scores = SCORES.take();
        scores.resize(scores.len().max(ranked.len() * row), 0.0);
        let shared = Disjoint::new(&mut scores);
        let blocks = pages.div_ceil(TASK_PAGES);
        self.split(ranked.len() * blocks, 1, &|first, end| {
            for task in first..end {
                let (at, block) = (task / blocks, task % blocks * TASK_PAGES);
                let held = TASK_PAGES.min(pages - block);
                // SAFETY: each task has its own part.
                let out = unsafe {
                    shared.part(at * row + block * KV_PAGE_TOKENS, held * KV_PAGE_TOKENS)
                };
                self.score(span, shape, (ranked[at], block), out);
            }
        });
        let chosen = Disjoint::new(&mut span.out[queries.start * top_k..queries.end * top_k]);
        self.split(queries.len(), 1, &|first, end| {
            for query in first..end {
                // SAFETY: each query has its own part.
                let out = unsafe { chosen.part(query * top_k, top_k) };
                let query = queries.start + query;
                match ranked.iter().position(|&ranked| ranked == query) {
                    Some(at) => best(&scores[at * row..][..complete(query)], out),
                    None => all(complete(query), out),
                }
            }
        });
        SCORES.set(scores);
    }

    /// Scores of a query for the entries of some pages from the `first` on.
    fn score(
        &self,
        span: &IndexSpan<'_>,
        shape: IndexShape,
        (query, first): (usize, usize),
        out: &mut [f32],
    ) {
        let IndexShape { heads, dim, .. } = shape;
        let pages = &span.pages[first..][..out.len() / KV_PAGE_TOKENS];
        let (q, weights) = (
            &span.q[query * heads * dim..][..heads * dim],
            &span.weights[query * heads..][..heads],
        );
        for (page, out) in pages.iter().zip(out.chunks_exact_mut(KV_PAGE_TOKENS)) {
            match page.kv_type() {
                KvType::F16 => self.backend.run(Page::<u16>::of(page, q, weights, out)),
                KvType::F32 => self.backend.run(Page::<f32>::of(page, q, weights, out)),
            }
        }
    }
}

thread_local! {
    /// Scores of a call, owned by the caller's thread.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Entries to choose from.
    static ORDER: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// All of `complete` entries, and zeros.
fn all(complete: usize, out: &mut [u32]) {
    for (entry, out) in out.iter_mut().enumerate() {
        *out = if entry < complete { entry as u32 } else { 0 };
    }
}

/// The entries with the best scores, in ascending order.
fn best(scores: &[f32], out: &mut [u32]) {
    ORDER.with_borrow_mut(|order| {
        order.clear();
        order.extend(0..scores.len() as u32);
        let rank = |entry: u32| match scores[entry as usize] {
            score if score.is_nan() => f32::NEG_INFINITY,
            score => score,
        };
        let by_rank = |a: &u32, b: &u32| {
            let order = rank(*b).partial_cmp(&rank(*a));
            order.unwrap_or(Ordering::Equal).then(a.cmp(b))
        };
        order.select_nth_unstable_by(out.len() - 1, by_rank);
        out.copy_from_slice(&order[..out.len()]);
        out.sort_unstable();
    });
}

/// Scores of one query for the entries of one page.
struct Page<'a, E> {
    /// `[dim, KV_PAGE_TOKENS]`.
    keys: &'a [E],
    q: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl<'a, E: KvElement> Page<'a, E> {
    fn of(page: &'a KvPage, q: &'a [f32], weights: &'a [f32], out: &'a mut [f32]) -> Self {
        Page {
            keys: E::parts(page).map_or(&[], |parts| &parts.keys),
            q,
            weights,
            out,
        }
    }

    /// Adds the scores of `H` heads from the `first` on to those of 16 entries.
    #[inline(always)]
    fn heads<L: Lanes, const H: usize>(
        &self,
        l: L,
        (first, column): (usize, usize),
        mut sum: L::F,
    ) -> L::F {
        let dim = self.q.len() / self.weights.len();
        let mut dots = [l.zero(); H];
        let mut queries = [&[][..]; H];
        for h in 0..H {
            queries[h] = &self.q[(first + h) * dim..][..dim];
        }
        for (d, keys) in self.keys.chunks_exact(KV_PAGE_TOKENS).enumerate().take(dim) {
            let keys = E::load_at(l, keys, column);
            for h in 0..H {
                dots[h] = l.fma(l.splat(queries[h][d]), keys, dots[h]);
            }
        }
        for h in 0..H {
            let positive = l.if_greater(dots[h], l.zero(), dots[h], l.zero());
            sum = l.fma(positive, l.splat(self.weights[first + h]), sum);
        }
        sum
    }
}

impl<E: KvElement> Kernel for Page<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let heads = self.weights.len();
        for column in (0..KV_PAGE_TOKENS).step_by(16) {
            let mut sum = l.zero();
            let mut first = 0;
            while first + 4 <= heads {
                sum = self.heads::<L, 4>(l, (first, column), sum);
                first += 4;
            }
            while first < heads {
                sum = self.heads::<L, 1>(l, (first, column), sum);
                first += 1;
            }
            l.store_at(sum, self.out, column);
        }
    }
}
