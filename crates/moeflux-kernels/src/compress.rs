//! Windows of positions pooled into one entry each: a weighted mean of the window's values, element
//! by element, weighted by a softmax of gates over the window.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
};

/// How positions are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressShape {
    /// Positions in a window; windows do not overlap.
    pub rate: usize,
    /// Elements of an entry.
    pub dim: usize,
    /// Whether an entry is made of the window before as well, of which each position gives values
    /// of its own for that.
    pub overlaps: bool,
}

impl CompressShape {
    /// Entries that a position gives values for.
    fn series(&self) -> usize {
        if self.overlaps { 2 } else { 1 }
    }

    /// Elements of a position: values for the next entry where windows overlap, then for its own.
    pub fn width(&self) -> usize {
        self.dim.saturating_mul(self.series())
    }

    /// Elements of the state; see [`Cpu::compress`].
    pub fn state_len(&self) -> usize {
        self.width().saturating_mul(3)
    }

    /// Entries that `n` positions from `start` on complete.
    pub fn completed(&self, start: usize, n: usize) -> usize {
        (start + n) / self.rate.max(1) - start / self.rate.max(1)
    }
}

/// The tokens of one timeline in a batch.
pub struct CompressSpan<'a> {
    /// Values, `[n, width]`.
    pub values: &'a [f32],
    /// What they are weighted by, shaped as `values`.
    pub gates: &'a [f32],
    /// Position of the first token.
    pub start: usize,
    /// The state before these, zeros at the start.
    pub state: &'a [f32],
    /// The state after these, shaped as `state`.
    pub next_state: &'a mut [f32],
    /// The entries completed, `[completed(start, n), dim]`.
    pub out: &'a mut [f32],
}

/// Checks all spans.
pub(crate) fn check(
    spans: &[CompressSpan<'_>],
    shape: CompressShape,
    bias: &[f32],
) -> Result<(), KernelError> {
    const OP: &str = "compress";
    check::positive(OP, "rate", shape.rate)?;
    check::positive(OP, "dim", shape.dim)?;
    let width = shape.width();
    check::size(OP, "bias", check::product(&[shape.rate, width]), bias.len())?;
    for span in spans {
        let n = check::rows(OP, "values", span.values.len(), width)?;
        check::size(OP, "gates", span.values.len(), span.gates.len())?;
        check::size(OP, "state", shape.state_len(), span.state.len())?;
        check::size(OP, "next_state", span.state.len(), span.next_state.len())?;
        let entries = check::product(&[shape.completed(span.start, n), shape.dim]);
        check::size(OP, "out", entries, span.out.len())?;
    }
    Ok(())
}

impl Cpu {
    /// Pools windows of `shape.rate` positions. A position's gate is `gates` plus its row of `bias:
    /// [rate, width]`; the weights of an entry's element are a softmax over its positions, taken one
    /// after another: with m the greater of the greatest gate so far and the position's, the sum of
    /// weights and the weighted values so far are scaled by exp(greatest - m), and the position's
    /// exp(gate - m) is added by fused multiply-adds. The first position of an entry sets m to its
    /// gate. The entry is the weighted values divided by the sum.
    ///
    /// The state has, for the entry under way and then for the one after it (where windows
    /// overlap): the greatest gates, the sums and the weighted values, `[dim]` each.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn compress(
        &self,
        spans: &mut [CompressSpan<'_>],
        shape: CompressShape,
        bias: &[f32],
    ) -> Result<(), KernelError> {
        check(spans, shape, bias)?;
        let blocks = shape.dim.div_ceil(BLOCK);
        let spans: Vec<_> = spans
            .iter_mut()
            .map(|span| Shared {
                values: span.values,
                gates: span.gates,
                start: span.start,
                state: span.state,
                next_state: Disjoint::new(span.next_state),
                out: Disjoint::new(span.out),
            })
            .collect();
        self.split(spans.len() * blocks, 1, &|first, end| {
            for task in first..end {
                let begin = task % blocks * BLOCK;
                self.backend.run(Elements {
                    span: &spans[task / blocks],
                    shape,
                    bias,
                    begin,
                    width: BLOCK.min(shape.dim - begin),
                });
            }
        });
        Ok(())
    }
}

/// Elements of a task.
const BLOCK: usize = 64;

/// A span whose outputs several tasks write.
struct Shared<'a> {
    values: &'a [f32],
    gates: &'a [f32],
    start: usize,
    state: &'a [f32],
    next_state: Disjoint<'a, f32>,
    out: Disjoint<'a, f32>,
}

/// Some elements of the entries of one span.
struct Elements<'a> {
    span: &'a Shared<'a>,
    shape: CompressShape,
    bias: &'a [f32],
    /// First element.
    begin: usize,
    width: usize,
}

/// 16 elements of an entry that is being pooled.
#[derive(Clone, Copy)]
struct Pool<F> {
    greatest: F,
    sum: F,
    values: F,
}

impl<F: Copy> Pool<F> {
    #[inline(always)]
    fn empty<L: Lanes<F = F>>(l: L) -> Pool<F> {
        Pool {
            greatest: l.zero(),
            sum: l.zero(),
            values: l.zero(),
        }
    }

    /// Adds a position.
    #[inline(always)]
    fn add<L: Lanes<F = F>>(&mut self, l: L, gate: F, value: F) {
        // A sum of weights is at least one, unless there is none yet.
        let before = l.if_greater(self.sum, l.zero(), self.greatest, gate);
        let m = l.if_greater(gate, before, gate, before);
        let (old, new) = (math::exp(l, l.sub(before, m)), math::exp(l, l.sub(gate, m)));
        self.greatest = m;
        self.sum = l.fma(self.sum, old, new);
        self.values = l.fma(self.values, old, l.mul(new, value));
    }
}

impl Elements<'_> {
    /// A series of a row of positions, these elements alone.
    #[inline(always)]
    fn part<'b>(&self, rows: &'b [f32], row: usize, series: usize) -> &'b [f32] {
        let at = (row * self.shape.series() + series) * self.shape.dim;
        &rows[at + self.begin..][..self.width]
    }

    /// The pools of the state, the entry under way first.
    #[inline(always)]
    fn pools<L: Lanes>(&self, l: L, i: usize) -> [Pool<L::F>; 2] {
        let mut pools = [Pool::empty(l); 2];
        for (series, pool) in pools.iter_mut().enumerate().take(self.shape.series()) {
            let piece = |which: usize| {
                let at = (3 * series + which) * self.shape.dim + self.begin;
                l.load_at(&self.span.state[at..][..self.width], i)
            };
            *pool = Pool {
                greatest: piece(0),
                sum: piece(1),
                values: piece(2),
            };
        }
        pools
    }

    #[inline(always)]
    fn keep<L: Lanes>(&self, l: L, i: usize, pools: [Pool<L::F>; 2]) {
        for (series, pool) in pools.iter().enumerate().take(self.shape.series()) {
            let pieces = [pool.greatest, pool.sum, pool.values];
            for (which, piece) in pieces.into_iter().enumerate() {
                let at = (3 * series + which) * self.shape.dim + self.begin;
                // SAFETY: these elements belong to this task, which holds no other part of them.
                let kept = unsafe { self.span.next_state.part(at, self.width) };
                l.store_at(piece, kept, i);
            }
        }
    }
}

impl Kernel for Elements<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let CompressShape {
            rate,
            dim,
            overlaps,
        } = self.shape;
        let n = self.span.values.len() / self.shape.width();
        let own = usize::from(overlaps);
        let mut i = 0;
        while i < self.width {
            let [mut current, mut next] = self.pools(l, i);
            for t in 0..n {
                let place = (self.span.start + t) % rate;
                if place == 0 {
                    current = next;
                    next = Pool::empty(l);
                }
                let load = |rows: &[f32], row: usize, series: usize| {
                    l.load_at(self.part(rows, row, series), i)
                };
                let gate = l.add(load(self.span.gates, t, own), load(self.bias, place, own));
                current.add(l, gate, load(self.span.values, t, own));
                if overlaps {
                    let gate = l.add(load(self.span.gates, t, 0), load(self.bias, place, 0));
                    next.add(l, gate, load(self.span.values, t, 0));
                }
                if place + 1 == rate {
                    let entry = self.shape.completed(self.span.start, t);
                    // SAFETY: as for the state.
                    let out = unsafe { self.span.out.part(entry * dim + self.begin, self.width) };
                    l.store_at(l.div(current.values, current.sum), out, i);
                }
            }
            self.keep(l, i, [current, next]);
            i += 16;
        }
    }
}
