//! Attention to the positions of windows that each query has chosen, and to those behind the last
//! window that is complete.

use std::mem;

use super::{
    AttentionShape, AttentionSpan, Call, KV_CHUNK_TOKENS, Merge, SCRATCH, SPLIT_HEADS, Span, Unit,
    check, entries::Seen,
};
use crate::{Cpu, KernelError, KvPage, check as sizes, disjoint::Disjoint};

/// The windows of positions that the queries of one timeline attend to.
#[derive(Clone, Copy)]
pub struct ChosenWindows<'a> {
    /// Positions of a window; windows do not overlap.
    pub rate: usize,
    /// The windows that each query has chosen of those that are complete with it, ascending,
    /// `[n, top_k]`; means nothing for a query that may have them all.
    pub ids: &'a [u32],
    /// Windows that a query chooses.
    pub top_k: usize,
}

impl<'a> ChosenWindows<'a> {
    /// How many of `n` queries from `start` on see all positions; those come first.
    fn whole(&self, start: usize, n: usize) -> usize {
        // The query at p has (p + 1) / rate windows.
        let limit = self.rate.saturating_mul(self.top_k.saturating_add(1));
        limit.saturating_sub(start.saturating_add(1)).min(n)
    }

    /// Those of the queries after the first `n`.
    fn after(&self, n: usize) -> ChosenWindows<'a> {
        ChosenWindows {
            ids: &self.ids[n * self.top_k..],
            ..*self
        }
    }

    /// The windows that a query has chosen.
    fn of(&self, query: usize) -> &'a [u32] {
        &self.ids[query * self.top_k..][..self.top_k]
    }

    /// The positions that the query of the span at `position` attends to, ascending.
    pub(crate) fn positions(&self, query: usize, position: usize, into: &mut Vec<u32>) {
        into.clear();
        let complete = (position + 1) / self.rate;
        if complete <= self.top_k {
            into.extend(0..=position as u32);
            return;
        }
        let rate = self.rate as u32;
        for &window in self.of(query) {
            into.extend(window * rate..(window + 1) * rate);
        }
        into.extend((complete * self.rate) as u32..=position as u32);
    }
}

/// Checks windows beside the spans that they belong to.
pub(crate) fn check_windows(
    spans: &[AttentionSpan<'_>],
    windows: &[ChosenWindows<'_>],
    shape: AttentionShape,
) -> Result<(), KernelError> {
    const OP: &str = "chosen_attention";
    check(spans, shape, None)?;
    sizes::size(OP, "window of attention", 0, shape.window.unwrap_or(0))?;
    sizes::size(OP, "timelines with windows", spans.len(), windows.len())?;
    for (span, windows) in spans.iter().zip(windows) {
        sizes::positive(OP, "rate", windows.rate)?;
        sizes::positive(OP, "top_k", windows.top_k)?;
        let n = span.q.len() / (shape.heads * shape.head_dim);
        let chosen = sizes::product(&[n, windows.top_k]);
        sizes::size(OP, "windows chosen", chosen, windows.ids.len())?;
        let is_joint = span.pages.iter().all(KvPage::is_joint);
        sizes::size(OP, "keys that are not values", 0, usize::from(!is_joint))?;
        for query in windows.whole(span.start, n)..n {
            let complete = (span.start + query + 1) / windows.rate;
            for &id in windows.of(query) {
                sizes::index(OP, "window", id as usize, complete)?;
            }
        }
    }
    Ok(())
}

impl Cpu {
    /// Softmax attention where the query at position p sees the positions of the windows that it
    /// has chosen, and those from (p + 1) / rate * rate on up to its own; if no more than `top_k`
    /// windows are complete with it, it sees all positions. Keys are the values too.
    ///
    /// The positions that a query sees are cut into chunks of [`KV_CHUNK_TOKENS`] in ascending
    /// order, which are computed and merged as [`Cpu::attention`] does.
    ///
    /// # Errors
    /// If sizes do not fit, pages are missing, or a window is chosen that is not complete.
    pub fn chosen_attention(
        &self,
        spans: &mut [AttentionSpan<'_>],
        windows: &[ChosenWindows<'_>],
        shape: AttentionShape,
    ) -> Result<(), KernelError> {
        check_windows(spans, windows, shape)?;
        let width = shape.heads * shape.head_dim;
        let (mut whole, mut parts, mut chosen) = (Vec::new(), Vec::new(), Vec::new());
        for (span, windows) in spans.iter_mut().zip(windows) {
            let n = span.q.len() / width;
            let first = windows.whole(span.start, n);
            let (q, other_q) = span.q.split_at(first * width);
            let (out, other_out) = span.out.split_at_mut(first * width);
            let (start, dropped, pages) = (span.start, span.dropped, span.pages);
            if first > 0 {
                whole.push(AttentionSpan {
                    q,
                    start,
                    dropped,
                    pages,
                    out,
                });
            }
            if first < n {
                parts.push(Span {
                    q: other_q,
                    start: start + first,
                    dropped,
                    pages,
                    out: Disjoint::new(other_out),
                });
                chosen.push(windows.after(first));
            }
        }
        if !whole.is_empty() {
            self.attend(&mut whole, &[], shape, None);
        }
        if !parts.is_empty() {
            self.attend_chosen(&parts, &chosen, shape);
        }
        Ok(())
    }

    /// Attention of queries that see a part of what is before them, one by one.
    fn attend_chosen(
        &self,
        spans: &[Span<'_>],
        windows: &[ChosenWindows<'_>],
        shape: AttentionShape,
    ) {
        let group = shape.heads / shape.kv_heads;
        let width = shape.heads * shape.head_dim;
        let queries: usize = spans.iter().map(|span| span.q.len() / width).sum();
        // As for entries: one query in many heads would else be one thread's work.
        let few = queries * shape.kv_heads < self.pool.threads();
        let heads = if few { group.min(SPLIT_HEADS) } else { group };
        let mut units = Vec::new();
        for (at, span) in spans.iter().enumerate() {
            for first in 0..span.q.len() / width {
                for head in (0..shape.heads).step_by(group) {
                    units.extend((0..group).step_by(heads).map(|first_head| Unit {
                        span: at,
                        first,
                        queries: 1,
                        kv_head: head / group,
                        first_head: head + first_head,
                        heads: heads.min(group - first_head),
                    }));
                }
            }
        }
        let call = Call {
            cpu: self,
            spans,
            entries: &[],
            shape,
            sinks: None,
        };
        self.pool.run(units.len(), &|task| {
            let unit = &units[task];
            call.run_chosen(unit, &windows[unit.span]);
        });
    }
}

impl Call<'_> {
    /// A unit of one query, chunk by chunk of the positions that it sees.
    fn run_chosen(&self, unit: &Unit, windows: &ChosenWindows<'_>) {
        SCRATCH.with_borrow_mut(|scratch| {
            let len = self.partial_len(unit);
            let (mut partial, mut total) = (
                mem::take(&mut scratch.partial),
                mem::take(&mut scratch.total),
            );
            let mut positions = mem::take(&mut scratch.positions);
            partial.resize(len);
            total.resize(len);
            let span = &self.spans[unit.span];
            windows.positions(unit.first, span.start + unit.first, &mut positions);
            for first in (0..positions.len()).step_by(KV_CHUNK_TOKENS) {
                let places = first..positions.len().min(first + KV_CHUNK_TOKENS);
                let seen = (span.pages, &Seen::Listed(&positions));
                let into = if first == 0 { &mut total } else { &mut partial };
                self.listed_chunk(unit, (unit.first, seen), places, scratch, into);
                if first > 0 {
                    self.cpu.backend.run(Merge {
                        total: &mut total,
                        partial: &partial,
                        head_dim: self.shape.head_dim,
                    });
                }
            }
            self.finish(unit, &mut total);
            (scratch.partial, scratch.total) = (partial, total);
            scratch.positions = positions;
        });
    }
}
