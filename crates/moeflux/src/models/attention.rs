//! Softmax attention with grouped queries and rotary positions, in the variants that architectures
//! have in common.

use std::sync::Arc;

use moeflux_kernels::AttentionShape;

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
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
    /// Factor on sine and cosine of the rotation.
    pub attention_scale: f32,
    /// Whether the output has a bias too, and each head a score without a value.
    pub has_sinks: bool,
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
            attention_scale: 1.0,
            has_sinks: false,
        })
    }

    /// Emits the layer; its weights' names begin with `name`.
    pub(super) fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        self.emit_within(b, x, name, None)
    }

    /// The same, seeing the last positions only if there is a window.
    pub(super) fn emit_within(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
        window: Option<usize>,
    ) -> BufferId {
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
        let rotation = (&self.inv_freq, self.attention_scale);
        let q = b.rope_scaled(q, self.head_dim, rotation);
        let k = b.rope_scaled(k, self.head_dim, rotation);
        let shape = AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window,
        };
        let sinks = self.has_sinks.then(|| {
            let name = format!("{name}.sinks");
            b.vector(name, &[self.heads], VectorFold::None)
        });
        let attended = b.attention_with((q, k, v), shape, sinks);
        let hidden = b.hidden;
        let [out] = b.project(
            attended,
            MatrixClass::Dense,
            [(format!("{name}.o_proj"), hidden, "attention out")],
        );
        match self.has_sinks {
            true => b.add_bias(out, format!("{name}.o_proj.bias"), "attention out biased"),
            false => out,
        }
    }
}
