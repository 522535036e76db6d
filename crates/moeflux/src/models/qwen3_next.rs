//! Qwen3-Next: three layers of gated delta rule to one of gated attention, routed experts and a
//! shared one in most layers, a plain MLP in others.
//!
//! Reference: `transformers/models/qwen3_next/modeling_qwen3_next.py`.

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{DenseLayers, check_top_k, expert_count, refuse_true};
use super::hybrid::{Hybrid, Projections, full_attention_layers, gated_attention, gated_delta_net};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    let decoder = Decoder::read(c, 1e-6)?;
    let projections = match c.bool_or("in_proj_qkv_apart", false)? {
        true => Projections::BetaAlphaByKeyHead,
        false => Projections::ByKeyHead,
    };
    let model = Hybrid::read(c, projections)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", true)?,
    };
    check_top_k(c, &routed)?;
    let shared = c.size("shared_expert_intermediate_size")?;
    let dense = DenseLayers::read(c, decoder.layers)?;
    let full = full_attention_layers(c, decoder.layers)?;
    let blueprint = decoder.build(
        decoder.builder(VectorFold::AddOne),
        ("qwen3_next", routed.top_k),
        |b, x, layer, name| match full[layer] {
            true => gated_attention(b, &model, x, &format!("{name}.self_attn")),
            false => gated_delta_net(b, &model, x, &format!("{name}.linear_attn")),
        },
        |b, x, layer, name| {
            let name = format!("{name}.mlp");
            match dense.intermediate(layer) {
                Some(intermediate) => b.mlp(x, &name, intermediate),
                None => b.gated_shared_moe(x, layer, &name, routed, shared),
            }
        },
    );
    Ok(Blueprint {
        skipped: vec![("mtp.".to_owned(), "multi-token prediction head")],
        ..blueprint
    })
}
