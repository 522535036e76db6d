//! Families that mix linear and softmax attention.

use moeflux_formats::gguf::{Array, Value};
use serde_json::json;

use super::Fields;
use super::families::SOFTMAX;
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

impl Fields<'_> {
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
        let layers = self.fields.get("num_hidden_layers");
        let layers = layers.and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
        match self.recurrent_layers(layers)? {
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
