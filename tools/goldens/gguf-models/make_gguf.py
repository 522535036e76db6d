"""Makes the GGUF fixtures with llama.cpp's own converter.

usage: make_gguf.py --llama-cpp DIR --demo DIR [--out DIR] [--only NAME]

DIR of --llama-cpp is a checkout of llama.cpp, DIR of --demo the demo model as a Hugging Face
checkpoint (tools/demo-model). Takes seconds. See README.md.
"""

import argparse
import dataclasses
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


def make_gpt_oss(converter, out):
    """gpt-oss as it is published: experts in MXFP4, and the limit that conversions do not name."""
    import layouts
    import make_formats
    import make_models
    import reference
    import torch
    from specs import SPECS

    spec = next(spec for spec in SPECS if spec.name == "gpt_oss")
    config = {**spec.config, "swiglu_limit": 7.0}
    spec = dataclasses.replace(spec, config=config, prompt_tokens=70)
    for seed in range(9500, 9500 + make_models.SEEDS):
        model = make_models.build(spec, seed)
        tensors = layouts.named_tensors(model, spec, seed)
        for name, values in list(tensors.items()):
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                continue
            # Published with a matrix's rows in order, which floats are not.
            made = [make_formats.mxfp4(matrix.T.float()) for matrix in tensors.pop(name)]
            for end in ("_blocks", "_scales"):
                tensors[name + end] = torch.stack([parts[end] for parts, _ in made])
            decoded = torch.stack([matrix.T for _, matrix in made])
            model.get_parameter(name).data.copy_(decoded)
        tokens = reference.prompt(spec, model.config.vocab_size, seed)
        answers = reference.compute(model, tokens)
        if answers.router_margin >= make_models.SMALLEST_ROUTER_MARGIN:
            break
    else:
        raise RuntimeError("gpt_oss: no seed gives clear router choices")
    make_models.check(spec, answers)
    config = {**config, "quantization_config": {"quant_method": "mxfp4"}}
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "gpt_oss"
        made.mkdir()
        layouts.write_checkpoint(tensors, dataclasses.replace(spec, config=config), made)
        convert(converter, made, out / "gpt_oss.gguf", "bf16", [])
    layouts.save(
        out / "gpt_oss.golden.safetensors",
        {"tokens": answers.tokens.to(torch.uint32), "logits": answers.logits},
        {"golden": f"gpt_oss with MXFP4 experts; seed {seed}"},
    )


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
    if wanted("gpt_oss"):
        make_gpt_oss(converter, options.out)
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
