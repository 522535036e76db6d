"""Makes the fixtures in forms of quantized weights that checkpoints are published in.

usage: make_formats.py [--out DIR] [--only NAME]

Each is a tiny random checkpoint whose matrices are quantized here, by a few lines of torch written
from the formats' descriptions, and the answers of transformers to the very numbers that the
quantized matrices stand for, which transformers or compressed-tensors decodes to the same where
they know the form. Versions: requirements.txt. Takes minutes.
"""

import argparse
import dataclasses
import re
import sys
import tempfile
from pathlib import Path

import torch
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "models"))

import layouts  # noqa: E402
import make_models  # noqa: E402
import reference  # noqa: E402
from specs import QWEN3_MOE, QWEN35_SMALL, SPECS, Spec  # noqa: E402

SPARSE = {**QWEN3_MOE, "mlp_only_layers": [], "num_hidden_layers": 2}
DEEPSEEK_V4, GPT_OSS = (
    next(spec for spec in SPECS if spec.name == name) for name in ("deepseek_v4", "gpt_oss")
)
F8_BLOCK = 128


def squares(values):
    """The largest magnitude of each square of 128 x 128."""
    rows, cols = values.shape
    down, across = -(-rows // F8_BLOCK), -(-cols // F8_BLOCK)
    padded = torch.zeros(down * F8_BLOCK, across * F8_BLOCK)
    padded[:rows, :cols] = values
    return padded.view(down, F8_BLOCK, across, F8_BLOCK).abs().amax(dim=(1, 3))


def f8_by(values, scales):
    """E4M3 of values over the scale of their square, and the numbers that this stands for."""
    rows, cols = values.shape
    spread = scales.repeat_interleave(F8_BLOCK, 0).repeat_interleave(F8_BLOCK, 1)[:rows, :cols]
    stored = (values / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return stored, stored.float() * spread


def f8(name, values):
    """FP8 with a scale to each square of 128 x 128, f32 or (of the second layer) bf16."""
    kind = torch.bfloat16 if ".layers.1." in name else torch.float32
    scales = (squares(values) / 448).to(kind)
    stored, decoded = f8_by(values, scales.float())
    return {".weight": stored, ".weight_scale_inv": scales}, decoded


def f8_of_powers(values):
    """FP8 with a power of two to each square."""
    scales = (squares(values) / 448).log2().ceil().exp2()
    stored, decoded = f8_by(values, scales)
    parts = {".weight": stored, ".scale": scales.to(torch.float8_e8m0fnu)}
    return check_with_transformers(parts, decoded), decoded


def pack(integers, bits):
    """Rows of integers as little-endian bit streams in 32-bit words."""
    shifts = torch.arange(bits)
    stream = (integers[..., None].long() >> shifts & 1).flatten(-2)
    words = stream.view(*stream.shape[:-1], -1, 32) << torch.arange(32)
    return words.sum(-1)


def centered(values, bits, group):
    """Symmetric integers as compressed-tensors packs them."""
    groups = values.view(values.shape[0], -1, group)
    most = 2 ** (bits - 1)
    scales = (groups.abs().amax(-1) / (most - 1)).to(torch.bfloat16)
    integers = (groups / scales.float()[..., None]).round().clamp(-most, most - 1)
    decoded = (integers * scales.float()[..., None]).view(values.shape)
    words = pack((integers + most).view(values.shape), bits)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    shape = torch.tensor(values.shape, dtype=torch.int64)
    parts = {".weight_packed": words, ".weight_scale": scales, ".weight_shape": shape}
    return parts, decoded


def affine(values, bits, group):
    """MLX's groups with scale and bias."""
    groups = values.view(*values.shape[:-1], -1, group)
    least, most = groups.amin(-1), groups.amax(-1)
    scales = ((most - least) / (2**bits - 1)).to(torch.bfloat16)
    biases = least.to(torch.bfloat16)
    wide, offset = scales.float()[..., None], biases.float()[..., None]
    integers = ((groups - offset) / wide).round().clamp(0, 2**bits - 1)
    # One rounding, as of a fused multiply-add.
    decoded = (integers.double() * wide + offset).float().view(values.shape)
    words = pack(integers.view(values.shape), bits).to(torch.uint32)
    return {".weight": words, ".scales": scales, ".biases": biases}, decoded


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4(values):
    """4-bit floats with a power of two to 32 of them: codes two a byte, exponents."""
    groups = values.view(values.shape[0], -1, 32)
    exponents = groups.abs().amax(-1).log2().floor().clamp(-100, 100) - 2
    scaled = groups / exponents.exp2()[..., None]
    codes = (scaled.abs()[..., None] - E2M1).abs().argmin(-1)
    decoded = E2M1[codes] * scaled.sign() * exponents.exp2()[..., None]
    codes = (codes + 8 * (scaled < 0)).to(torch.uint8)
    parts = {
        "_blocks": codes[..., 0::2] | codes[..., 1::2] << 4,
        "_scales": (exponents + 127).to(torch.uint8),
    }
    return parts, decoded.view(values.shape)


def check_with_transformers(parts, decoded):
    """The parts, if transformers takes them for the same numbers (it wants whole squares)."""
    stored, scale = parts[".weight"], parts[".scale"]
    if all(size % F8_BLOCK == 0 or size < F8_BLOCK for size in stored.shape):
        theirs = Fp8Dequantize(None)._dequantize_one(stored, scale, torch.float32)
        if not torch.equal(theirs, decoded):
            raise RuntimeError("transformers reads other numbers")
    return parts


def deepseek_v4_form(name, values):
    """DeepSeek-V4's numbers: experts in 4 bits, most other matrices in 8, some as they are."""
    if ".experts." in name:
        parts, decoded = mxfp4(values)
        codes, exponents = parts["_blocks"].flatten(1), parts["_scales"]
        parts = {
            ".weight": codes.view(torch.int8),
            ".scale": exponents.view(torch.float8_e8m0fnu),
        }
        return check_with_transformers(parts, decoded), decoded
    in_8_bits = re.search(r"\.attn\.(wq_a|wq_b|wkv|wo_a|wo_b|indexer\.wq_b)\.|shared_experts", name)
    return f8_of_powers(values) if in_8_bits else None


def nvfp4(values, divides):
    """4-bit floats with a scale (E4M3) to 16 of them and one to all: as ModelOpt writes them, or as
    compressed-tensors does, whose scale of all divides."""
    groups = values.view(values.shape[0], -1, 16)
    peaks = groups.abs().amax(-1)
    most = peaks.amax() / (6 * 448)
    scales = (peaks / 6 / most).clamp(min=2**-9).to(torch.float8_e4m3fn)
    whole = 1 / most if divides else most
    wide = (scales.float() / whole if divides else scales.float() * whole)[..., None]
    codes = ((groups / wide).abs()[..., None] - E2M1).abs().argmin(-1)
    decoded = (E2M1[codes] * groups.sign() * wide).view(values.shape)
    codes = (codes + 8 * (groups < 0)).to(torch.uint8).view(values.shape)
    codes = codes[:, 0::2] | codes[:, 1::2] << 4
    if divides:
        unpacked = unpack_fp4_from_uint8(codes, *values.shape, dtype=torch.float32)
        form = QuantizationArgs(
            num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
        )
        theirs = dequantize(unpacked, scales.float(), args=form, global_scale=whole)
        if not torch.equal(theirs, decoded):
            raise RuntimeError("compressed-tensors reads other numbers")
        return {
            ".weight_packed": codes,
            ".weight_scale": scales,
            ".weight_global_scale": whole.view(1),
            ".input_global_scale": torch.tensor([448.0]),
        }, decoded
    return {
        ".weight": codes,
        ".weight_scale": scales,
        ".weight_scale_2": whole,
        ".input_scale": torch.tensor(1 / 448),
    }, decoded


def gpt_oss_names(tensors, quantized):
    """A layer's experts as gpt-oss publishes them: stacked, rows of gate and up by turns."""
    made, stacks = {}, {}
    for name, values in tensors.items():
        if ".experts." not in name:
            made[name] = values
            continue
        start, _, rest = name.partition(".experts.")
        expert, matrix = rest.split(".", 1)
        stacks.setdefault(start, {})[int(expert), matrix] = values
    for start, parts in stacks.items():
        for kind in ("blocks", "scales"):
            def each(matrix):
                count = 1 + max(expert for expert, _ in parts)
                return [parts[expert, f"{matrix}_{kind}"] for expert in range(count)]

            pairs = zip(each("gate_proj"), each("up_proj"))
            both = [torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs]
            made[f"{start}.experts.gate_up_proj_{kind}"] = torch.stack(both)
            made[f"{start}.experts.down_proj_{kind}"] = torch.stack(each("down_proj"))
    return made


def turned_mxfp4(name, values):
    """gpt-oss's experts: matrices of all in one tensor, which transformers holds transposed."""
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return None
    made = [mxfp4(matrix.T.contiguous()) for matrix in values]
    parts = {part: torch.stack([of[part] for of, _ in made]) for part in ("_blocks", "_scales")}
    decoded = torch.stack([matrix.T for _, matrix in made]).contiguous()
    theirs = convert_moe_packed_tensors(parts["_blocks"], parts["_scales"], dtype=torch.float32)
    if not torch.equal(theirs, decoded):
        raise RuntimeError("transformers reads other numbers")
    return parts, decoded


def experts_only(form):
    return lambda name, values: form(values) if ".experts." in name else None


def mlx_bits(name):
    """Bits and group of a matrix: mixed, as MLX's recipes mix them."""
    if name.endswith("mlp.gate.weight"):
        return 8, 64
    if ".down_proj." in name:
        return 5, 32
    if ".experts." in name:
        return 3, 32
    if "embed_tokens" in name or "lm_head" in name:
        return 6, 64
    return (2, 32) if "v_proj" in name else (4, 64)


def mlx_form(name, values):
    bits, group = mlx_bits(name)
    return affine(values, bits, group) if values.shape[-1] % group == 0 else None


def mlx_names(tensors, quantized):
    """The checkpoint as MLX writes it: experts stacked, convolutions with channels last, one added
    to norms, a prefix of a multimodal model."""
    made, stacks = {}, {}
    for name, values in tensors.items():
        if ".experts." in name:
            start, _, rest = name.partition(".experts.")
            expert, matrix = rest.split(".", 1)
            stacks.setdefault((start, matrix), {})[int(expert)] = values
            continue
        if "conv1d" in name:
            values = values.movedim(2, 1).contiguous()
        if name.endswith("norm.weight") and "linear_attn" not in name and name not in quantized:
            values = (values.float() + 1).to(torch.float32)
        made[f"language_model.{name}"] = values
    for (start, matrix), experts in stacks.items():
        stacked = torch.stack([experts[index] for index in range(len(experts))])
        made[f"language_model.{start}.switch_mlp.{matrix}"] = stacked
    return made


CASES = [
    (
        Spec(
            name="qwen3_moe_f8",
            about="FP8 (E4M3) with a scale to each 128 x 128",
            config={**SPARSE, "hidden_size": 160, "moe_intermediate_size": 144, "num_experts": 4},
            prompt_tokens=70,
            model_class="Qwen3MoeForCausalLM",
        ),
        lambda name, values: f8(name, values)
        if "_proj" in name
        else None,
        None,
    ),
    (
        Spec(
            name="qwen3_moe_int4",
            about="compressed-tensors: experts in symmetric 4-bit integers, groups of 32",
            config=SPARSE,
            prompt_tokens=70,
            model_class="Qwen3MoeForCausalLM",
        ),
        experts_only(lambda values: centered(values, 4, 32)),
        None,
    ),
    (
        Spec(
            name="qwen3_5_moe_mlx",
            about="MLX: mixed bits, stacked experts, its forms of norms and convolutions",
            config={**QWEN35_SMALL, "quantization": {"group_size": 64, "bits": 4}},
            prompt_tokens=70,
        ),
        mlx_form,
        mlx_names,
    ),
    (
        Spec(
            name="qwen3_moe_mxfp4",
            about="MXFP4 experts as gpt-oss has them: codes and exponents, gate and up by turns",
            config={**SPARSE, "moe_intermediate_size": 96},
            prompt_tokens=70,
            model_class="Qwen3MoeForCausalLM",
        ),
        experts_only(mxfp4),
        gpt_oss_names,
    ),
    (
        dataclasses.replace(
            DEEPSEEK_V4,
            name="deepseek_v4_f8",
            about="as DeepSeek-V4 is published: FP8 and 4-bit experts, scales in powers of two",
            config={
                **DEEPSEEK_V4.config,
                "hidden_size": 160,
                "moe_intermediate_size": 64,
                "q_lora_rank": 144,
                "expert_dtype": "fp4",
                "quantization_config": {
                    "activation_scheme": "dynamic",
                    "fmt": "e4m3",
                    "quant_method": "fp8",
                    "scale_fmt": "ue8m0",
                    "weight_block_size": [F8_BLOCK, F8_BLOCK],
                },
            },
            prompt_tokens=100,
        ),
        deepseek_v4_form,
        None,
    ),
    (
        Spec(
            name="qwen3_moe_nvfp4",
            about="NVFP4 as compressed-tensors writes it: projections and experts",
            config={
                **SPARSE,
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "format": "nvfp4-pack-quantized",
                    "ignore": ["lm_head", "re:.*mlp.gate$"],
                },
            },
            prompt_tokens=70,
            model_class="Qwen3MoeForCausalLM",
        ),
        lambda name, values: nvfp4(values, divides=True) if "_proj" in name else None,
        None,
    ),
    (
        Spec(
            name="qwen3_5_moe_nvfp4",
            about="NVFP4 as ModelOpt writes it: experts",
            config={
                **QWEN35_SMALL,
                "quantization_config": {
                    "quant_method": "modelopt",
                    "quant_algo": "NVFP4",
                    "group_size": 16,
                    "exclude_modules": ["lm_head", "*self_attn*", "*linear_attn*"],
                },
            },
            prompt_tokens=70,
        ),
        experts_only(lambda values: nvfp4(values, divides=False)),
        None,
    ),
    (
        dataclasses.replace(
            GPT_OSS,
            name="gpt_oss_mxfp4",
            about="as gpt-oss is published: experts in MXFP4, all other weights in bf16",
            config={
                **GPT_OSS.config,
                "intermediate_size": 96,
                "quantization_config": {
                    "quant_method": "mxfp4",
                    "modules_to_not_convert": [
                        "model.layers.*.self_attn",
                        "model.layers.*.mlp.router",
                        "model.embed_tokens",
                        "lm_head",
                    ],
                },
            },
            prompt_tokens=100,
        ),
        turned_mxfp4,
        None,
    ),
]


def quantize(tensors, form):
    """The parts of every tensor, and the numbers that they stand for."""
    stored, decoded = {}, {}
    for name, values in tensors.items():
        made = None
        is_matrix = values.dim() == 2 and name.endswith(".weight")
        if is_matrix or (values.dim() == 3 and name.endswith("_proj")):
            made = form(name, values.float())
        if made is None:
            stored[name], decoded[name] = values, values.float()
            continue
        parts, decoded[name] = made
        stored.update({name.removesuffix(".weight") + part: of for part, of in parts.items()})
    return stored, decoded


def make(spec, form, rename, first_seed, out):
    for seed in range(first_seed, first_seed + make_models.SEEDS):
        model = make_models.build(spec, seed)
        stored, decoded = quantize(layouts.named_tensors(model, spec, seed), form)
        with tempfile.TemporaryDirectory() as directory:
            config = {k: v for k, v in spec.config.items() if not k.startswith("quantization")}
            plain = dataclasses.replace(spec, config={**config, "dtype": "float32"})
            layouts.write_checkpoint(decoded, plain, Path(directory))
            model = reference.load(Path(directory), plain)
            vocab_size = model.config.get_text_config().vocab_size
            answers = reference.compute(model, reference.prompt(spec, vocab_size, seed))
        if make_models.is_clear(answers):
            break
    else:
        raise RuntimeError(f"{spec.name}: no seed gives clear router choices")
    make_models.check(spec, answers)
    if rename is not None:
        stored = rename(stored, decoded.keys() - stored.keys())
    directory = out / spec.name
    layouts.write_checkpoint(stored, spec, directory)
    layouts.save(
        directory / "golden.safetensors",
        {"tokens": answers.tokens.to(torch.uint32), "logits": answers.logits},
        {"golden": f"{spec.about}; seed {seed}"},
    )
    print(spec.name, f"router margin {answers.router_margin:.1e}, spread {answers.spread:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "fixtures" / "formats")
    parser.add_argument("--only", choices=[spec.name for spec, _, _ in CASES])
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for index, (spec, form, rename) in enumerate(CASES):
        if options.only not in (None, spec.name):
            continue
        make(spec, form, rename, 20_000 + 1000 * index, options.out)


if __name__ == "__main__":
    main()
