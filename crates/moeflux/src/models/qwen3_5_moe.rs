//! Qwen3.5-MoE: three layers of gated delta rule to one of gated attention, routed experts and a
//! shared one in every layer. Text part of both published forms: `qwen3_5_moe_text`, and
//! `qwen3_5_moe` with a `text_config` beside the vision tower, which is skipped.
//!
//! Reference: `transformers/models/qwen3_5_moe/modeling_qwen3_5_moe.py`; gated delta networks:
//! arXiv 2412.06464.

use std::sync::Arc;

use moeflux_kernels::{DeltaShape, HeadOrder};

use super::blueprint::{Blueprint, BlueprintBuilder, MatrixClass, RoutedShape, VectorFold};
use super::fields::{
    check_heads, check_top_k, context_tokens, expert_count, layer_count, refuse_true,
    rope_frequencies, token_count,
};
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, StateDecl};

struct Qwen35Moe {
    hidden: usize,
    layers: usize,
    vocab: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inv_freq: Arc<[f32]>,
    delta: DeltaShape,
    conv_kernel: usize,
    routed: RoutedShape,
    shared_intermediate: usize,
}

/// The blueprint for a configuration of either form.
pub(super) fn build(config: &Config) -> Result<Blueprint, Error> {
    let text = config
        .section("text_config")
        .unwrap_or_else(|| config.clone());
    let c = &text;
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    if !c.bool_or("attn_output_gate", true)? {
        return Err(c.error(
            "attn_output_gate",
            "is false; only gated attention is supported",
        ));
    }
    let head_dim = c.size_or("head_dim", 256)?;
    let model = Qwen35Moe {
        hidden: c.size("hidden_size")?,
        layers: layer_count(c)?,
        vocab: token_count(c, "vocab_size")?,
        heads: c.size("num_attention_heads")?,
        kv_heads: c.size("num_key_value_heads")?,
        head_dim,
        inv_freq: rope_frequencies(c, head_dim, Some(0.25))?,
        delta: DeltaShape {
            key_heads: c.size_or("linear_num_key_heads", 16)?,
            value_heads: c.size_or("linear_num_value_heads", 32)?,
            key_dim: c.size_or("linear_key_head_dim", 128)?,
            value_dim: c.size_or("linear_value_head_dim", 128)?,
            head_order: HeadOrder::Grouped,
        },
        conv_kernel: c.size_or("linear_conv_kernel_dim", 4)?,
        routed: RoutedShape {
            experts: expert_count(c)?,
            top_k: c.size("num_experts_per_tok")?,
            intermediate: c.size("moe_intermediate_size")?,
            renormalize: true,
        },
        shared_intermediate: c.size("shared_expert_intermediate_size")?,
    };
    check_heads(c, "num_attention_heads", model.heads, model.kv_heads)?;
    check_heads(
        c,
        "linear_num_value_heads",
        model.delta.value_heads,
        model.delta.key_heads,
    )?;
    check_top_k(c, &model.routed)?;

    let eps = c.positive_or("rms_norm_eps", 1e-6)? as f32;
    let mut b = BlueprintBuilder::new(model.hidden, eps, VectorFold::AddOne);
    let (mut x, table) = b.embed(model.vocab);
    for (layer, full) in full_attention_layers(c, model.layers)?
        .into_iter()
        .enumerate()
    {
        let name = format!("layers.{layer}");
        let normed = b.rms_norm(
            x,
            format!("{name}.input_layernorm.weight"),
            model.hidden,
            "normed",
        );
        let mixed = if full {
            gated_attention(&mut b, &model, normed, &format!("{name}.self_attn"))
        } else {
            gated_delta_net(&mut b, &model, normed, &format!("{name}.linear_attn"))
        };
        let x_mid = b.add(x, mixed, "hidden mid");
        let normed = b.rms_norm(
            x_mid,
            format!("{name}.post_attention_layernorm.weight"),
            model.hidden,
            "normed",
        );
        let moe = sparse_moe(&mut b, &model, normed, layer, &format!("{name}.mlp"));
        x = b.add(x_mid, moe, "hidden");
    }
    let tied =
        c.bool_or("tie_word_embeddings", false)? || config.bool_or("tie_word_embeddings", false)?;
    let logits = b.logits(x, model.vocab, tied.then_some(table));
    let (graph, weights, experts) = b.finish(logits);
    Ok(Blueprint {
        model_type: config.text("model_type").unwrap_or_default().to_owned(),
        hidden: model.hidden,
        layers: model.layers,
        vocab: model.vocab,
        context_tokens: context_tokens(c, 32768)?,
        top_k: model.routed.top_k,
        graph,
        weights,
        experts,
        prefixes: &["model.language_model.", "model."],
        skipped: vec![
            ("model.visual.".to_owned(), "vision tower"),
            ("visual.".to_owned(), "vision tower"),
            ("mtp.".to_owned(), "multi-token prediction head"),
        ],
    })
}

/// Softmax attention with normed and partly rotated heads, its output gated by `sigmoid`.
fn gated_attention(b: &mut BlueprintBuilder, m: &Qwen35Moe, x: BufferId, name: &str) -> BufferId {
    let (q_len, kv_len) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let [qg, k, v] = b.project(
        x,
        MatrixClass::Dense,
        [
            (format!("{name}.q_proj"), 2 * q_len, "q and gate"),
            (format!("{name}.k_proj"), kv_len, "k"),
            (format!("{name}.v_proj"), kv_len, "v"),
        ],
    );
    let q = b.graph.buffer("q", q_len);
    let gate = b.graph.buffer("attention gate", q_len);
    b.graph.push(Op::SplitPairs {
        x: qg,
        heads: m.heads,
        dim: m.head_dim,
        first: q,
        second: gate,
    });
    let q = b.rms_norm(q, format!("{name}.q_norm.weight"), m.head_dim, "q normed");
    let k = b.rms_norm(k, format!("{name}.k_norm.weight"), m.head_dim, "k normed");
    let q = b.rope(q, m.head_dim, &m.inv_freq);
    let k = b.rope(k, m.head_dim, &m.inv_freq);
    let attended = b.attention((q, k, v), m.heads, m.kv_heads, m.head_dim);
    let gated = b.graph.buffer("attention gated", q_len);
    b.graph.push(Op::SigmoidMul {
        x: attended,
        gate,
        out: gated,
    });
    let hidden = m.hidden;
    let [out] = b.project(
        gated,
        MatrixClass::Dense,
        [(format!("{name}.o_proj"), hidden, "attention out")],
    );
    out
}

/// Convolution, gated delta rule, gated norm.
fn gated_delta_net(b: &mut BlueprintBuilder, m: &Qwen35Moe, x: BufferId, name: &str) -> BufferId {
    let shape = m.delta;
    let value_len = shape.value_heads * shape.value_dim;
    let channels = 2 * shape.key_heads * shape.key_dim + value_len;
    let [qkv, z] = b.project(
        x,
        MatrixClass::Dense,
        [
            (format!("{name}.in_proj_qkv"), channels, "qkv"),
            (format!("{name}.in_proj_z"), value_len, "z"),
        ],
    );
    let [beta, alpha] = b.project(
        x,
        MatrixClass::Sensitive,
        [
            (format!("{name}.in_proj_b"), shape.value_heads, "b"),
            (format!("{name}.in_proj_a"), shape.value_heads, "a"),
        ],
    );
    let weight = b.vector(
        format!("{name}.conv1d.weight"),
        &[channels, 1, m.conv_kernel],
        VectorFold::TransposeConv,
    );
    let state = b.state(StateDecl::Recurrent {
        len: (m.conv_kernel - 1) * channels,
    });
    let convolved = b.graph.buffer("qkv convolved", channels);
    b.graph.push(Op::Conv1dSilu {
        x: qkv,
        weight,
        state,
        channels,
        out: convolved,
    });
    let a_log = b.vector(
        format!("{name}.A_log"),
        &[shape.value_heads],
        VectorFold::None,
    );
    let dt_bias = b.vector(
        format!("{name}.dt_bias"),
        &[shape.value_heads],
        VectorFold::None,
    );
    let state = b.state(StateDecl::Recurrent {
        len: shape.value_heads * shape.key_dim * shape.value_dim,
    });
    let delta = b.graph.buffer("delta out", value_len);
    b.graph.push(Op::GatedDelta {
        qkv: convolved,
        a: alpha,
        b: beta,
        a_log,
        dt_bias,
        state,
        shape,
        out: delta,
    });
    let weight = b.vector(
        format!("{name}.norm.weight"),
        &[shape.value_dim],
        VectorFold::None,
    );
    let gated = b.graph.buffer("delta gated", value_len);
    b.graph.push(Op::RmsNormGated {
        x: delta,
        gate: z,
        weight,
        eps: b.eps,
        out: gated,
    });
    let hidden = m.hidden;
    let [out] = b.project(
        gated,
        MatrixClass::Dense,
        [(format!("{name}.out_proj"), hidden, "mixer out")],
    );
    out
}

/// Routed experts plus a shared expert behind a scalar gate.
fn sparse_moe(
    b: &mut BlueprintBuilder,
    m: &Qwen35Moe,
    x: BufferId,
    layer: usize,
    name: &str,
) -> BufferId {
    let routed = b.route(x, layer, name, m.routed);
    let shared = b.mlp(x, &format!("{name}.shared_expert"), m.shared_intermediate);
    let [gate] = b.project(
        x,
        MatrixClass::Sensitive,
        [(format!("{name}.shared_expert_gate"), 1, "shared gate")],
    );
    let scaled = b.graph.buffer("shared scaled", m.hidden);
    b.graph.push(Op::ScaleBySigmoid {
        x: shared,
        gate,
        out: scaled,
    });
    let experts = b.experts(routed);
    b.add(experts, scaled, "moe out")
}

/// For each layer whether it is one of full attention.
fn full_attention_layers(c: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = c.texts("layer_types")? else {
        let interval = c.size_or("full_attention_interval", 4)?;
        return Ok((1..=layers).map(|i| i.is_multiple_of(interval)).collect());
    };
    if types.len() != layers {
        let problem = format!("has {} entries for {layers} layers", types.len());
        return Err(c.error("layer_types", problem));
    }
    types
        .iter()
        .map(|t| match t.as_str() {
            "full_attention" => Ok(true),
            "linear_attention" => Ok(false),
            other => Err(c.error("layer_types", format!("has an unknown type `{other}`"))),
        })
        .collect()
}
