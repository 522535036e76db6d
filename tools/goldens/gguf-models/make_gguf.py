"""Makes the GGUF fixtures with llama.cpp's own converter.

usage: make_gguf.py --llama-cpp DIR --demo DIR [--out DIR] [--only NAME]

DIR of --llama-cpp is a checkout of llama.cpp, DIR of --demo the demo model as a Hugging Face
checkpoint (tools/demo-model). Takes seconds. See README.md.
"""

import argparse
import dataclasses
import json
import runpy
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
sys.path[:0] = [str(HERE.parent / "models"), str(HERE.parent / "formats")]

# Directory under fixtures/, name of the GGUF file, type, more flags.
CHECKPOINTS = [
    # Two value heads to a key head, a multi-token prediction head after the last layer.
    ("qwen3_5_moe", "qwen3_5_moe", "bf16", []),
    # Gate and up stacked in one tensor.
    ("qwen3_5_moe_text_f32", "qwen3_5_moe_gate_up", "f32", ["--no-mtp", "--fuse-gate-up-exps"]),
    # Tied embeddings, every second layer of full attention, dimensions with tails.
    ("qwen3_5_moe_text_fused", "qwen3_5_moe_tied", "bf16", ["--no-mtp"]),
    # In two parts, in a directory of its own.
    ("qwen3_5_moe_text_f16", "split/model", "f16", ["--no-mtp", "--split-max-tensors", "30"]),
    ("qwen3_5_moe_text_f32", "qwen3_5_moe_q8_0", "q8_0", ["--no-mtp"]),
    ("qwen3_next", "qwen3_next", "bf16", ["--no-mtp"]),
    ("olmoe", "olmoe", "bf16", []),
    ("mixtral", "mixtral", "bf16", []),
    ("glm4_moe", "glm4_moe", "bf16", []),
    ("glm4_moe_air", "glm4_moe_air", "bf16", []),
    ("minimax_m2", "minimax_m2", "bf16", []),
    ("deepseek_v3", "deepseek_v3", "bf16", []),
    ("deepseek_v2_lite", "deepseek_v2_lite", "bf16", []),
    ("deepseek_v2", "deepseek_v2", "bf16", []),
    ("kimi_k2", "kimi_k2", "bf16", []),
    ("kimi_k25", "kimi_k25", "bf16", []),
    ("kimi_linear", "kimi_linear", "bf16", []),
    # Counts a layer of the multi-token prediction head, which the fixture does not have.
    ("glm4_moe_lite", "glm4_moe_lite", "bf16", []),
]

# Models whose fixture has layers without experts, which do not convert: the file's name, more
# fields of the configuration, and the length of the prompt.
SPARSE = [
    ("qwen3_moe", {"mlp_only_layers": [], "num_hidden_layers": 2}, 70),
    ("qwen2_moe", {"mlp_only_layers": [], "num_hidden_layers": 2}, 70),
]


def convert(converter, source, destination, kind, flags):
    """Runs the converter as its command line does."""
    arguments = [str(source), "--outfile", str(destination), "--outtype", kind, *flags]
    saved, sys.argv = sys.argv, [str(converter), *arguments]
    try:
        runpy.run_path(str(converter), run_name="__main__")
    finally:
        sys.argv = saved


def without_tokenizer(model):
    """What the converter does for models that have none."""
    model._set_vocab_none()


def make_sparse(converter, name, fields, prompt_tokens, out):
    """A model whose layers all have experts, and its answers."""
    import make_models
    import torch
    from specs import SPECS

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    spec = next(spec for spec in SPECS if spec.name == name)
    config = {**spec.config, **fields}
    spec = dataclasses.replace(spec, config=config, prompt_tokens=prompt_tokens, shards=1)
    with tempfile.TemporaryDirectory() as directory:
        make_models.make(spec, 9000, Path(directory))
        made = Path(directory) / spec.name
        convert(converter, made, out / f"{name}.gguf", "bf16", [])
        golden = (made / "golden.safetensors").read_bytes()
        (out / f"{name}.golden.safetensors").write_bytes(golden)


def find_mxfp4(spec, first_seed, turned):
    """A model whose experts have numbers that MXFP4 can say, and its answers; `turned` says whether
    transformers holds their matrices transposed."""
    import make_formats
    import make_models
    import reference

    for seed in range(first_seed, first_seed + make_models.SEEDS):
        model = make_models.build(spec, seed)
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                for matrix in parameter.data:
                    rows = matrix.T if turned else matrix
                    rows.copy_(make_formats.mxfp4(rows.float())[1])
        answers = reference.compute(model, reference.prompt(spec, model.config.vocab_size, seed))
        clear = (
            answers.router_margin >= make_models.SMALLEST_ROUTER_MARGIN
            and answers.index_margin >= make_models.SMALLEST_INDEX_MARGIN
        )
        if clear:
            make_models.check(spec, answers)
            return seed, model, answers
    raise RuntimeError(f"{spec.name}: no seed gives clear router choices")


def convert_mxfp4(converter, spec, config, tensors, found, out):
    """Converts a checkpoint of `tensors`, and writes the answers beside it."""
    import layouts
    import torch

    seed, _, answers = found
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / spec.name
        made.mkdir()
        layouts.write_checkpoint(tensors, dataclasses.replace(spec, config=config), made)
        convert(converter, made, out / f"{spec.name}.gguf", "bf16", [])
    layouts.save(
        out / f"{spec.name}.golden.safetensors",
        {"tokens": answers.tokens.to(torch.uint32), "logits": answers.logits},
        {"golden": f"{spec.name} with MXFP4 experts; seed {seed}"},
    )


def make_gpt_oss(converter, out):
    """gpt-oss as it is published: experts in MXFP4, and the limit that conversions do not name."""
    import layouts
    import make_formats
    import torch
    from specs import SPECS

    spec = next(spec for spec in SPECS if spec.name == "gpt_oss")
    config = {**spec.config, "swiglu_limit": 7.0}
    spec = dataclasses.replace(spec, config=config, prompt_tokens=70)
    found = find_mxfp4(spec, 9500, turned=True)
    tensors = layouts.named_tensors(found[1], spec, found[0])
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        made = [make_formats.mxfp4(matrix.T.float())[0] for matrix in tensors.pop(name)]
        for end in ("_blocks", "_scales"):
            tensors[name + end] = torch.stack([parts[end] for parts in made])
    config = {**config, "quantization_config": {"quant_method": "mxfp4"}}
    convert_mxfp4(converter, spec, config, tensors, found, out)


def make_deepseek_v4(converter, out):
    """DeepSeek-V4 with experts as published; entries stand for 128 positions, as files mean it."""
    import layouts
    import make_formats
    from specs import SPECS

    spec = next(spec for spec in SPECS if spec.name == "deepseek_v4")
    config = {name: value for name, value in spec.config.items() if name != "compress_rates"}
    spec = dataclasses.replace(spec, config=config, prompt_tokens=270)
    found = find_mxfp4(spec, 9700, turned=False)
    tensors = layouts.named_tensors(found[1], spec, found[0])
    for name in [name for name in tensors if ".ffn.experts." in name]:
        parts = make_formats.mxfp4(tensors[name].float())[0]
        tensors[name] = parts["_blocks"].flatten(-2)
        tensors[name.removesuffix("weight") + "scale"] = parts["_scales"]
    convert_mxfp4(converter, spec, config, tensors, found, out)


# Words with combining marks, which the rules of Qwen 2 and 3.5 cut differently.
MARKED_TEXTS = [
    "हिन्दी में लिखा हुआ वाक्य और दूसरी पंक्ति",
    "ภาษาไทยที่มีสระและวรรณยุกต์",
    "שָׁלוֹם עֲלֵיכֶם, العَرَبِيَّة",
    "x\u0336y\u0336 plain words don't differ 2026!",
]
QWEN35_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_marked(converter, demo, out):
    """A small tokenizer whose words are those of Qwen 3.5, as tokenizer.json and as GGUF."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN35_WORDS), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(MARKED_TEXTS * 8, trainer)
    # transformers adds the second to every tokenizer of this kind of model.
    tokenizer.add_special_tokens(["<|im_end|>", "<|endoftext|>"])
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "marked"
        made.mkdir()
        tokenizer.save(str(made / "tokenizer.json"))
        (made / "config.json").write_bytes((demo / "config.json").read_bytes())
        settings = (demo / "tokenizer_config.json").read_bytes()
        (made / "tokenizer_config.json").write_bytes(settings)
        flags = ["--vocab-only", "--no-mtp"]
        convert(converter, made, out / "marked_vocabulary.gguf", "bf16", flags)
        (out / "marked_tokenizer.json").write_bytes((made / "tokenizer.json").read_bytes())


def make_kimi_vocabulary(out):
    """tiktoken's fixture as the converter writes Kimi's vocabulary, whose code it would run."""
    import base64

    import gguf
    from conversion.qwen import QwenModel

    source = REPOSITORY / "crates/moeflux/tests/fixtures/tiktoken"
    lines = (source / "tiktoken.model").read_text().split("\n")
    pairs = [line.split() for line in lines if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    merges = []
    for token, rank in ranks.items():
        halves = QwenModel.bpe(ranks, token, max_rank=rank) if len(token) > 1 else []
        if len(halves) == 2:
            merges.append(" ".join(map(QwenModel.token_bytes_to_string, halves)))
    tokens = {rank: QwenModel.token_bytes_to_string(token) for token, rank in ranks.items()}
    config = json.loads((source / "tokenizer_config.json").read_text())
    special = {int(id): token["content"] for id, token in config["added_tokens_decoder"].items()}
    every = {**tokens, **special}
    ids = range(max(every) + 1)
    kinds = gguf.TokenType
    kind = lambda id: kinds.CONTROL if id in special else kinds.NORMAL
    writer = gguf.GGUFWriter(out / "kimi_vocabulary.gguf", "deepseek2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("kimi-k2")
    writer.add_token_list([every.get(id, f"[PAD{id}]") for id in ids])
    writer.add_token_types([kind(id) if id in every else kinds.UNUSED for id in ids])
    writer.add_token_merges(merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--only", help="the fixture whose files are made, without tokenizers")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "fixtures" / "gguf")
    options = parser.parse_args()
    converter = options.llama_cpp.resolve() / "convert_hf_to_gguf.py"
    sys.path[:0] = [str(converter.parent), str(converter.parent / "gguf-py")]
    from conversion import base, deepseek, glm, gpt_oss, kimi_linear, llama, minimax, olmo, qwen

    models = (
        qwen.Qwen2MoeModel,
        qwen.Qwen3MoeModel,
        qwen.Qwen3NextModel,
        qwen.Qwen3_5MoeTextModel,
        olmo.OlmoeModel,
        llama.LlamaModel,
        glm.Glm4MoeModel,
        minimax.MiniMaxM2Model,
        deepseek.DeepseekV2Model,
        deepseek.DeepseekV4Model,
        glm.Glm4MoeLiteModel,
        gpt_oss.GptOssModel,
        kimi_linear.KimiLinearModel,
    )
    own = [model.set_vocab for model in models]
    for model in models:
        model.set_vocab = without_tokenizer
    wanted = lambda name: options.only in (None, name)
    for name, file, kind, flags in filter(lambda row: wanted(row[0]), CHECKPOINTS):
        source = REPOSITORY / "fixtures" / name
        for model in models:
            model.no_mtp = False
        destination = options.out / f"{file}.gguf"
        destination.parent.mkdir(parents=True, exist_ok=True)
        convert(converter, source, destination, kind, flags)
    for name, fields, prompt_tokens in filter(lambda row: wanted(row[0]), SPARSE):
        make_sparse(converter, name, fields, prompt_tokens, options.out)
    if wanted("tiktoken"):
        make_kimi_vocabulary(options.out)
    if wanted("gpt_oss"):
        make_gpt_oss(converter, options.out)
    if wanted("deepseek_v4"):
        make_deepseek_v4(converter, options.out)
    if options.only is not None:
        return

    for model, set_vocab in zip(models, own):
        model.set_vocab = set_vocab
    # The converter knows tokenizers by a hash of what they make of a text; this one's words are
    # those of Qwen 2, as its tokenizer.json says.
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    vocabulary = options.out / "demo_vocabulary.gguf"
    convert(converter, options.demo, vocabulary, "bf16", ["--vocab-only", "--no-mtp"])
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
    make_marked(converter, options.demo, options.out)


if __name__ == "__main__":
    main()
