//! Causal attention with grouped queries over paged keys and values.
//!
//! Positions are cut into chunks of [`KV_CHUNK_TOKENS`]. A chunk of one query is a plain softmax;
//! chunks are merged in order. So threads may share one query's depth without changing a bit.
//! Positions that a window hides count as nothing: they are left out wherever all queries of a unit
//! are past them, and weigh zero elsewhere.

mod blocks;
mod chunk;
mod entries;
mod merge;
mod sizes;

use std::{cell::RefCell, mem, ops::Range};

use crate::{Cpu, KV_PAGE_TOKENS, KernelError, KvPage, KvType, disjoint::Disjoint, lines::Lines};
pub use blocks::Blocks;
pub(crate) use blocks::check as check_blocks;
use chunk::{Chunk, PARTIAL_EXTRA};
pub use entries::Entries;
use entries::Gathered;
pub(crate) use entries::check as check_entries;
use merge::{Finish, Merge};
pub(crate) use sizes::check;

/// Positions in a block of the softmax, a multiple of [`KV_PAGE_TOKENS`].
pub const KV_CHUNK_TOKENS: usize = 8 * KV_PAGE_TOKENS;

/// The tokens of one timeline in a batch: queries at positions start .. start + n.
pub struct AttentionSpan<'a> {
    /// Queries, `[n, heads, head_dim]`.
    pub q: &'a [f32],
    /// Position of the first query.
    pub start: usize,
    /// Pages that are no longer there because a window has passed them.
    pub dropped: usize,
    /// The pages after those, up to position start + n, these tokens' keys and values included.
    pub pages: &'a [KvPage],
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
    /// Positions that a query sees, its own included; `None`: all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The first position that the query at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

impl Cpu {
    /// Softmax attention: the query at position p sees the keys at 0 ..= p, or the last of them
    /// that lie within the window. `sinks: [heads]` are scores that take part without a value.
    ///
    /// A score is a dot product by fused multiply-adds over the elements in order, times the
    /// scale. Within a chunk of [`KV_CHUNK_TOKENS`] positions weights are exp(score - greatest
    /// score), their sum is taken in 16 lanes, and weighted values are added up by position.
    /// Chunks are merged in order: with m the greater of two maxima, sums and weighted values of
    /// both are scaled by exp(own maximum - m), those so far by a fused multiply-add; the first
    /// chunk of which a query sees anything is taken as it is. A sink is merged last, as a chunk of
    /// one position whose value is zero. Positions before the window weigh zero within a chunk.
    ///
    /// # Errors
    /// If sizes do not fit or pages are missing.
    pub fn attention(
        &self,
        spans: &mut [AttentionSpan<'_>],
        shape: AttentionShape,
        sinks: Option<&[f32]>,
    ) -> Result<(), KernelError> {
        check(spans, shape, sinks)?;
        self.attend(spans, &[], shape, sinks);
        Ok(())
    }

    /// The same, with entries for each span beside the positions of its window. A query's entries
    /// are cut into chunks of [`KV_CHUNK_TOKENS`] in the order in which it has them, which are
    /// computed and merged as chunks of positions are, behind those and before its sink.
    ///
    /// # Errors
    /// If sizes do not fit, pages are missing, or an entry is chosen that is not complete.
    pub fn sparse_attention(
        &self,
        spans: &mut [AttentionSpan<'_>],
        entries: &[Entries<'_>],
        shape: AttentionShape,
        sinks: Option<&[f32]>,
    ) -> Result<(), KernelError> {
        check(spans, shape, sinks)?;
        check_entries(spans, entries, shape)?;
        self.attend(spans, entries, shape, sinks);
        Ok(())
    }

    /// Attention of spans that are checked.
    fn attend(
        &self,
        spans: &mut [AttentionSpan<'_>],
        entries: &[Entries<'_>],
        shape: AttentionShape,
        sinks: Option<&[f32]>,
    ) {
        let mut units = Vec::new();
        let group = shape.heads / shape.kv_heads;
        let together = (TILE_ROWS / group).max(1);
        let tokens: usize = spans.iter().map(|span| span.q.len()).sum();
        let tokens = tokens / (shape.heads * shape.head_dim);
        // One query in many heads would else be one thread's work.
        let few = !entries.is_empty() && tokens * shape.kv_heads < self.pool.threads();
        let heads = if few { group.min(SPLIT_HEADS) } else { group };
        let mut shared = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let n = span.q.len() / (shape.heads * shape.head_dim);
            for first in (0..n).step_by(together) {
                for head in (0..shape.heads).step_by(group) {
                    units.extend((0..group).step_by(heads).map(|first_head| Unit {
                        span: shared.len(),
                        first,
                        queries: together.min(n - first),
                        kv_head: head / group,
                        first_head: head + first_head,
                        heads: heads.min(group - first_head),
                    }));
                }
            }
            shared.push(Span {
                q: span.q,
                start: span.start,
                dropped: span.dropped,
                pages: span.pages,
                out: Disjoint::new(span.out),
            });
        }
        let call = Call {
            cpu: self,
            spans: &shared,
            entries,
            shape,
            sinks,
        };
        let deep = units.iter().any(|unit| call.chunks(unit).len() > 1);
        if deep && units.len() < self.pool.threads() * 4 {
            call.run_by_chunk(&units);
        } else {
            // The last queries see most and take longest.
            let last = units.len().saturating_sub(1);
            self.pool
                .run(units.len(), &|task| call.run_whole(&units[last - task]));
        }
    }
}

/// Rows (pairs of a query and a head) that share the trip of their keys through the cache.
const TILE_ROWS: usize = 64;
/// Heads of a unit where there are few queries.
const SPLIT_HEADS: usize = 16;

struct Span<'a> {
    q: &'a [f32],
    start: usize,
    dropped: usize,
    pages: &'a [KvPage],
    out: Disjoint<'a, f32>,
}

/// Some queries of a span, in heads that share one head of keys and values.
struct Unit {
    span: usize,
    /// First query within the span.
    first: usize,
    queries: usize,
    kv_head: usize,
    first_head: usize,
    heads: usize,
}

/// One call of the operation.
struct Call<'a> {
    cpu: &'a Cpu,
    spans: &'a [Span<'a>],
    /// By span, if there are any.
    entries: &'a [Entries<'a>],
    shape: AttentionShape,
    sinks: Option<&'a [f32]>,
}

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Queries of a unit, `[rows, head_dim]`.
    q: Vec<f32>,
    /// Scores, then weights, of a chunk, `[rows, KV_CHUNK_TOKENS]`.
    weights: Lines<f32>,
    /// Values of a page whose keys serve as values.
    turned: Lines<f32>,
    /// Results of a chunk; see [`Chunk`].
    partial: Lines<f32>,
    /// Results of the chunks so far.
    total: Lines<f32>,
    /// Results of a chunk of entries of one query.
    entries_partial: Lines<f32>,
    gathered: Gathered,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
    /// Results of all chunks of a call's units, owned by the caller's thread.
    static PARTIALS: RefCell<Lines<f32>> = RefCell::new(Lines::default());
}

impl Call<'_> {
    /// The shape as if a unit's heads were all that share its head of keys and values.
    fn shape_of(&self, unit: &Unit) -> AttentionShape {
        AttentionShape {
            heads: unit.heads * self.shape.kv_heads,
            ..self.shape
        }
    }

    /// Chunks of which any query of a unit sees something.
    fn chunks(&self, unit: &Unit) -> Range<usize> {
        let first = self.spans[unit.span].start + unit.first;
        let end = (first + unit.queries).div_ceil(KV_CHUNK_TOKENS);
        self.shape.first_seen(first) / KV_CHUNK_TOKENS..end
    }

    /// Elements of a unit's results for one chunk.
    fn partial_len(&self, unit: &Unit) -> usize {
        unit.queries * unit.heads * (self.shape.head_dim + PARTIAL_EXTRA)
    }

    /// All chunks of a unit, one after another.
    fn run_whole(&self, unit: &Unit) {
        SCRATCH.with_borrow_mut(|scratch| {
            let len = self.partial_len(unit);
            let (mut partial, mut total) = (
                mem::take(&mut scratch.partial),
                mem::take(&mut scratch.total),
            );
            partial.resize(len);
            total.resize(len);
            let chunks = self.chunks(unit);
            for chunk in chunks.clone() {
                let is_first = chunk == chunks.start;
                let into = if is_first { &mut total } else { &mut partial };
                self.run_chunk(unit, chunk, scratch, into);
                if !is_first {
                    self.merge(unit, chunk, &mut total, &partial);
                }
            }
            self.add_entries(unit, scratch, &mut total);
            self.finish(unit, &mut total);
            (scratch.partial, scratch.total) = (partial, total);
        });
    }

    /// All chunks of all units side by side, then each unit's are merged.
    fn run_by_chunk(&self, units: &[Unit]) {
        let mut tasks = Vec::new();
        let mut starts = Vec::with_capacity(units.len());
        let mut len = 0;
        for unit in units {
            starts.push(len);
            for chunk in self.chunks(unit) {
                tasks.push((unit, chunk, len));
                len += self.partial_len(unit);
            }
        }
        let mut partials = PARTIALS.take();
        partials.resize(len);
        let shared = Disjoint::new(&mut partials);
        self.cpu.pool.run(tasks.len(), &|task| {
            let (unit, chunk, at) = tasks[task];
            // SAFETY: each task has its own part.
            let into = unsafe { shared.part(at, self.partial_len(unit)) };
            SCRATCH.with_borrow_mut(|scratch| self.run_chunk(unit, chunk, scratch, into));
        });
        for (unit, &start) in units.iter().zip(&starts) {
            let len = self.partial_len(unit);
            let (total, rest) = partials[start..].split_at_mut(len);
            for (chunk, partial) in self.chunks(unit).skip(1).zip(rest.chunks_exact(len)) {
                self.merge(unit, chunk, total, partial);
            }
            SCRATCH.with_borrow_mut(|scratch| self.add_entries(unit, scratch, total));
            self.finish(unit, total);
        }
        PARTIALS.set(partials);
    }

    fn run_chunk(&self, unit: &Unit, chunk: usize, scratch: &mut Scratch, partial: &mut [f32]) {
        let span = &self.spans[unit.span];
        self.take_queries(unit, unit.first..unit.first + unit.queries, scratch);
        let first_page = chunk * (KV_CHUNK_TOKENS / KV_PAGE_TOKENS);
        let skipped = span.dropped.saturating_sub(first_page);
        let pages = &span.pages[(first_page + skipped) - span.dropped..];
        let held = KV_CHUNK_TOKENS / KV_PAGE_TOKENS - skipped;
        let job = Chunk {
            q: &scratch.q,
            skipped,
            pages: &pages[..pages.len().min(held)],
            kv_head: unit.kv_head,
            shape: self.shape_of(unit),
            seen: span.start + unit.first + 1,
            first: chunk * KV_CHUNK_TOKENS,
            queries: unit.queries,
            weights: &mut scratch.weights,
            turned: &mut scratch.turned,
            partial,
        };
        match span.pages[0].kv_type() {
            KvType::F16 => self.cpu.backend.run(chunk::Of::<u16>::new(job)),
            KvType::F32 => self.cpu.backend.run(chunk::Of::<f32>::new(job)),
        }
    }

    /// Makes room for some queries of a unit and takes them together.
    fn take_queries(&self, unit: &Unit, queries: Range<usize>, scratch: &mut Scratch) {
        let span = &self.spans[unit.span];
        let dim = self.shape.head_dim;
        let rows = queries.len() * unit.heads;
        scratch.q.clear();
        for query in queries {
            let at = (query * self.shape.heads + unit.first_head) * dim;
            scratch
                .q
                .extend_from_slice(&span.q[at..][..unit.heads * dim]);
        }
        scratch.weights.resize(rows * KV_CHUNK_TOKENS);
        let is_joint = span.pages.first().is_some_and(KvPage::is_joint);
        if is_joint || !self.entries.is_empty() {
            scratch.turned.resize(KV_PAGE_TOKENS * dim);
        }
    }

    /// Joins a chunk's results to those of the chunks before, for the queries that see it.
    fn merge(&self, unit: &Unit, chunk: usize, total: &mut [f32], partial: &[f32]) {
        let width = unit.heads * (self.shape.head_dim + PARTIAL_EXTRA);
        // The first query that sees the chunk's first position.
        let seen = self.spans[unit.span].start + unit.first + 1;
        let blind = (chunk * KV_CHUNK_TOKENS + 1).saturating_sub(seen);
        let from = blind.min(unit.queries) * width;
        self.cpu.backend.run(Merge {
            total: &mut total[from..],
            partial: &partial[from..],
            head_dim: self.shape.head_dim,
        });
    }

    fn finish(&self, unit: &Unit, total: &mut [f32]) {
        let (dim, heads) = (self.shape.head_dim, unit.heads);
        let rows = total.chunks_exact_mut(heads * (dim + PARTIAL_EXTRA));
        let sinks = self.sinks.map(|all| &all[unit.first_head..][..heads]);
        for (query, total) in (unit.first..).zip(rows) {
            let at = (query * self.shape.heads + unit.first_head) * dim;
            // SAFETY: each (query, head) belongs to one unit, which one thread finishes.
            let out = unsafe { self.spans[unit.span].out.part(at, heads * dim) };
            self.cpu.backend.run(Finish {
                total,
                head_dim: dim,
                sinks,
                out,
            });
        }
    }
}
