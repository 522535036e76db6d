//! The gated delta rule: linear attention with a decaying state that is corrected token by token.

mod recurrence;

use std::cell::RefCell;

use crate::{Cpu, KernelError, check, disjoint::Disjoint, lines::Lines, math};
use recurrence::{Head, Part};

/// Which key head a value head reads. Both occur: checkpoints repeat each key head for
/// neighbouring value heads, some file formats reorder the value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadOrder {
    /// Neighbouring value heads share a key head: h / (value_heads / key_heads).
    Grouped,
    /// Key heads repeat as a whole: h mod key_heads.
    Tiled,
}

/// By what the state of a gated delta layer decays, with x = a + dt_bias.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Decay {
    /// One factor a value head: exp(-exp(a_log) * softplus(x)).
    #[default]
    Head,
    /// One a key element of each head, of the same form.
    Key,
    /// One a key element of each head whose logarithm is bounded by the number, which is negative:
    /// exp(bound * sigmoid(exp(a_log) * x)).
    BoundedKey(f32),
}

impl Decay {
    /// The factor for `x` where `rate` is exp(a_log).
    #[inline(always)]
    pub(crate) fn factor(self, rate: f32, x: f32) -> f32 {
        match self {
            Decay::Head | Decay::Key => math::exp(0.0 - rate * math::softplus(x)),
            Decay::BoundedKey(bound) => math::exp(bound * math::sigmoid(rate * x)),
        }
    }
}

/// Shape of a gated delta layer.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// By what the state decays.
    pub decay: Decay,
}

impl DeltaShape {
    /// The key head that a value head reads.
    pub(crate) fn key_head(&self, value_head: usize) -> usize {
        match self.head_order {
            HeadOrder::Grouped => value_head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => value_head % self.key_heads,
        }
    }

    /// Decay inputs of a value head.
    pub fn head_decays(&self) -> usize {
        match self.decay {
            Decay::Head => 1,
            Decay::Key | Decay::BoundedKey(_) => self.key_dim,
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
    /// Decay inputs, `[n, value_heads]`, or `[n, value_heads, key_dim]` where key elements decay by
    /// themselves.
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
    let decays = check::product(&[value_heads, shape.head_decays()]);
    check::size(OP, "dt_bias", decays, dt_bias.len())?;
    for span in spans {
        check::multiple(OP, "qkv", span.qkv.len(), shape.qkv_width())?;
        let n = span.qkv.len() / shape.qkv_width();
        check::size(OP, "a", check::product(&[n, decays]), span.a.len())?;
        check::size(OP, "b", check::product(&[n, value_heads]), span.b.len())?;
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
    /// token does: mem = S' k; delta = (v - g mem) * beta; S = (S g) + k delta'; out = S' q, all
    /// sums by fused multiply-adds over the key elements in order; g may also be bounded, as
    /// [`Decay::BoundedKey`] says. Where each key element j has a factor g_j of its own:
    /// mem = S' (k g), delta = (v - mem) * beta, and row j of S times g_j.
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
        let heads = spans.len() * shape.value_heads;
        let decays = shape.head_decays();
        let stream = heads * shape.key_dim * shape.value_dim * size_of::<f32>() >= STREAM_BYTES;
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
        // Whole heads, unless threads would idle.
        let width = match heads >= 2 * self.pool.threads() {
            true => shape.value_dim,
            false => PART.min(shape.value_dim),
        };
        let parts = shape.value_dim.div_ceil(width);
        self.split(heads * parts, 1, &|first, end| {
            SCRATCH.with_borrow_mut(|scratch| {
                for task in first..end {
                    let (head, start) = (task / parts % shape.value_heads, task % parts * width);
                    self.backend.run(Part {
                        span: &spans[task / parts / shape.value_heads],
                        head: Head {
                            shape,
                            head,
                            rate: math::exp(a_log[head]),
                            dt_bias: &dt_bias[head * decays..][..decays],
                        },
                        start,
                        end: shape.value_dim.min(start + width),
                        stream,
                        scratch,
                    });
                }
            });
        });
        Ok(())
    }
}

/// Value elements of the smallest task.
const PART: usize = 64;
/// States from this size on are written around the caches: by the time that they are read again,
/// other layers' have taken their place, and a line need not be read to be written.
const STREAM_BYTES: usize = 1 << 20;

struct Span<'a> {
    qkv: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    state: &'a [f32],
    next_state: Disjoint<'a, f32>,
    out: Disjoint<'a, f32>,
}

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Queries and keys of some tokens, normalized, `[tokens, 2, key_dim]`.
    keys: Lines<f32>,
    /// Where key elements decay by themselves: keys times factors, and factors, shaped as `keys`.
    decays: Lines<f32>,
    /// Decay (of the head) and write strength of each of them.
    gates: Vec<(f32, f32)>,
    /// The state of a part between tokens, block by block.
    state: Lines<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}
