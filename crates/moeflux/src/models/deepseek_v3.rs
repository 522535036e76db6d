//! DeepSeek-V3, R1, Kimi-K2, K2.5, GLM-4.7-Flash and what shares their form: latent attention,
//! plain MLPs in the first layers, then experts routed by groups and corrected sigmoid scores
//! beside shared ones.
//!
//! Reference: `transformers/models/deepseek_v3/modeling_deepseek_v3.py`.

use moeflux_kernels::{RopeStyle, Scores};

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, first_dense, groups};
use super::latent::LatentAttention;
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(config: &Config) -> Result<Blueprint, Error> {
    let text = config.section("text_config");
    let text = text.unwrap_or_else(|| config.clone());
    let c = &text;
    c.require_text("hidden_act", "silu")?;
    c.require_text("scoring_func", "sigmoid")?;
    c.require_text("topk_method", "noaux_tc")?;
    if c.size_or("moe_layer_freq", 1)? != 1 {
        return Err(c.error("moe_layer_freq", "is not 1, which is not supported"));
    }
    let style = match c.bool_or("rope_interleave", true)? {
        true => RopeStyle::Interleaved,
        false => RopeStyle::HalfSplit,
    };
    let decoder = Decoder::read(c, 1e-6)?;
    let model_type = config.text("model_type").unwrap_or_default();
    let attention = LatentAttention::read(c, style)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", true)?,
    };
    check_top_k(c, &routed)?;
    let groups = groups(c, &routed, Scores::Sigmoid)?;
    let default_dense = if model_type == "glm4_moe_lite" { 1 } else { 3 };
    let (dense_layers, dense) = first_dense(c, default_dense)?;
    let shared = c.size_or("n_shared_experts", 1)? * routed.intermediate;
    let blueprint = decoder.build(
        decoder.builder(VectorFold::None),
        (model_type, routed.top_k),
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
    let mut blueprint = blueprint.without_extra_layers(c.count_or("num_nextn_predict_layers", 0)?);
    if model_type == "kimi_k25" {
        blueprint.prefixes = &["language_model.model.", "model."];
        let vision = ["vision_tower.", "mm_projector."];
        let vision = vision.map(|start| (start.to_owned(), "vision tower"));
        blueprint.skipped.extend(vision);
    }
    Ok(blueprint)
}
