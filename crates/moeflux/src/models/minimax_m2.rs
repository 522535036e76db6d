//! MiniMax-M2: attention whose queries and keys are normed over all heads together and partly
//! rotated, experts routed by corrected sigmoid scores in every layer.
//!
//! Reference: `transformers/models/minimax_m2/modeling_minimax_m2.py`.

use moeflux_kernels::Scores;

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, refuse_window, rope_frequencies_from};
use super::routing::{Groups, RoutedShape};
use crate::Error;
use crate::config::Config;

/// The base of the rotation where a configuration does not say.
const DEFAULT_ROPE_THETA: f64 = 5e6;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    c.require_text("scoring_func", "sigmoid")?;
    c.require_text("qk_norm_type", "per_layer")?;
    refuse_window(c)?;
    for field in ["use_qk_norm", "use_routing_bias"] {
        if !c.bool_or(field, true)? {
            return Err(c.error(field, "is false, which is not supported"));
        }
    }
    let kinds = c.indexes("attn_type_list")?;
    if let Some(kind) = kinds.iter().find(|&&kind| kind != 1) {
        let problem = format!("has {kind}; only full attention (1) is supported");
        return Err(c.error("attn_type_list", problem));
    }
    if c.count_or("shared_intermediate_size", 0)? != 0 {
        let problem = "is not 0; shared experts are not supported";
        return Err(c.error("shared_intermediate_size", problem));
    }
    let decoder = Decoder::read(c, 1e-6)?;
    let rope = |head_dim| {
        let rotated = c.size_or("rotary_dim", head_dim)? as f64 / head_dim as f64;
        rope_frequencies_from(c, head_dim, Some(rotated), DEFAULT_ROPE_THETA)
    };
    let attention = SelfAttention::read(c, QueryNorm::Whole, rope)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("intermediate_size")?,
        renormalize: true,
    };
    check_top_k(c, &routed)?;
    let groups = Groups {
        groups: 1,
        kept: 1,
        scores: Scores::Sigmoid,
        scale: 1.0,
    };
    let mut b = decoder.builder(VectorFold::None);
    b.expert_matrices = ["w1", "w3", "w2"];
    let blueprint = decoder.build(
        b,
        ("minimax_m2", routed.top_k),
        |b, x, _, name| attention.emit(b, x, &format!("{name}.self_attn")),
        |b, x, layer, name| {
            let name = format!("{name}.block_sparse_moe");
            let bias = Some(format!("{name}.e_score_correction_bias"));
            let chosen = b.route_grouped(x, layer, &name, (routed, groups), bias);
            b.experts(chosen)
        },
    );
    Ok(blueprint.without_extra_layers(c.count_or("num_mtp_modules", 0)?))
}
