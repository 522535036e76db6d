//! Softmax attention with grouped queries and rotary positions, in the variants that architectures
//! have in common.

use std::sync::Arc;

use super::blueprint::{BlueprintBuilder, MatrixClass};
use super::fields::check_heads;
use crate::Error;
use crate::config::Config;
use crate::graph::BufferId;

/// Over what queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryNorm {
    /// Not at all.
    None,
    /// Each head by itself; the weight has the length of a head.
    Heads,
    /// All heads of a token together.
    Whole,
}

/// An attention layer.
pub(super) struct SelfAttention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inv_freq: Arc<[f32]>,
    pub norm: QueryNorm,
    /// Whether queries, keys and values have biases.
    pub biased: bool,
}

impl SelfAttention {
    /// Heads as most configurations name them, checked; `rope` makes the frequencies for a head's
    /// size.
    pub(super) fn read(
        c: &Config,
        norm: QueryNorm,
        rope: impl FnOnce(usize) -> Result<Arc<[f32]>, Error>,
    ) -> Result<SelfAttention, Error> {
        let heads = c.size("num_attention_heads")?;
        let kv_heads = c.size_or("num_key_value_heads", heads)?;
        check_heads(c, "num_attention_heads", heads, kv_heads)?;
        let head_dim = c.size_or("head_dim", c.size("hidden_size")? / heads)?;
        Ok(SelfAttention {
            heads,
            kv_heads,
            head_dim,
            inv_freq: rope(head_dim)?,
            norm,
            biased: false,
        })
    }

    /// Emits the layer; its weights' names begin with `name`.
    pub(super) fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let (q_len, kv_len) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let [q, k, v] = b.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.q_proj"), q_len, "q"),
                (format!("{name}.k_proj"), kv_len, "k"),
                (format!("{name}.v_proj"), kv_len, "v"),
            ],
        );
        let (q, k, v) = match self.biased {
            false => (q, k, v),
            true => (
                b.add_bias(q, format!("{name}.q_proj.bias"), "q biased"),
                b.add_bias(k, format!("{name}.k_proj.bias"), "k biased"),
                b.add_bias(v, format!("{name}.v_proj.bias"), "v biased"),
            ),
        };
        let (q_piece, k_piece) = match self.norm {
            QueryNorm::Whole => (q_len, kv_len),
            QueryNorm::None | QueryNorm::Heads => (self.head_dim, self.head_dim),
        };
        let (q, k) = match self.norm {
            QueryNorm::None => (q, k),
            QueryNorm::Heads | QueryNorm::Whole => (
                b.rms_norm(q, format!("{name}.q_norm.weight"), q_piece, "q normed"),
                b.rms_norm(k, format!("{name}.k_norm.weight"), k_piece, "k normed"),
            ),
        };
        let q = b.rope(q, self.head_dim, &self.inv_freq);
        let k = b.rope(k, self.head_dim, &self.inv_freq);
        let attended = b.attention((q, k, v), self.heads, self.kv_heads, self.head_dim);
        let hidden = b.hidden;
        let [out] = b.project(
            attended,
            MatrixClass::Dense,
            [(format!("{name}.o_proj"), hidden, "attention out")],
        );
        out
    }
}
