//! Configuration fields that several architectures read in the same way.

use std::sync::Arc;

use super::blueprint::RoutedShape;
use crate::Error;
use crate::config::Config;

/// More is a mistake in the file, and would be much work before a tensor is found missing.
const MOST_LAYERS: usize = 4096;
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
    let rope = c
        .section("rope_scaling")
        .or_else(|| c.section("rope_parameters"));
    let rope = rope.unwrap_or_else(|| c.clone());
    for field in ["rope_type", "type"] {
        rope.require_text(field, "default")?;
    }
    let theta = rope.positive_or("rope_theta", c.positive_or("rope_theta", 10_000.0)?)?;
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

/// The number of routed experts, under either of its names.
pub(super) fn expert_count(c: &Config) -> Result<usize, Error> {
    if c.has("num_local_experts") && !c.has("num_experts") {
        return c.size_up_to("num_local_experts", MOST_EXPERTS);
    }
    c.size_up_to("num_experts", MOST_EXPERTS)
}

/// The number of layers.
pub(super) fn layer_count(c: &Config) -> Result<usize, Error> {
    c.size_up_to("num_hidden_layers", MOST_LAYERS)
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

/// Refuses more experts a token than there are.
pub(super) fn check_top_k(c: &Config, routed: &RoutedShape) -> Result<(), Error> {
    if routed.top_k > routed.experts {
        let problem = format!(
            "is {}, more than the {} experts",
            routed.top_k, routed.experts
        );
        return Err(c.error("num_experts_per_tok", problem));
    }
    Ok(())
}

/// Refuses query heads that cannot be shared out evenly.
pub(super) fn check_heads(
    c: &Config,
    field: &str,
    heads: usize,
    groups: usize,
) -> Result<(), Error> {
    if !heads.is_multiple_of(groups) {
        return Err(c.error(
            field,
            format!("is {heads}, not a multiple of {groups} key heads"),
        ));
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
fn inverse_frequencies(theta: f64, rotary_dim: usize) -> Arc<[f32]> {
    (0..rotary_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            (1.0 / theta.powf(f64::from(exponent))) as f32
        })
        .collect()
}
