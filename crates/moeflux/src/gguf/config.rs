//! The configuration of a model from its GGUF metadata, under the names of `config.json`.

use std::collections::BTreeMap;

use moeflux_formats::Checkpoint;
use moeflux_formats::gguf::{Array, Metadata, Value};
use serde_json::{Map, json};

use super::Architecture;
use crate::Error;
use crate::config::Config;

/// What a file without the key of the base of RoPE means.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
/// What a file means that says nothing of the kinds of its layers.
const DEFAULT_ATTENTION_INTERVAL: u64 = 4;

/// More is a mistake in the file.
const MOST_EXTRA_LAYERS: u64 = 64;

/// A model's configuration, and how many layers its file has past those that it describes.
pub(crate) struct Described {
    /// As `config.json` would have it; errors about its fields name the file's keys.
    pub config: Config,
    /// Layers at the end that belong to the multi-token prediction head.
    pub extra_layers: usize,
}

/// The configuration that the metadata and the shapes in `checkpoint` describe.
///
/// # Errors
/// A missing or unusable key, named together with the file.
pub(crate) fn config(
    checkpoint: &Checkpoint,
    metadata: &Metadata,
    architecture: Architecture,
) -> Result<Described, Error> {
    let mut fields = Fields {
        checkpoint,
        metadata,
        architecture,
        fields: Map::new(),
        keys: BTreeMap::new(),
    };
    let extra_layers = fields.layers()?;
    fields.size("hidden_size", "embedding_length")?;
    fields.size("max_position_embeddings", "context_length")?;
    fields.attention()?;
    fields.size("num_experts", "expert_count")?;
    fields.size("num_experts_per_tok", "expert_used_count")?;
    fields.size("moe_intermediate_size", "expert_feed_forward_length")?;
    fields.refuse_other("expert_gating_func", 1, "softmax (1)")?;
    let embedding = checkpoint.require("token_embd.weight")?;
    let vocab = embedding.shape.first().copied().unwrap_or(0);
    fields.set("vocab_size", "token_embd.weight", json!(vocab));
    let tied = checkpoint.get("output.weight").is_none();
    fields.set("tie_word_embeddings", "output.weight", json!(tied));
    match architecture {
        Architecture::Qwen3Moe => {
            fields.set("model_type", "general.architecture", json!("qwen3_moe"));
            // Conversions do not say; the published models of this kind all do so.
            let key = fields.key("expert_weights_norm");
            let renormalize = metadata.optional(&key, Metadata::bool)?.unwrap_or(true);
            fields.set("norm_topk_prob", &key, json!(renormalize));
        }
        Architecture::Qwen35Moe => {
            let model_type = json!("qwen3_5_moe_text");
            fields.set("model_type", "general.architecture", model_type);
            fields.linear_attention()?;
        }
    }
    Ok(Described {
        config: Config::from_fields(checkpoint.place(), fields.fields, fields.keys),
        extra_layers,
    })
}

/// The fields so far, and the key that each came from.
struct Fields<'a> {
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    architecture: Architecture,
    fields: Map<String, serde_json::Value>,
    keys: BTreeMap<String, String>,
}

impl Fields<'_> {
    /// A key of the architecture: `qwen35moe.block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn set(&mut self, field: &str, key: &str, value: serde_json::Value) {
        self.fields.insert(field.to_owned(), value);
        self.keys.insert(field.to_owned(), key.to_owned());
    }

    /// An error about a key of the architecture.
    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.checkpoint.place().to_owned(),
            field: self.key(name),
            problem: problem.into(),
        }
    }

    fn required(&self, name: &str) -> Result<u64, Error> {
        Ok(self.metadata.u64(&self.key(name))?)
    }

    fn optional(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.metadata.optional(&self.key(name), Metadata::u64)?)
    }

    /// Copies a required number; whoever reads the field checks its range.
    fn size(&mut self, field: &str, name: &str) -> Result<u64, Error> {
        let value = self.required(name)?;
        self.set(field, &self.key(name), json!(value));
        Ok(value)
    }

    fn size_or(&mut self, field: &str, name: &str, default: u64) -> Result<u64, Error> {
        let value = self.optional(name)?.unwrap_or(default);
        self.set(field, &self.key(name), json!(value));
        Ok(value)
    }

    /// Refuses a key that is there with another value than `expected`.
    fn refuse_other(&self, name: &str, expected: u64, words: &str) -> Result<(), Error> {
        match self.optional(name)? {
            Some(found) if found != expected => {
                let problem = format!("is {found}; only {words} is supported");
                Err(self.error(name, problem))
            }
            _ => Ok(()),
        }
    }

    /// The number of layers without those of the multi-token prediction head, which it gives.
    fn layers(&mut self) -> Result<usize, Error> {
        let (blocks, extra) = (
            self.required("block_count")?,
            self.optional("nextn_predict_layers")?.unwrap_or(0),
        );
        if extra > MOST_EXTRA_LAYERS {
            let problem = format!("is {extra}, more than {MOST_EXTRA_LAYERS}");
            return Err(self.error("nextn_predict_layers", problem));
        }
        let layers = blocks.checked_sub(extra).ok_or_else(|| {
            let problem = format!("is {extra}, more than the {blocks} of block_count");
            self.error("nextn_predict_layers", problem)
        })?;
        self.set("num_hidden_layers", &self.key("block_count"), json!(layers));
        Ok(extra as usize)
    }

    fn attention(&mut self) -> Result<(), Error> {
        let heads = self.size("num_attention_heads", "attention.head_count")?;
        self.size_or("num_key_value_heads", "attention.head_count_kv", heads)?;
        let hidden = self.required("embedding_length")?;
        let default = hidden.checked_div(heads).unwrap_or(0);
        let head_dim = self.size_or("head_dim", "attention.key_length", default)?;
        let words = format!("{head_dim}, as attention.key_length,");
        self.refuse_other("attention.value_length", head_dim, &words)?;
        let eps = self.key("attention.layer_norm_rms_epsilon");
        let value = json!(self.metadata.f32(&eps)?);
        self.set("rms_norm_eps", &eps, value);
        self.rope(head_dim)
    }

    fn rope(&mut self, head_dim: u64) -> Result<(), Error> {
        let scaling = self.key("rope.scaling.type");
        let scaling = self.metadata.optional(&scaling, Metadata::string)?;
        if let Some(kind) = scaling.filter(|kind| *kind != "none") {
            let problem = format!("is `{kind}`; only `none` is supported");
            return Err(self.error("rope.scaling.type", problem));
        }
        let base = self.key("rope.freq_base");
        let theta = self.metadata.optional(&base, Metadata::f32)?;
        let theta = theta.map_or(DEFAULT_ROPE_THETA, f64::from);
        self.set("rope_theta", &base, json!(theta));
        let count = "rope.dimension_count";
        let rotated = self.optional(count)?.unwrap_or(head_dim);
        if self.architecture == Architecture::Qwen3Moe && rotated != head_dim {
            let problem = format!("is {rotated}; only whole heads of {head_dim} are supported");
            return Err(self.error(count, problem));
        }
        // In the middle of those fractions that give `rotated` when rounded down.
        let fraction = (rotated as f64 + 0.5) / head_dim as f64;
        if rotated < head_dim {
            self.set("partial_rotary_factor", &self.key(count), json!(fraction));
        } else if rotated == head_dim {
            self.set("partial_rotary_factor", &self.key(count), json!(1.0));
        } else {
            let problem = format!("is {rotated}, more than a head's {head_dim} elements");
            return Err(self.error(count, problem));
        }
        Ok(())
    }

    /// What `qwen35moe` has besides.
    fn linear_attention(&mut self) -> Result<(), Error> {
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
