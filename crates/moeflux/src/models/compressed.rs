//! Attention to a window of positions and, beside it, to entries that stand for windows of positions
//! further back: all of them, or those that an index of its own ranks best.
//!
//! Keys are the values too, of one head; results are turned back by their own position. Reference:
//! `transformers/models/deepseek_v4/modeling_deepseek_v4.py`.

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, CompressShape, HeadRows, IndexShape, RopeStyle};

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use super::rotation::Rotation;
use crate::graph::{BufferId, EntryForm, EntryOp, Op, StateDecl, StateId};

/// What a layer sees beyond its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing.
    Nothing,
    /// All entries.
    Entries,
    /// The entries that its index ranks best; windows of entries overlap.
    Indexed,
}

/// The attention layers of a model.
pub(super) struct CompressedAttention {
    pub heads: usize,
    pub head_dim: usize,
    /// Elements of the latent that queries are made of.
    pub query_rank: usize,
    /// Positions of the window.
    pub window: usize,
    /// Groups of heads whose results are projected by themselves, and what each becomes.
    pub out_groups: usize,
    pub out_rank: usize,
    /// Of layers that see nothing beyond their window, and of the others.
    pub plain: Rotation,
    pub compressed: Rotation,
    /// Positions of an entry, where all are seen and where they are ranked.
    pub rate: usize,
    pub indexed_rate: usize,
    /// Heads of the index, elements of one, and entries that a token sees.
    pub index_heads: usize,
    pub index_dim: usize,
    pub index_top_k: usize,
}

/// A layer's input and the latent of its queries.
#[derive(Clone, Copy)]
struct Inputs {
    x: BufferId,
    latent: BufferId,
}

impl CompressedAttention {
    /// Emits a layer; its weights' names begin with `name`.
    pub(super) fn emit(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        (name, beyond): (&str, Beyond),
    ) -> BufferId {
        let rotation = match beyond {
            Beyond::Nothing => &self.plain,
            Beyond::Entries | Beyond::Indexed => &self.compressed,
        };
        let [latent, kv] = b.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.wq_a"), self.query_rank, "q down"),
                (format!("{name}.wkv"), self.head_dim, "kv"),
            ],
        );
        let norm = format!("{name}.q_norm.weight");
        let latent = b.rms_norm(latent, norm, self.query_rank, "q latent");
        let kv = b.rms_norm(
            kv,
            format!("{name}.kv_norm.weight"),
            self.head_dim,
            "kv normed",
        );
        let width = self.heads * self.head_dim;
        let q_b = (format!("{name}.wq_b"), width, "q");
        let [q] = b.project(latent, MatrixClass::Dense, [q_b]);
        let normed = b.graph.buffer("q normed", width);
        b.graph.push(Op::RmsNormalize {
            x: q,
            len: self.head_dim,
            eps: b.eps,
            out: normed,
        });
        let q = turn(b, normed, self.head_dim, rotation, false);
        let kv = turn(b, kv, self.head_dim, rotation, false);
        let attended = self.attended(b, (q, kv), Inputs { x, latent }, (name, beyond));
        let back = turn(b, attended, self.head_dim, rotation, true);
        self.projected(b, back, name)
    }

    /// Keeps keys and attends.
    fn attended(
        &self,
        b: &mut BlueprintBuilder,
        (q, kv): (BufferId, BufferId),
        inputs: Inputs,
        (name, beyond): (&str, Beyond),
    ) -> BufferId {
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: 1,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window: Some(self.window),
        };
        let sinks = format!("{name}.attn_sink");
        let sinks = Some(b.vector(sinks, &[self.heads], VectorFold::None));
        let rate = match beyond {
            Beyond::Nothing => return b.attention_with((q, kv, kv), shape, sinks),
            Beyond::Entries => self.rate,
            Beyond::Indexed => self.indexed_rate,
        };
        let compress = CompressShape {
            rate,
            dim: self.head_dim,
            overlaps: beyond == Beyond::Indexed,
        };
        let compressor = format!("{name}.compressor");
        let entries = self.entries(b, inputs.x, &compressor, compress);
        let chosen =
            (beyond == Beyond::Indexed).then(|| self.chosen(b, inputs, &format!("{name}.indexer")));
        let state = b.state(StateDecl::KeyValue {
            kv_heads: 1,
            head_dim: self.head_dim,
            window: Some(self.window),
            is_joint: true,
            stride: 1,
        });
        b.graph.push(Op::KvAppend {
            k: kv,
            v: kv,
            state,
        });
        let out = b.graph.buffer("attended", self.heads * self.head_dim);
        b.graph.push(Op::Entries(EntryOp::SparseAttention {
            q,
            state,
            entries,
            rate,
            chosen,
            shape,
            sinks,
            out,
        }));
        out
    }

    /// The cache of entries, with those that the step completes.
    fn entries(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
        shape: CompressShape,
    ) -> StateId {
        let width = shape.width();
        let values = (format!("{name}.wkv"), width, "entry values");
        let [values] = b.project(x, MatrixClass::Dense, [values]);
        let gates = (format!("{name}.wgate"), width, "entry gates");
        let [gates] = b.project(x, MatrixClass::Sensitive, [gates]);
        let state = b.state(StateDecl::Recurrent {
            len: shape.state_len(),
        });
        let entries = b.state(StateDecl::entries(shape.dim, shape.rate));
        let bias = [shape.rate, width];
        let form = EntryForm {
            shape,
            bias: Some(b.vector(format!("{name}.ape"), &bias, VectorFold::None)),
            norm: Some(b.vector(
                format!("{name}.norm.weight"),
                &[shape.dim],
                VectorFold::None,
            )),
            eps: b.eps,
            inv_freq: Arc::clone(&self.compressed.inv_freq),
            style: RopeStyle::InterleavedTail,
            attention_scale: self.compressed.attention_scale,
        };
        b.graph.push(Op::Entries(EntryOp::Compress {
            values,
            gates: Some(gates),
            state,
            entries,
            form,
        }));
        entries
    }

    /// The entries that each token attends to.
    fn chosen(&self, b: &mut BlueprintBuilder, inputs: Inputs, name: &str) -> BufferId {
        let shape = CompressShape {
            rate: self.indexed_rate,
            dim: self.index_dim,
            overlaps: true,
        };
        let entries = self.entries(b, inputs.x, &format!("{name}.compressor"), shape);
        let width = self.index_heads * self.index_dim;
        let q = (format!("{name}.wq_b"), width, "index q");
        let [q] = b.project(inputs.latent, MatrixClass::Dense, [q]);
        let q = turn(b, q, self.index_dim, &self.compressed, false);
        let weights = format!("{name}.weights_proj");
        let weights = (weights, self.index_heads, "index weights");
        let [weights] = b.project(inputs.x, MatrixClass::Sensitive, [weights]);
        let out = b.graph.buffer("entries chosen", self.index_top_k);
        b.graph.push(Op::Entries(EntryOp::Choose {
            q,
            weights: Some(weights),
            entries,
            shape: IndexShape {
                heads: self.index_heads,
                dim: self.index_dim,
                rate: self.indexed_rate,
                top_k: self.index_top_k,
            },
            out,
        }));
        out
    }

    /// The layer's output: groups of heads by themselves, then together.
    fn projected(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let rows = self.out_groups * self.out_rank;
        let cols = self.heads * self.head_dim / self.out_groups;
        let weight = b.matrix(format!("{name}.wo_a"), rows, cols, MatrixClass::Dense);
        let out = b.graph.buffer("attention groups", rows);
        b.graph.push(Op::HeadMatmul {
            x,
            weight,
            shape: HeadRows {
                heads: self.out_groups,
                stride: self.out_rank,
                first: 0,
                rows: self.out_rank,
                transposed: false,
            },
            out,
        });
        let wo_b = (format!("{name}.wo_b"), b.hidden, "attention out");
        let [out] = b.project(out, MatrixClass::Dense, [wo_b]);
        out
    }
}

/// Rotates the last elements of each head by its position, or back.
fn turn(
    b: &mut BlueprintBuilder,
    x: BufferId,
    head_dim: usize,
    rotation: &Rotation,
    back: bool,
) -> BufferId {
    let inv_freq = match back {
        false => Arc::clone(&rotation.inv_freq),
        true => rotation.inv_freq.iter().map(|f| -f).collect(),
    };
    let width = b.graph.width(x);
    let out = b.graph.buffer("rotated", width);
    b.graph.push(Op::Rope {
        x,
        heads: width / head_dim,
        head_dim,
        inv_freq,
        attention_scale: rotation.attention_scale,
        style: RopeStyle::InterleavedTail,
        out,
    });
    out
}
