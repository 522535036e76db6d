//! OLMoE: attention whose queries and keys are normed over all heads together, routed experts in
//! every layer.
//!
//! Reference: `transformers/models/olmoe/modeling_olmoe.py`.

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, refuse_true, refuse_window, rope_frequencies};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    refuse_window(c)?;
    if c.has("clip_qkv") {
        let problem = "is set; only attention without clipping is supported (null)";
        return Err(c.error("clip_qkv", problem));
    }
    let decoder = Decoder::read(c, 1e-5)?;
    let rope = |head_dim| rope_frequencies(c, head_dim, None);
    let attention = SelfAttention::read(c, QueryNorm::Whole, rope)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", false)?,
    };
    check_top_k(c, &routed)?;
    Ok(decoder.build(
        decoder.builder(VectorFold::None),
        ("olmoe", routed.top_k),
        |b, x, _, name| attention.emit(b, x, &format!("{name}.self_attn")),
        |b, x, layer, name| {
            let chosen = b.route(x, layer, &format!("{name}.mlp"), routed);
            b.experts(chosen)
        },
    ))
}
