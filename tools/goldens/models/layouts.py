"""How a model's tensors are named and spread over files.

transformers holds a layer's experts as two fused tensors and splits them when it saves;
published checkpoints come in both layouts, so the files are written here, not by save_pretrained.
"""

import json
import re

from safetensors.torch import save_file

from weights import mtp_tensors, stored_dtype

FUSED_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)$")


def named_tensors(model, spec, seed):
    """The checkpoint's tensors by published name, each in its stored dtype."""
    tensors = {}
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if values.is_floating_point():
            values = values.to(stored_dtype(spec, name))
        stored = values.contiguous()
        fused = FUSED_EXPERTS.match(name)
        if fused and not spec.fused_experts:
            tensors.update(split_experts(fused.group(1), fused.group(2), stored))
        elif name.endswith(".ngram_embedding.weight"):
            tensors.update(split_table(name, stored, model.config.get_text_config()))
        else:
            tensors[name] = stored
    if spec.moe_names == "block_sparse_moe":
        tensors = {block_sparse_name(name): values for name, values in tensors.items()}
    if spec.moe_names == "kimi_k25":
        tensors = {kimi_k25_name(name): values for name, values in tensors.items()}
    if spec.moe_names == "kimi_linear":
        tensors = dict(pair for item in tensors.items() for pair in kimi_linear_tensors(*item))
    if spec.moe_names == "glm5_next":
        tensors = dict(pair for item in tensors.items() for pair in glm5_next_tensors(*item))
    if spec.moe_names == "deepseek_v4":
        tensors = {deepseek_v4_name(name): values for name, values in tensors.items()}
    if spec.mtp:
        tensors.update(mtp_tensors(spec, seed))
    return tensors


def split_experts(prefix, which, fused):
    """One tensor per expert matrix: the upper half of gate_up_proj is gate, the lower half up."""
    split = {}
    for expert, matrix in enumerate(fused):
        if which == "down_proj":
            split[f"{prefix}.{expert}.down_proj.weight"] = matrix.clone()
        else:
            gate, up = matrix.chunk(2, dim=0)
            split[f"{prefix}.{expert}.gate_proj.weight"] = gate.clone()
            split[f"{prefix}.{expert}.up_proj.weight"] = up.clone()
    return split


def split_table(name, table, config):
    """Tensors of equal size and a smaller last one, if there are to be several."""
    if config.split_ngram_parts == 1:
        return {name: table}
    parts = enumerate(table.chunk(config.split_ngram_parts))
    return {name.replace(".weight", f".shard_{at}.weight"): part.clone() for at, part in parts}


BLOCK_SPARSE_MATRICES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def block_sparse_name(name):
    """The name that Mixtral and MiniMax-M2 publish for what transformers calls `name`."""
    name = name.replace(".mlp.", ".block_sparse_moe.")
    for ours, theirs in BLOCK_SPARSE_MATRICES.items():
        name = re.sub(rf"(\.experts\.\d+)\.{ours}\.", rf"\1.{theirs}.", name)
    return name


def kimi_k25_name(name):
    """The name that Kimi-K2.5 publishes for what transformers calls `name`."""
    name = name.replace("model.language_model.", "language_model.model.")
    return re.sub(r"^lm_head\.", "language_model.lm_head.", name)


# What DeepSeek-V4 publishes for parts of the names in transformers, in this order.
DEEPSEEK_V4_NAMES = [
    (r"^model\.", ""),
    (r"^lm_head\.", "head."),
    (r"^embed_tokens\.", "embed."),
    (r"^hc_head\.hc_", "hc_head_"),
    (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.compressor\.indexer\.scorer\.", ".attn.indexer."),
    (r"\.self_attn\.compressor\.indexer\.q_b_proj", ".attn.indexer.wq_b"),
    (r"\.self_attn\.compressor\.indexer\.", ".attn.indexer.compressor."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.", ".ffn."),
    (r"\.compressor\.kv_norm", ".compressor.norm"),
    (r"\.compressor\.gate_proj", ".compressor.wgate"),
    (r"\.position_bias", ".ape"),
    (r"\.sinks", ".attn_sink"),
    (r"\.q_a_norm", ".q_norm"),
    (r"\.(q_a|q_b|kv|o_a|o_b)_proj", r".w\1"),
    (r"\.gate\.e_score_correction_bias", ".gate.bias"),
    (r"\.gate_proj", ".w1"),
    (r"\.up_proj", ".w3"),
    (r"\.down_proj", ".w2"),
]


def deepseek_v4_name(name):
    """The name that DeepSeek-V4 publishes for what transformers calls `name`."""
    for ours, theirs in DEEPSEEK_V4_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def delta_tensors(name, values):
    """The tensors that Kimi's delta attention is published as for what transformers calls `name`."""
    if name.endswith(".conv1d.weight"):
        parts = zip("qkv", values.chunk(3, dim=0))
        return [(name.replace(".conv1d", f".{which}_conv1d"), part.clone()) for which, part in parts]
    return [(name.replace(".forget_gate.", "."), values)]


def glm5_next_tensors(name, values):
    """The tensors that GLM-5.3-Flash publishes for what transformers calls `name`."""
    return delta_tensors(re.sub(r"\.(attn|ffn)_hc\.", r".hc_\1_", name), values)


def kimi_linear_tensors(name, values):
    """The tensors that Kimi-Linear publishes for what transformers calls `name`."""
    if re.search(r"\.mlp\.(experts|gate|shared_experts)\.", name):
        name = block_sparse_name(name)
    return delta_tensors(name, values)


def write_checkpoint(tensors, spec, directory):
    """config.json, generation_config.json and the safetensors files, with an index if sharded."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*"):
        stale.unlink()
    write_json(directory / "config.json", spec.config)
    write_json(directory / "generation_config.json", {"eos_token_id": [255, 254], "do_sample": False})
    metadata = {"format": "pt"}
    if spec.shards == 1:
        save(directory / "model.safetensors", tensors, metadata)
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(spec.shards):
        # Neighbours go to different shards, so that a layer and even an expert spans files.
        part = {name: tensors[name] for name in names[shard :: spec.shards]}
        file = f"model-{shard + 1:05}-of-{spec.shards:05}.safetensors"
        save(directory / file, part, metadata)
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / "model.safetensors.index.json", index)


def publish_config(spec, directory):
    """Writes config.json anew where its published model_type is one that transformers lacks."""
    if spec.published_type is not None:
        write_json(directory / "config.json", {**spec.config, "model_type": spec.published_type})


def save(path, tensors, metadata):
    """save_file, readable by everyone: the library makes files private."""
    save_file(tensors, path, metadata)
    path.chmod(0o644)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")
