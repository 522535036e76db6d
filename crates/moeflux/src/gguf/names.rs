//! The names and forms of weights in GGUF files.
//!
//! A conversion stores the same numbers as the checkpoint it came from, but for these (the first
//! four in `qwen35moe` alone):
//! - norms whose checkpoint holds the weight minus one have the one added already;
//! - `ssm_a` is `-exp(A_log)`;
//! - the value heads of linear attention are in tiled order: head h belongs to key head
//!   h mod key_heads, where checkpoints group the heads of a key head;
//! - `ssm_conv1d` is `[channels, kernel]`;
//! - the gate of the shared expert is a vector;
//! - the routed experts' matrices are stacked, `[experts, rows, cols]`.

use moeflux_kernels::HeadOrder;

use super::Architecture;
use crate::graph::Op;
use crate::models::{Blueprint, VectorFold, WeightKind};

/// Names that stand outside layers.
const GLOBAL: [(&str, &str); 3] = [
    ("embed_tokens", "token_embd"),
    ("norm.weight", "output_norm.weight"),
    ("lm_head", "output"),
];

/// Names within a layer.
const LAYER: [(&str, &str); 24] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.conv1d.weight", "ssm_conv1d.weight"),
    ("linear_attn.norm.weight", "ssm_norm.weight"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// The name in GGUF files of a weight of a blueprint; `None` if there is none.
fn tensor_name(architecture: Architecture, name: &str) -> Option<String> {
    let find = |table: &[(&str, &'static str)], name: &str| {
        let found = table.iter().find(|(ours, _)| *ours == name);
        found.map(|&(_, theirs)| theirs)
    };
    let Some(rest) = name.strip_prefix("layers.") else {
        return find(&GLOBAL, name).map(str::to_owned);
    };
    let (layer, name) = rest.split_once('.')?;
    let theirs = match (architecture, name) {
        (Architecture::Qwen3Moe, "post_attention_layernorm.weight") => "ffn_norm.weight",
        (Architecture::Qwen35Moe, "post_attention_layernorm.weight") => {
            "post_attention_norm.weight"
        }
        (_, "mlp.experts") => "ffn",
        _ => find(&LAYER, name)?,
    };
    Some(format!("blk.{layer}.{theirs}"))
}

/// Gives `blueprint` the names and forms that its weights have in GGUF files. After its layers
/// come `extra_layers` of the multi-token prediction head, which are left out.
pub(crate) fn adapt(blueprint: &mut Blueprint, architecture: Architecture, extra_layers: usize) {
    let rename = |name: &mut String| {
        // A name without a counterpart stays, and is then reported as missing.
        if let Some(theirs) = tensor_name(architecture, name) {
            *name = theirs;
        }
    };
    for weight in &mut blueprint.weights {
        if let WeightKind::Vector { shape, fold } = &mut weight.kind {
            *fold = match *fold {
                VectorFold::AddOne => VectorFold::None,
                VectorFold::TransposeConv => {
                    shape.retain(|&size| size != 1);
                    VectorFold::TransposeConv
                }
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
        if let Op::GatedDelta { shape, .. } = op {
            shape.head_order = HeadOrder::Tiled;
        }
    }
    blueprint.prefixes = &[""];
    let extra = blueprint.layers..blueprint.layers.saturating_add(extra_layers);
    blueprint.skipped = extra
        .map(|layer| (format!("blk.{layer}."), "multi-token prediction head"))
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = tensor_name(Architecture::Qwen35Moe, ours);
            assert_eq!(found.as_deref(), Some(theirs), "{ours}");
        }
        let norm = "layers.0.post_attention_layernorm.weight";
        let found = tensor_name(Architecture::Qwen3Moe, norm);
        assert_eq!(found.as_deref(), Some("blk.0.ffn_norm.weight"));
        assert_eq!(tensor_name(Architecture::Qwen3Moe, "layers.0.other"), None);
    }
}
