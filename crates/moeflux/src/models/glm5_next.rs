//! GLM-5.3-Flash (`glm5_next`): a residual of several streams, layers of delta attention whose decay
//! is bounded, and of latent attention to blocks of positions that an index chooses, which layers
//! may share; a plain MLP in the first layers, then experts routed by corrected sigmoid scores
//! beside shared ones. Text part of both published forms: its fields alone, and in a `text_config`
//! beside the vision tower, which is skipped.
//!
//! Reference: `transformers/models/glm5_next/modeling_glm5_next.py`; tensors are named as they are
//! published.

use moeflux_kernels::{Decay, Glu, Scores};

use super::blueprint::{Blueprint, BlueprintBuilder, VectorFold};
use super::decoder::Decoder;
use super::fields::{MOST_HEADS, check_top_k, expert_count, groups, layer_types};
use super::indexed_latent::BlockIndex;
use super::kda::DeltaAttention;
use super::latent::LatentAttention;
use super::routing::{Groups, RoutedShape};
use super::streams::Streams;
use crate::Error;
use crate::config::Config;
use crate::graph::BufferId;

/// The logarithm that bounds decays where the fields do not say.
const LOWER_BOUND: f64 = -5.0;

/// The blueprint for a configuration of either form.
pub(super) fn build(config: &Config) -> Result<Blueprint, Error> {
    let text = config.section("text_config");
    let text = text.unwrap_or_else(|| config.clone());
    let c = &text;
    c.require_text("hidden_act", "silu")?;
    let mut decoder = Decoder::read(c, 1e-5)?;
    decoder.tied |= config.bool_or("tie_word_embeddings", false)?;
    let mixers = Mixers::read(c, &decoder)?;
    let feed_forward = FeedForward::read(c, decoder.layers)?;
    let streams = Streams::read(c)?;
    let mut b = decoder.builder(VectorFold::None);
    let (embedded, table) = b.embed(decoder.vocab);
    let mut x = streams.of(&mut b, embedded);
    let mut chosen = None;
    for layer in 0..decoder.layers {
        let name = format!("layers.{layer}");
        x = streams.around(&mut b, x, &format!("{name}.hc_attn"), |b, x| {
            let norm = format!("{name}.input_layernorm.weight");
            let x = b.rms_norm(x, norm, decoder.hidden, "normed");
            mixers.emit(b, x, (layer, &format!("{name}.self_attn")), &mut chosen)
        });
        x = streams.around(&mut b, x, &format!("{name}.hc_ffn"), |b, x| {
            let norm = format!("{name}.post_attention_layernorm.weight");
            let x = b.rms_norm(x, norm, decoder.hidden, "normed");
            feed_forward.emit(b, x, layer, &format!("{name}.mlp"))
        });
    }
    let last = streams.last_mean(&mut b, x);
    let tied = decoder.tied.then_some(table);
    let logits = b.logits_of(last, decoder.vocab, tied, "lm_head");
    let model_type = config.text("model_type").unwrap_or_default();
    let blueprint = decoder.blueprint(b, (model_type, feed_forward.shape.top_k), logits);
    let blueprint = Blueprint {
        prefixes: &["model.language_model.", "model."],
        skipped: vec![
            ("model.visual.".to_owned(), "vision tower"),
            ("visual.".to_owned(), "vision tower"),
        ],
        ..blueprint
    };
    Ok(blueprint.without_extra_layers(c.count_or("num_nextn_predict_layers", 1)?))
}

/// A layer's mixer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mixer {
    Delta,
    /// Latent attention with an index of its own.
    Indexed,
    /// Latent attention to the blocks that the last index before it has chosen.
    Shared,
}

/// The mixers of all layers.
struct Mixers {
    kinds: Vec<Mixer>,
    delta: DeltaAttention,
    latent: LatentAttention,
    index: BlockIndex,
}

impl Mixers {
    fn read(c: &Config, decoder: &Decoder) -> Result<Mixers, Error> {
        let latent = LatentAttention::read_plain(c, decoder.eps)?;
        let heads = c.size("num_attention_heads")?;
        if c.size_or("num_key_value_heads", heads)? != heads {
            let problem = format!("is not num_attention_heads, {heads}");
            return Err(c.error("num_key_value_heads", problem));
        }
        Ok(Mixers {
            kinds: kinds(c, decoder.layers)?,
            delta: delta(c)?,
            latent,
            index: BlockIndex::read(c)?,
        })
    }

    /// Emits a layer's; its weights' names begin with `name`. `chosen` is what the last index has
    /// chosen.
    fn emit(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        (layer, name): (usize, &str),
        chosen: &mut Option<BufferId>,
    ) -> BufferId {
        let kind = self.kinds[layer];
        if kind == Mixer::Delta {
            return self.delta.emit(b, x, name);
        }
        self.latent.emit_with(b, x, name, |b, latents, shape| {
            let blocks = match (kind, *chosen) {
                (Mixer::Shared, Some(blocks)) => blocks,
                _ => {
                    let of = (x, latents.query_latent);
                    self.index.chosen(b, of, &format!("{name}.indexer"))
                }
            };
            *chosen = Some(blocks);
            self.index.attend(b, latents, shape, blocks)
        })
    }
}

/// The mixer of each layer.
fn kinds(c: &Config, layers: usize) -> Result<Vec<Mixer>, Error> {
    let types = layer_types(c, layers)?;
    let is_shared = shared_indexes(c, layers)?;
    let mut kinds = Vec::with_capacity(layers);
    for layer in 0..layers {
        let is_delta = match types.as_ref().map(|types| types[layer].as_str()) {
            None => layer % 4 != 3,
            Some("linear_attention") => true,
            Some("indexed_attention" | "full_attention") => false,
            Some(other) => {
                return Err(c.error("layer_types", format!("has an unknown type `{other}`")));
            }
        };
        kinds.push(match (is_delta, is_shared[layer]) {
            (true, _) => Mixer::Delta,
            (false, false) => Mixer::Indexed,
            (false, true) if kinds.contains(&Mixer::Indexed) => Mixer::Shared,
            (false, true) => {
                let problem = format!("shares an index in layer {layer}, before there is any");
                return Err(c.error("indexer_types", problem));
            }
        });
    }
    Ok(kinds)
}

/// For each layer, whether it would take the choice of an index before it: listed, or by a pattern,
/// or every few layers from one on.
fn shared_indexes(c: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    const TYPES: &str = "indexer_types";
    const PATTERN: &str = "index_topk_pattern";
    let (field, listed) = match (c.texts(TYPES)?, c.text(PATTERN)) {
        (Some(types), _) => (TYPES, types),
        (None, Some(pattern)) => (PATTERN, pattern.chars().map(String::from).collect()),
        (None, None) => match c.texts(PATTERN)? {
            Some(types) => (PATTERN, types),
            None => {
                let every = c.count_or("index_topk_freq", 1)?.max(1);
                let first = c.count_or("index_skip_topk_offset", 2)?;
                let is_shared =
                    |layer: usize| !(layer + 1).saturating_sub(first).is_multiple_of(every);
                return Ok((0..layers).map(is_shared).collect());
            }
        },
    };
    if listed.len() < layers {
        let problem = format!("has {} entries for {layers} layers", listed.len());
        return Err(c.error(field, problem));
    }
    let is_shared = |kind: &String| match kind.as_str() {
        "full" | "F" => Ok(false),
        "shared" | "S" => Ok(true),
        other => Err(c.error(field, format!("has an unknown type `{other}`"))),
    };
    listed.iter().take(layers).map(is_shared).collect()
}

/// Delta attention: its fields are in a section, or beside the others.
fn delta(c: &Config) -> Result<DeltaAttention, Error> {
    let section = c.section("linear_attn_config");
    let size = |nested: &str, field: &str, default: usize| match &section {
        Some(section) if section.has(nested) => section.size(nested),
        _ => c.size_or(field, default),
    };
    let heads = size("num_heads", "linear_num_heads", 64)?;
    if heads > MOST_HEADS {
        let problem = format!("is {heads}, not an integer from 1 to {MOST_HEADS}");
        return Err(c.error("linear_num_heads", problem));
    }
    let mut bound = lower_bound(c, "linear_lower_bound", Some(LOWER_BOUND))?;
    if let Some(section) = &section {
        bound = lower_bound(section, "gate_lower_bound", bound)?;
        if bound.is_none() && section.bool_or("safe_gate", true)? {
            bound = Some(LOWER_BOUND);
        }
    }
    Ok(DeltaAttention {
        heads,
        head_dim: size("head_dim", "linear_head_dim", 128)?,
        conv_kernel: size("short_conv_kernel_size", "linear_conv_kernel_dim", 4)?,
        decay: bound.map_or(Decay::Key, |bound| Decay::BoundedKey(bound as f32)),
        a_log_shape: vec![heads],
    })
}

/// A negative number, or null for none.
fn lower_bound(c: &Config, field: &str, default: Option<f64>) -> Result<Option<f64>, Error> {
    match c.number(field) {
        Some(bound) if bound < 0.0 && bound.is_finite() => Ok(Some(bound)),
        Some(bound) => Err(c.error(field, format!("is {bound}, not a negative number"))),
        None if c.has(field) => Err(c.error(field, "is not a number")),
        None if c.is_null(field) => Ok(None),
        None => Ok(default),
    }
}

/// Plain MLPs and experts.
struct FeedForward {
    shape: RoutedShape,
    groups: Groups,
    glu: Glu,
    /// Elements of all shared experts together.
    shared: usize,
    /// For each layer, elements of its MLP if it has no experts.
    dense: Vec<Option<usize>>,
}

impl FeedForward {
    fn read(c: &Config, layers: usize) -> Result<FeedForward, Error> {
        let shape = RoutedShape {
            experts: expert_count(c)?,
            top_k: c.size("num_experts_per_tok")?,
            intermediate: c.size("moe_intermediate_size")?,
            renormalize: c.bool_or("norm_topk_prob", true)?,
        };
        check_top_k(c, &shape)?;
        Ok(FeedForward {
            shape,
            groups: Groups {
                scale: c.positive_or("routed_scaling_factor", 2.5)? as f32,
                ..groups(c, &shape, Scores::Sigmoid)?
            },
            glu: Glu::Clamped {
                limit: c.positive_or("swiglu_limit", 10.0)? as f32,
                alpha: 1.0,
                offset: 0.0,
            },
            shared: c.size_or("n_shared_experts", 1)? * shape.intermediate,
            dense: dense_layers(c, layers)?,
        })
    }

    /// Emits a layer's; its weights' names begin with `name`.
    fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, layer: usize, name: &str) -> BufferId {
        if let Some(intermediate) = self.dense[layer] {
            return b.glu_mlp(x, name, intermediate, self.glu);
        }
        let bias = Some(format!("{name}.gate.e_score_correction_bias"));
        let routed = b.route_grouped(x, layer, name, (self.shape, self.groups), bias);
        b.shared_glu_moe(routed, name, self.shared, self.glu)
    }
}

/// For each layer, elements of its plain MLP: `mlp_layer_types`, or the first ones have one.
fn dense_layers(c: &Config, layers: usize) -> Result<Vec<Option<usize>>, Error> {
    const FIELD: &str = "mlp_layer_types";
    let is_dense: Vec<bool> = match c.texts(FIELD)? {
        Some(types) if types.len() < layers => {
            let problem = format!("has {} entries for {layers} layers", types.len());
            return Err(c.error(FIELD, problem));
        }
        Some(types) => {
            let kind = |kind: &String| match kind.as_str() {
                "dense" => Ok(true),
                "sparse" => Ok(false),
                other => Err(c.error(FIELD, format!("has an unknown type `{other}`"))),
            };
            types
                .iter()
                .take(layers)
                .map(kind)
                .collect::<Result<_, _>>()?
        }
        None => {
            let first = c.count_or("first_k_dense_replace", 3)?;
            (0..layers).map(|layer| layer < first).collect()
        }
    };
    let intermediate = |is_dense: bool| is_dense.then(|| c.size("intermediate_size")).transpose();
    is_dense.into_iter().map(intermediate).collect()
}
