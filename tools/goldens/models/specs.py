"""What each fixture is: its configuration as a published checkpoint would write it, how its
tensors are laid out in files, and how long its prompt is.

The shapes are chosen to catch mix-ups: key and value heads differ in number and size, head_dim
is not hidden_size / heads, layer kinds do not alternate regularly, one model has inner dimensions
that no vector width divides.
"""

from dataclasses import dataclass, field

import families


@dataclass(frozen=True)
class Spec:
    """One fixture. `dtype` is that of the stored weights; the reference always computes in f32."""

    name: str
    about: str
    config: dict
    prompt_tokens: int
    model_class: str = "Qwen3_5MoeForCausalLM"
    dtype: str = "bfloat16"
    fused_experts: bool = False
    # Whether the model computes `x @ w` with its fused experts, so that they lie transposed.
    turned_experts: bool = False
    shards: int = 1
    # Tensor name endings that stay in f32 whatever `dtype` says, as Qwen3.5 publishes them.
    f32_suffixes: tuple[str, ...] = ()
    # Makes the linear layers' queries and keys so small before their normalization that the
    # constant under its square root shows in the logits.
    faint_keys: bool = False
    # How the published files name their layers' experts: "mlp" (gate_proj, up_proj, down_proj) or
    # "block_sparse_moe" (w1, w3, w2), or as "kimi_linear", "kimi_k25", "deepseek_v4" or
    # "glm5_next" do, which name more in their own way.
    moe_names: str = "mlp"
    # The model_type that the published config.json has, where transformers knows the form by another.
    published_type: str | None = None
    # Adds mtp.* tensors (a draft head that the published files carry and no text engine reads).
    mtp: bool = False
    # Token ids that the prompt avoids (image placeholders have a meaning of their own).
    reserved_tokens: frozenset[int] = field(default_factory=frozenset)


ROPE_TEXT = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}

FULL, LINEAR = "full_attention", "linear_attention"

QWEN35_TEXT = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "model_type": "qwen3_5_moe_text",
    "dtype": "bfloat16",
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "layer_types": [FULL, LINEAR, LINEAR, FULL, LINEAR],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": False,
    "attn_output_gate": True,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 4096,
    "rope_parameters": ROPE_TEXT,
    "tie_word_embeddings": False,
    "eos_token_id": 255,
}

# Layers follow full_attention_interval (every second one is full), the embedding is also the
# output projection, 72, 40 and 24 leave a tail in every vector loop, and eps is large enough to
# be missed.
QWEN35_FUSED = {
    **{key: value for key, value in QWEN35_TEXT.items() if key != "layer_types"},
    "hidden_size": 72,
    "num_hidden_layers": 4,
    "full_attention_interval": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 20,
    "linear_conv_kernel_dim": 3,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 12,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
    "rms_norm_eps": 0.02,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 2, 1],
        "mrope_interleaved": True,
    },
    "tie_word_embeddings": True,
}

QWEN35_SMALL = {
    **QWEN35_TEXT,
    "num_hidden_layers": 2,
    "layer_types": [LINEAR, FULL],
    "num_attention_heads": 4,
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "rope_parameters": {**ROPE_TEXT, "partial_rotary_factor": 0.5},
}

# The published multimodal form: the text model's fields are nested and its dtype is the model's.
QWEN35_MULTIMODAL = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "dtype": "bfloat16",
    "image_token_id": 252,
    "video_token_id": 253,
    "vision_start_token_id": 250,
    "vision_end_token_id": 251,
    "tie_word_embeddings": False,
    "text_config": {
        **{key: value for key, value in QWEN35_TEXT.items() if key != "architectures"},
        "num_hidden_layers": 4,
        "layer_types": [LINEAR, FULL, FULL, LINEAR],
        "num_attention_heads": 8,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
        "linear_num_value_heads": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
        "rope_parameters": {**ROPE_TEXT, "rope_theta": 10000000.0},
        "mamba_ssm_dtype": "float32",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
    },
    "vision_config": {
        "model_type": "qwen3_5_moe_vision",
        "depth": 1,
        "hidden_size": 32,
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 48,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
    },
}

# As Qwen3-30B-A3B is published: rope_theta at the top level, rope_scaling null, num_experts.
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "torch_dtype": "bfloat16",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": False,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 4096,
    "max_window_layers": 3,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "eos_token_id": 255,
}

# As transformers 5 writes it: num_local_experts, rope_parameters; norm_topk_prob left out (its
# default is false) and every second layer dense.
QWEN3_MOE_NEW_STYLE = {
    **{
        key: value
        for key, value in QWEN3_MOE.items()
        if key not in ("num_experts", "norm_topk_prob", "rope_theta", "rope_scaling", "torch_dtype")
    },
    "dtype": "bfloat16",
    "num_hidden_layers": 4,
    "mlp_only_layers": [],
    "decoder_sparse_step": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "tie_word_embeddings": True,
}

SPECS = [
    Spec(
        name="qwen3_5_moe_text",
        about="text form, one tensor per expert matrix, 3 query heads a kv head",
        config=QWEN35_TEXT,
        prompt_tokens=150,
    ),
    Spec(
        name="qwen3_5_moe",
        about="published multimodal form: nested text_config, fused experts, 3 shards, A_log and "
        "linear norms in f32, vision and mtp tensors to skip",
        config=QWEN35_MULTIMODAL,
        prompt_tokens=300,
        model_class="Qwen3_5MoeForConditionalGeneration",
        fused_experts=True,
        shards=3,
        f32_suffixes=("linear_attn.A_log", "linear_attn.norm.weight"),
        mtp=True,
        reserved_tokens=frozenset({250, 251, 252, 253}),
    ),
    Spec(
        name="qwen3_5_moe_text_fused",
        about="text form, fused experts, tied embeddings, full_attention_interval in place of "
        "layer_types, dimensions with tails, conv kernel 3, eps 0.02, faint linear keys",
        config=QWEN35_FUSED,
        prompt_tokens=130,
        fused_experts=True,
        faint_keys=True,
    ),
    Spec(
        name="qwen3_5_moe_text_f16",
        about="text form in f16",
        config={**QWEN35_SMALL, "dtype": "float16"},
        prompt_tokens=70,
        dtype="float16",
    ),
    Spec(
        name="qwen3_5_moe_text_f32",
        about="text form in f32",
        config={**QWEN35_SMALL, "dtype": "float32"},
        prompt_tokens=70,
        dtype="float32",
        fused_experts=True,
    ),
    Spec(
        name="qwen3_moe",
        about="as Qwen3-30B-A3B is published: per-expert tensors, rope_theta at the top level, "
        "norm_topk_prob true, mlp_only_layers",
        config=QWEN3_MOE,
        prompt_tokens=280,
        model_class="Qwen3MoeForCausalLM",
        shards=2,
    ),
    Spec(
        name="qwen3_moe_new_style",
        about="as transformers 5 writes its config: num_local_experts, rope_parameters; "
        "norm_topk_prob absent (false), decoder_sparse_step 2, tied embeddings, fused experts",
        config=QWEN3_MOE_NEW_STYLE,
        prompt_tokens=130,
        model_class="Qwen3MoeForCausalLM",
        fused_experts=True,
    ),
    *families.specs(Spec),
    Spec(
        name="mixtral_window",
        about="as early conversions of Mixtral have it: every layer within a window, here of 24",
        config={**families.softmax.MIXTRAL, "num_hidden_layers": 2, "sliding_window": 24},
        prompt_tokens=100,
        model_class="MixtralForCausalLM",
        moe_names="block_sparse_moe",
    ),
]
