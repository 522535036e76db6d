//! Kimi delta attention: the gated delta rule where each element of a key decays by itself.
//!
//! Kimi Linear: arXiv 2510.26692.

use moeflux_kernels::{Decay, DeltaShape, HeadOrder, Piece};

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use crate::graph::{BufferId, Op, StateDecl};

/// A layer of delta attention; queries, keys and values have the same heads.
pub(super) struct DeltaAttention {
    pub heads: usize,
    pub head_dim: usize,
    /// Taps of the convolutions.
    pub conv_kernel: usize,
    pub decay: Decay,
    /// Shape of `A_log` in the checkpoint.
    pub a_log_shape: Vec<usize>,
}

impl DeltaAttention {
    /// Emits the layer; its weights' names begin with `name`.
    pub(super) fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let width = self.heads * self.head_dim;
        let qkv = self.convolved(b, x, name);
        let [decay, beta] = b.project(
            x,
            MatrixClass::Sensitive,
            [
                (format!("{name}.f_a_proj"), self.head_dim, "decay down"),
                (format!("{name}.b_proj"), self.heads, "b"),
            ],
        );
        let f_b = format!("{name}.f_b_proj");
        let [decay] = b.project(decay, MatrixClass::Sensitive, [(f_b, width, "a")]);
        let a_log = format!("{name}.A_log");
        let a_log = b.vector(a_log, &self.a_log_shape, VectorFold::None);
        let dt_bias = b.vector(format!("{name}.dt_bias"), &[width], VectorFold::None);
        let state = b.state(StateDecl::Recurrent {
            len: width * self.head_dim,
        });
        let out = b.graph.buffer("delta out", width);
        b.graph.push(Op::GatedDelta {
            qkv,
            a: decay,
            b: beta,
            a_log,
            dt_bias,
            state,
            shape: self.shape(),
            out,
        });
        let gated = self.gated(b, (x, out), name);
        let hidden = b.hidden;
        let o_proj = format!("{name}.o_proj");
        let [out] = b.project(gated, MatrixClass::Dense, [(o_proj, hidden, "mixer out")]);
        out
    }

    fn shape(&self) -> DeltaShape {
        DeltaShape {
            key_heads: self.heads,
            value_heads: self.heads,
            key_dim: self.head_dim,
            value_dim: self.head_dim,
            head_order: HeadOrder::Grouped,
            decay: self.decay,
        }
    }

    /// `[q | k | v]`, each projected and convolved by itself.
    fn convolved(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let width = self.heads * self.head_dim;
        let projected = b.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.q_proj"), width, "q"),
                (format!("{name}.k_proj"), width, "k"),
                (format!("{name}.v_proj"), width, "v"),
            ],
        );
        let mut convolved = Vec::with_capacity(3);
        for (x, which) in projected.into_iter().zip(["q", "k", "v"]) {
            let weight = b.vector(
                format!("{name}.{which}_conv1d.weight"),
                &[width, 1, self.conv_kernel],
                VectorFold::TransposeConv,
            );
            let state = b.state(StateDecl::Recurrent {
                len: (self.conv_kernel - 1) * width,
            });
            let out = b.graph.buffer("convolved", width);
            b.graph.push(Op::Conv1dSilu {
                x,
                weight,
                state,
                channels: width,
                out,
            });
            convolved.push(out);
        }
        let whole = |input| Piece {
            input,
            start: 0,
            len: width,
        };
        b.rearrange(&convolved, (0..3).map(whole), "qkv convolved")
    }

    /// The results, normed by head and gated by a projection of the layer's input.
    fn gated(
        &self,
        b: &mut BlueprintBuilder,
        (x, out): (BufferId, BufferId),
        name: &str,
    ) -> BufferId {
        let width = self.heads * self.head_dim;
        let g_a = format!("{name}.g_a_proj");
        let [gate] = b.project(x, MatrixClass::Dense, [(g_a, self.head_dim, "gate down")]);
        let g_b = format!("{name}.g_b_proj");
        let [gate] = b.project(gate, MatrixClass::Dense, [(g_b, width, "gate")]);
        let norm = format!("{name}.o_norm.weight");
        let x = b.rms_norm(out, norm, self.head_dim, "delta normed");
        let gated = b.graph.buffer("delta gated", width);
        b.graph.push(Op::SigmoidMul {
            x,
            gate,
            out: gated,
        });
        gated
    }
}
