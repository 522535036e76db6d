//! GLM-4.5 and later (`glm4_moe`): attention with biases and partly rotated heads, plain MLPs in
//! the first layers, then experts routed by corrected sigmoid scores beside shared ones.
//!
//! Reference: `transformers/models/glm4_moe/modeling_glm4_moe.py`.

use moeflux_kernels::Scores;

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, first_dense, groups, rope_frequencies};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    let decoder = Decoder::read(c, 1e-5)?;
    let norm = match c.bool_or("use_qk_norm", false)? {
        true => QueryNorm::Heads,
        false => QueryNorm::None,
    };
    let rope = |head_dim| rope_frequencies(c, head_dim, Some(0.5));
    let attention = SelfAttention {
        biased: c.bool_or("attention_bias", false)?,
        ..SelfAttention::read(c, norm, rope)?
    };
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", true)?,
    };
    check_top_k(c, &routed)?;
    let groups = groups(c, &routed, Scores::Sigmoid)?;
    let (dense_layers, dense) = first_dense(c, 1)?;
    let shared = c.size_or("n_shared_experts", 1)? * routed.intermediate;
    let blueprint = decoder.build(
        decoder.builder(VectorFold::None),
        ("glm4_moe", routed.top_k),
        |b, x, _, name| attention.emit(b, x, &format!("{name}.self_attn")),
        |b, x, layer, name| {
            let name = format!("{name}.mlp");
            if layer < dense_layers {
                return b.mlp(x, &name, dense);
            }
            let bias = Some(format!("{name}.gate.e_score_correction_bias"));
            let chosen = b.route_grouped(x, layer, &name, (routed, groups), bias);
            b.shared_moe(chosen, &name, shared)
        },
    );
    Ok(blueprint.without_extra_layers(c.count_or("num_nextn_predict_layers", 0)?))
}
