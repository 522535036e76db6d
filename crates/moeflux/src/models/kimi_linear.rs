//! Kimi-Linear: three layers of delta attention to one of latent attention without positions, a
//! plain MLP in the first layers, then experts routed by corrected sigmoid scores beside shared
//! ones.
//!
//! Reference: `transformers/models/kimi_linear/modeling_kimi_linear.py`.

use moeflux_kernels::{Decay, Scores};

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{MOST_HEADS, check_top_k, expert_count, first_dense, groups_of, token_count};
use super::kda::DeltaAttention;
use super::latent::LatentAttention;
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    c.require_text("moe_router_activation_func", "sigmoid")?;
    if !c.bool_or("mla_use_nope", true)? {
        return Err(c.error("mla_use_nope", "is false, which is not supported"));
    }
    if c.size_or("moe_layer_freq", 1)? != 1 {
        return Err(c.error("moe_layer_freq", "is not 1, which is not supported"));
    }
    let mut decoder = Decoder::read(c, 1e-5)?;
    if c.has("model_max_length") {
        decoder.context_tokens = token_count(c, "model_max_length")?;
    }
    let latent = LatentAttention::read_unrotated(c)?;
    let missing = || {
        c.error(
            "linear_attn_config",
            "is missing; it says which layers are which",
        )
    };
    let linear = c.section("linear_attn_config").ok_or_else(missing)?;
    let heads = linear.size_up_to("num_heads", MOST_HEADS)?;
    let delta = DeltaAttention {
        heads,
        head_dim: linear.size("head_dim")?,
        conv_kernel: linear.size_or("short_conv_kernel_size", 4)?,
        decay: Decay::Key,
        a_log_shape: vec![1, 1, heads, 1],
    };
    let is_latent = latent_layers(&linear, decoder.layers)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_token")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("moe_renormalize", true)?,
    };
    check_top_k(c, &routed)?;
    let groups = groups_of(c, "num_expert_group", &routed, Scores::Sigmoid)?;
    let (dense_layers, dense) = first_dense(c, 1)?;
    let shared = c.size_or("num_shared_experts", 1)? * routed.intermediate;
    let mut b = decoder.builder(VectorFold::None);
    b.expert_matrices = ["w1", "w3", "w2"];
    let blueprint = decoder.build(
        b,
        ("kimi_linear", routed.top_k),
        |b, x, layer, name| {
            let name = format!("{name}.self_attn");
            match is_latent[layer] {
                true => latent.emit(b, x, &name),
                false => delta.emit(b, x, &name),
            }
        },
        |b, x, layer, name| {
            if layer < dense_layers {
                return b.mlp(x, &format!("{name}.mlp"), dense);
            }
            let name = format!("{name}.block_sparse_moe");
            let bias = Some(format!("{name}.gate.e_score_correction_bias"));
            let chosen = b.route_grouped(x, layer, &name, (routed, groups), bias);
            b.shared_moe(chosen, &name, shared)
        },
    );
    Ok(blueprint.without_extra_layers(c.count_or("num_nextn_predict_layers", 0)?))
}

/// For each layer whether it is one of latent attention; the lists count layers from one.
fn latent_layers(linear: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let (full, delta) = (
        linear.indexes("full_attn_layers")?,
        linear.indexes("kda_layers")?,
    );
    (1..=layers)
        .map(
            |layer| match (full.contains(&layer), delta.contains(&layer)) {
                (true, false) => Ok(true),
                (false, true) => Ok(false),
                _ => {
                    let problem = format!("and kda_layers must list layer {layer} once together");
                    Err(linear.error("full_attn_layers", problem))
                }
            },
        )
        .collect()
}
