//! Gated attention to the blocks of positions that an index ranks best, and to the positions behind
//! the last whole block.
//!
//! The index has one key for each block: the mean of its positions' keys, normed and rotated by
//! the block's first position. Reference: `transformers/models/qwen4_exp/modeling_qwen4_exp.py`.

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, CompressShape, IndexShape, Piece, RopeStyle};

use super::blueprint::{BlueprintBuilder, MatrixClass};
use super::hybrid::{Hybrid, gated_attention_by};
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, EntryForm, EntryOp, Op, StateDecl};

/// An index of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    heads: usize,
    dim: usize,
    /// Positions of a block.
    rate: usize,
    /// Blocks that a token attends to.
    top_k: usize,
}

impl Index {
    /// The fields that begin with `indexer_`; `rotated` elements of a head rotate.
    pub(super) fn read(c: &Config, rotated: usize) -> Result<Index, Error> {
        let (budget, rate) = (c.size("indexer_budget")?, c.size("indexer_compress_ratio")?);
        if !budget.is_multiple_of(rate) {
            let problem = format!("is {budget}, not a multiple of indexer_compress_ratio, {rate}");
            return Err(c.error("indexer_budget", problem));
        }
        if c.size("indexer_kv_heads")? != 1 {
            let problem = "is not 1; only one head of keys is supported";
            return Err(c.error("indexer_kv_heads", problem));
        }
        let dim = c.size("indexer_head_dim")?;
        if rotated > dim {
            let problem = format!("is {dim}, fewer than the {rotated} elements that rotate");
            return Err(c.error("indexer_head_dim", problem));
        }
        Ok(Index {
            heads: c.size("indexer_n_heads")?,
            dim,
            rate,
            top_k: budget / rate,
        })
    }

    /// Emits an attention layer; its weights' names begin with `name`.
    pub(super) fn emit(
        &self,
        b: &mut BlueprintBuilder,
        m: &Hybrid,
        x: BufferId,
        name: &str,
    ) -> BufferId {
        let chosen = self.chosen(b, (x, &m.inv_freq), &format!("{name}.indexer"));
        gated_attention_by(b, m, (x, name), |b, (q, k, v)| {
            let state = b.state(StateDecl::key_value(m.kv_heads, m.head_dim));
            b.graph.push(Op::KvAppend { k, v, state });
            let out = b.graph.buffer("attended", m.heads * m.head_dim);
            b.graph.push(Op::Entries(EntryOp::BlockAttention {
                q,
                state,
                chosen,
                rate: self.rate,
                shape: AttentionShape {
                    heads: m.heads,
                    kv_heads: m.kv_heads,
                    head_dim: m.head_dim,
                    scale: (1.0 / (m.head_dim as f64).sqrt()) as f32,
                    window: None,
                },
                out,
            }));
            out
        })
    }

    /// The blocks that each token attends to.
    fn chosen(
        &self,
        b: &mut BlueprintBuilder,
        (x, inv_freq): (BufferId, &Arc<[f32]>),
        name: &str,
    ) -> BufferId {
        let (dim, q_len) = (self.dim, self.heads * self.dim);
        let qk = (
            format!("{name}.index_qk_proj"),
            q_len + dim,
            "index q and k",
        );
        let [qk] = b.project(x, MatrixClass::Dense, [qk]);
        let part = |start, len| {
            std::iter::once(Piece {
                input: 0,
                start,
                len,
            })
        };
        let q = b.rearrange(&[qk], part(0, q_len), "index q");
        let values = b.rearrange(&[qk], part(q_len, dim), "index k");
        let norm = format!("{name}.q_layernorm.weight");
        let q = b.rms_norm(q, norm, dim, "index q normed");
        let q = b.rope(q, dim, inv_freq);
        let shape = CompressShape {
            rate: self.rate,
            dim,
            overlaps: false,
        };
        let state = b.state(StateDecl::Recurrent {
            len: shape.state_len(),
        });
        let entries = b.state(StateDecl::entries(dim, self.rate));
        let form = EntryForm {
            shape,
            bias: None,
            norm: Some(b.vector(format!("{name}.k_layernorm.weight"), &[dim], b.norm_fold)),
            eps: b.eps,
            inv_freq: Arc::clone(inv_freq),
            style: RopeStyle::HalfSplit,
            attention_scale: 1.0,
        };
        b.graph.push(Op::Entries(EntryOp::Compress {
            values,
            gates: None,
            state,
            entries,
            form,
        }));
        let out = b.graph.buffer("blocks chosen", self.top_k);
        b.graph.push(Op::Entries(EntryOp::Choose {
            q,
            weights: None,
            entries,
            shape: IndexShape {
                heads: self.heads,
                dim,
                rate: self.rate,
                top_k: self.top_k,
            },
            out,
        }));
        out
    }
}
