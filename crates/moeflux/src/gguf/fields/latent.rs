//! `deepseek2`: latent attention. DeepSeek-V2 and V3 with what descends from them have one
//! architecture in GGUF, and differ in how experts are scored.

use serde_json::{Map, json};

use super::Fields;
use super::families::{SIGMOID, SOFTMAX};
use crate::Error;

/// The key that files have whose projections from latents to keys and values are apart.
pub(super) const SPLIT_KEY: &str = "attention.key_length_mla";

/// Groups of experts and how many of them take part, of published models by their number of
/// experts: files from before October 2025 leave them out.
const LEFT_OUT_GROUPS: [(u64, u64, u64); 2] = [(256, 8, 4), (160, 8, 3)];

/// The converter's factor of the key `yarn_log_multiplier`.
const LOG_MULTIPLIER: f64 = 0.1;

/// `deepseek2`.
pub(in super::super) fn deepseek2(fields: &mut Fields<'_>) -> Result<(), Error> {
    let gating = "expert_gating_func";
    let model_type = match fields.optional(gating)?.unwrap_or(SOFTMAX) {
        SOFTMAX => "deepseek_v2",
        SIGMOID => "deepseek_v3",
        other => {
            let problem = format!("is {other}; only softmax (1) and sigmoid (2) are supported");
            return Err(fields.error(gating, problem));
        }
    };
    fields.model_type(model_type);
    heads(fields)?;
    rotation(fields)?;
    fields.expert_size("moe_intermediate_size")?;
    fields.size("n_shared_experts", "expert_shared_count")?;
    fields.number_if("routed_scaling_factor", "expert_weights_scale")?;
    fields.bool_or("norm_topk_prob", "expert_weights_norm", false)?;
    let dense = "leading_dense_block_count";
    if fields.size_or("first_k_dense_replace", dense, 0)? > 0 {
        fields.size("intermediate_size", "feed_forward_length")?;
    }
    groups(fields)
}

fn groups(fields: &mut Fields<'_>) -> Result<(), Error> {
    let experts = fields.required("expert_count")?;
    let known = LEFT_OUT_GROUPS.iter().find(|known| known.0 == experts);
    let &(_, groups, kept) = known.unwrap_or(&(experts, 1, 1));
    let name = "expert_group_count";
    let (groups, kept) = match fields.optional(name)? {
        None => (groups, kept),
        Some(_) => (1, 1),
    };
    let groups = fields.size_or("n_group", name, groups)?;
    fields.size_or("topk_group", "expert_group_used_count", kept)?;
    // How V2 chooses; V3 always does so by groups.
    let method = match (groups, fields.optional("expert_gating_func")?) {
        (_, Some(SIGMOID)) => "noaux_tc",
        (0 | 1, _) => "greedy",
        _ => "group_limited_greedy",
    };
    fields.set("topk_method", &fields.key(name), json!(method));
    Ok(())
}

/// Sizes of heads and latents.
fn heads(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.size("num_attention_heads", "attention.head_count")?;
    fields.size("kv_lora_rank", "attention.kv_lora_rank")?;
    let query = "attention.q_lora_rank";
    if fields.optional(query)?.is_some() {
        fields.size("q_lora_rank", query)?;
    }
    let (key, value) = match fields.optional(SPLIT_KEY)? {
        Some(_) => (SPLIT_KEY, "attention.value_length_mla"),
        None => ("attention.key_length", "attention.value_length"),
    };
    fields.size("v_head_dim", value)?;
    let rotated = fields.size("qk_rope_head_dim", "rope.dimension_count")?;
    let both = fields.required(key)?;
    let plain = both.checked_sub(rotated).filter(|&plain| plain > 0);
    let Some(plain) = plain else {
        let problem = format!("is {both}, not above the {rotated} of rope.dimension_count");
        return Err(fields.error(key, problem));
    };
    fields.set("qk_nope_head_dim", &fields.key(key), json!(plain));
    Ok(())
}

/// The base of the rotation, and YaRN where a file has it.
fn rotation(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.rope_base()?;
    let Some(kind) = fields.rope_scaling()? else {
        return Ok(());
    };
    if kind != "yarn" {
        let problem = format!("is `{kind}`; only `none` and `yarn` are supported");
        return Err(fields.error("rope.scaling.type", problem));
    }
    let mut section = Map::new();
    section.insert("rope_type".to_owned(), json!("yarn"));
    for (field, name) in [
        ("factor", "factor"),
        (
            "original_max_position_embeddings",
            "original_context_length",
        ),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
        ("attention_factor", "yarn_attn_factor"),
        ("mscale_all_dim", "yarn_log_multiplier"),
    ] {
        let key = fields.key(&format!("rope.scaling.{name}"));
        let value = match (name, fields.metadata.get(&key)) {
            (_, None) => continue,
            ("original_context_length", _) => json!(fields.metadata.u64(&key)?),
            ("yarn_log_multiplier", _) => {
                let factor = f64::from(fields.metadata.f32(&key)?) / LOG_MULTIPLIER;
                // The converter keeps one of the two; published models have them alike.
                section.insert("mscale".to_owned(), json!(factor));
                json!(factor)
            }
            _ => json!(f64::from(fields.metadata.f32(&key)?)),
        };
        section.insert(field.to_owned(), value);
        fields.keys.insert(format!("rope_scaling.{field}"), key);
    }
    let key = fields.key("rope.scaling.type");
    fields.set("rope_scaling", &key, json!(section));
    Ok(())
}
