//! Mixtral: plain attention with grouped queries, within a window if the configuration has one (as
//! early ones do), routed experts in every layer.
//!
//! Reference: `transformers/models/mixtral/modeling_mixtral.py`.

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, rope_frequencies_from, window};
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;

/// The base of the rotation where a configuration does not say.
const DEFAULT_ROPE_THETA: f64 = 1e6;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    let window = window(c)?;
    let decoder = Decoder::read(c, 1e-5)?;
    let rope = |head_dim| rope_frequencies_from(c, head_dim, None, DEFAULT_ROPE_THETA);
    let attention = SelfAttention::read(c, QueryNorm::None, rope)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size_or("num_experts_per_tok", 2)?,
        intermediate: c.size("intermediate_size")?,
        renormalize: true,
    };
    check_top_k(c, &routed)?;
    let mut b = decoder.builder(VectorFold::None);
    b.expert_matrices = ["w1", "w3", "w2"];
    Ok(decoder.build(
        b,
        ("mixtral", routed.top_k),
        |b, x, _, name| attention.emit_within(b, x, &format!("{name}.self_attn"), window),
        |b, x, layer, name| {
            let chosen = b.route(x, layer, &format!("{name}.block_sparse_moe"), routed);
            b.experts(chosen)
        },
    ))
}
