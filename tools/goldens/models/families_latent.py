"""Configurations of families with latent attention."""

from families_softmax import COMMON

YARN = {
    "type": "yarn",
    "factor": 4,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 64,
}

# As DeepSeek-V3 is published, but for its FP8 weights; the prompt goes beyond the original context.
DEEPSEEK_V3 = {
    **COMMON,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "attention_bias": False,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 3,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rope_theta": 10000,
}

# As Kimi-K2 is published, but for its FP8 weights: one group, so that only scores count.
KIMI_K2 = {
    **DEEPSEEK_V3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "n_routed_experts": 8,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "num_nextn_predict_layers": 0,
    "rope_scaling": {**YARN, "beta_fast": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rope_theta": 50000.0,
}

# As DeepSeek-V2-Lite is published: queries projected at once, softmax without groups.
DEEPSEEK_V2_LITE = {
    **DEEPSEEK_V3,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "q_lora_rank": None,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
}
del DEEPSEEK_V2_LITE["num_nextn_predict_layers"]

# As DeepSeek-V2 is published: groups ranked by their best expert; no YaRN.
DEEPSEEK_V2 = {
    **DEEPSEEK_V2_LITE,
    "q_lora_rank": 48,
    "n_routed_experts": 12,
    "n_group": 3,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
    "rope_scaling": None,
}

# As Kimi-Linear-48B-A3B is published.
KIMI_LINEAR = {
    **COMMON,
    "architectures": ["KimiLinearForCausalLM"],
    "model_type": "kimi_linear",
    "dtype": "bfloat16",
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "mla_use_nope": True,
    "linear_attn_config": {
        "full_attn_layers": [2, 4],
        "kda_layers": [1, 3],
        "head_dim": 24,
        "num_heads": 3,
        "short_conv_kernel_size": 4,
    },
    "num_experts": 8,
    "num_experts_per_token": 3,
    "num_shared_experts": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "use_grouped_topk": True,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "moe_layer_freq": 1,
    "routed_scaling_factor": 2.446,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
    "model_max_length": 4096,
    "bos_token_id": 1,
    "pad_token_id": 254,
}
del KIMI_LINEAR["max_position_embeddings"]

# As GLM-4.7-Flash is published: DeepSeek-V3's form in GLM-4.5's decoder.
GLM4_MOE_LITE = {
    **{key: value for key, value in KIMI_K2.items() if key != "rope_scaling"},
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "routed_scaling_factor": 1.8,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "rope_scaling": None,
}

# As Kimi-K2.5 is published, but for its packed integers: Kimi-K2 within a multimodal model.
KIMI_K25 = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
    "image_token_id": 252,
    "video_token_id": 253,
    "vision_start_token_id": 250,
    "vision_end_token_id": 251,
    "text_config": {
        **{key: value for key, value in KIMI_K2.items() if key != "architectures"},
        "model_type": "kimi_k2",
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 10,
    },
    "projection_hidden_size": 32,
    "vision_config": {
        "model_type": "kimi_k25_vision",
        "patch_size": 4,
        "pos_emb_height": 4,
        "pos_emb_width": 4,
        "pos_emb_time": 2,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
    },
}
