//! `deepseek2`: latent attention. DeepSeek-V2, V3, Kimi-K2, K2.5 and GLM-4.7-Flash have one
//! architecture in GGUF, and differ in how experts are scored. Also YaRN, of all that have it.

use serde_json::{Map, json};

use super::Fields;
use super::families::{SIGMOID, SOFTMAX};
use crate::Error;

/// The key of a head's size in files where `attention.key_length` is that of the latent.
const SPLIT_KEY: &str = "attention.key_length_mla";

/// Whether a tensor of this name is one of projections from latents to keys and values that are
/// apart.
pub(super) fn is_split(tensor: &str) -> bool {
    tensor.ends_with(".attn_k_b.weight")
}

/// Groups of experts and how many of them take part, of published models by their number of
/// experts: files from before October 2025 leave them out.
const LEFT_OUT_GROUPS: [(u64, u64, u64); 2] = [(256, 8, 4), (160, 8, 3)];

/// The fast end of YaRN's ramp where it is not the usual one, of published models (Kimi-K2) by
/// their number of experts: early files leave it out.
const LEFT_OUT_RAMPS: [(u64, f64); 1] = [(384, 1.0)];

/// Layers (with those of the multi-token prediction head or without) and tokens of GLM-4.7-Flash,
/// whose early files leave out how experts are scored.
const LEFT_OUT_SCORES: ([u64; 2], u64) = ([47, 48], 154_880);

/// The converter's factor of the key `yarn_log_multiplier`.
const LOG_MULTIPLIER: f64 = 0.1;

/// `deepseek2`.
pub(in super::super) fn deepseek2(fields: &mut Fields<'_>) -> Result<(), Error> {
    let gating = "expert_gating_func";
    let scores = scores(fields)?;
    let model_type = match scores {
        SOFTMAX => "deepseek_v2",
        SIGMOID => "deepseek_v3",
        other => {
            let problem = format!("is {other}; only softmax (1) and sigmoid (2) are supported");
            return Err(fields.error(gating, problem));
        }
    };
    fields.model_type(model_type);
    heads(fields)?;
    let experts = fields.required("expert_count")?;
    let fast = LEFT_OUT_RAMPS.iter().find(|known| known.0 == experts);
    let fast = fast.map(|&(_, fast)| ("beta_fast", json!(fast)));
    rotation(fields, fast.as_slice())?;
    fields.expert_size("moe_intermediate_size")?;
    fields.size("n_shared_experts", "expert_shared_count")?;
    fields.number_if("routed_scaling_factor", "expert_weights_scale")?;
    fields.bool_or("norm_topk_prob", "expert_weights_norm", false)?;
    fields.dense_layers()?;
    groups(fields, scores)
}

impl Fields<'_> {
    /// The first layers, which have a plain MLP, and its size if there are any.
    pub(super) fn dense_layers(&mut self) -> Result<(), Error> {
        let dense = "leading_dense_block_count";
        if self.size_or("first_k_dense_replace", dense, 0)? > 0 {
            self.size("intermediate_size", "feed_forward_length")?;
        }
        Ok(())
    }
}

/// How experts are scored.
fn scores(fields: &Fields<'_>) -> Result<u64, Error> {
    if let Some(scores) = fields.optional("expert_gating_func")? {
        return Ok(scores);
    }
    let (layers, vocab) = LEFT_OUT_SCORES;
    let has_vocab = fields.fields.get("vocab_size") == Some(&json!(vocab));
    match has_vocab && layers.contains(&fields.required("block_count")?) {
        true => Ok(SIGMOID),
        false => Ok(SOFTMAX),
    }
}

fn groups(fields: &mut Fields<'_>, scores: u64) -> Result<(), Error> {
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
    let method = match (groups, scores) {
        (_, SIGMOID) => "noaux_tc",
        (0 | 1, _) => "greedy",
        _ => "group_limited_greedy",
    };
    fields.set("topk_method", &fields.key(name), json!(method));
    Ok(())
}

/// Sizes of heads and latents.
pub(super) fn heads(fields: &mut Fields<'_>) -> Result<(), Error> {
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

/// The base of the rotation, and YaRN where a file has it; `unnamed` are fields that published
/// models have and files may leave out.
pub(super) fn rotation(
    fields: &mut Fields<'_>,
    unnamed: &[(&str, serde_json::Value)],
) -> Result<(), Error> {
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
    for (field, value) in unnamed {
        section.insert((*field).to_owned(), value.clone());
    }
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
