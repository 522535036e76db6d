//! The part of the delta rule that is compiled for each instruction set: some value elements of
//! one head over all tokens of a span.

use super::{Decay, DeltaShape, L2_EPS, Scratch, Span};
use crate::{
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
    math,
};

/// Tokens whose keys are normalized at once.
const TOKENS: usize = 32;

/// A value head.
pub(super) struct Head<'a> {
    pub shape: DeltaShape,
    pub head: usize,
    /// exp(a_log) of the head.
    pub rate: f32,
    /// Of the head, `[head_decays]`.
    pub dt_bias: &'a [f32],
}

/// Some value elements of one head of one span; only their columns of the outputs are touched.
pub(super) struct Part<'a> {
    pub span: &'a Span<'a>,
    pub head: Head<'a>,
    /// First value element.
    pub start: usize,
    /// The element after the last.
    pub end: usize,
    /// Write the state around the caches.
    pub stream: bool,
    pub scratch: &'a mut Scratch,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.head.shape.decay {
            Decay::Head => self.run_as::<L, false>(l),
            Decay::Key | Decay::BoundedKey(_) => self.run_as::<L, true>(l),
        }
    }
}

impl Part<'_> {
    /// `KEYED`: each key element decays by itself.
    #[inline(always)]
    fn run_as<L: Lanes, const KEYED: bool>(mut self, l: L) {
        let shape = self.head.shape;
        let n = self.span.qkv.len() / shape.qkv_width();
        for first in (0..n).step_by(TOKENS) {
            let tokens = first..n.min(first + TOKENS);
            self.prepare(l, first, tokens.len());
            let mut start = self.start;
            while start < self.end {
                let left = self.end - start;
                start += match left {
                    // More than the first-level cache holds, but read once only, and in one go.
                    128.. if L::ROOMY && n == 1 => self.block::<L, KEYED, 8>(l, start, 0, 1, n),
                    64.. => self.block::<L, KEYED, 4>(l, start, first, tokens.len(), n),
                    _ => self.block::<L, KEYED, 1>(l, start, first, tokens.len(), n),
                };
            }
        }
        if self.stream {
            l.fence();
        }
    }

    /// Normalizes the head's queries and keys of some tokens, and computes their gates.
    #[inline(always)]
    fn prepare<L: Lanes>(&mut self, l: L, first: usize, tokens: usize) {
        let Head {
            shape,
            head,
            rate,
            dt_bias,
        } = self.head;
        let (dim, width) = (shape.key_dim, shape.qkv_width());
        let (query, key) = (shape.key_head(head), shape.key_heads + shape.key_head(head));
        let q_scale = 1.0 / (dim as f32).sqrt();
        self.scratch.keys.resize(TOKENS * 2 * dim);
        if shape.decay != Decay::Head {
            self.scratch.decays.resize(TOKENS * 2 * dim);
        }
        self.scratch.gates.clear();
        for (t, rows) in self
            .scratch
            .keys
            .chunks_exact_mut(2 * dim)
            .enumerate()
            .take(tokens)
        {
            let qkv = &self.span.qkv[(first + t) * width..][..width];
            let (q, k) = rows.split_at_mut(dim);
            unit(l, &qkv[query * dim..][..dim], q_scale, q);
            unit(l, &qkv[key * dim..][..dim], 1.0, k);
            let at = (first + t) * shape.value_heads + head;
            let a = &self.span.a[at * dt_bias.len()..][..dt_bias.len()];
            let beta = math::sigmoid(self.span.b[at]);
            let factor = |i: usize| shape.decay.factor(rate, a[i] + dt_bias[i]);
            if shape.decay == Decay::Head {
                self.scratch.gates.push((factor(0), beta));
                continue;
            }
            self.scratch.gates.push((1.0, beta));
            let decays = &mut self.scratch.decays[t * 2 * dim..][..2 * dim];
            let (recall, decays) = decays.split_at_mut(dim);
            for (i, decay) in decays.iter_mut().enumerate() {
                *decay = factor(i);
                recall[i] = k[i] * *decay;
            }
        }
    }

    /// Some tokens of the `n`, for up to 16 N value elements from `start` on; says how many
    /// elements that are.
    #[inline(always)]
    fn block<L: Lanes, const KEYED: bool, const N: usize>(
        &mut self,
        l: L,
        start: usize,
        first: usize,
        tokens: usize,
        n: usize,
    ) -> usize {
        let DeltaShape {
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            ..
        } = self.head.shape;
        let (span, head) = (self.span, self.head.head);
        let width = (16 * N).min(self.end - start);
        let old = &span.state[head * key_dim * value_dim..][..key_dim * value_dim];
        let Scratch {
            keys,
            decays,
            gates,
            state,
        } = &mut *self.scratch;
        if n > 1 {
            let needed = (self.end - self.start).next_multiple_of(16) * key_dim;
            state.resize(needed.max(state.len()));
        }
        let held = (start - self.start) * key_dim;
        let next = Next {
            state: &span.next_state,
            first: head * key_dim * value_dim + start,
            stride: value_dim,
            stream: self.stream,
        };
        for t in 0..tokens {
            let (q, k) = keys[t * 2 * key_dim..][..2 * key_dim].split_at(key_dim);
            let v = &span.qkv[(first + t) * self.head.shape.qkv_width()..];
            let (recall, decays) = match KEYED {
                true => decays[t * 2 * key_dim..][..2 * key_dim].split_at(key_dim),
                false => (k, &[][..]),
            };
            let token = Token::<KEYED> {
                q,
                k,
                recall,
                decays,
                v: &v[2 * key_heads * key_dim + head * value_dim + start..][..width],
                decay: gates[t].0,
                beta: gates[t].1,
            };
            let sums: [L::F; N] = if n == 1 {
                token.last(l, (old, value_dim, start), &next)
            } else {
                let state = &mut state[held..][..key_dim * 16 * N];
                if first + t == 0 {
                    let rows = state.chunks_exact_mut(16 * N);
                    for (row, old) in rows.zip(old.chunks_exact(value_dim)) {
                        row[..width].copy_from_slice(&old[start..start + width]);
                    }
                }
                match first + t + 1 < n {
                    true => token.step(l, state),
                    false => token.last(l, (state, 16 * N, 0), &next),
                }
            };
            let at = ((first + t) * value_heads + head) * value_dim + start;
            // SAFETY: these columns belong to this task, and no other part of them is in use.
            let out = unsafe { span.out.part(at, width) };
            for i in 0..N {
                l.store_at(sums[i], out, 16 * i);
            }
        }
        width
    }
}

/// What one token brings to a block.
struct Token<'a, const KEYED: bool> {
    q: &'a [f32],
    k: &'a [f32],
    /// What the state is asked with: the key, times the factors of its elements if they have some.
    recall: &'a [f32],
    /// Factors of the key's elements, if `KEYED`.
    decays: &'a [f32],
    /// Its values in the block, 16 N elements; fewer only if N = 1.
    v: &'a [f32],
    decay: f32,
    beta: f32,
}

impl<const KEYED: bool> Token<'_, KEYED> {
    /// By what row `j` of the state decays.
    #[inline(always)]
    fn decay<L: Lanes>(&self, l: L, j: usize) -> L::F {
        l.splat(if KEYED { self.decays[j] } else { self.decay })
    }

    /// What the state lacks, times the write strength; `memory`: what it recalls, not decayed by
    /// the head's factor.
    #[inline(always)]
    fn delta<L: Lanes, const N: usize>(&self, l: L, memory: [L::F; N]) -> [L::F; N] {
        let mut delta = memory;
        for i in 0..N {
            let v = l.load_at(self.v, 16 * i);
            let error = match KEYED {
                true => l.sub(v, memory[i]),
                false => l.fma(memory[i], l.splat(0.0 - self.decay), v),
            };
            delta[i] = l.mul(error, l.splat(self.beta));
        }
        delta
    }

    /// Changes `state: [key_dim, 16 N]`; gives the token's results.
    #[inline(always)]
    fn step<L: Lanes, const N: usize>(&self, l: L, state: &mut [f32]) -> [L::F; N] {
        let mut memory = [l.zero(); N];
        for (row, k) in state.chunks_exact(16 * N).zip(self.recall) {
            let row = row.as_chunks().0;
            for i in 0..N {
                memory[i] = l.fma(l.load(&row[i]), l.splat(*k), memory[i]);
            }
        }
        let delta = self.delta(l, memory);
        let mut out = [l.zero(); N];
        let rows = state.chunks_exact_mut(16 * N);
        for (j, (row, (k, q))) in rows.zip(self.k.iter().zip(self.q)).enumerate() {
            let decay = self.decay(l, j);
            let row = row.as_chunks_mut().0;
            for i in 0..N {
                let new = l.fma(l.splat(*k), delta[i], l.mul(l.load(&row[i]), decay));
                out[i] = l.fma(new, l.splat(*q), out[i]);
                l.store(new, &mut row[i]);
            }
        }
        out
    }

    /// Reads a state of rows of a width from a column on, writes the next one; gives the token's
    /// results.
    #[inline(always)]
    fn last<L: Lanes, const N: usize>(
        &self,
        l: L,
        (state, width, column): (&[f32], usize, usize),
        next: &Next<'_>,
    ) -> [L::F; N] {
        let mut memory = [l.zero(); N];
        for (row, k) in state.chunks_exact(width).zip(self.recall) {
            let row = load_row::<L, N>(l, row, column);
            for i in 0..N {
                memory[i] = l.fma(row[i], l.splat(*k), memory[i]);
            }
        }
        let delta = self.delta(l, memory);
        let mut out = [l.zero(); N];
        for (j, row) in state.chunks_exact(width).enumerate().take(self.k.len()) {
            let decay = self.decay(l, j);
            let row = load_row::<L, N>(l, row, column);
            let mut new = [l.zero(); N];
            for i in 0..N {
                new[i] = l.fma(l.splat(self.k[j]), delta[i], l.mul(row[i], decay));
                out[i] = l.fma(new[i], l.splat(self.q[j]), out[i]);
            }
            next.store(l, j, self.v.len(), new);
        }
        out
    }
}

/// 16 N elements of a row from a column on; if N = 1, those that there are.
#[inline(always)]
fn load_row<L: Lanes, const N: usize>(l: L, row: &[f32], column: usize) -> [L::F; N] {
    let mut x = [l.zero(); N];
    if N == 1 {
        x[0] = l.load_at(row, column);
        return x;
    }
    let row = row[column..][..16 * N].as_chunks().0;
    for i in 0..N {
        x[i] = l.load(&row[i]);
    }
    x
}

/// Where a block's state goes in the end.
struct Next<'a> {
    state: &'a Disjoint<'a, f32>,
    /// The block's first element.
    first: usize,
    /// Elements between its rows.
    stride: usize,
    stream: bool,
}

impl Next<'_> {
    /// Writes row `j` of a block of `width` columns.
    #[inline(always)]
    fn store<L: Lanes, const N: usize>(&self, l: L, j: usize, width: usize, new: [L::F; N]) {
        // SAFETY: these columns belong to this task, and no other part of them is in use.
        let row = unsafe { self.state.part(self.first + j * self.stride, width) };
        if N == 1 {
            return l.store_at(new[0], row, 0);
        }
        let row = row[..16 * N].as_chunks_mut().0;
        for i in 0..N {
            match self.stream {
                true => l.stream(new[i], &mut row[i]),
                false => l.store(new[i], &mut row[i]),
            }
        }
    }
}

/// `x` scaled to unit length, times `scale`.
#[inline(always)]
fn unit<L: Lanes>(l: L, x: &[f32], scale: f32, out: &mut [f32]) {
    let inv = l.splat(1.0 / (l.dot16(x, x) + L2_EPS).sqrt());
    let mut i = 0;
    while i < x.len() {
        let unit = l.mul(l.load_at(x, i), inv);
        l.store_at(l.mul(unit, l.splat(scale)), out, i);
        i += 16;
    }
}
