//! `deepseek4`: attention to a window and to compressed positions, a residual of several streams.

use moeflux_formats::gguf::{Array, Value};
use serde_json::json;

use super::families::SQRT_SOFTPLUS;
use super::{Fields, latent};
use crate::Error;

/// Sizes: field and key.
const SIZES: [(&str, &str); 14] = [
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("q_lora_rank", "attention.q_lora_rank"),
    ("qk_rope_head_dim", "rope.dimension_count"),
    ("sliding_window", "attention.sliding_window"),
    ("o_groups", "attention.output_group_count"),
    ("o_lora_rank", "attention.output_lora_rank"),
    ("index_n_heads", "attention.indexer.head_count"),
    ("index_head_dim", "attention.indexer.key_length"),
    ("index_topk", "attention.indexer.top_k"),
    ("hc_mult", "hyper_connection.count"),
    ("hc_sinkhorn_iters", "hyper_connection.sinkhorn_iterations"),
    ("n_shared_experts", "expert_shared_count"),
];

/// `deepseek4`.
pub(in super::super) fn deepseek4(fields: &mut Fields<'_>) -> Result<(), Error> {
    fields.model_type("deepseek_v4");
    for (field, key) in SIZES {
        fields.size(field, key)?;
    }
    fields.number("hc_eps", "hyper_connection.epsilon")?;
    fields.number("compress_rope_theta", "attention.compress_rope_freq_base")?;
    latent::rotation(fields, &[])?;
    let ratios = "attention.compress_ratios";
    let key = fields.key(ratios);
    let listed = fields.metadata.u32s(&key)?;
    fields.set("compress_ratios", &key, json!(listed));
    fields.gating(SQRT_SOFTPLUS, "the root of softplus (4)")?;
    fields.expert_size("moe_intermediate_size")?;
    fields.number("routed_scaling_factor", "expert_weights_scale")?;
    fields.size_or("num_hash_layers", "hash_layer_count", 0)?;
    fields.clamp()
}

impl Fields<'_> {
    /// The limit of the experts' activation, which has to be the same in all layers.
    fn clamp(&mut self) -> Result<(), Error> {
        let (routed, shared) = ("swiglu_clamp_exp", "swiglu_clamp_shexp");
        let limit = self.limit(routed)?;
        if self.metadata.get(&self.key(shared)).is_some() && self.limit(shared)? != limit {
            let problem = format!("is not {limit}, as {routed}; one for all is supported");
            return Err(self.error(shared, problem));
        }
        self.set("swiglu_limit", &self.key(routed), json!(limit));
        Ok(())
    }

    fn limit(&self, name: &str) -> Result<f64, Error> {
        let key = self.key(name);
        let limits = match self.metadata.require(&key)? {
            Value::Array(Array::F32(limits)) => limits.get(..self.layer_count()),
            _ => return Ok(f64::from(self.metadata.f32(&key)?)),
        };
        match limits {
            Some([first, rest @ ..]) if rest.iter().all(|limit| limit == first) => {
                Ok(f64::from(*first))
            }
            _ => Err(self.error(name, "has not one limit for all layers")),
        }
    }
}
