//! Attention to entries that stand for windows of positions, beside the positions of a window: the
//! chunks of entries are merged behind those of positions.

use std::{mem, ops::Range};

use super::{
    AttentionShape, AttentionSpan, Call, Chunk, KV_CHUNK_TOKENS, Merge, Scratch, Unit, chunk,
};
use crate::{KV_PAGE_TOKENS, KernelError, KvPage, KvType, check};

/// The entries of one timeline.
#[derive(Clone, Copy)]
pub struct Entries<'a> {
    /// Positions that an entry stands for; the query at position p sees (p + 1) / rate entries.
    pub rate: usize,
    /// Their pages.
    pub pages: &'a [KvPage],
    /// The entries that each query attends to, ascending, `[n, top_k]`, and top_k; if it sees
    /// fewer, the rest means nothing. `None`: all that it sees.
    pub chosen: Option<(&'a [u32], usize)>,
}

/// The entries of a query.
enum Seen<'a> {
    First(usize),
    Listed(&'a [u32]),
}

impl<'a> Entries<'a> {
    /// What a query of the span at `position` attends to.
    fn of(&self, query: usize, position: usize) -> Seen<'a> {
        let complete = (position + 1) / self.rate;
        match self.chosen {
            None => Seen::First(complete),
            Some((ids, top_k)) => Seen::Listed(&ids[query * top_k..][..top_k.min(complete)]),
        }
    }

    /// The entries that a query of the span at `position` attends to, in order.
    pub(crate) fn list(&self, query: usize, position: usize) -> Vec<usize> {
        match self.of(query, position) {
            Seen::First(count) => (0..count).collect(),
            Seen::Listed(ids) => ids.iter().map(|&id| id as usize).collect(),
        }
    }
}

/// Checks entries beside the spans that they belong to, which are checked.
pub(crate) fn check(
    spans: &[AttentionSpan<'_>],
    entries: &[Entries<'_>],
    shape: AttentionShape,
) -> Result<(), KernelError> {
    const OP: &str = "sparse_attention";
    check::size(OP, "timelines with entries", spans.len(), entries.len())?;
    for (span, own) in spans.iter().zip(entries) {
        check::positive(OP, "rate", own.rate)?;
        let n = span.q.len() / (shape.heads * shape.head_dim);
        let pages = (span.start.saturating_add(n) / own.rate).div_ceil(KV_PAGE_TOKENS);
        if own.pages.len() < pages {
            check::size(OP, "pages of entries", pages, own.pages.len())?;
        }
        for page in own.pages {
            check::size(OP, "heads of a page", shape.kv_heads, page.shape().0)?;
            check::size(OP, "head_dim of a page", shape.head_dim, page.shape().1)?;
            let same = page.kv_type() == own.pages[0].kv_type();
            check::size(
                OP,
                "keys that are not values",
                0,
                usize::from(!page.is_joint()),
            )?;
            check::size(OP, "pages of another type", 0, usize::from(!same))?;
        }
        let Some((ids, top_k)) = own.chosen else {
            continue;
        };
        check::size(OP, "entries chosen", check::product(&[n, top_k]), ids.len())?;
        for query in 0..n {
            let complete = (span.start + query + 1) / own.rate;
            if let Seen::Listed(ids) = own.of(query, span.start + query) {
                for &id in ids {
                    check::index(OP, "entry", id as usize, complete)?;
                }
            }
        }
    }
    Ok(())
}

/// Working memory for entries that do not lie together.
#[derive(Default)]
pub(super) struct Gathered {
    pages: Vec<KvPage>,
}

impl Gathered {
    /// Pages with the listed entries (or positions) of one head, one after another.
    pub(super) fn gather(
        &mut self,
        from: &[KvPage],
        kv_head: usize,
        ids: &[u32],
    ) -> Result<&[KvPage], KernelError> {
        let count = ids.len().div_ceil(KV_PAGE_TOKENS);
        let Some(like) = from.first() else {
            return Ok(&[]);
        };
        let ((kv_heads, dim), kv_type) = (like.shape(), like.kv_type());
        let is_joint = like.is_joint();
        let fits = |page: &KvPage| {
            let same = page.kv_type() == kv_type && page.is_joint() == is_joint;
            same && page.shape() == like.shape()
        };
        if !self.pages.iter().all(fits) {
            self.pages.clear();
        }
        while self.pages.len() < count {
            self.pages.push(match is_joint {
                true => KvPage::joint(kv_type, kv_heads, dim),
                false => KvPage::new(kv_type, kv_heads, dim),
            });
        }
        let mut place = 0;
        while let Some(&id) = ids.get(place) {
            let (page, in_page) = (id as usize / KV_PAGE_TOKENS, id as usize % KV_PAGE_TOKENS);
            let into = place % KV_PAGE_TOKENS;
            // As many as follow each other within one page, here and there.
            let most = KV_PAGE_TOKENS - in_page.max(into);
            let rest = ids[place..].iter().take(most);
            let follows = |(at, &next): (u32, &u32)| (next == id + at).then_some(());
            let count = (0..).zip(rest).map_while(follows).count();
            let page = (&from[page], in_page);
            self.pages[place / KV_PAGE_TOKENS].copy_from(into, kv_head, page, count)?;
            place += count;
        }
        Ok(&self.pages[..count])
    }
}

impl Call<'_> {
    /// Joins the chunks of a unit's entries to its results so far.
    pub(super) fn add_entries(&self, unit: &Unit, scratch: &mut Scratch, total: &mut [f32]) {
        let Some(entries) = self.entries.get(unit.span) else {
            return;
        };
        let width = self.partial_len(unit) / unit.queries.max(1);
        let mut partial = mem::take(&mut scratch.entries_partial);
        partial.resize(width);
        let rows = total.chunks_exact_mut(width);
        for (query, total) in (unit.first..unit.first + unit.queries).zip(rows) {
            let position = self.spans[unit.span].start + query;
            let seen = entries.of(query, position);
            let count = match seen {
                Seen::First(count) => count,
                Seen::Listed(ids) => ids.len(),
            };
            for first in (0..count).step_by(KV_CHUNK_TOKENS) {
                let end = count.min(first + KV_CHUNK_TOKENS);
                self.entry_chunk(unit, (query, &seen), first..end, scratch, &mut partial);
                self.cpu.backend.run(Merge {
                    total,
                    partial: &partial,
                    head_dim: self.shape.head_dim,
                });
            }
        }
        scratch.entries_partial = partial;
    }

    /// One query over the entries in `places` of those that it sees.
    fn entry_chunk(
        &self,
        unit: &Unit,
        (query, seen): (usize, &Seen<'_>),
        places: Range<usize>,
        scratch: &mut Scratch,
        partial: &mut [f32],
    ) {
        let entries = &self.entries[unit.span];
        self.take_queries(unit, query..query + 1, scratch);
        let mut gathered = mem::take(&mut scratch.gathered);
        let pages = match seen {
            Seen::First(_) => {
                let end = places.end.div_ceil(KV_PAGE_TOKENS);
                &entries.pages[places.start / KV_PAGE_TOKENS..end]
            }
            // The pages are of the shape that they are gathered into.
            Seen::Listed(ids) => gathered
                .gather(entries.pages, unit.kv_head, &ids[places.clone()])
                .unwrap_or(&[]),
        };
        let job = Chunk {
            q: &scratch.q,
            skipped: 0,
            pages,
            kv_head: unit.kv_head,
            shape: AttentionShape {
                window: None,
                ..self.shape_of(unit)
            },
            queries: 1,
            seen: places.end,
            first: places.start,
            weights: &mut scratch.weights,
            turned: &mut scratch.turned,
            partial,
        };
        match pages.first().map(KvPage::kv_type) {
            Some(KvType::F16) => self.cpu.backend.run(chunk::Of::<u16>::new(job)),
            Some(KvType::F32) => self.cpu.backend.run(chunk::Of::<f32>::new(job)),
            None => {}
        }
        scratch.gathered = gathered;
    }
}
