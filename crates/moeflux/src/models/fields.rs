//! Configuration fields that several architectures read in the same way.

use std::sync::Arc;

use moeflux_kernels::Scores;

use super::routing::{Groups, RoutedShape};
use crate::Error;
use crate::config::Config;

/// More is a mistake in the file, and would be much work before a tensor is found missing.
const MOST_LAYERS: usize = 1024;
/// A model's operations name the place of each head.
pub(super) const MOST_HEADS: usize = 1024;
const MOST_EXPERTS: usize = 1 << 16;
/// Positions and token ids are u32.
const MOST_TOKENS: usize = 1 << 30;

/// Frequencies of the rotated pairs, from the new (`rope_parameters`) or the old fields.
/// `default_fraction` is the part of a head that rotates where the fields do not say; `None` for
/// an architecture that always rotates whole heads.
pub(super) fn rope_frequencies(
    c: &Config,
    head_dim: usize,
    default_fraction: Option<f64>,
) -> Result<Arc<[f32]>, Error> {
    rope_frequencies_from(c, head_dim, default_fraction, 10_000.0)
}

/// The same, with the base that the architecture has where the fields do not say.
pub(super) fn rope_frequencies_from(
    c: &Config,
    head_dim: usize,
    default_fraction: Option<f64>,
    default_theta: f64,
) -> Result<Arc<[f32]>, Error> {
    let rope = c
        .section("rope_scaling")
        .or_else(|| c.section("rope_parameters"));
    let rope = rope.unwrap_or_else(|| c.clone());
    for field in ["rope_type", "type"] {
        rope.require_text(field, "default")?;
    }
    let theta = rope.positive_or("rope_theta", c.positive_or("rope_theta", default_theta)?)?;
    let fraction = match default_fraction {
        None => 1.0,
        Some(default) => rope.positive_or(
            "partial_rotary_factor",
            c.positive_or("partial_rotary_factor", default)?,
        )?,
    };
    let rotary_dim = (head_dim as f64 * fraction) as usize;
    if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
        return Err(c.error(
            "partial_rotary_factor",
            format!("rotates {rotary_dim} of {head_dim} elements; it must be an even number"),
        ));
    }
    Ok(inverse_frequencies(theta, rotary_dim))
}

/// The number of routed experts, under any of its names.
pub(super) fn expert_count(c: &Config) -> Result<usize, Error> {
    let others = ["num_local_experts", "n_routed_experts"];
    let other = others.into_iter().find(|field| c.has(field));
    let field = match other {
        Some(other) if !c.has("num_experts") => other,
        _ => "num_experts",
    };
    c.size_up_to(field, MOST_EXPERTS)
}

/// How experts are chosen by groups: `n_group`, `topk_group` and `routed_scaling_factor`.
pub(super) fn groups(c: &Config, routed: &RoutedShape, scores: Scores) -> Result<Groups, Error> {
    groups_of(c, "n_group", routed, scores)
}

/// The same where `field` is the number of groups.
pub(super) fn groups_of(
    c: &Config,
    field: &str,
    routed: &RoutedShape,
    scores: Scores,
) -> Result<Groups, Error> {
    let (groups, kept) = (c.size_or(field, 1)?, c.size_or("topk_group", 1)?);
    let size = routed.experts / groups;
    if !routed.experts.is_multiple_of(groups) || (groups > 1 && size < 2) {
        let problem = format!(
            "is {groups}, which does not divide {} experts",
            routed.experts
        );
        return Err(c.error(field, format!("{problem} into groups of two or more")));
    }
    if kept > groups || routed.top_k > kept * size {
        let problem = format!(
            "is {kept} of {groups} groups of {size}; a token needs {} experts of them",
            routed.top_k
        );
        return Err(c.error("topk_group", problem));
    }
    Ok(Groups {
        groups,
        kept,
        scores,
        scale: c.positive_or("routed_scaling_factor", 1.0)? as f32,
    })
}

/// The first layers, which have a plain MLP: `first_k_dense_replace`, with the elements of its
/// middle, if there are any.
pub(super) fn first_dense(c: &Config, default: usize) -> Result<(usize, usize), Error> {
    match c.count_or("first_k_dense_replace", default)? {
        0 => Ok((0, 0)),
        layers => Ok((layers, c.size("intermediate_size")?)),
    }
}

/// The number of layers.
pub(super) fn layer_count(c: &Config) -> Result<usize, Error> {
    c.size_up_to("num_hidden_layers", MOST_LAYERS)
}

/// The kind of each layer, if `layer_types` lists them.
pub(super) fn layer_types(c: &Config, layers: usize) -> Result<Option<Vec<String>>, Error> {
    const FIELD: &str = "layer_types";
    match c.texts(FIELD)? {
        Some(types) if types.len() != layers => {
            let problem = format!("has {} entries for {layers} layers", types.len());
            Err(c.error(FIELD, problem))
        }
        types => Ok(types),
    }
}

/// A number of tokens, as of a vocabulary.
pub(super) fn token_count(c: &Config, field: &str) -> Result<usize, Error> {
    c.size_up_to(field, MOST_TOKENS)
}

/// The longest sequence that the model was made for.
pub(super) fn context_tokens(c: &Config, default: usize) -> Result<usize, Error> {
    match c.has("max_position_embeddings") {
        true => token_count(c, "max_position_embeddings"),
        false => Ok(default),
    }
}

/// Layers with a plain MLP in place of routed experts, as the Qwen families list them.
pub(super) struct DenseLayers {
    layers: Vec<usize>,
    intermediate: Option<usize>,
}

impl DenseLayers {
    /// From `mlp_only_layers` and `decoder_sparse_step`.
    pub(super) fn read(c: &Config, layers: usize) -> Result<DenseLayers, Error> {
        let listed = c.indexes("mlp_only_layers")?;
        let step = c.size_or("decoder_sparse_step", 1)?;
        let dense = |layer: &usize| listed.contains(layer) || !(layer + 1).is_multiple_of(step);
        let layers: Vec<usize> = (0..layers).filter(dense).collect();
        let intermediate = match layers.is_empty() {
            true => None,
            false => Some(c.size("intermediate_size")?),
        };
        Ok(DenseLayers {
            layers,
            intermediate,
        })
    }

    /// Elements of the MLP of `layer`; `None` if it has routed experts.
    pub(super) fn intermediate(&self, layer: usize) -> Option<usize> {
        self.intermediate.filter(|_| self.layers.contains(&layer))
    }
}

/// Refuses more experts a token than there are.
pub(super) fn check_top_k(c: &Config, routed: &RoutedShape) -> Result<(), Error> {
    if routed.top_k > routed.experts {
        let problem = format!(
            "is {}, more than the {} experts",
            routed.top_k, routed.experts
        );
        let field = match c.has("num_experts_per_token") {
            true => "num_experts_per_token",
            false => "num_experts_per_tok",
        };
        return Err(c.error(field, problem));
    }
    Ok(())
}

/// Refuses query heads that cannot be shared out evenly, and more than any model has.
pub(super) fn check_heads(
    c: &Config,
    field: &str,
    heads: usize,
    groups: usize,
) -> Result<(), Error> {
    if heads > MOST_HEADS {
        let problem = format!("is {heads}, not an integer from 1 to {MOST_HEADS}");
        return Err(c.error(field, problem));
    }
    if !heads.is_multiple_of(groups) {
        return Err(c.error(
            field,
            format!("is {heads}, not a multiple of {groups} key heads"),
        ));
    }
    Ok(())
}

/// The last positions that attention sees, if not all.
pub(super) fn window(c: &Config) -> Result<Option<usize>, Error> {
    match c.has("sliding_window") {
        true => token_count(c, "sliding_window").map(Some),
        false => Ok(None),
    }
}

/// Refuses a window of attention, which would make positions beyond it forgotten.
pub(super) fn refuse_window(c: &Config) -> Result<(), Error> {
    if c.has("sliding_window") {
        let problem = "is set; only attention to all positions is supported here (null)";
        return Err(c.error("sliding_window", problem));
    }
    Ok(())
}

/// Refuses a variant that is switched on in the configuration and not implemented.
pub(super) fn refuse_true(c: &Config, field: &str) -> Result<(), Error> {
    if c.bool_or(field, false)? {
        return Err(c.error(field, "is true, which is not supported"));
    }
    Ok(())
}

/// `1 / theta^(2i / rotary_dim)` for each rotated pair, in f32 steps as the reference
/// implementation takes them.
pub(super) fn inverse_frequencies(theta: f64, rotary_dim: usize) -> Arc<[f32]> {
    (0..rotary_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            (1.0 / theta.powf(f64::from(exponent))) as f32
        })
        .collect()
}
