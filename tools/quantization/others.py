"""Rounds a checkpoint's matrices as others do, and writes what the rounded numbers stand for as a
checkpoint in f32, so that `moeflux eval kl` and `eval ppl` can judge them beside `moeflux pack`.

    others.py SOURCE DESTINATION HOW [--ggml PROGRAM [--importance FILE]]

HOW is `plain4` (each group's range in equal steps), `mlx4` (MLX's rule; also with 2, 3, 5, 6 or 8)
or the name of a GGUF type such as `Q4_K`, which PROGRAM (`q.c`) rounds. Routed experts, attention
and shared experts get it; router, gates, embedding and head get 8 bits by MLX's rule. Where a type
does not divide the columns, llama.cpp's fallback is used, or the one after a plus: `Q4_K+IQ4_NL`.
PROGRAM weighs errors by FILE of `moeflux eval importance`, if it is given. Bits a weight are printed.
"""

import argparse
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file

GROUP = 64
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
SENSITIVE = ("embed_tokens", "lm_head", "mlp.gate.weight", "shared_expert_gate", "in_proj_a", "in_proj_b")


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def affine(values, bits, anchored):
    levels = 2**bits - 1
    x = values.reshape(-1, GROUP).astype(np.float32)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    scale = np.maximum((high - low) / levels, np.float32(1e-7))
    bias = low
    if anchored:
        # https://github.com/ml-explore/mlx: the edge of largest magnitude and zero become exact.
        side = np.abs(low) > np.abs(high)
        scale = np.where(side, scale, -scale)
        edge = np.where(side, low, high)
        zero = np.round(edge / scale)
        scale = np.where(zero != 0, edge / np.where(zero == 0, 1, zero), scale)
        bias = np.where(zero == 0, 0, edge)
    scale, bias = bf16(scale), bf16(bias)
    codes = np.clip(np.round((x - bias) / scale), 0, levels)
    return (codes * scale + bias).reshape(values.shape), bits + 32 / GROUP


class Ggml:
    def __init__(self, program):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe)

    def round(self, values, name, importance=None):
        rows, cols = values.shape
        name, _, fallback = name.partition("+")
        block = 32 if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL") else 256
        fallback = fallback or FALLBACKS.get(name)
        kind = GGMLQuantizationType[name if cols % block == 0 else fallback]
        weighed = 0 if importance is None else 256
        self.process.stdin.write(struct.pack("<iqq", kind + weighed, rows, cols))
        if weighed:
            self.process.stdin.write(importance.astype("<f4").tobytes())
        self.process.stdin.write(values.astype("<f4").tobytes())
        self.process.stdin.flush()
        from gguf import GGML_QUANT_SIZES

        elements, size = GGML_QUANT_SIZES[kind]
        blocks = self.process.stdout.read(rows * cols // elements * size)
        blocks = np.frombuffer(blocks, np.uint8).reshape(rows, -1)
        return dequantize(blocks, kind), size * 8 / elements


class Importance:
    """Mean squares of columns, by the name of a checkpoint's tensor."""

    def __init__(self, path):
        self.tensors = load_file(path)

    def of(self, name):
        name = name.removeprefix("model.").removesuffix(".weight")
        expert = re.fullmatch(r"layers\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)_proj", name)
        if expert is None:
            return self.tensors[name]
        part = "inner" if expert[3] == "down" else "input"
        return self.tensors[f"experts.{expert[1]}.{part}"][int(expert[2])]


def read(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + at for at in info["data_offsets"])
        assert info["dtype"] == "BF16", name
        bits = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
        yield name, bits.view(np.float32).reshape(info["shape"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("how")
    parser.add_argument("--ggml")
    parser.add_argument("--importance", type=Path)
    args = parser.parse_args()
    ggml = Ggml(args.ggml) if args.ggml else None
    importance = Importance(args.importance) if args.importance else None
    shutil.copytree(args.source, args.destination)
    (args.destination / "model.safetensors").chmod(0o644)
    tensors, bits, count, squared = {}, 0, 0, 0
    for name, values in read(args.source / "model.safetensors"):
        rounded = values
        if values.ndim == 2 and any(part in name for part in SENSITIVE):
            rounded, _ = affine(values, 8, True)
        elif values.ndim == 2:
            if args.how.startswith(("plain", "mlx")):
                rounded, each = affine(values, int(args.how[-1]), args.how.startswith("mlx"))
            else:
                rounded, each = ggml.round(values, args.how, importance and importance.of(name))
            bits, count = bits + each * values.size, count + values.size
            squared += float(((rounded - values) ** 2).sum() / (values**2).sum() * values.size)
        tensors[name] = np.ascontiguousarray(rounded, "<f4")
    header, at = {}, 0
    for name, values in tensors.items():
        end = at + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (args.destination / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())
    print(f"{args.how}: {bits / count:.3f} bits, relative squared error {squared / count:.5f}")


main()
