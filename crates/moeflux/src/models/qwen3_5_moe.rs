//! Qwen3.5-MoE: three layers of gated delta rule to one of gated attention, routed experts and a
//! shared one in every layer. Text part of both published forms: `qwen3_5_moe_text`, and
//! `qwen3_5_moe` with a `text_config` beside the vision tower, which is skipped.
//!
//! Reference: `transformers/models/qwen3_5_moe/modeling_qwen3_5_moe.py`.

use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, refuse_true};
use super::hybrid::{Hybrid, Projections, full_attention_layers, gated_attention, gated_delta_net};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The blueprint for a configuration of either form.
pub(super) fn build(config: &Config) -> Result<Blueprint, Error> {
    let text = config
        .section("text_config")
        .unwrap_or_else(|| config.clone());
    let c = &text;
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    if !c.bool_or("attn_output_gate", true)? {
        return Err(c.error(
            "attn_output_gate",
            "is false; only gated attention is supported",
        ));
    }
    let mut decoder = Decoder::read(c, 1e-6)?;
    decoder.tied |= config.bool_or("tie_word_embeddings", false)?;
    let model = Hybrid::read(c, Projections::Apart)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: true,
    };
    check_top_k(c, &routed)?;
    let shared = c.size("shared_expert_intermediate_size")?;
    let full = full_attention_layers(c, decoder.layers)?;
    let model_type = config.text("model_type").unwrap_or_default();
    let blueprint = decoder.build(
        decoder.builder(VectorFold::AddOne),
        (model_type, routed.top_k),
        |b, x, layer, name| match full[layer] {
            true => gated_attention(b, &model, x, &format!("{name}.self_attn")),
            false => gated_delta_net(b, &model, x, &format!("{name}.linear_attn")),
        },
        |b, x, layer, name| b.gated_shared_moe(x, layer, &format!("{name}.mlp"), routed, shared),
    );
    Ok(Blueprint {
        prefixes: &["model.language_model.", "language_model.model.", "model."],
        skipped: vec![
            ("model.visual.".to_owned(), "vision tower"),
            ("visual.".to_owned(), "vision tower"),
            ("vision_tower.".to_owned(), "vision tower"),
            ("mtp.".to_owned(), "multi-token prediction head"),
        ],
        ..blueprint
    })
}
