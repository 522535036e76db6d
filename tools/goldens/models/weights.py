"""Random weights that make a model's answers depend on every part of it.

The usual initialization (std 0.02, norms at one, A_log from a narrow range) yields nearly
constant logits, under which a missing gate or a swapped head goes unnoticed. Here every tensor
is random and as wide as keeps activations near unit size.
"""

import math

import torch

# Standard deviation of a matrix's output for inputs of unit size, by the end of its name.
GAINS = {
    "embed_tokens.weight": None,  # not a product: the rows themselves
    "lm_head.weight": 3.0,
    "mlp.gate.weight": 2.0,
    "mlp.router.weight": 2.0,
    "shared_expert_gate.weight": 1.5,
    "in_proj_a.weight": 1.5,
    "in_proj_b.weight": 1.5,
    "self_attn.b_proj.weight": 1.5,
}


def random_tensor(name, shape, zero_centered_norms, tied, turned, generator):
    """Values in f32 for the parameter `name`, before rounding to the stored dtype."""

    def normal(std, mean=0.0):
        return torch.randn(shape, generator=generator) * std + mean

    if name.endswith("A_log"):
        # Decay rates from long memory (0.01) to almost none (4), on a logarithmic scale.
        low, high = math.log(0.01), math.log(4.0)
        return torch.rand(shape, generator=generator) * (high - low) + low
    if name.endswith("dt_bias"):
        return normal(1.0)
    if name.endswith("conv1d.weight"):
        return normal(1.0 / math.sqrt(shape[-1]))
    if "visual" in name or "vision" in name:
        return normal(0.2)
    if name.endswith("e_score_correction_bias"):
        return normal(0.15)
    offsets = ("_proj.bias", "_proj_bias", "k_norm.bias", "_hc.base", "hc_base", "position_bias")
    if name.endswith((*offsets, "compress_ape")):
        return normal(0.5)
    if turned and ".experts." in name:
        return normal(1.0 / math.sqrt(shape[-2]))
    if len(shape) == 1:
        return norm_weight(name, normal, zero_centered_norms)
    if name.endswith("ngram_embedding.weight"):
        return normal(1.0)
    if name.endswith("embed_tokens.weight"):
        # A tied embedding is the output projection too: logits of unit-sized states come out near 3.
        return normal(3.0 / math.sqrt(shape[-1]) if tied else 1.0)
    gain = next((gain for end, gain in GAINS.items() if name.endswith(end)), 1.0)
    return normal(gain / math.sqrt(shape[-1]))


def norm_weight(name, normal, zero_centered_norms):
    """Scales around 1, around 1.5 for queries and keys so that attention is not flat."""
    center = 1.5 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0
    stored_minus_one = zero_centered_norms and not name.endswith("linear_attn.norm.weight")
    return normal(0.3, center - 1.0 if stored_minus_one else center)


def randomize(model, spec, seed):
    """Overwrites all parameters with random values already rounded to their stored dtype."""
    generator = torch.Generator().manual_seed(seed)
    zero_centered = spec.model_class.startswith(("Qwen3_5", "Qwen3Next", "Qwen4Exp"))
    tied = bool(model.config.tie_word_embeddings)
    with torch.no_grad():
        biases = [b for b in model.named_buffers() if b[0].endswith("e_score_correction_bias")]
        for name, parameter in sorted([*model.named_parameters(), *biases]):
            form = (zero_centered, tied, spec.turned_experts)
            values = random_tensor(name, tuple(parameter.shape), *form, generator)
            if spec.faint_keys and name.endswith("conv1d.weight"):
                values[: query_and_key_channels(spec.config)] *= 0.02
            parameter.copy_(values.to(stored_dtype(spec, name)).float())
        for name, table in sorted(model.named_buffers()):
            if name.endswith("tid2eid"):
                table.copy_(random_experts(model.config, tuple(table.shape), generator))


def random_experts(config, shape, generator):
    """Different experts for each token of the vocabulary."""
    order = torch.rand(shape[0], config.n_routed_experts, generator=generator).argsort(dim=-1)
    return order[:, : shape[1]]


def query_and_key_channels(config):
    """The first channels of a linear layer's convolution; values follow."""
    return 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]


def stored_dtype(spec, name):
    """The dtype in which the tensor `name` goes to its file."""
    if name.endswith(tuple(spec.f32_suffixes)):
        return torch.float32
    return getattr(torch, spec.dtype)


def mtp_tensors(spec, seed):
    """A multi-token-prediction head as published checkpoints carry it; nothing reads it."""
    text = spec.config["text_config"]
    hidden, experts, inner = text["hidden_size"], text["num_experts"], text["moe_intermediate_size"]
    shapes = {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.norm.weight": (hidden,),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.layers.0.input_layernorm.weight": (hidden,),
        "mtp.layers.0.mlp.gate.weight": (experts, hidden),
        "mtp.layers.0.mlp.experts.gate_up_proj": (experts, 2 * inner, hidden),
        "mtp.layers.0.mlp.experts.down_proj": (experts, hidden, inner),
    }
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, spec.dtype)
    return {name: torch.randn(s, generator=generator).to(dtype) for name, s in shapes.items()}
