//! gpt-oss: attention with biases and sinks, every other layer within a window; experts with biases
//! and a clamped activation.
//!
//! Reference: `transformers/models/gpt_oss/modeling_gpt_oss.py`.

use std::sync::Arc;

use moeflux_kernels::Glu;

use super::attention::{QueryNorm, SelfAttention};
use super::blueprint::{Blueprint, BlueprintBuilder, VectorFold};
use super::decoder::Decoder;
use super::fields::{check_top_k, expert_count, layer_types, window};
use super::rotation::Rotation;
use super::routing::RoutedShape;
use crate::Error;
use crate::config::Config;
use crate::graph::ExpertForm;

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    if !c.bool_or("attention_bias", true)? {
        return Err(c.error("attention_bias", "is false, which is not supported"));
    }
    let decoder = Decoder::read(c, 1e-5)?;
    let mut attention_scale = 1.0;
    let rope = |head_dim| -> Result<Arc<[f32]>, Error> {
        let rotation = Rotation::read(c, head_dim)?;
        attention_scale = rotation.attention_scale;
        Ok(rotation.inv_freq)
    };
    let attention = SelfAttention::read(c, QueryNorm::None, rope)?;
    let attention = SelfAttention {
        biased: true,
        has_sinks: true,
        attention_scale,
        ..attention
    };
    let windows = windows(c, decoder.layers)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("intermediate_size")?,
        // Softmax over the chosen alone is softmax over all, divided by the sum of the chosen.
        renormalize: true,
    };
    check_top_k(c, &routed)?;
    let glu = Glu::Clamped {
        limit: c.positive_or("swiglu_limit", 7.0)? as f32,
        alpha: c.positive_or("swiglu_alpha", 1.702)? as f32,
        offset: 1.0,
    };
    let mut b = decoder.builder(VectorFold::None);
    b.has_turned_experts = true;
    Ok(decoder.build(
        b,
        ("gpt_oss", routed.top_k),
        |b, x, layer, name| {
            attention.emit_within(b, x, &format!("{name}.self_attn"), windows[layer])
        },
        |b, x, layer, name| {
            let name = format!("{name}.mlp");
            let chosen = b.route_biased(x, layer, &name, routed);
            let form = expert_form(b, &format!("{name}.experts"), routed, glu);
            b.experts_with(chosen, form)
        },
    ))
}

/// The experts' biases; those of gate and up lie in turn in one tensor.
fn expert_form(b: &mut BlueprintBuilder, name: &str, shape: RoutedShape, glu: Glu) -> ExpertForm {
    let both = [shape.experts, 2 * shape.intermediate];
    let gate_up = format!("{name}.gate_up_proj_bias");
    let down = [shape.experts, b.hidden];
    ExpertForm {
        glu,
        biases: Some([
            b.vector(gate_up.clone(), &both, VectorFold::Even),
            b.vector(gate_up, &both, VectorFold::Odd),
            b.vector(format!("{name}.down_proj_bias"), &down, VectorFold::None),
        ]),
    }
}

/// The window of each layer that has one.
fn windows(c: &Config, layers: usize) -> Result<Vec<Option<usize>>, Error> {
    let window = window(c)?;
    let Some(types) = layer_types(c, layers)? else {
        let every_other = |layer: usize| window.filter(|_| layer.is_multiple_of(2));
        return Ok((0..layers).map(every_other).collect());
    };
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            "sliding_attention" => {
                let problem = "is missing, but layers with a window are listed in layer_types";
                Err(c.error("sliding_window", problem))
            }
            other => Err(c.error("layer_types", format!("has an unknown type `{other}`"))),
        })
        .collect()
}
