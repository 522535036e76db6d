//! DeepSeek-V2 and V2-Lite: latent attention, plain MLPs in the first layers, then experts routed
//! by softmax, in groups or not, beside shared ones.
//!
//! Reference: `transformers/models/deepseek_v2/modeling_deepseek_v2.py`.

use moeflux_kernels::{RopeStyle, Scores};

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, first_dense, groups, refuse_true};
use super::latent::LatentAttention;
use super::routing::{Groups, RoutedShape};
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    c.require_text("scoring_func", "softmax")?;
    refuse_true(c, "norm_topk_prob")?;
    refuse_true(c, "mlp_bias")?;
    if c.size_or("moe_layer_freq", 1)? != 1 {
        return Err(c.error("moe_layer_freq", "is not 1, which is not supported"));
    }
    let decoder = Decoder::read(c, 1e-6)?;
    let attention = LatentAttention::read(c, RopeStyle::Interleaved)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: false,
    };
    check_top_k(c, &routed)?;
    let groups = match c.text("topk_method").unwrap_or("greedy") {
        "group_limited_greedy" => groups(c, &routed, Scores::Softmax)?,
        "greedy" => Groups {
            groups: 1,
            kept: 1,
            scores: Scores::Softmax,
            scale: c.positive_or("routed_scaling_factor", 1.0)? as f32,
        },
        other => {
            let problem = format!("is `{other}`; only greedy and group_limited_greedy work");
            return Err(c.error("topk_method", problem));
        }
    };
    let (dense_layers, dense) = first_dense(c, 0)?;
    let shared = c.size_or("n_shared_experts", 2)? * routed.intermediate;
    Ok(decoder.build(
        decoder.builder(VectorFold::None),
        ("deepseek_v2", routed.top_k),
        |b, x, _, name| attention.emit(b, x, &format!("{name}.self_attn")),
        |b, x, layer, name| {
            let name = format!("{name}.mlp");
            if layer < dense_layers {
                return b.mlp(x, &name, dense);
            }
            let chosen = b.route_grouped(x, layer, &name, (routed, groups), None);
            b.shared_moe(chosen, &name, shared)
        },
    ))
}
