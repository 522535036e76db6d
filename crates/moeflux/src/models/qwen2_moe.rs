//! Qwen2-MoE: attention with biases, routed experts and a gated shared one in most layers, a plain
//! MLP in others.
//!
//! Reference: `transformers/models/qwen2_moe/modeling_qwen2_moe.py`.

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{DenseLayers, check_top_k, expert_count, refuse_true, rope_frequencies};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "use_sliding_window")?;
    let decoder = Decoder::read(c, 1e-6)?;
    let rope = |head_dim| rope_frequencies(c, head_dim, None);
    let attention = SelfAttention {
        biased: c.bool_or("qkv_bias", true)?,
        ..SelfAttention::read(c, QueryNorm::None, rope)?
    };
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", false)?,
    };
    check_top_k(c, &routed)?;
    let shared = c.size("shared_expert_intermediate_size")?;
    let dense = DenseLayers::read(c, decoder.layers)?;
    Ok(decoder.build(
        decoder.builder(VectorFold::None),
        ("qwen2_moe", routed.top_k),
        |b, x, _, name| attention.emit(b, x, &format!("{name}.self_attn")),
        |b, x, layer, name| {
            let name = format!("{name}.mlp");
            match dense.intermediate(layer) {
                Some(intermediate) => b.mlp(x, &name, intermediate),
                None => b.gated_shared_moe(x, layer, &name, routed, shared),
            }
        },
    ))
}
