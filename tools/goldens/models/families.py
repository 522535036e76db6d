"""The fixtures of the architectures beside Qwen3-MoE and Qwen3.5-MoE, one of each form."""

import families_latent as latent
import families_softmax as softmax
import families_streams as streams


def specs(Spec):
    """A `Spec` of each. New ones come last: their place is their seed."""
    return [
        Spec(
            name="olmoe",
            about="as OLMoE-1B-7B is published, queries and keys normed over all heads, "
            "norm_topk_prob false",
            config=softmax.OLMOE,
            prompt_tokens=150,
            model_class="OlmoeForCausalLM",
        ),
        Spec(
            name="mixtral",
            about="as Mixtral-8x7B is published: block_sparse_moe with w1, w2, w3",
            config=softmax.MIXTRAL,
            prompt_tokens=150,
            model_class="MixtralForCausalLM",
            moe_names="block_sparse_moe",
        ),
        Spec(
            name="qwen2_moe",
            about="as Qwen1.5-MoE-A2.7B is published: biases of queries, keys and values, a gated "
            "shared expert, mlp_only_layers",
            config=softmax.QWEN2_MOE,
            prompt_tokens=150,
            model_class="Qwen2MoeForCausalLM",
        ),
        Spec(
            name="qwen3_next",
            about="as Qwen3-Next-80B-A3B is published: projections in order of key heads",
            config=softmax.QWEN3_NEXT,
            prompt_tokens=150,
            model_class="Qwen3NextForCausalLM",
        ),
        Spec(
            name="glm4_moe",
            about="as GLM-4.5 is published, with groups of experts: biases, normed heads, a first "
            "dense layer",
            config=softmax.GLM4_MOE,
            prompt_tokens=100,
            model_class="Glm4MoeForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="glm4_moe_air",
            about="as GLM-4.5-Air is published: heads not normed, one group, two shared experts",
            config=softmax.GLM4_MOE_AIR,
            prompt_tokens=130,
            model_class="Glm4MoeForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="minimax_m2",
            about="as MiniMax-M2 is published: queries and keys normed over all heads, rotary_dim",
            config=softmax.MINIMAX_M2,
            prompt_tokens=150,
            model_class="MiniMaxM2ForCausalLM",
            moe_names="block_sparse_moe",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="deepseek_v3",
            about="as DeepSeek-V3 is published, in bf16: latent attention, YaRN beyond its original "
            "context, groups",
            config=latent.DEEPSEEK_V3,
            prompt_tokens=150,
            model_class="DeepseekV3ForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="deepseek_v2_lite",
            about="as DeepSeek-V2-Lite is published: queries without a latent, softmax, YaRN with "
            "mscale",
            config=latent.DEEPSEEK_V2_LITE,
            prompt_tokens=130,
            model_class="DeepseekV2ForCausalLM",
        ),
        Spec(
            name="deepseek_v2",
            about="as DeepSeek-V2 is published: groups ranked by their best expert; plain rotation",
            config=latent.DEEPSEEK_V2,
            prompt_tokens=80,
            model_class="DeepseekV2ForCausalLM",
        ),
        Spec(
            name="kimi_k2",
            about="as Kimi-K2 is published, in bf16: DeepSeek-V3's form with one group",
            config=latent.KIMI_K2,
            prompt_tokens=150,
            model_class="DeepseekV3ForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
            published_type="kimi_k2",
        ),
        Spec(
            name="gpt_oss",
            about="as gpt-oss is published, in bf16: sinks, every other layer in a window of 40, "
            "biases everywhere, YaRN without truncation",
            config=softmax.GPT_OSS,
            prompt_tokens=230,
            model_class="GptOssForCausalLM",
            fused_experts=True,
            turned_experts=True,
        ),
        Spec(
            name="kimi_linear",
            about="as Kimi-Linear-48B-A3B is published: delta attention whose key elements decay by "
            "themselves, latent attention without positions",
            config=latent.KIMI_LINEAR,
            prompt_tokens=150,
            model_class="KimiLinearForCausalLM",
            moe_names="kimi_linear",
            f32_suffixes=("e_score_correction_bias", "A_log", "dt_bias"),
        ),
        Spec(
            name="glm4_moe_lite",
            about="as GLM-4.7-Flash is published: latent attention, plain rotation, one group",
            config=latent.GLM4_MOE_LITE,
            prompt_tokens=120,
            model_class="Glm4MoeLiteForCausalLM",
            f32_suffixes=("e_score_correction_bias",),
        ),
        Spec(
            name="kimi_k25",
            about="as Kimi-K2.5 is published, in bf16: nested text_config, head beside the text "
            "part's layers, vision tensors to skip",
            config=latent.KIMI_K25,
            prompt_tokens=150,
            model_class="Kimi_K25ForConditionalGeneration",
            moe_names="kimi_k25",
            f32_suffixes=("e_score_correction_bias",),
            reserved_tokens=frozenset({250, 251, 252, 253}),
        ),
        Spec(
            name="deepseek_v4",
            about="as DeepSeek-V4 is published, in bf16: residual streams, a window of 20 beside "
            "entries of 4 (the best 8) or 16 positions, experts by token, YaRN beyond its original "
            "context",
            config=streams.DEEPSEEK_V4,
            prompt_tokens=170,
            model_class="DeepseekV4ForCausalLM",
            moe_names="deepseek_v4",
            f32_suffixes=(
                "_hc.fn",
                ".hc_fn",
                "base",
                "scale",
                "sinks",
                "position_bias",
                "e_score_correction_bias",
            ),
        ),
        Spec(
            name="qwen4_exp_text",
            about="text form of Qwen4-Exp, in bf16: gated streams, an index of blocks of 4 "
            "positions (the best 8), n-grams in two layers by tables of several tensors, sigmoid gates",
            config=streams.QWEN4_EXP_TEXT,
            prompt_tokens=170,
            model_class="Qwen4ExpForCausalLM",
        ),
        Spec(
            name="qwen4_exp",
            about="as Qwen4-Exp is published: nested text_config, fused experts, 2 shards, blocks "
            "of 8 (the best 3), n-grams of up to 4 tokens, vision and mtp tensors to skip",
            config=streams.QWEN4_EXP,
            prompt_tokens=110,
            model_class="Qwen4ExpForConditionalGeneration",
            fused_experts=True,
            shards=2,
            f32_suffixes=("linear_attn.A_log", "linear_attn.norm.weight"),
            mtp=True,
            reserved_tokens=frozenset({250, 251, 252, 253}),
        ),
        Spec(
            name="glm5_next",
            about="as GLM-5.3-Flash is published, in bf16: residual streams, delta attention with "
            "a bounded decay, latent attention to the 8 windows of 4 positions that an index ranks "
            "best, which two layers share; nested text_config, vision tensors to skip",
            config=streams.GLM5_NEXT,
            prompt_tokens=170,
            model_class="Glm5NextForConditionalGeneration",
            moe_names="glm5_next",
            f32_suffixes=(
                "_hc.base",
                "_hc.scale",
                "conv1d.weight",
                "A_log",
                "dt_bias",
                "e_score_correction_bias",
            ),
            reserved_tokens=frozenset({248, 249, 250, 251, 252, 253, 254}),
        ),
    ]
