"""The fixtures of the architectures beside Qwen3-MoE and Qwen3.5-MoE, one of each form."""

COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "eos_token_id": 255,
}

# As OLMoE-1B-7B is published; fewer key heads than it has, so that the two norms differ.
OLMOE = {
    **COMMON,
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "torch_dtype": "bfloat16",
    "intermediate_size": 32,
    "attention_bias": False,
    "clip_qkv": None,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": False,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}

# As Mixtral-8x7B is published.
MIXTRAL = {
    **COMMON,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "torch_dtype": "bfloat16",
    "intermediate_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "router_jitter_noise": 0.0,
}


# As Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B are published: windows named but not used.
QWEN2_MOE = {
    **COMMON,
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "torch_dtype": "bfloat16",
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 1,
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 64,
    "max_window_layers": 2,
    "use_sliding_window": False,
}

# As Qwen3-Next-80B-A3B is published.
QWEN3_NEXT = {
    **COMMON,
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "dtype": "bfloat16",
    "num_hidden_layers": 4,
    "full_attention_interval": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
}

# As GLM-4.5 is published, with more than one group of experts.
GLM4_MOE = {
    **COMMON,
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": True,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 3,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "rope_scaling": None,
    "rope_theta": 1000000,
}

# As GLM-4.5-Air is published: no norms of queries and keys, one group.
GLM4_MOE_AIR = {
    **GLM4_MOE,
    "head_dim": 16,
    "use_qk_norm": False,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
}

# As MiniMax-M2 is published: rotary_dim in place of a fraction.
MINIMAX_M2 = {
    **COMMON,
    "architectures": ["MiniMaxM2ForCausalLM"],
    "model_type": "minimax_m2",
    "dtype": "bfloat16",
    "intermediate_size": 64,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rotary_dim": 16,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "attn_type_list": [1, 1, 1],
    "qk_norm_type": "per_layer",
    "use_qk_norm": True,
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
}


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


# As gpt-oss is published, but for its MXFP4 experts; the prompt goes beyond YaRN's context.
GPT_OSS = {
    **COMMON,
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 40,
    "intermediate_size": 32,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_bias": True,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "swiglu_limit": 1.5,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 64,
    },
    "rope_theta": 150000,
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


def specs(Spec):
    """A `Spec` of each. New ones come last: their place is their seed."""
    return [
        Spec(
            name="olmoe",
            about="as OLMoE-1B-7B is published, queries and keys normed over all heads, "
            "norm_topk_prob false",
            config=OLMOE,
            prompt_tokens=150,
            model_class="OlmoeForCausalLM",
        ),
        Spec(
            name="mixtral",
            about="as Mixtral-8x7B is published: block_sparse_moe with w1, w2, w3",
            config=MIXTRAL,
            prompt_tokens=150,
            model_class="MixtralForCausalLM",
            moe_names="block_sparse_moe",
        ),
        Spec(
            name="qwen2_moe",
            about="as Qwen1.5-MoE-A2.7B is published: biases of queries, keys and values, a gated "
            "shared expert, mlp_only_layers",
            config=QWEN2_MOE,
            prompt_tokens=150,
            model_class="Qwen2MoeForCausalLM",
        ),
        Spec(
            name="qwen3_next",
            about="as Qwen3-Next-80B-A3B is published: projections in order of key heads",
            config=QWEN3_NEXT,
            prompt_tokens=150,
            model_class="Qwen3NextForCausalLM",
        ),
        Spec(
            name="glm4_moe",
            about="as GLM-4.5 is published, with groups of experts: biases, normed heads, a first "
            "dense layer",
            config=GLM4_MOE,
            prompt_tokens=100,
            model_class="Glm4MoeForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="glm4_moe_air",
            about="as GLM-4.5-Air is published: heads not normed, one group, two shared experts",
            config=GLM4_MOE_AIR,
            prompt_tokens=130,
            model_class="Glm4MoeForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="minimax_m2",
            about="as MiniMax-M2 is published: queries and keys normed over all heads, rotary_dim",
            config=MINIMAX_M2,
            prompt_tokens=150,
            model_class="MiniMaxM2ForCausalLM",
            moe_names="block_sparse_moe",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="deepseek_v3",
            about="as DeepSeek-V3 is published, in bf16: latent attention, YaRN beyond its original "
            "context, groups",
            config=DEEPSEEK_V3,
            prompt_tokens=150,
            model_class="DeepseekV3ForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="deepseek_v2_lite",
            about="as DeepSeek-V2-Lite is published: queries without a latent, softmax, YaRN with "
            "mscale",
            config=DEEPSEEK_V2_LITE,
            prompt_tokens=130,
            model_class="DeepseekV2ForCausalLM",
        ),
        Spec(
            name="deepseek_v2",
            about="as DeepSeek-V2 is published: groups ranked by their best expert; plain rotation",
            config=DEEPSEEK_V2,
            prompt_tokens=80,
            model_class="DeepseekV2ForCausalLM",
        ),
        Spec(
            name="kimi_k2",
            about="as Kimi-K2 is published, in bf16: DeepSeek-V3's form with one group",
            config=KIMI_K2,
            prompt_tokens=150,
            model_class="DeepseekV3ForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
            published_type="kimi_k2",
        ),
        Spec(
            name="gpt_oss",
            about="as gpt-oss is published, in bf16: sinks, every other layer in a window of 40, "
            "biases everywhere, YaRN without truncation",
            config=GPT_OSS,
            prompt_tokens=230,
            model_class="GptOssForCausalLM",
            fused_experts=True,
            turned_experts=True,
        ),
        Spec(
            name="kimi_linear",
            about="as Kimi-Linear-48B-A3B is published: delta attention whose key elements decay by "
            "themselves, latent attention without positions",
            config=KIMI_LINEAR,
            prompt_tokens=150,
            model_class="KimiLinearForCausalLM",
            moe_names="kimi_linear",
            f32_suffixes=("e_score_correction_bias", "A_log", "dt_bias"),
        ),
        Spec(
            name="glm4_moe_lite",
            about="as GLM-4.7-Flash is published: latent attention, plain rotation, one group",
            config=GLM4_MOE_LITE,
            prompt_tokens=120,
            model_class="Glm4MoeLiteForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="kimi_k25",
            about="as Kimi-K2.5 is published, in bf16: nested text_config, head beside the text "
            "part's layers, vision tensors to skip",
            config=KIMI_K25,
            prompt_tokens=150,
            model_class="Kimi_K25ForConditionalGeneration",
            moe_names="kimi_k25",
            f32_suffixes=("e_score_correction_bias",),
            reserved_tokens=frozenset({250, 251, 252, 253}),
        ),
    ]
