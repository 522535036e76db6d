//! The part of attention that is compiled for each instruction set: some queries over one chunk
//! of positions.

use std::{marker::PhantomData, mem, ops::Range};

use super::{AttentionShape, KV_CHUNK_TOKENS};
use crate::{
    KV_PAGE_TOKENS, KvPage,
    kv::KvElement,
    lanes::{Kernel, Lanes, math},
};

/// Elements that follow a row's weighted sum of values in a partial result: the greatest score,
/// the sum of weights, and room that keeps rows aligned.
pub(super) const PARTIAL_EXTRA: usize = 16;

/// Some queries over one chunk, in the heads that share one head of keys and values.
pub(super) struct Chunk<'a> {
    /// `[rows, head_dim]`, rows: `[queries, heads of the group]`.
    pub q: &'a [f32],
    /// Pages of the chunk that are no longer there.
    pub skipped: usize,
    /// The pages after those.
    pub pages: &'a [KvPage],
    pub kv_head: usize,
    pub shape: AttentionShape,
    pub queries: usize,
    /// Positions of the session that the first query sees; each further query sees one more.
    pub seen: usize,
    /// First position of the chunk.
    pub first: usize,
    /// Scores, then weights, `[rows, KV_CHUNK_TOKENS]`.
    pub weights: &'a mut [f32],
    /// Room for a page's values where keys serve as values, `[KV_PAGE_TOKENS, head_dim]`.
    pub turned: &'a mut [f32],
    /// `[rows, head_dim + PARTIAL_EXTRA]`; rows that see nothing of the chunk are left alone.
    pub partial: &'a mut [f32],
}

/// A chunk whose pages hold elements `E`.
pub(super) struct Of<'a, E> {
    chunk: Chunk<'a>,
    element: PhantomData<E>,
}

impl<'a, E> Of<'a, E> {
    pub fn new(chunk: Chunk<'a>) -> Self {
        Of {
            chunk,
            element: PhantomData,
        }
    }
}

impl<E: KvElement> Kernel for Of<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut chunk = self.chunk;
        chunk.pass::<L, E, true>(l);
        let group = chunk.group();
        for row in 0..chunk.queries * group {
            let seen = chunk.hidden(row / group)..chunk.visible(row / group);
            if seen.end > 0 {
                chunk.softmax(l, row, seen);
            }
        }
        chunk.pass::<L, E, false>(l);
    }
}

/// Rows that see the same positions of a page.
struct Run<'a, E> {
    page: usize,
    /// The page's keys or values of the head.
    data: &'a [E],
    row: usize,
    end: usize,
    /// Positions of the page that they see.
    inner: usize,
}

impl<'a> Chunk<'a> {
    #[inline(always)]
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Positions of the chunk that a query sees.
    #[inline(always)]
    fn visible(&self, query: usize) -> usize {
        let seen = (self.seen + query).saturating_sub(self.first);
        seen.min(KV_CHUNK_TOKENS)
    }

    /// Positions of the chunk that lie before a query's window.
    #[inline(always)]
    fn hidden(&self, query: usize) -> usize {
        let first_seen = self.shape.first_seen(self.seen + query - 1);
        first_seen.saturating_sub(self.first).min(KV_CHUNK_TOKENS)
    }

    /// The first page of which any query sees something.
    #[inline(always)]
    fn first_page(&self) -> usize {
        self.hidden(0) / KV_PAGE_TOKENS
    }

    /// The keys or values of the head in a page; nothing outside of those that are there.
    #[inline(always)]
    fn data<E: KvElement>(&self, page: usize, keys: bool) -> &'a [E] {
        let len = self.shape.head_dim * KV_PAGE_TOKENS;
        let page = page.checked_sub(self.skipped);
        match page.and_then(|at| self.pages.get(at)).and_then(E::parts) {
            Some(parts) => {
                let data = if keys { &parts.keys } else { &parts.values };
                &data[self.kv_head * len..][..len]
            }
            None => &[],
        }
    }

    /// Goes over the pages in order, for scores (`KEYS`) or for weighted values.
    #[inline(always)]
    fn pass<L: Lanes, E: KvElement, const KEYS: bool>(&mut self, l: L) {
        let used = self.visible(self.queries - 1).div_ceil(KV_PAGE_TOKENS);
        let is_joint = self.pages.first().is_some_and(KvPage::is_joint);
        let turned = mem::take(&mut self.turned);
        for page in self.first_page()..used {
            if is_joint && !KEYS {
                turn(l, self.data::<E>(page, true), self.shape.head_dim, turned);
                self.page::<L, f32, false>(l, page, turned, &[]);
                continue;
            }
            let next = match page + 1 < used {
                true => self.data(page + 1, KEYS),
                false if KEYS => self.data(self.first_page(), is_joint),
                false => &[],
            };
            self.page::<L, E, KEYS>(l, page, self.data::<E>(page, KEYS), next);
        }
        self.turned = turned;
    }

    /// One page of a pass; `next` is what will be needed after it.
    #[inline(always)]
    fn page<L: Lanes, E: KvElement, const KEYS: bool>(
        &mut self,
        l: L,
        page: usize,
        data: &[E],
        next: &[E],
    ) {
        let mut ahead = Ahead::<E> { data: next, at: 0 };
        let mut query = 0;
        while query < self.queries {
            let seen = self.visible(query).saturating_sub(page * KV_PAGE_TOKENS);
            let inner = seen.min(KV_PAGE_TOKENS);
            // Queries after one that sees the whole page see it too.
            let end = match inner == KV_PAGE_TOKENS {
                true => self.queries,
                false => query + 1,
            };
            let mut run = Run {
                page,
                data,
                row: query * self.group(),
                end: end * self.group(),
                inner,
            };
            while inner > 0 && run.row < run.end {
                run.row += self.tile::<L, E, KEYS>(l, &run, &mut ahead);
            }
            query = end;
        }
    }

    /// As many of a run's first rows as the registers take at once; says how many.
    #[inline(always)]
    fn tile<L: Lanes, E: KvElement, const KEYS: bool>(
        &mut self,
        l: L,
        run: &Run<'_, E>,
        ahead: &mut Ahead<'_, E>,
    ) -> usize {
        match run.end - run.row {
            8.. if L::ROOMY => self.rows::<L, E, KEYS, 8, 2>(l, run, ahead),
            4.. if L::ROOMY => self.rows::<L, E, KEYS, 4, 4>(l, run, ahead),
            4.. => self.rows::<L, E, KEYS, 4, 1>(l, run, ahead),
            2.. => self.rows::<L, E, KEYS, 2, 2>(l, run, ahead),
            _ => self.rows::<L, E, KEYS, 1, 4>(l, run, ahead),
        }
    }

    #[inline(always)]
    fn rows<L: Lanes, E: KvElement, const KEYS: bool, const R: usize, const V: usize>(
        &mut self,
        l: L,
        run: &Run<'_, E>,
        ahead: &mut Ahead<'_, E>,
    ) -> usize {
        let columns = if KEYS { run.inner } else { self.shape.head_dim };
        let mut column = 0;
        // Scores past the last position seen are there, and meaningless.
        while KEYS && column < columns || column + 16 * V <= columns {
            self.block::<L, E, KEYS, false, R, V>(l, run, column, ahead);
            column += 16 * V;
        }
        while column + 16 <= columns {
            self.block::<L, E, KEYS, false, R, 1>(l, run, column, ahead);
            column += 16;
        }
        if column < columns {
            self.block::<L, E, KEYS, true, R, 1>(l, run, column, ahead);
        }
        R
    }

    /// `R` rows of scores or values, in 16 V columns, or those that are left (`TAIL`).
    #[inline(always)]
    fn block<
        L: Lanes,
        E: KvElement,
        const KEYS: bool,
        const TAIL: bool,
        const R: usize,
        const V: usize,
    >(
        &mut self,
        l: L,
        run: &Run<'_, E>,
        column: usize,
        ahead: &mut Ahead<'_, E>,
    ) {
        let (dim, position) = (self.shape.head_dim, run.page * KV_PAGE_TOKENS);
        let width = dim + PARTIAL_EXTRA;
        let mut factors: [&[f32]; R] = [&[]; R];
        let mut sums = [[l.zero(); V]; R];
        for r in 0..R {
            let row = run.row + r;
            factors[r] = if KEYS {
                &self.q[row * dim..][..dim]
            } else {
                &self.weights[row * KV_CHUNK_TOKENS + position..][..run.inner]
            };
            if !KEYS && run.page > self.first_page() {
                let row = &self.partial[row * width..][..dim];
                for v in 0..V {
                    sums[r][v] = l.load_at(row, column + 16 * v);
                }
            }
        }
        let stride = if KEYS { KV_PAGE_TOKENS } else { dim };
        let inner = if KEYS { dim } else { run.inner };
        let matrix = (run.data, stride);
        let sums = product::<L, E, TAIL, R, V>(l, &factors, inner, matrix, column, sums, ahead);
        for r in 0..R {
            let row = run.row + r;
            for v in 0..V {
                if KEYS {
                    let scores = &mut self.weights[row * KV_CHUNK_TOKENS + position..];
                    let scaled = l.mul(sums[r][v], l.splat(self.shape.scale));
                    l.store_at(scaled, &mut scores[..KV_PAGE_TOKENS], column + 16 * v);
                } else {
                    let row = &mut self.partial[row * width..][..dim];
                    l.store_at(sums[r][v], row, column + 16 * v);
                }
            }
        }
    }

    /// Turns a row's scores into weights; `seen`: the positions of the chunk that the row sees.
    #[inline(always)]
    fn softmax<L: Lanes>(&mut self, l: L, row: usize, seen: Range<usize>) {
        let p = &mut self.weights[row * KV_CHUNK_TOKENS..][..seen.end];
        let end = row * (self.shape.head_dim + PARTIAL_EXTRA) + self.shape.head_dim;
        if seen.is_empty() {
            p.fill(0.0);
            (self.partial[end], self.partial[end + 1]) = (f32::NEG_INFINITY, 0.0);
            return;
        }
        let greatest = l.max(&p[seen.start..]);
        let m = l.splat(greatest);
        let mut i = seen.start - seen.start % 16;
        while i < seen.end {
            l.store_at(math::exp(l, l.sub(l.load_at(p, i), m)), p, i);
            i += 16;
        }
        p[..seen.start].fill(0.0);
        (self.partial[end], self.partial[end + 1]) = (greatest, l.sum16(p));
    }
}

/// Turns keys `[dim, KV_PAGE_TOKENS]` into values `[KV_PAGE_TOKENS, dim]`.
#[inline(always)]
fn turn<L: Lanes, E: KvElement>(l: L, keys: &[E], dim: usize, values: &mut [f32]) {
    let mut tile = [[0.0; 16]; 16];
    for d in (0..dim).step_by(16) {
        let width = 16.min(dim - d);
        for first in (0..KV_PAGE_TOKENS).step_by(16) {
            for (i, row) in tile[..width].iter_mut().enumerate() {
                l.store(E::load_at(l, &keys[(d + i) * KV_PAGE_TOKENS..], first), row);
            }
            for position in 0..16 {
                let out = &mut values[(first + position) * dim + d..][..width];
                for (i, value) in out.iter_mut().enumerate() {
                    *value = tile[i][position];
                }
            }
        }
    }
}

/// What will be needed next: hinted at a line at a time, in step with the arithmetic.
struct Ahead<'a, E> {
    data: &'a [E],
    at: usize,
}

impl<E: KvElement> Ahead<'_, E> {
    #[inline(always)]
    fn hint<L: Lanes>(&mut self, l: L) {
        if self.at < self.data.len() {
            l.prefetch_element(self.data, self.at);
            self.at += 64 / size_of::<E>();
        }
    }
}

/// Adds to each row's sums its factors times the rows of a matrix (of a stride) in 16 V columns,
/// in order.
#[inline(always)]
fn product<L: Lanes, E: KvElement, const TAIL: bool, const R: usize, const V: usize>(
    l: L,
    factors: &[&[f32]; R],
    inner: usize,
    (matrix, stride): (&[E], usize),
    column: usize,
    mut sums: [[L::F; V]; R],
    ahead: &mut Ahead<'_, E>,
) -> [[L::F; V]; R] {
    let mut rows = [&[][..]; R];
    for r in 0..R {
        rows[r] = &factors[r][..inner];
    }
    for (k, row) in matrix.chunks_exact(stride).enumerate().take(inner) {
        ahead.hint(l);
        let mut x = [l.zero(); V];
        if TAIL {
            // The padding would cost the other loop its registers.
            x[0] = E::load_at(l, row, column);
        } else {
            let chunks = row[column..][..16 * V].as_chunks().0;
            for v in 0..V {
                x[v] = E::load(l, &chunks[v]);
            }
        }
        for r in 0..R {
            let factor = l.splat(rows[r][k]);
            for v in 0..V {
                sums[r][v] = l.fma(factor, x[v], sums[r][v]);
            }
        }
    }
    sums
}
