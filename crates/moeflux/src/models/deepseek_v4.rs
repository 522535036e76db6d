//! DeepSeek-V4: a residual of several streams, attention to a window and to compressed positions,
//! experts by the token itself in the first layers and by corrected scores in the others.
//!
//! Reference: `transformers/models/deepseek_v4/modeling_deepseek_v4.py`; tensors are named as they
//! are published.

use moeflux_kernels::{Glu, Scores};

use super::blueprint::{Blueprint, BlueprintBuilder, VectorFold};
use super::compressed::{Beyond, CompressedAttention};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, refuse_true};
use super::rotation::Rotation;
use super::routing::{Groups, Routed, RoutedShape};
use super::streams::Streams;
use crate::Error;
use crate::config::Config;
use crate::graph::BufferId;

/// Part of a head that rotates where the fields do not say.
const ROTATED: f64 = 64.0 / 512.0;
const INDEXED: &str = "compressed_sparse_attention";
const COMPRESSED: &str = "heavily_compressed_attention";

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    for field in ["attention_bias", "mlp_bias"] {
        refuse_true(c, field)?;
    }
    let decoder = Decoder::read(c, 1e-6)?;
    let attention = attention(c)?;
    let beyond = layer_kinds(c, decoder.layers)?;
    let streams = Streams::read(c)?;
    let experts = Experts::read(c, &decoder)?;
    let mut b = decoder.builder(VectorFold::None);
    b.expert_matrices = ["w1", "w3", "w2"];
    let (embedded, table) = b.embed_as("embed", decoder.vocab);
    let mut x = streams.of(&mut b, embedded);
    for (layer, beyond) in beyond.into_iter().enumerate() {
        let name = format!("layers.{layer}");
        x = streams.around(&mut b, x, &format!("{name}.hc_attn"), |b, x| {
            let norm = format!("{name}.attn_norm.weight");
            let x = b.rms_norm(x, norm, decoder.hidden, "normed");
            attention.emit(b, x, (&format!("{name}.attn"), beyond))
        });
        x = streams.around(&mut b, x, &format!("{name}.hc_ffn"), |b, x| {
            let norm = format!("{name}.ffn_norm.weight");
            let x = b.rms_norm(x, norm, decoder.hidden, "normed");
            experts.emit(b, x, layer, &format!("{name}.ffn"))
        });
    }
    let last = streams.last(&mut b, x, "hc_head");
    let tied = decoder.tied.then_some(table);
    let logits = b.logits_of(last, decoder.vocab, tied, "head");
    let mut blueprint = decoder.blueprint(b, ("deepseek_v4", experts.shape.top_k), logits);
    blueprint.prefixes = &[""];
    let extra = ("mtp.".to_owned(), "multi-token prediction head");
    blueprint.skipped.push(extra);
    Ok(blueprint)
}

fn attention(c: &Config) -> Result<CompressedAttention, Error> {
    if c.size_or("num_key_value_heads", 1)? != 1 {
        let problem = "is not 1; only one head of keys and values is supported";
        return Err(c.error("num_key_value_heads", problem));
    }
    let (heads, head_dim) = (c.size("num_attention_heads")?, c.size("head_dim")?);
    let out_groups = c.size("o_groups")?;
    if !heads.is_multiple_of(out_groups) {
        let problem = format!("is {out_groups}, which does not divide {heads} heads");
        return Err(c.error("o_groups", problem));
    }
    let index_dim = c.size("index_head_dim")?;
    let (plain, compressed) = rotations(c, head_dim)?;
    let rotated = 2 * plain.inv_freq.len().max(compressed.inv_freq.len());
    if rotated > index_dim {
        let problem = format!("is {index_dim}, fewer than the {rotated} elements that rotate");
        return Err(c.error("index_head_dim", problem));
    }
    Ok(CompressedAttention {
        heads,
        head_dim,
        query_rank: c.size("q_lora_rank")?,
        window: c.size("sliding_window")?,
        out_groups,
        out_rank: c.size("o_lora_rank")?,
        plain,
        compressed,
        rate: rate(c, COMPRESSED, "compress_rate_hca", 128)?,
        indexed_rate: rate(c, INDEXED, "compress_rate_csa", 4)?,
        index_heads: c.size("index_n_heads")?,
        index_dim,
        index_top_k: c.size("index_topk")?,
    })
}

/// Positions of an entry: in `compress_rates`, or in a field of its own.
fn rate(c: &Config, kind: &str, field: &str, default: usize) -> Result<usize, Error> {
    match c.section("compress_rates") {
        Some(rates) if !c.has(field) => rates.size_or(kind, default),
        _ => c.size_or(field, default),
    }
}

/// The rotations of layers without and with entries: in two sections, or in the old fields, where
/// only the second one is stretched.
fn rotations(c: &Config, head_dim: usize) -> Result<(Rotation, Rotation), Error> {
    let fraction = match c.has("qk_rope_head_dim") {
        true => c.size("qk_rope_head_dim")? as f64 / head_dim as f64,
        false => ROTATED,
    };
    let fraction = c.positive_or("partial_rotary_factor", fraction)?;
    let dim = |section: &Config| -> Result<usize, Error> {
        let fraction = section.positive_or("partial_rotary_factor", fraction)?;
        let dim = (head_dim as f64 * fraction) as usize;
        if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
            let problem =
                format!("rotates {dim} of {head_dim} elements; it must be an even number");
            return Err(c.error("partial_rotary_factor", problem));
        }
        Ok(dim)
    };
    let main_theta = c.positive_or("rope_theta", 10_000.0)?;
    let theta = c.positive_or("compress_rope_theta", 160_000.0)?;
    let section = ["rope_scaling", "rope_parameters"];
    let section = section.into_iter().find_map(|name| c.section(name));
    let nested = section
        .as_ref()
        .map(|s| (s.section("main"), s.section("compress")));
    if let Some((Some(main), Some(compress))) = nested {
        let main_theta = main.positive_or("rope_theta", main_theta)?;
        let theta = compress.positive_or("rope_theta", theta)?;
        return Ok((
            Rotation::of(c, Some(&main), (dim(&main)?, main_theta), None)?,
            Rotation::of(c, Some(&compress), (dim(&compress)?, theta), None)?,
        ));
    }
    let all = dim(c)?;
    Ok((
        Rotation::of(c, None, (all, main_theta), None)?,
        Rotation::of(c, section.as_ref(), (all, theta), Some(1.0))?,
    ))
}

/// What each layer sees beyond its window.
fn layer_kinds(c: &Config, layers: usize) -> Result<Vec<Beyond>, Error> {
    let too_short = |field: &str, len: usize| {
        let problem = format!("has {len} entries for {layers} layers");
        Err(c.error(field, problem))
    };
    if let Some(types) = c.texts("layer_types")? {
        if types.len() < layers {
            return too_short("layer_types", types.len());
        }
        let kind = |kind: &String| match kind.as_str() {
            "sliding_attention" => Ok(Beyond::Nothing),
            COMPRESSED => Ok(Beyond::Entries),
            INDEXED => Ok(Beyond::Indexed),
            other => Err(c.error("layer_types", format!("has an unknown type `{other}`"))),
        };
        return types.iter().take(layers).map(kind).collect();
    }
    if c.has("compress_ratios") {
        let ratios = c.indexes("compress_ratios")?;
        if ratios.len() < layers {
            return too_short("compress_ratios", ratios.len());
        }
        let kind = |ratio: &usize| match ratio {
            0 => Ok(Beyond::Nothing),
            128 => Ok(Beyond::Entries),
            4 => Ok(Beyond::Indexed),
            other => {
                let problem = format!("has {other}; only 0, 4 and 128 are known");
                Err(c.error("compress_ratios", problem))
            }
        };
        return ratios.iter().take(layers).map(kind).collect();
    }
    let kind = |layer: usize| match layer {
        2.. if !layer.is_multiple_of(2) => Beyond::Indexed,
        _ => Beyond::Entries,
    };
    Ok((0..layers).map(kind).collect())
}

/// The routed experts and the shared one.
struct Experts {
    shape: RoutedShape,
    groups: Groups,
    glu: Glu,
    /// For each layer, whether the token itself says its experts.
    by_token: Vec<bool>,
    vocab: usize,
}

impl Experts {
    fn read(c: &Config, decoder: &Decoder) -> Result<Experts, Error> {
        let shape = RoutedShape {
            experts: expert_count(c)?,
            top_k: c.size("num_experts_per_tok")?,
            intermediate: c.size("moe_intermediate_size")?,
            // The published layers divide by the sum whatever `norm_topk_prob` says.
            renormalize: true,
        };
        check_top_k(c, &shape)?;
        if c.size_or("n_shared_experts", 1)? != 1 {
            let problem = "is not 1; only one shared expert is supported";
            return Err(c.error("n_shared_experts", problem));
        }
        let scores = match c.text("scoring_func").unwrap_or("sqrtsoftplus") {
            "sqrtsoftplus" => Scores::SqrtSoftplus,
            "sigmoid" => Scores::Sigmoid,
            "softmax" => Scores::Softmax,
            other => {
                let problem = format!(
                    "is `{other}`; only `sqrtsoftplus`, `sigmoid` and `softmax` are supported"
                );
                return Err(c.error("scoring_func", problem));
            }
        };
        Ok(Experts {
            shape,
            groups: Groups {
                groups: 1,
                kept: 1,
                scores,
                scale: c.positive_or("routed_scaling_factor", 1.5)? as f32,
            },
            glu: Glu::Clamped {
                limit: c.positive_or("swiglu_limit", 10.0)? as f32,
                alpha: 1.0,
                offset: 0.0,
            },
            by_token: routed_by_token(c, decoder.layers)?,
            vocab: decoder.vocab,
        })
    }

    /// Emits a layer's experts; their weights' names begin with `name`.
    fn emit(&self, b: &mut BlueprintBuilder, x: BufferId, layer: usize, name: &str) -> BufferId {
        let rule = (self.shape, self.groups);
        let routed: Routed = match self.by_token[layer] {
            true => b.route_by_token(x, layer, name, rule, self.vocab),
            false => {
                let bias = Some(format!("{name}.gate.bias"));
                b.route_grouped(x, layer, name, rule, bias)
            }
        };
        b.shared_glu_moe(routed, name, self.shape.intermediate, self.glu)
    }
}

/// For each layer, whether the token itself says its experts.
fn routed_by_token(c: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = c.texts("mlp_layer_types")? else {
        let first = c.count_or("num_hash_layers", 3)?;
        return Ok((0..layers).map(|layer| layer < first).collect());
    };
    if types.len() < layers {
        let problem = format!("has {} entries for {layers} layers", types.len());
        return Err(c.error("mlp_layer_types", problem));
    }
    let kind = |kind: &String| match kind.as_str() {
        "hash_moe" => Ok(true),
        "moe" => Ok(false),
        other => Err(c.error("mlp_layer_types", format!("has an unknown type `{other}`"))),
    };
    types.iter().take(layers).map(kind).collect()
}
