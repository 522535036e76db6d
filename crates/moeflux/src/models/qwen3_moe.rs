//! Qwen3-MoE: attention with normed heads, routed experts in most layers, a plain MLP in others.
//!
//! Reference: `transformers/models/qwen3_moe/modeling_qwen3_moe.py`.

use std::sync::Arc;

use super::blueprint::{Blueprint, BlueprintBuilder, MatrixClass, RoutedShape, VectorFold};
use super::fields::{
    check_heads, check_top_k, context_tokens, expert_count, layer_count, refuse_true,
    rope_frequencies, token_count,
};
use crate::Error;
use crate::config::Config;
use crate::graph::BufferId;

struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inv_freq: Arc<[f32]>,
}

/// The blueprint for a configuration.
pub(super) fn build(c: &Config) -> Result<Blueprint, Error> {
    c.require_text("hidden_act", "silu")?;
    refuse_true(c, "attention_bias")?;
    refuse_true(c, "use_sliding_window")?;
    let (hidden, layers, vocab) = (
        c.size("hidden_size")?,
        layer_count(c)?,
        token_count(c, "vocab_size")?,
    );
    let heads = c.size("num_attention_heads")?;
    let head_dim = c.size_or("head_dim", hidden / heads)?;
    let attention = Attention {
        heads,
        kv_heads: c.size_or("num_key_value_heads", heads)?,
        head_dim,
        inv_freq: rope_frequencies(c, head_dim, None)?,
    };
    check_heads(c, "num_attention_heads", heads, attention.kv_heads)?;
    let routed = RoutedShape {
        experts: expert_count(c)?,
        top_k: c.size("num_experts_per_tok")?,
        intermediate: c.size("moe_intermediate_size")?,
        renormalize: c.bool_or("norm_topk_prob", false)?,
    };
    check_top_k(c, &routed)?;
    let dense_layers = c.indexes("mlp_only_layers")?;
    let step = c.size_or("decoder_sparse_step", 1)?;

    let eps = c.positive_or("rms_norm_eps", 1e-6)? as f32;
    let mut b = BlueprintBuilder::new(hidden, eps, VectorFold::None);
    let (mut x, table) = b.embed(vocab);
    for layer in 0..layers {
        let name = format!("layers.{layer}");
        let normed = b.rms_norm(
            x,
            format!("{name}.input_layernorm.weight"),
            hidden,
            "normed",
        );
        let mixed = self_attention(&mut b, &attention, normed, &format!("{name}.self_attn"));
        let x_mid = b.add(x, mixed, "hidden mid");
        let normed = b.rms_norm(
            x_mid,
            format!("{name}.post_attention_layernorm.weight"),
            hidden,
            "normed",
        );
        let sparse = !dense_layers.contains(&layer) && (layer + 1).is_multiple_of(step);
        let mlp = if sparse {
            let routed = b.route(normed, layer, &format!("{name}.mlp"), routed);
            b.experts(routed)
        } else {
            b.mlp(normed, &format!("{name}.mlp"), c.size("intermediate_size")?)
        };
        x = b.add(x_mid, mlp, "hidden");
    }
    let tied = c.bool_or("tie_word_embeddings", false)?;
    let logits = b.logits(x, vocab, tied.then_some(table));
    let (graph, weights, experts) = b.finish(logits);
    Ok(Blueprint {
        model_type: "qwen3_moe".to_owned(),
        hidden,
        layers,
        vocab,
        context_tokens: context_tokens(c, 32768)?,
        top_k: routed.top_k,
        graph,
        weights,
        experts,
        prefixes: &["model."],
        skipped: Vec::new(),
    })
}

fn self_attention(b: &mut BlueprintBuilder, m: &Attention, x: BufferId, name: &str) -> BufferId {
    let (q_len, kv_len) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let [q, k, v] = b.project(
        x,
        MatrixClass::Dense,
        [
            (format!("{name}.q_proj"), q_len, "q"),
            (format!("{name}.k_proj"), kv_len, "k"),
            (format!("{name}.v_proj"), kv_len, "v"),
        ],
    );
    let q = b.rms_norm(q, format!("{name}.q_norm.weight"), m.head_dim, "q normed");
    let k = b.rms_norm(k, format!("{name}.k_norm.weight"), m.head_dim, "k normed");
    let q = b.rope(q, m.head_dim, &m.inv_freq);
    let k = b.rope(k, m.head_dim, &m.inv_freq);
    let attended = b.attention((q, k, v), m.heads, m.kv_heads, m.head_dim);
    let hidden = b.hidden;
    let [out] = b.project(
        attended,
        MatrixClass::Dense,
        [(format!("{name}.o_proj"), hidden, "attention out")],
    );
    out
}
