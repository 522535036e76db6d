//! The gated delta rule: linear attention with a decaying state that is corrected token by token.

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
    math,
};

/// Which key head a value head reads. Both occur: checkpoints repeat each key head for
/// neighbouring value heads, some file formats reorder the value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadOrder {
    /// Neighbouring value heads share a key head: h / (value_heads / key_heads).
    Grouped,
    /// Key heads repeat as a whole: h mod key_heads.
    Tiled,
}

/// Shape of a gated delta layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements of a query or key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Which key head a value head reads.
    pub head_order: HeadOrder,
}

impl DeltaShape {
    /// The key head that a value head reads.
    pub(crate) fn key_head(&self, value_head: usize) -> usize {
        match self.head_order {
            HeadOrder::Grouped => value_head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => value_head % self.key_heads,
        }
    }

    /// Width of a q|k|v row.
    pub(crate) fn qkv_width(&self) -> usize {
        let keys = check::product(&[2, self.key_heads, self.key_dim]);
        keys.saturating_add(check::product(&[self.value_heads, self.value_dim]))
    }
}

/// The tokens of one timeline in a batch.
pub struct DeltaSpan<'a> {
    /// Queries, keys and values, `[n, q | k | v]` with
    /// q, k: `[key_heads, key_dim]`, v: `[value_heads, value_dim]`; n >= 1.
    pub qkv: &'a [f32],
    /// Decay inputs, `[n, value_heads]`.
    pub a: &'a [f32],
    /// Write strength inputs, `[n, value_heads]`.
    pub b: &'a [f32],
    /// The state before these tokens, `[value_heads, key_dim, value_dim]`.
    pub state: &'a [f32],
    /// The state after them, shaped as `state`.
    pub next_state: &'a mut [f32],
    /// Results, `[n, value_heads, value_dim]`.
    pub out: &'a mut [f32],
}

/// Added to the square of a key's or query's length before it is normalized.
pub(crate) const L2_EPS: f32 = 1e-6;

/// Checks all spans.
pub(crate) fn check(
    spans: &[DeltaSpan<'_>],
    shape: DeltaShape,
    a_log: &[f32],
    dt_bias: &[f32],
) -> Result<(), KernelError> {
    const OP: &str = "gated_delta";
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    check::positive(OP, "key_dim", key_dim)?;
    check::positive(OP, "value_dim", value_dim)?;
    check::multiple(OP, "value_heads", value_heads, key_heads)?;
    check::size(OP, "a_log", value_heads, a_log.len())?;
    check::size(OP, "dt_bias", value_heads, dt_bias.len())?;
    for span in spans {
        check::multiple(OP, "qkv", span.qkv.len(), shape.qkv_width())?;
        let n = span.qkv.len() / shape.qkv_width();
        check::size(OP, "a", check::product(&[n, value_heads]), span.a.len())?;
        check::size(OP, "b", span.a.len(), span.b.len())?;
        let state = check::product(&[value_heads, key_dim, value_dim]);
        check::size(OP, "state", state, span.state.len())?;
        check::size(OP, "next_state", state, span.next_state.len())?;
        check::size(
            OP,
            "out",
            check::product(&[n, value_heads, value_dim]),
            span.out.len(),
        )?;
    }
    Ok(())
}

impl Cpu {
    /// Runs the recurrence over all spans. For value head h, with the key head that
    /// [`DeltaShape::head_order`] gives it, q and k are scaled to unit length (q also by
    /// 1 / sqrt(key_dim)), g = exp(-exp(a_log) * softplus(a + dt_bias)), beta = sigmoid(b), and a
    /// token does: S = S * g; mem = S' k; delta = (v - mem) * beta; S = S + k delta'; out = S' q,
    /// all sums by fused multiply-adds over the key elements in order.
    ///
    /// # Errors
    /// If sizes do not fit or a span is empty.
    pub fn gated_delta(
        &self,
        spans: &mut [DeltaSpan<'_>],
        shape: DeltaShape,
        a_log: &[f32],
        dt_bias: &[f32],
    ) -> Result<(), KernelError> {
        check(spans, shape, a_log, dt_bias)?;
        let spans: Vec<Span<'_>> = spans
            .iter_mut()
            .map(|span| Span {
                qkv: span.qkv,
                a: span.a,
                b: span.b,
                state: span.state,
                next_state: Disjoint::new(span.next_state),
                out: Disjoint::new(span.out),
            })
            .collect();
        let blocks = shape.value_dim.div_ceil(BLOCK);
        let heads = shape.value_heads;
        self.split(spans.len() * heads * blocks, 1, &|first, end| {
            KEYS.with_borrow_mut(|keys| {
                for task in first..end {
                    let (head, start) = (task / blocks % heads, task % blocks * BLOCK);
                    self.backend.run(Block {
                        span: &spans[task / blocks / heads],
                        shape,
                        rate: math::exp(a_log[head]),
                        dt_bias: dt_bias[head],
                        head,
                        start,
                        width: BLOCK.min(shape.value_dim - start),
                        keys,
                    });
                }
            });
        });
        Ok(())
    }
}

/// Value elements of a task: four independent chains of multiply-adds.
const BLOCK: usize = 64;

thread_local! {
    /// The query and the key of a token, normalized.
    static KEYS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

struct Span<'a> {
    qkv: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    state: &'a [f32],
    next_state: Disjoint<'a, f32>,
    out: Disjoint<'a, f32>,
}

/// Some value elements of one head of one span; only their columns of the outputs are touched.
struct Block<'a> {
    span: &'a Span<'a>,
    shape: DeltaShape,
    /// exp(a_log) of the head.
    rate: f32,
    dt_bias: f32,
    head: usize,
    /// First value element.
    start: usize,
    width: usize,
    keys: &'a mut Vec<f32>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        if self.width == BLOCK {
            self.tokens::<L, 4>(l);
        } else {
            let end = self.start + self.width;
            while self.start < end {
                self.width = (end - self.start).min(16);
                self.tokens::<L, 1>(l);
                self.start += self.width;
            }
        }
    }
}

impl Block<'_> {
    /// All tokens, for the `width` <= 16 * N value elements from `start` on.
    #[inline(always)]
    fn tokens<L: Lanes, const N: usize>(&mut self, l: L) {
        let DeltaShape {
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            ..
        } = self.shape;
        let row = self.shape.qkv_width();
        let key_head = self.shape.key_head(self.head);
        let q_scale = 1.0 / (key_dim as f32).sqrt();
        self.keys.resize(2 * key_dim, 0.0);
        for (t, qkv) in self.span.qkv.chunks_exact(row).enumerate() {
            let (q, k) = self.keys.split_at_mut(key_dim);
            unit(l, &qkv[key_head * key_dim..][..key_dim], q);
            unit(l, &qkv[(key_heads + key_head) * key_dim..][..key_dim], k);
            for q in q {
                *q *= q_scale;
            }
            let at = t * value_heads + self.head;
            let decay = self.rate * math::softplus(self.span.a[at] + self.dt_bias);
            let v = 2 * key_heads * key_dim + self.head * value_dim + self.start;
            let token = Token {
                first: t == 0,
                decay: math::exp(0.0 - decay),
                beta: math::sigmoid(self.span.b[at]),
                v: &qkv[v..][..self.width],
                at: at * value_dim + self.start,
            };
            self.step::<L, N>(l, &token);
        }
    }

    /// One token of the recurrence.
    #[inline(always)]
    fn step<L: Lanes, const N: usize>(&self, l: L, token: &Token<'_>) {
        let DeltaShape {
            key_dim, value_dim, ..
        } = self.shape;
        let (q, k) = self.keys.split_at(key_dim);
        let decay = l.splat(token.decay);
        let first = self.head * key_dim * value_dim + self.start;
        let mut memory = [l.zero(); N];
        for (j, k) in k.iter().enumerate() {
            let row = self.row(token.first, first + j * value_dim);
            for i in 0..N {
                let decayed = l.mul(l.load_at(row, i * 16), decay);
                memory[i] = l.fma(decayed, l.splat(*k), memory[i]);
            }
        }
        let (mut delta, mut out) = ([l.zero(); N], [l.zero(); N]);
        for i in 0..N {
            let error = l.sub(l.load_at(token.v, i * 16), memory[i]);
            delta[i] = l.mul(error, l.splat(token.beta));
        }
        for j in 0..key_dim {
            let at = first + j * value_dim;
            let mut state = [l.zero(); N];
            let row = self.row(token.first, at);
            for i in 0..N {
                let decayed = l.mul(l.load_at(row, i * 16), decay);
                state[i] = l.fma(l.splat(k[j]), delta[i], decayed);
                out[i] = l.fma(state[i], l.splat(q[j]), out[i]);
            }
            // SAFETY: these columns belong to this task, and no other part of them is in use.
            let row = unsafe { self.span.next_state.part(at, self.width) };
            for i in 0..N {
                l.store_at(state[i], row, i * 16);
            }
        }
        // SAFETY: as above.
        let result = unsafe { self.span.out.part(token.at, self.width) };
        for i in 0..N {
            l.store_at(out[i], result, i * 16);
        }
    }

    /// A row of the current state: that before the span for its first token.
    #[inline(always)]
    fn row(&self, first: bool, at: usize) -> &[f32] {
        if first {
            &self.span.state[at..][..self.width]
        } else {
            // SAFETY: these columns belong to this task; the part is dropped before the next.
            unsafe { self.span.next_state.part(at, self.width) }
        }
    }
}

/// What one token brings to a block.
struct Token<'a> {
    first: bool,
    decay: f32,
    beta: f32,
    v: &'a [f32],
    /// Where its results begin.
    at: usize,
}

/// `x` scaled to unit length.
#[inline(always)]
fn unit<L: Lanes>(l: L, x: &[f32], out: &mut [f32]) {
    let inv = 1.0 / (l.dot16(x, x) + L2_EPS).sqrt();
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * inv;
    }
}
