"""Makes the fixtures that the affine codec is tested against.

An implementation of its own, in numpy, of the documented layout of MLX's affine quantization: a row
is a little-endian bit stream of unsigned integers, lowest bit first, with one bf16 scale and bias a
group. Bits are laid out one at a time, as a list of bits, to have nothing in common with the tested
code, which packs eight integers into a word.

    python make_affine.py ../../../crates/moeflux-formats/tests/fixtures/affine.safetensors
"""

import sys

import numpy as np
from safetensors.numpy import save_file

ROWS, COLS = 2, 128
BITS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)


def round_to_bf16(values):
    """The nearest bf16, ties to even, as uint16."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widen_bf16(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


def quantize(group, bits):
    """Integers, scale and bias of one group, zero being representable (the edge is snapped)."""
    levels = 2**bits - 1
    most, least = group.max(), group.min()
    scale = max((most - least) / np.float32(levels), np.float32(1e-7))
    if abs(least) > abs(most):
        edge = least
    else:
        edge, scale = most, -scale
    steps = np.rint(edge / scale)
    scale = edge / steps if steps != 0 else scale
    bias = edge if steps != 0 else np.float32(0)
    scale, bias = round_to_bf16(scale), round_to_bf16(bias)
    exact = (group - widen_bf16(bias)) / widen_bf16(scale)
    return np.clip(np.rint(exact), 0, levels).astype(np.uint8), scale, bias


def bit_stream(integers, bits):
    """The rows of integers as rows of uint32 words."""
    rows = []
    for row in integers:
        stream = [(int(value) >> bit) & 1 for value in row for bit in range(bits)]
        words = [stream[start : start + 32] for start in range(0, len(stream), 32)]
        rows.append([sum(bit << place for place, bit in enumerate(word)) for word in words])
    return np.array(rows, np.uint32)


def make(bits, group, random):
    weights = random.standard_normal((ROWS, COLS)).astype(np.float32) * np.float32(0.05)
    weights[0, :group] += np.float32(0.3)  # a group without a sign change
    weights[1, 5] = np.float32(-1.5)  # an outlier
    weights = widen_bf16(round_to_bf16(weights)).reshape(ROWS, COLS)
    integers = np.zeros((ROWS, COLS), np.uint8)
    scales = np.zeros((ROWS, COLS // group), np.uint16)
    biases = np.zeros_like(scales)
    for row in range(ROWS):
        for index in range(COLS // group):
            part = slice(index * group, (index + 1) * group)
            found = quantize(weights[row, part], bits)
            integers[row, part], scales[row, index], biases[row, index] = found
    # Products of integers of 8 bits and bf16 are exact in f32: one rounding, in the addition.
    wide_scales = np.repeat(widen_bf16(scales), group, axis=1)
    wide_biases = np.repeat(widen_bf16(biases), group, axis=1)
    decoded = integers.astype(np.float32) * wide_scales + wide_biases
    name = f"b{bits}-g{group}"
    return {
        f"{name}.values": weights,
        f"{name}.weight": bit_stream(integers, bits),
        f"{name}.scales": scales,
        f"{name}.biases": biases,
        f"{name}.decoded": decoded.astype(np.float32),
    }


def main():
    random = np.random.default_rng(20261123)
    tensors = {}
    for bits in BITS:
        for group in GROUPS:
            tensors.update(make(bits, group, random))
    note = "scales and biases are bf16, stored as U16"
    save_file(tensors, sys.argv[1], metadata={"made_by": "make_affine.py", "note": note})


if __name__ == "__main__":
    main()
