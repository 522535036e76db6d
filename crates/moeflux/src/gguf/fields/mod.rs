//! The configuration of a model from its GGUF metadata, under the names of `config.json`.
//!
//! This file reads what all architectures share; a function a family reads the rest
//! (`families.rs`; `hybrid.rs` and `latent.rs` for those with more of it).

mod compressed;
mod families;
mod hybrid;
mod latent;

use std::collections::BTreeMap;

use moeflux_formats::Checkpoint;
use moeflux_formats::gguf::Metadata;
use serde_json::{Map, json};

pub(super) use compressed::deepseek4;
pub(super) use families::{glm4moe, gpt_oss, llama, minimax_m2, olmoe, qwen2moe, qwen3moe};
pub(super) use hybrid::{kimi_linear, qwen3next, qwen35moe};
pub(super) use latent::deepseek2;

use super::architecture::Architecture;
use crate::Error;
use crate::config::Config;

/// What a file without the key of the base of RoPE means.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
/// The first layer with experts comes before this one.
const MOST_DENSE_LAYERS: usize = 16;
/// More is a mistake in the file.
const MOST_EXTRA_LAYERS: u64 = 64;

/// A model's configuration, and how many layers its file has past those that it describes.
pub(crate) struct Described {
    /// As `config.json` would have it; errors about its fields name the file's keys.
    pub config: Config,
    /// Layers at the end that belong to the multi-token prediction head.
    pub extra_layers: usize,
    /// Whether the projections from latents to keys and values are tensors of their own.
    pub splits_latent: bool,
}

/// The configuration that the metadata and the shapes in `checkpoint` describe.
///
/// # Errors
/// A missing or unusable key, named together with the file.
pub(crate) fn config(
    checkpoint: &Checkpoint,
    metadata: &Metadata,
    architecture: &'static Architecture,
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
    let embedding = checkpoint.require("token_embd.weight")?;
    let vocab = embedding.shape.first().copied().unwrap_or(0);
    fields.set("vocab_size", "token_embd.weight", json!(vocab));
    let tied = checkpoint.get("output.weight").is_none();
    fields.set("tie_word_embeddings", "output.weight", json!(tied));
    fields.number("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
    fields.size("num_experts", "expert_count")?;
    fields.size("num_experts_per_tok", "expert_used_count")?;
    (architecture.fields)(&mut fields)?;
    let splits_latent = checkpoint.names().any(latent::is_split);
    Ok(Described {
        config: Config::from_fields(checkpoint.place(), fields.fields, fields.keys),
        extra_layers,
        splits_latent,
    })
}

/// The fields so far, and the key that each came from.
pub(super) struct Fields<'a> {
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    architecture: &'static Architecture,
    fields: Map<String, serde_json::Value>,
    keys: BTreeMap<String, String>,
}

impl Fields<'_> {
    /// A key of the architecture: `qwen35moe.block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
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

    /// Copies a required positive number.
    fn number(&mut self, field: &str, name: &str) -> Result<f64, Error> {
        let key = self.key(name);
        let value = f64::from(self.metadata.f32(&key)?);
        self.set(field, &key, json!(value));
        Ok(value)
    }

    /// Copies a number if it is there.
    fn number_if(&mut self, field: &str, name: &str) -> Result<(), Error> {
        match self.metadata.get(&self.key(name)) {
            None => Ok(()),
            Some(_) => self.number(field, name).map(|_| ()),
        }
    }

    fn bool_or(&mut self, field: &str, name: &str, default: bool) -> Result<(), Error> {
        let key = self.key(name);
        let value = self.metadata.optional(&key, Metadata::bool)?;
        self.set(field, &key, json!(value.unwrap_or(default)));
        Ok(())
    }

    /// Names the architecture's file in `models/`.
    fn model_type(&mut self, name: &str) {
        self.set("model_type", super::ARCHITECTURE, json!(name));
    }

    /// Whether the file has a tensor, which decides a field.
    fn set_by_tensor(&mut self, field: &str, tensor: &str) {
        let value = self.checkpoint.get(tensor).is_some();
        self.set(field, tensor, json!(value));
    }

    /// Elements between the projections of an expert; early files do not say, but have tensors.
    fn expert_size(&mut self, field: &str) -> Result<(), Error> {
        let name = "expert_feed_forward_length";
        let stack = |layer: usize| format!("blk.{layer}.ffn_down_exps.weight");
        let from_tensor = || {
            let mut names = (0..MOST_DENSE_LAYERS).map(stack);
            let info = names.find_map(|name| self.checkpoint.get(&name))?;
            info.shape.last().copied()
        };
        match (self.metadata.get(&self.key(name)), from_tensor()) {
            (None, Some(size)) => self.set(field, "blk.*.ffn_down_exps.weight", json!(size)),
            _ => {
                self.size(field, name)?;
            }
        }
        Ok(())
    }

    /// Refuses another way of scoring experts than `expected`.
    fn gating(&self, expected: u64, words: &str) -> Result<(), Error> {
        self.refuse_other("expert_gating_func", expected, words)
    }

    /// Groups of experts; one, where the file does not say.
    fn expert_groups(&mut self) -> Result<(), Error> {
        self.size_or("n_group", "expert_group_count", 1)?;
        self.size_or("topk_group", "expert_group_used_count", 1)?;
        Ok(())
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

    /// The number of layers, as [`Fields::layers`] has found it.
    fn layer_count(&self) -> usize {
        let layers = self.fields.get("num_hidden_layers");
        layers.and_then(serde_json::Value::as_u64).unwrap_or(0) as usize
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

    /// Heads of softmax attention and their rotation.
    fn attention(&mut self) -> Result<(), Error> {
        let head_dim = self.heads()?;
        self.rope(head_dim)
    }

    /// Heads of softmax attention; gives the elements of one.
    fn heads(&mut self) -> Result<u64, Error> {
        let heads = self.size("num_attention_heads", "attention.head_count")?;
        self.size_or("num_key_value_heads", "attention.head_count_kv", heads)?;
        let hidden = self.required("embedding_length")?;
        let default = hidden.checked_div(heads).unwrap_or(0);
        let head_dim = self.size_or("head_dim", "attention.key_length", default)?;
        let words = format!("{head_dim}, as attention.key_length,");
        self.refuse_other("attention.value_length", head_dim, &words)?;
        Ok(head_dim)
    }

    fn rope(&mut self, head_dim: u64) -> Result<(), Error> {
        if let Some(kind) = self.rope_scaling()? {
            let problem = format!("is `{kind}`; only `none` is supported");
            return Err(self.error("rope.scaling.type", problem));
        }
        // Frequencies stretched one by one, as those of Llama 3.1 are.
        if self.checkpoint.get("rope_freqs.weight").is_some() {
            let problem = "comes with the tensor rope_freqs.weight, which is not supported";
            return Err(self.error("rope.freq_base", problem));
        }
        self.rope_base()?;
        let count = "rope.dimension_count";
        let rotated = self.optional(count)?.unwrap_or(head_dim);
        if !self.architecture.rotates_part && rotated != head_dim {
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

    /// How positions beyond the original context are reached; `None` if the file says nothing.
    fn rope_scaling(&self) -> Result<Option<String>, Error> {
        let key = self.key("rope.scaling.type");
        let kind = self.metadata.optional(&key, Metadata::string)?;
        Ok(kind.filter(|kind| *kind != "none").map(str::to_owned))
    }

    fn rope_base(&mut self) -> Result<(), Error> {
        let base = self.key("rope.freq_base");
        let theta = self.metadata.optional(&base, Metadata::f32)?;
        let theta = theta.map_or(DEFAULT_ROPE_THETA, f64::from);
        self.set("rope_theta", &base, json!(theta));
        Ok(())
    }
}
