//! A configuration that asks for what an architecture's file does not implement is refused, and
//! the message names the field.

mod common;

use common::fixture;
use moeflux::config::Config;
use moeflux::models::blueprint;
use serde_json::{Value, json};

/// Fixture, field, and a value that is refused.
fn refused() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("olmoe", "clip_qkv", json!(8.0)),
        ("olmoe", "attention_bias", json!(true)),
        ("olmoe", "hidden_act", json!("gelu")),
        ("olmoe", "num_experts_per_tok", json!(9)),
        ("mixtral", "num_attention_heads", json!(5)),
        ("qwen2_moe", "use_sliding_window", json!(true)),
        ("qwen2_moe", "intermediate_size", json!(0)),
        ("qwen3_next", "linear_num_value_heads", json!(5)),
        ("glm4_moe", "n_group", json!(5)),
        ("glm4_moe", "topk_group", json!(4)),
        ("glm4_moe", "first_k_dense_replace", json!(-1)),
        ("glm4_moe", "routed_scaling_factor", json!(0)),
        ("minimax_m2", "scoring_func", json!("softmax")),
        ("minimax_m2", "qk_norm_type", json!("per_head")),
        ("minimax_m2", "attn_type_list", json!([1, 0, 1])),
        ("minimax_m2", "use_routing_bias", json!(false)),
        ("minimax_m2", "shared_intermediate_size", json!(64)),
        ("deepseek_v3", "topk_method", json!("greedy")),
        ("deepseek_v3", "moe_layer_freq", json!(2)),
        ("deepseek_v3", "attention_bias", json!(true)),
        ("deepseek_v3", "kv_lora_rank", json!("many")),
        ("kimi_k2", "scoring_func", json!("softmax")),
        ("gpt_oss", "attention_bias", json!(false)),
        ("gpt_oss", "sliding_window", json!(null)),
        ("gpt_oss", "sliding_window", json!(0)),
        ("gpt_oss", "layer_types", json!(["full_attention"])),
        ("gpt_oss", "layer_types", json!(["a", "b", "c", "d"])),
        ("gpt_oss", "swiglu_limit", json!(0)),
        (
            "kimi_linear",
            "moe_router_activation_func",
            json!("softmax"),
        ),
        ("kimi_linear", "mla_use_nope", json!(false)),
        ("kimi_linear", "linear_attn_config", json!(null)),
        ("kimi_linear", "num_expert_group", json!(3)),
        ("kimi_linear", "num_experts_per_token", json!(9)),
        ("deepseek_v2", "topk_method", json!("best")),
        ("deepseek_v2", "norm_topk_prob", json!(true)),
        ("deepseek_v2", "qk_rope_head_dim", json!(15)),
    ]
}

/// Of models whose residual is several streams.
fn refused_of_streams() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("qwen4_exp_text", "hidden_act", json!("gelu")),
        ("qwen4_exp_text", "attention_bias", json!(true)),
        ("qwen4_exp_text", "output_gate_type", json!("tanh")),
        ("qwen4_exp_text", "layer_types", json!(["linear_attention"])),
        (
            "qwen4_exp_text",
            "layer_types",
            json!(vec!["sliding_attention"; 5]),
        ),
        ("qwen4_exp_text", "hc_count", json!(1)),
        ("qwen4_exp_text", "hc_count", json!(65)),
        ("qwen4_exp_text", "hc_lowrank", json!(0)),
        ("qwen4_exp_text", "indexer_n_heads", json!(null)),
        ("qwen4_exp_text", "indexer_kv_heads", json!(2)),
        ("qwen4_exp_text", "indexer_head_dim", json!(4)),
        ("qwen4_exp_text", "indexer_budget", json!(30)),
        ("qwen4_exp_text", "indexer_compress_ratio", json!(0)),
        ("qwen4_exp_text", "ple_layer_ids", json!([0])),
        ("qwen4_exp_text", "ple_layer_ids", json!([2])),
        ("qwen4_exp_text", "ple_layer_ids", json!([6])),
        ("qwen4_exp_text", "ple_embed_dim", json!(50)),
        ("qwen4_exp_text", "ple_conv_kernel_size", json!(1)),
        ("qwen4_exp_text", "ngram_size", json!(1)),
        ("qwen4_exp_text", "heads_per_ngram", json!(5000)),
        ("qwen4_exp_text", "ngram_vocab_size_base", json!(0)),
        ("qwen4_exp_text", "seed", json!(-1)),
        ("qwen4_exp_text", "eos_token_id", json!(null)),
        ("qwen4_exp_text", "eos_token_id", json!([256])),
        ("deepseek_v4", "attention_bias", json!(true)),
        ("deepseek_v4", "scoring_func", json!("tanh")),
        ("deepseek_v4", "compress_ratios", json!([0, 4])),
        ("deepseek_v4", "compress_ratios", json!([0, 4, 16, 4, 0])),
        (
            "deepseek_v4",
            "layer_types",
            json!(vec!["full_attention"; 5]),
        ),
        ("deepseek_v4", "mlp_layer_types", json!(["moe"])),
        ("deepseek_v4", "mlp_layer_types", json!(vec!["dense"; 5])),
        ("deepseek_v4", "num_key_value_heads", json!(2)),
        ("deepseek_v4", "n_shared_experts", json!(2)),
        ("deepseek_v4", "qk_rope_head_dim", json!(15)),
        ("deepseek_v4", "index_head_dim", json!(8)),
        ("deepseek_v4", "o_groups", json!(3)),
        ("deepseek_v4", "hc_mult", json!(0)),
        ("deepseek_v4", "swiglu_limit", json!(-1)),
        ("deepseek_v4", "sliding_window", json!(null)),
    ]
}

/// Of models with an index in a latent layer.
fn refused_of_indexes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("glm5_next", "attention_bias", json!(true)),
        ("glm5_next", "hidden_act", json!("gelu")),
        ("glm5_next", "qk_rope_head_dim", json!(16)),
        ("glm5_next", "q_lora_rank", json!(null)),
        ("glm5_next", "num_key_value_heads", json!(2)),
        ("glm5_next", "index_kpool", json!(0)),
        ("glm5_next", "index_kpool", json!(5)),
        ("glm5_next", "index_topk", json!(30)),
        ("glm5_next", "index_kpool_always_select_tail", json!(false)),
        ("glm5_next", "layer_types", json!(["linear_attention"])),
        (
            "glm5_next",
            "layer_types",
            json!(vec!["sliding_attention"; 5]),
        ),
        ("glm5_next", "indexer_types", json!(["full"])),
        ("glm5_next", "indexer_types", json!(vec!["shared"; 5])),
        ("glm5_next", "indexer_types", json!(vec!["half"; 5])),
        ("glm5_next", "mlp_layer_types", json!(["dense"])),
        ("glm5_next", "mlp_layer_types", json!(vec!["moe"; 5])),
        ("glm5_next", "linear_num_heads", json!(5000)),
        ("glm5_next", "linear_lower_bound", json!(1.0)),
        ("glm5_next", "linear_lower_bound", json!("low")),
        ("glm5_next", "hc_mult", json!(0)),
        ("glm5_next", "swiglu_limit", json!(0)),
        ("glm5_next", "n_group", json!(3)),
        ("glm5_next", "num_experts_per_tok", json!(9)),
    ]
}

/// The message of the blueprint of a fixture whose `field` is `value`.
fn message(name: &str, field: &str, value: Value) -> String {
    let path = fixture(name).join("config.json");
    let text = std::fs::read_to_string(&path).expect("the fixture has a configuration");
    let mut fields: Value = serde_json::from_str(&text).expect("it is JSON");
    // Fields of a multimodal model's text part are in a section of their own.
    let own = match fields.get("text_config").is_some() {
        true => &mut fields["text_config"],
        false => &mut fields,
    };
    own[field] = value;
    let config = Config::parse(&path, &fields.to_string()).expect("still an object");
    let error = blueprint(&config).err();
    error.map_or_else(String::new, |error| error.to_string())
}

#[test]
fn what_is_not_implemented_is_named() {
    let all = [refused(), refused_of_streams(), refused_of_indexes()];
    for (name, field, value) in all.concat() {
        let message = message(name, field, value.clone());
        // Where a fraction of a head rotates, the field that says so is named.
        let named = message.contains(field) || message.contains("rotates");
        assert!(named, "{name}: {field} = {value}: {message:?}");
    }
}

/// The operations of `glm5_next` with these fields.
fn glm5_next(fields: &Value) -> String {
    let path = fixture("glm5_next").join("config.json");
    let config = Config::parse(&path, &fields.to_string()).expect("an object");
    let blueprint = blueprint(&config).expect("it is supported");
    format!("{:?} {:?}", blueprint.graph, blueprint.weights)
}

#[test]
fn glm5_next_is_the_same_in_all_forms_of_its_fields() {
    let path = fixture("glm5_next").join("config.json");
    let text = std::fs::read_to_string(&path).expect("the fixture has a configuration");
    let nested: Value = serde_json::from_str(&text).expect("it is JSON");
    let expected = glm5_next(&nested);
    let mut flat = nested["text_config"].clone();
    flat["model_type"] = json!("glm5_next");
    assert_eq!(glm5_next(&flat), expected);
    let fields = flat.as_object_mut().expect("an object");
    for field in [
        "indexer_types",
        "linear_head_dim",
        "linear_num_heads",
        "linear_conv_kernel_dim",
        "linear_lower_bound",
        "index_kpool_always_select_tail",
        "mlp_layer_types",
        "hc_mult",
        "hc_eps",
        "hc_sinkhorn_iters",
    ] {
        fields.remove(field).expect("the fixture has it");
    }
    flat["first_k_dense_replace"] = json!(1);
    flat["index_topk_pattern"] = json!("FFSFF");
    flat["layer_types"][1] = json!("full_attention");
    flat["linear_attn_config"] = json!({
        "head_dim": 16, "num_heads": 3, "short_conv_kernel_size": 4, "gate_lower_bound": null,
    });
    assert_eq!(glm5_next(&flat), expected);
    flat["linear_attn_config"]["safe_gate"] = json!(false);
    let unbounded = glm5_next(&flat);
    assert!(unbounded.contains("decay: Key }") && !unbounded.contains("BoundedKey"));
}

#[test]
fn kimi_linear_lists_each_layer_once() {
    let lists = |full: Value, delta: Value| {
        let mut lists = json!({"num_heads": 3, "head_dim": 24});
        (lists["full_attn_layers"], lists["kda_layers"]) = (full, delta);
        lists
    };
    for (full, delta) in [
        (json!([2]), json!([1, 3])),
        (json!([2, 4]), json!([1, 2, 3])),
        (json!(["two"]), json!([1, 3])),
    ] {
        let message = message("kimi_linear", "linear_attn_config", lists(full, delta));
        assert!(message.contains("full_attn_layers"), "{message:?}");
    }
}

#[test]
fn yarn_in_other_forms_is_named() {
    let scaling = |field: &str, value: Value| {
        let mut scaling = json!({
            "type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
        });
        scaling[field] = value;
        scaling
    };
    for (field, value) in [
        ("truncate", json!("maybe")),
        ("original_max_position_embeddings", json!(0)),
        ("factor", json!(-2)),
        ("mscale", json!("much")),
        ("type", json!("longrope")),
    ] {
        let message = message("deepseek_v3", "rope_scaling", scaling(field, value.clone()));
        assert!(message.contains(field), "{field} = {value}: {message:?}");
    }
}
