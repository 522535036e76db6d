//! Families that mix linear and softmax attention.

use moeflux_formats::gguf::{Array, Value};
use serde_json::json;

use super::families::{SIGMOID, SOFTMAX};
use super::{Fields, latent};
use crate::Error;

/// What a file means that says nothing of the kinds of its layers.
const DEFAULT_ATTENTION_INTERVAL: u64 = 4;

/// `qwen35moe`.
pub(in super::super) fn qwen35moe(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("qwen3_5_moe_text");
    fields.mixed_layers()
}

/// `qwen3next`: queries, keys and values are apart from the gate, which checkpoints have in one
/// matrix.
pub(in super::super) fn qwen3next(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("qwen3_next");
    fields.set("in_proj_qkv_apart", "blk.*.attn_qkv.weight", json!(true));
    fields.mixed_layers()
}

/// `kimi-linear`: layers of latent attention are those that have heads of keys and values.
pub(in super::super) fn kimi_linear(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("kimi_linear");
    fields.gating(SIGMOID, "sigmoid (2)")?;
    latent::heads(fields)?;
    fields.delta_layers()?;
    fields.size("num_experts_per_token", "expert_used_count")?;
    fields.expert_size("moe_intermediate_size")?;
    fields.size("num_shared_experts", "expert_shared_count")?;
    fields.size_or("num_expert_group", "expert_group_count", 1)?;
    fields.size_or("topk_group", "expert_group_used_count", 1)?;
    fields.number_if("routed_scaling_factor", "expert_weights_scale")?;
    // Conversions do not say; the published model does so.
    fields.bool_or("moe_renormalize", "expert_weights_norm", true)?;
    fields.dense_layers()
}

impl Fields<'_> {
    /// Kimi's layers of delta attention: which they are, and their heads.
    fn delta_layers(&mut self) -> Result<(), Error> {
        let (layers, name) = (self.layer_count(), "attention.head_count_kv");
        let heads = self.metadata.u32s(&self.key(name))?;
        let heads = heads.get(..layers).ok_or_else(|| {
            let problem = format!("has {} entries for {layers} layers", heads.len());
            self.error(name, problem)
        })?;
        // Counted from one, as checkpoints do.
        let (mut full, mut delta) = (Vec::new(), Vec::new());
        for (layer, &heads) in heads.iter().enumerate() {
            let kind = if heads == 0 { &mut delta } else { &mut full };
            kind.push(layer + 1);
        }
        // Files do not say how many heads these layers have, but each has a decay of its own.
        let decay = delta
            .first()
            .map(|layer| format!("blk.{}.ssm_a", layer - 1));
        let decays = match &decay {
            Some(tensor) => self.checkpoint.require(tensor)?.shape.iter().product(),
            None => 1,
        };
        let conv = self.required("ssm.conv_kernel")?;
        let head_dim = self.required("kda.head_dim")?;
        let section = json!({
            "full_attn_layers": full,
            "kda_layers": delta,
            "num_heads": decays,
            "head_dim": head_dim,
            "short_conv_kernel_size": conv,
        });
        for (field, key) in [
            ("full_attn_layers", self.key(name)),
            ("num_heads", decay.unwrap_or_default()),
            ("head_dim", self.key("kda.head_dim")),
            ("short_conv_kernel_size", self.key("ssm.conv_kernel")),
        ] {
            self.keys.insert(format!("linear_attn_config.{field}"), key);
        }
        self.set("linear_attn_config", &self.key(name), section);
        Ok(())
    }

    fn mixed_layers(&mut self) -> Result<(), Error> {
        self.attention()?;
        self.gating(SOFTMAX, "softmax (1)")?;
        self.expert_size("moe_intermediate_size")?;
        self.size(
            "shared_expert_intermediate_size",
            "expert_shared_feed_forward_length",
        )?;
        self.size("linear_conv_kernel_dim", "ssm.conv_kernel")?;
        self.size("linear_num_key_heads", "ssm.group_count")?;
        self.size("linear_key_head_dim", "ssm.state_size")?;
        let heads = self.size("linear_num_value_heads", "ssm.time_step_rank")?;
        let inner = self.required("ssm.inner_size")?;
        if heads == 0 || !inner.is_multiple_of(heads) {
            let problem = format!("is {inner}, not a multiple of ssm.time_step_rank, {heads}");
            return Err(self.error("ssm.inner_size", problem));
        }
        let key = self.key("ssm.inner_size");
        self.set("linear_value_head_dim", &key, json!(inner / heads));
        match self.recurrent_layers(self.layer_count())? {
            Some(types) => self.set(
                "layer_types",
                &self.key("attention.recurrent_layers"),
                json!(types),
            ),
            None => {
                let (field, name) = ("full_attention_interval", "full_attention_interval");
                self.size_or(field, name, DEFAULT_ATTENTION_INTERVAL)?;
            }
        }
        Ok(())
    }

    /// The kind of each layer, if the file lists which are recurrent.
    fn recurrent_layers(&self, layers: usize) -> Result<Option<Vec<&'static str>>, Error> {
        let name = "attention.recurrent_layers";
        let listed = match self.metadata.get(&self.key(name)) {
            None => return Ok(None),
            Some(Value::Array(Array::Bool(listed))) => listed,
            Some(_) => return Err(self.error(name, "is not an array of bool")),
        };
        let listed = listed.get(..layers).ok_or_else(|| {
            let problem = format!("has {} entries for {layers} layers", listed.len());
            self.error(name, problem)
        })?;
        let kind = |&recurrent: &bool| match recurrent {
            true => "linear_attention",
            false => "full_attention",
        };
        Ok(Some(listed.iter().map(kind).collect()))
    }
}
