//! The names and forms of weights in GGUF files.
//!
//! A conversion stores the same numbers as the checkpoint it came from, but for these:
//! - norms whose checkpoint holds the weight minus one have the one added already;
//! - `ssm_a` is `-exp(A_log)`;
//! - in `qwen35moe` the value heads of linear attention are in tiled order: head h belongs to key
//!   head h mod key_heads, where checkpoints group the heads of a key head;
//! - in `llama` rows of queries and keys are in the order of interleaved pairs, where checkpoints
//!   have them in halves: the rotation is told so, and the products of the two stay what they are;
//! - in `deepseek2` the projection from latents to keys is transposed and apart from that to
//!   values, both with a matrix a head (early files have one matrix, as checkpoints do);
//! - convolutions and `ssm_a` have other sizes of one among their sizes;
//! - gate and up of `gpt-oss` are apart, their biases too, where checkpoints have rows by turns;
//! - the gate of the shared expert is a vector;
//! - the routed experts' matrices are stacked, `[experts, rows, cols]`.

use moeflux_formats::Checkpoint;
use moeflux_kernels::{HeadOrder, HeadRows, RopeStyle};

use super::architecture::Architecture;
use crate::graph::{Op, WeightId};
use crate::models::{Blueprint, VectorFold, WeightDecl, WeightKind};

/// Names that stand outside layers.
const GLOBAL: [(&str, &str); 8] = [
    ("embed_tokens", "token_embd"),
    ("norm.weight", "output_norm.weight"),
    ("lm_head", "output"),
    // DeepSeek-V4.
    ("embed", "token_embd"),
    ("head", "output"),
    ("hc_head_fn", "output_hc_fn"),
    ("hc_head_base", "output_hc_base.weight"),
    ("hc_head_scale", "output_hc_scale.weight"),
];

/// Names within a layer.
const LAYER: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"),
    (LATENT_UP, "attn_kv_b"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.conv1d.weight", "ssm_conv1d.weight"),
    ("linear_attn.norm.weight", "ssm_norm.weight"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    (
        "block_sparse_moe.e_score_correction_bias",
        "exp_probs_b.bias",
    ),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("mlp.experts", "ffn"),
    ("block_sparse_moe.experts", "ffn"),
    // gpt-oss.
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.router.bias", "ffn_gate_inp.bias"),
    ("mlp.experts.gate_proj_bias", "ffn_gate_exps.bias"),
    ("mlp.experts.up_proj_bias", "ffn_up_exps.bias"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    // Kimi-Linear.
    ("self_attn.q_conv1d.weight", "ssm_conv1d_q.weight"),
    ("self_attn.k_conv1d.weight", "ssm_conv1d_k.weight"),
    ("self_attn.v_conv1d.weight", "ssm_conv1d_v.weight"),
    ("self_attn.f_a_proj", "ssm_f_a"),
    ("self_attn.f_b_proj", "ssm_f_b"),
    ("self_attn.g_a_proj", "ssm_g_a"),
    ("self_attn.g_b_proj", "ssm_g_b"),
    ("self_attn.b_proj", "ssm_beta"),
    ("self_attn.A_log", "ssm_a"),
    ("self_attn.dt_bias", "ssm_dt.bias"),
    ("self_attn.o_norm.weight", "ssm_norm.weight"),
    (
        "block_sparse_moe.shared_experts.gate_proj",
        "ffn_gate_shexp",
    ),
    ("block_sparse_moe.shared_experts.up_proj", "ffn_up_shexp"),
    (
        "block_sparse_moe.shared_experts.down_proj",
        "ffn_down_shexp",
    ),
    (
        "block_sparse_moe.gate.e_score_correction_bias",
        "exp_probs_b.bias",
    ),
    // DeepSeek-V4.
    ("hc_attn_fn", "hc_attn_fn"),
    ("hc_attn_base", "hc_attn_base.weight"),
    ("hc_attn_scale", "hc_attn_scale.weight"),
    ("hc_ffn_fn", "hc_ffn_fn"),
    ("hc_ffn_base", "hc_ffn_base.weight"),
    ("hc_ffn_scale", "hc_ffn_scale.weight"),
    ("attn_norm.weight", "attn_norm.weight"),
    ("ffn_norm.weight", "ffn_norm.weight"),
    ("attn.wq_a", "attn_q_a"),
    ("attn.q_norm.weight", "attn_q_a_norm.weight"),
    ("attn.wq_b", "attn_q_b"),
    ("attn.wkv", "attn_kv"),
    ("attn.kv_norm.weight", "attn_kv_a_norm.weight"),
    ("attn.attn_sink", "attn_sinks.weight"),
    ("attn.wo_a", "attn_output_a"),
    ("attn.wo_b", "attn_output_b"),
    ("attn.compressor.wkv", "attn_compressor_kv"),
    ("attn.compressor.wgate", "attn_compressor_gate"),
    ("attn.compressor.ape", "attn_compressor_ape.weight"),
    ("attn.compressor.norm.weight", "attn_compressor_norm.weight"),
    ("attn.indexer.wq_b", "indexer.attn_q_b"),
    ("attn.indexer.weights_proj", "indexer.proj"),
    ("attn.indexer.compressor.wkv", "indexer_compressor_kv"),
    ("attn.indexer.compressor.wgate", "indexer_compressor_gate"),
    (
        "attn.indexer.compressor.ape",
        "indexer_compressor_ape.weight",
    ),
    (
        "attn.indexer.compressor.norm.weight",
        "indexer_compressor_norm.weight",
    ),
    ("ffn.gate", "ffn_gate_inp"),
    ("ffn.gate.bias", "exp_probs_b.bias"),
    ("ffn.gate.tid2eid", "ffn_gate_tid2eid.weight"),
    ("ffn.shared_experts.w1", "ffn_gate_shexp"),
    ("ffn.shared_experts.w3", "ffn_up_shexp"),
    ("ffn.shared_experts.w2", "ffn_down_shexp"),
    ("ffn.experts", "ffn"),
];

/// The projection from latents to keys and values.
const LATENT_UP: &str = "self_attn.kv_b_proj";
const LATENT_UP_GGUF: &str = ".attn_kv_b";

/// The name in GGUF files of a weight of a blueprint; `None` if there is none.
fn tensor_name(architecture: &Architecture, name: &str) -> Option<String> {
    let find = |table: &[(&str, &'static str)], name: &str| {
        let found = table.iter().find(|(ours, _)| *ours == name);
        found.map(|&(_, theirs)| theirs)
    };
    let Some(rest) = name.strip_prefix("layers.") else {
        return find(&GLOBAL, name).map(str::to_owned);
    };
    let (layer, name) = rest.split_once('.')?;
    let theirs = match name {
        "post_attention_layernorm.weight" => architecture.mlp_norm,
        _ => find(LAYER, name)?,
    };
    Some(format!("blk.{layer}.{theirs}"))
}

/// Gives `blueprint` the names and forms that its weights have in GGUF files. After its layers
/// come `extra_layers` of the multi-token prediction head, which are left out.
pub(crate) fn adapt(blueprint: &mut Blueprint, architecture: &Architecture, extra_layers: usize) {
    let rename = |name: &mut String| {
        // A name without a counterpart stays, and is then reported as missing.
        if let Some(theirs) = tensor_name(architecture, name) {
            *name = theirs;
        }
    };
    for weight in &mut blueprint.weights {
        if let WeightKind::Vector { shape, fold } = &mut weight.kind {
            if matches!(fold, VectorFold::Even | VectorFold::Odd) {
                let own = if *fold == VectorFold::Even {
                    "gate"
                } else {
                    "up"
                };
                weight.name = weight.name.replace("gate_up", own);
                if let Some(size) = shape.last_mut() {
                    *size /= 2;
                }
            }
            *fold = match *fold {
                VectorFold::AddOne | VectorFold::Even | VectorFold::Odd => VectorFold::None,
                VectorFold::None if weight.name.ends_with(".A_log") => VectorFold::LogOfNegated,
                other => other,
            };
        }
        rename(&mut weight.name);
    }
    for layer in &mut blueprint.experts {
        rename(&mut layer.name);
    }
    for op in &mut blueprint.graph.ops {
        match op {
            Op::GatedDelta { shape, .. } if architecture.tiles_heads => {
                shape.head_order = HeadOrder::Tiled;
            }
            Op::Rope { style, .. } if architecture.interleaves => *style = RopeStyle::Interleaved,
            _ => {}
        }
    }
    blueprint.prefixes = &[""];
    let extra = blueprint.layers..blueprint.layers.saturating_add(extra_layers);
    blueprint.skipped = extra
        .map(|layer| (format!("blk.{layer}."), "multi-token prediction head"))
        .collect();
}

/// Gives vectors the shapes that `files` have them in, where no size above one differs.
pub(crate) fn fit_shapes(blueprint: &mut Blueprint, files: &Checkpoint) {
    let sizes = |shape: &[usize]| -> Vec<usize> {
        let above = shape.iter().copied().filter(|&size| size != 1);
        above.collect()
    };
    for weight in &mut blueprint.weights {
        let WeightKind::Vector { shape, .. } = &mut weight.kind else {
            continue;
        };
        if let Some(info) = files.get(&weight.name)
            && sizes(shape) == sizes(&info.shape)
        {
            shape.clone_from(&info.shape);
        }
    }
}

/// Gives each projection from latents the two weights that files split it in: `attn_k_b`,
/// `[heads * rank, plain]`, whose rows fold queries into latents, and `attn_v_b`,
/// `[heads * value, rank]`.
pub(crate) fn split_latent(blueprint: &mut Blueprint) {
    for index in 0..blueprint.weights.len() {
        let decl = &blueprint.weights[index];
        let Some(layer) = decl.name.strip_suffix(LATENT_UP_GGUF) else {
            continue;
        };
        let WeightKind::Matrix { cols, class, .. } = decl.kind else {
            continue;
        };
        let names = [format!("{layer}.attn_k_b"), format!("{layer}.attn_v_b")];
        let own = WeightId(index as u32);
        let ids = [own, WeightId(blueprint.weights.len() as u32)];
        let mut kinds = [None, None];
        for op in &mut blueprint.graph.ops {
            let Op::HeadMatmul { weight, shape, .. } = op else {
                continue;
            };
            if *weight != own {
                continue;
            }
            let (place, width, rows) = match shape.transposed {
                true => (0, shape.rows, cols),
                false => (1, cols, shape.rows),
            };
            *weight = ids[place];
            *shape = HeadRows {
                stride: rows,
                first: 0,
                rows,
                transposed: false,
                ..*shape
            };
            kinds[place] = Some(WeightKind::Matrix {
                rows: shape.heads * rows,
                cols: width,
                class,
            });
        }
        let [keys, values] = names;
        if let [Some(key_kind), Some(value_kind)] = kinds {
            blueprint.weights[index] = WeightDecl {
                name: keys,
                kind: key_kind,
            };
            blueprint.weights.push(WeightDecl {
                name: values,
                kind: value_kind,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Architecture {
        Architecture::named(name).expect("it is known")
    }

    #[test]
    fn names_are_mapped_by_layer_and_architecture() {
        for (ours, theirs) in [
            ("embed_tokens", "token_embd"),
            ("layers.3.linear_attn.in_proj_qkv", "blk.3.attn_qkv"),
            ("layers.30.mlp.gate", "blk.30.ffn_gate_inp"),
            ("layers.7.mlp.experts", "blk.7.ffn"),
            (
                "layers.0.post_attention_layernorm.weight",
                "blk.0.post_attention_norm.weight",
            ),
        ] {
            let found = tensor_name(named("qwen35moe"), ours);
            assert_eq!(found.as_deref(), Some(theirs), "{ours}");
        }
        let norm = "layers.0.post_attention_layernorm.weight";
        let found = tensor_name(named("qwen3moe"), norm);
        assert_eq!(found.as_deref(), Some("blk.0.ffn_norm.weight"));
        assert_eq!(tensor_name(named("qwen3moe"), "layers.0.other"), None);
    }
}
