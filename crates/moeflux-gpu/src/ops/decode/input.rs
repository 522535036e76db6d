//! What a product's vector is made of.

use super::super::check::{holds, positive, product};
use crate::matrix::Form;
use crate::{GpuError, Param, View};

/// Elements that workgroup memory takes at a time.
const STAGED: usize = 4096;

/// A vector of each token, `[tokens, cols]`, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// As it is.
    Plain(View<'a>),
    /// Normed as a whole.
    Norm {
        /// `[tokens, cols]`.
        x: View<'a>,
        /// `[cols]`.
        weight: View<'a>,
        /// Added to the mean square.
        eps: f32,
    },
    /// Normed in pieces, then times `silu(gate)`.
    GatedNorm {
        /// `[tokens, cols]`.
        x: View<'a>,
        /// `[tokens, cols]`.
        gate: View<'a>,
        /// `[len]`.
        weight: View<'a>,
        /// Elements of a piece.
        len: usize,
        /// Added to the mean square.
        eps: f32,
    },
    /// `x * sigmoid(gate)`.
    SigmoidMul {
        /// `[tokens, cols]`.
        x: View<'a>,
        /// `[tokens, cols]`, or the second halves of `[tokens, heads, 2, len]`.
        gate: View<'a>,
        /// That `len`.
        pairs: Option<usize>,
    },
    /// `silu(gate) * up`.
    Swiglu {
        /// `[tokens, cols]`.
        gate: View<'a>,
        /// `[tokens, cols]`.
        up: View<'a>,
    },
}

/// The same without the buffers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Plain,
    Norm,
    /// With the length of a piece.
    GatedNorm(usize),
    /// With the length of a pair's half, or 0.
    SigmoidMul(usize),
    Swiglu,
}

impl Kind {
    /// One of each, for checking translations.
    pub(super) const ALL: [Kind; 6] = [
        Kind::Plain,
        Kind::Norm,
        Kind::GatedNorm(128),
        Kind::SigmoidMul(0),
        Kind::SigmoidMul(256),
        Kind::Swiglu,
    ];

    /// Elements that are staged at a time.
    pub(super) fn staged(self, cols: usize) -> usize {
        cols.next_multiple_of(32).min(STAGED)
    }

    /// Buffers that are bound besides `x`.
    pub(super) fn besides(self) -> usize {
        match self {
            Kind::Plain => 0,
            Kind::GatedNorm(_) => 2,
            Kind::Norm | Kind::SigmoidMul(_) | Kind::Swiglu => 1,
        }
    }

    /// What `stage.wgsl` needs to know, for a workgroup of so many threads.
    pub(super) fn params(self, cols: usize, threads: u32) -> Vec<Param> {
        let staged = self.staged(cols) as u32;
        let mut params = vec![("STAGED", staged), ("KEPT", (staged / 4).div_ceil(threads))];
        match self {
            Kind::Plain => {}
            Kind::Norm => params.extend([("SQUARES", 1), ("HAS_NORM", 1)]),
            Kind::GatedNorm(len) => {
                let parts = if len.is_multiple_of(32) { 8 } else { 1 };
                params.extend([("GATED_NORM", 1), ("HAS_NORM", 1), ("HAS_GATE", 1)]);
                params.extend([("HEAD", len as u32), ("HEAD_PARTS", parts)]);
            }
            Kind::SigmoidMul(pairs) => {
                let pairs = ("PAIRS", pairs as u32);
                params.extend([("SIGMOID", 1), ("HAS_GATE", 1), ("GATE_ALONE", 1), pairs]);
            }
            Kind::Swiglu => params.extend([("SWIGLU", 1), ("HAS_GATE", 1), ("GATE_ALONE", 1)]),
        }
        params
    }
}

/// Whether a vector of `cols` elements can be normed in pieces of `len` on its way.
pub(crate) fn has_pieces(cols: usize, len: usize) -> bool {
    len > 0
        && len.is_multiple_of(4)
        && cols.is_multiple_of(len)
        && (cols <= STAGED || STAGED.is_multiple_of(len))
}

impl<'a> Input<'a> {
    pub(super) fn kind(&self) -> Kind {
        match *self {
            Input::Plain(_) => Kind::Plain,
            Input::Norm { .. } => Kind::Norm,
            Input::GatedNorm { len, .. } => Kind::GatedNorm(len),
            Input::SigmoidMul { pairs, .. } => Kind::SigmoidMul(pairs.unwrap_or(0)),
            Input::Swiglu { .. } => Kind::Swiglu,
        }
    }

    /// What is bound as `x`, and what besides, in order.
    pub(super) fn views(&self) -> (View<'a>, Vec<View<'a>>) {
        match *self {
            Input::Plain(x) => (x, vec![]),
            Input::Norm { x, weight, .. } => (x, vec![weight]),
            Input::GatedNorm {
                x, gate, weight, ..
            } => (x, vec![weight, gate]),
            Input::SigmoidMul { x, gate, .. } => (x, vec![gate]),
            Input::Swiglu { gate, up } => (gate, vec![up]),
        }
    }

    pub(super) fn eps(&self) -> f32 {
        match *self {
            Input::Norm { eps, .. } | Input::GatedNorm { eps, .. } => eps,
            _ => 0.0,
        }
    }

    /// Requires views that hold the vectors of `tokens` tokens for matrices of this form.
    pub(super) fn check(
        &self,
        op: &'static str,
        tokens: usize,
        form: &Form,
    ) -> Result<(), GpuError> {
        let len = product(op, &[tokens, form.cols, 2])? as usize / 2;
        let (x, _) = self.views();
        holds(op, "x", &x, len)?;
        match self {
            Input::Plain(_) => Ok(()),
            Input::Norm { weight, .. } => holds(op, "a norm", weight, form.cols),
            Input::GatedNorm {
                gate,
                weight,
                len: piece,
                ..
            } => {
                positive(op, "a piece", usize::from(has_pieces(form.cols, *piece)))?;
                holds(op, "a norm", weight, *piece)?;
                holds(op, "a gate", gate, len)
            }
            Input::SigmoidMul { gate, pairs, .. } => {
                positive(op, "a pair", pairs.map_or(4, |p| usize::from(p % 4 == 0)))?;
                holds(op, "a gate", gate, len * (1 + usize::from(pairs.is_some())))
            }
            Input::Swiglu { up, .. } => holds(op, "up", up, len),
        }
    }
}
