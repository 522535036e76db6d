//! Latent attention to the blocks of positions that an index ranks best, and to the positions
//! behind the last whole block: the index keeps one pooled key for each block.
//!
//! Reference: `transformers/models/glm5_next/modeling_glm5_next.py`.

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, CompressShape, IndexShape, RopeStyle};

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use super::fields::MOST_HEADS;
use super::latent::Latents;
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, EntryForm, EntryOp, Op, StateDecl};

/// Of the norm of keys, whatever that of the other norms is.
const KEY_EPS: f32 = 1e-6;

/// An index of blocks.
pub(super) struct BlockIndex {
    /// Heads of its queries, and elements of one.
    heads: usize,
    dim: usize,
    /// Positions of a block.
    rate: usize,
    /// Blocks that a token sees.
    top_k: usize,
}

impl BlockIndex {
    /// `index_n_heads`, `index_head_dim`, `index_topk` and `index_kpool`.
    pub(super) fn read(c: &Config) -> Result<BlockIndex, Error> {
        const TAIL: &str = "index_kpool_always_select_tail";
        if !c.bool_or(TAIL, true)? {
            return Err(c.error(TAIL, "is false, which is not supported"));
        }
        let (positions, rate) = (c.size("index_topk")?, c.size_or("index_kpool", 16)?);
        if !positions.is_multiple_of(rate) {
            let problem = format!("is {positions}, not a multiple of index_kpool, {rate}");
            return Err(c.error("index_topk", problem));
        }
        Ok(BlockIndex {
            heads: c.size_up_to("index_n_heads", MOST_HEADS)?,
            dim: c.size("index_head_dim")?,
            rate,
            top_k: positions / rate,
        })
    }

    /// Emits the index of a layer whose input is `x`, its weights' names beginning with `name`;
    /// queries are made of `latent`. Gives the blocks that each token attends to.
    ///
    /// The published scores have positive factors, which change no order and are left out.
    pub(super) fn chosen(
        &self,
        b: &mut BlueprintBuilder,
        (x, latent): (BufferId, BufferId),
        name: &str,
    ) -> BufferId {
        let shape = CompressShape {
            rate: self.rate,
            dim: self.dim,
            overlaps: false,
        };
        let keys = self.keys(b, x, name);
        let weights = format!("{name}.weights_proj");
        let gates = format!("{name}.index_kpool_compress_gate");
        let [weights, gates] = b.project(
            x,
            MatrixClass::Sensitive,
            [
                (weights, self.heads, "index weights"),
                (gates, self.dim, "entry gates"),
            ],
        );
        let state = b.state(StateDecl::Recurrent {
            len: shape.state_len(),
        });
        let entries = b.state(StateDecl::entries(self.dim, self.rate));
        let bias = format!("{name}.index_kpool_compress_ape");
        let form = EntryForm {
            shape,
            bias: Some(b.vector(bias, &[self.rate, self.dim], VectorFold::None)),
            norm: None,
            eps: b.eps,
            inv_freq: Arc::new([0.0_f32; 0]),
            style: RopeStyle::HalfSplit,
            attention_scale: 1.0,
        };
        b.graph.push(Op::Entries(EntryOp::Compress {
            values: keys,
            gates: Some(gates),
            state,
            entries,
            form,
        }));
        let q = (
            format!("{name}.wq_b"),
            self.heads * self.dim,
            "index queries",
        );
        let [q] = b.project(latent, MatrixClass::Dense, [q]);
        let out = b.graph.buffer("blocks chosen", self.top_k);
        b.graph.push(Op::Entries(EntryOp::Choose {
            q,
            weights: Some(weights),
            entries,
            shape: IndexShape {
                heads: self.heads,
                dim: self.dim,
                rate: self.rate,
                top_k: self.top_k,
            },
            out,
        }));
        out
    }

    /// Keys of positions, normed.
    fn keys(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let keys = (format!("{name}.wk"), self.dim, "index keys");
        let [keys] = b.project(x, MatrixClass::Dense, [keys]);
        let part = |b: &mut BlueprintBuilder, part: &str| {
            let name = format!("{name}.k_norm.{part}");
            b.vector(name, &[self.dim], VectorFold::None)
        };
        let weight_and_bias = [part(b, "weight"), part(b, "bias")];
        let out = b.graph.buffer("index keys normed", self.dim);
        b.graph.push(Op::LayerNorm {
            x: keys,
            weight_and_bias,
            eps: KEY_EPS,
            out,
        });
        out
    }

    /// Keeps keys and attends to the `chosen` blocks.
    pub(super) fn attend(
        &self,
        b: &mut BlueprintBuilder,
        latents: Latents,
        shape: AttentionShape,
        chosen: BufferId,
    ) -> BufferId {
        let state = b.state(StateDecl::KeyValue {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            window: None,
            is_joint: true,
            stride: 1,
        });
        b.graph.push(Op::KvAppend {
            k: latents.key,
            v: latents.key,
            state,
        });
        let out = b.graph.buffer("attended", shape.heads * shape.head_dim);
        b.graph.push(Op::Entries(EntryOp::BlockAttention {
            q: latents.query,
            state,
            chosen,
            rate: self.rate,
            shape,
            out,
        }));
        out
    }
}
