//! Attention to blocks of positions that are chosen for each query, and to the positions behind
//! the last whole block.

use std::mem;

use super::{
    AttentionShape, AttentionSpan, Chunk, Finish, KV_CHUNK_TOKENS, Merge, PARTIAL_EXTRA, PARTIALS,
    SCRATCH, Scratch, chunk,
};
use crate::{Cpu, KV_PAGE_TOKENS, KernelError, KvPage, KvType, check, disjoint::Disjoint};

/// The blocks of one timeline.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    /// Positions of a block; the query at position p can choose among (p + 1) / rate.
    pub rate: usize,
    /// The blocks that each query attends to, `[n, top_k]`; those of queries that can choose among
    /// no more than `top_k`, which attend to all, mean nothing.
    pub chosen: &'a [u32],
    /// Blocks of a query.
    pub top_k: usize,
}

impl Blocks<'_> {
    /// Whether a query at `position` attends to all positions.
    fn is_whole(&self, position: usize) -> bool {
        (position + 1) / self.rate <= self.top_k
    }

    /// The blocks chosen by a query.
    fn of(&self, query: usize) -> &[u32] {
        &self.chosen[query * self.top_k..][..self.top_k]
    }

    /// The positions that a query of the span at `position` attends to, in order.
    pub(crate) fn list(&self, query: usize, position: usize) -> Vec<u32> {
        let (end, rate) = (position as u32 + 1, self.rate as u32);
        if self.is_whole(position) {
            return (0..end).collect();
        }
        let blocks = self.of(query).iter();
        let chosen = blocks.flat_map(|&block| block * rate..(block + 1) * rate);
        chosen.chain(end - end % rate..end).collect()
    }
}

/// Checks blocks beside the spans that they belong to, which are checked.
pub(crate) fn check(
    spans: &[AttentionSpan<'_>],
    blocks: &[Blocks<'_>],
    shape: AttentionShape,
) -> Result<(), KernelError> {
    const OP: &str = "block_attention";
    check::size(OP, "timelines with blocks", spans.len(), blocks.len())?;
    check::size(OP, "window", 0, shape.window.unwrap_or(0))?;
    for (span, own) in spans.iter().zip(blocks) {
        check::positive(OP, "rate", own.rate)?;
        check::positive(OP, "top_k", own.top_k)?;
        check::size(OP, "dropped pages", 0, span.dropped)?;
        let n = span.q.len() / (shape.heads * shape.head_dim);
        let chosen = check::product(&[n, own.top_k]);
        check::size(OP, "blocks chosen", chosen, own.chosen.len())?;
        let choosing = (0..n).filter(|query| !own.is_whole(span.start + query));
        for query in choosing {
            let complete = (span.start + query + 1) / own.rate;
            for &block in own.of(query) {
                check::index(OP, "block", block as usize, complete)?;
            }
        }
    }
    Ok(())
}

/// A query of all heads that attends to some positions.
struct Query<'a> {
    q: &'a [f32],
    list: Vec<u32>,
    pages: &'a [KvPage],
    out: &'a mut [f32],
}

/// Queries whose results by chunk are in memory together.
const TOGETHER: usize = 16;

impl Cpu {
    /// Softmax attention to chosen blocks: of the (p + 1) / rate whole blocks of `rate` positions
    /// that the query at position p sees it attends to those that `blocks` has, or to all where
    /// they are at most `top_k`, and to the positions behind the last whole block. Its positions,
    /// in the order of its blocks, are cut into chunks of [`KV_CHUNK_TOKENS`], which are computed
    /// and merged as in [`Cpu::attention`].
    ///
    /// # Errors
    /// If sizes do not fit, pages are missing, the shape has a window, or a block is chosen that is
    /// not whole.
    pub fn block_attention(
        &self,
        spans: &mut [AttentionSpan<'_>],
        blocks: &[Blocks<'_>],
        shape: AttentionShape,
    ) -> Result<(), KernelError> {
        super::check(spans, shape, None)?;
        check(spans, blocks, shape)?;
        let width = shape.heads * shape.head_dim;
        let (mut whole, mut choosing) = (Vec::new(), Vec::new());
        for (span, own) in spans.iter_mut().zip(blocks) {
            let (start, pages) = (span.start, span.pages);
            let n = span.q.len() / width;
            // Queries that see all positions come first, and are those of plain attention.
            let first = (0..n).take_while(|query| own.is_whole(start + query));
            let first = first.count();
            let (q, queries) = span.q.split_at(first * width);
            let (out, outs) = span.out.split_at_mut(first * width);
            if first > 0 {
                whole.push(AttentionSpan {
                    q,
                    start,
                    dropped: 0,
                    pages,
                    out,
                });
            }
            let rows = queries
                .chunks_exact(width)
                .zip(outs.chunks_exact_mut(width));
            choosing.extend((first..).zip(rows).map(|(query, (q, out))| Query {
                q,
                list: own.list(query, start + query),
                pages,
                out,
            }));
        }
        self.attend(&mut whole, &[], shape, None);
        for queries in choosing.chunks_mut(TOGETHER) {
            self.attend_to_lists(queries, shape);
        }
        Ok(())
    }

    /// All chunks of some queries side by side, then each query's are merged.
    fn attend_to_lists(&self, queries: &mut [Query<'_>], shape: AttentionShape) {
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let len = group * (dim + PARTIAL_EXTRA);
        let mut tasks = Vec::new();
        for (number, query) in queries.iter().enumerate() {
            for kv_head in 0..shape.kv_heads {
                let chunks = (0..query.list.len()).step_by(KV_CHUNK_TOKENS);
                tasks.extend(chunks.map(|first| (number, kv_head, first)));
            }
        }
        let mut partials = PARTIALS.take();
        partials.resize(tasks.len() * len);
        let shared = Disjoint::new(&mut partials);
        let all = &*queries;
        self.pool.run(tasks.len(), &|task| {
            let (number, kv_head, first) = tasks[task];
            // SAFETY: each task has its own part.
            let into = unsafe { shared.part(task * len, len) };
            SCRATCH.with_borrow_mut(|scratch| {
                self.list_chunk(&all[number], (kv_head, first), shape, scratch, into);
            });
        });
        let mut at = 0;
        for query in queries {
            let chunks = query.list.len().div_ceil(KV_CHUNK_TOKENS);
            for out in query.out.chunks_exact_mut(group * dim) {
                let (total, others) = partials[at..at + chunks * len].split_at_mut(len);
                for partial in others.chunks_exact(len) {
                    self.backend.run(Merge {
                        total: &mut *total,
                        partial,
                        head_dim: dim,
                    });
                }
                self.backend.run(Finish {
                    total,
                    head_dim: dim,
                    sinks: None,
                    out,
                });
                at += chunks * len;
            }
        }
        PARTIALS.set(partials);
    }

    /// A query over the positions of its list from the place `first` on, in the heads that share a
    /// head of keys and values.
    fn list_chunk(
        &self,
        query: &Query<'_>,
        (kv_head, first): (usize, usize),
        shape: AttentionShape,
        scratch: &mut Scratch,
        partial: &mut [f32],
    ) {
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let end = query.list.len().min(first + KV_CHUNK_TOKENS);
        let q = &query.q[kv_head * group * dim..][..group * dim];
        scratch.weights.resize(group * KV_CHUNK_TOKENS);
        scratch.turned.resize(KV_PAGE_TOKENS * dim);
        let mut gathered = mem::take(&mut scratch.gathered);
        // The pages are of the shape that they are gathered into.
        let pages = gathered
            .gather(query.pages, kv_head, &query.list[first..end])
            .unwrap_or(&[]);
        let job = Chunk {
            q,
            skipped: 0,
            pages,
            kv_head,
            shape,
            queries: 1,
            seen: end,
            first,
            weights: &mut scratch.weights,
            turned: &mut scratch.turned,
            partial,
        };
        match pages.first().map(KvPage::kv_type) {
            Some(KvType::F16) => self.backend.run(chunk::Of::<u16>::new(job)),
            Some(KvType::F32) => self.backend.run(chunk::Of::<f32>::new(job)),
            None => {}
        }
        scratch.gathered = gathered;
    }
}
