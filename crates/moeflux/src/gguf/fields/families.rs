//! Families with softmax attention in every layer.

use serde_json::json;

use super::{Fields, latent};
use crate::Error;

/// Values of `expert_gating_func`.
pub(super) const SOFTMAX: u64 = 1;
pub(super) const SIGMOID: u64 = 2;
/// The root of softplus.
pub(super) const SQRT_SOFTPLUS: u64 = 4;
/// Softmax over the scores of the chosen experts alone.
const SOFTMAX_OF_CHOSEN: u64 = 3;

/// `qwen3moe`.
pub(in super::super) fn qwen3moe(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("qwen3_moe");
    fields.attention()?;
    fields.gating(SOFTMAX, "softmax (1)")?;
    fields.expert_size("moe_intermediate_size")?;
    // Conversions do not say; the published models of this kind all do so.
    fields.bool_or("norm_topk_prob", "expert_weights_norm", true)
}

/// `qwen2moe`.
pub(in super::super) fn qwen2moe(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("qwen2_moe");
    fields.attention()?;
    fields.gating(SOFTMAX, "softmax (1)")?;
    fields.expert_size("moe_intermediate_size")?;
    let shared = "expert_shared_feed_forward_length";
    match fields.optional(shared)? {
        Some(_) => fields.size("shared_expert_intermediate_size", shared)?,
        None => fields.size("shared_expert_intermediate_size", "feed_forward_length")?,
    };
    fields.set_by_tensor("qkv_bias", "blk.0.attn_q.bias");
    // As above; these all do not.
    fields.bool_or("norm_topk_prob", "expert_weights_norm", false)
}

/// `olmoe`.
pub(in super::super) fn olmoe(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("olmoe");
    fields.attention()?;
    fields.gating(SOFTMAX, "softmax (1)")?;
    fields.expert_size("intermediate_size")?;
    let clamp = "attention.clamp_kqv";
    if fields.metadata.get(&fields.key(clamp)).is_some() {
        return Err(fields.error(clamp, "is set; attention without clipping is supported"));
    }
    fields.bool_or("norm_topk_prob", "expert_weights_norm", false)
}

/// `llama`, of which those with experts are Mixtral's.
pub(in super::super) fn llama(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("mixtral");
    fields.attention()?;
    let window = "attention.sliding_window";
    if fields
        .optional(window)?
        .is_some_and(|positions| positions > 0)
    {
        fields.size("sliding_window", window)?;
    }
    fields.gating(SOFTMAX, "softmax (1)")?;
    fields.expert_size("intermediate_size")
}

/// `glm4moe`.
pub(in super::super) fn glm4moe(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("glm4_moe");
    fields.attention()?;
    fields.gating(SIGMOID, "sigmoid (2)")?;
    fields.expert_groups()?;
    fields.expert_size("moe_intermediate_size")?;
    fields.size("intermediate_size", "feed_forward_length")?;
    fields.size("n_shared_experts", "expert_shared_count")?;
    fields.size_or("first_k_dense_replace", "leading_dense_block_count", 0)?;
    fields.number_if("routed_scaling_factor", "expert_weights_scale")?;
    fields.bool_or("norm_topk_prob", "expert_weights_norm", true)?;
    fields.set_by_tensor("attention_bias", "blk.0.attn_q.bias");
    fields.set_by_tensor("use_qk_norm", "blk.0.attn_q_norm.weight");
    Ok(())
}

/// `gpt-oss`: biases, sinks and windows in every second layer are as in all published models.
pub(in super::super) fn gpt_oss(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("gpt_oss");
    let head_dim = fields.heads()?;
    let words = format!("{head_dim}, as attention.key_length,");
    fields.refuse_other("rope.dimension_count", head_dim, &words)?;
    let words = "softmax of the chosen (3)";
    fields.refuse_other("expert_gating_func", SOFTMAX_OF_CHOSEN, words)?;
    let pattern = "attention.sliding_window_pattern";
    if fields.metadata.get(&fields.key(pattern)).is_some() {
        let problem =
            "is set; windows in every second layer, which files do not name, are supported";
        return Err(fields.error(pattern, problem));
    }
    fields.size("sliding_window", "attention.sliding_window")?;
    // Files do not say so either.
    latent::rotation(fields, &[("truncate", json!(false))])?;
    fields.expert_size("intermediate_size")
}

/// `minimax-m2`.
pub(in super::super) fn minimax_m2(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("minimax_m2");
    fields.attention()?;
    fields.gating(SIGMOID, "sigmoid (2)")?;
    let rotated = fields.required("rope.dimension_count")?;
    fields.set(
        "rotary_dim",
        &fields.key("rope.dimension_count"),
        json!(rotated),
    );
    fields.expert_size("intermediate_size")
}
