"""Checks the fixture of make_affine.py against MLX itself (`pip install "mlx[cpu]" numpy safetensors`).

MLX must decode every case to the fixture's values bit for bit. Last run: mlx 0.32.4, all equal.

    python check_with_mlx.py ../../../crates/moeflux-formats/tests/fixtures/affine.safetensors
"""

import sys

import mlx.core as mx
import numpy as np

from make_affine import BITS, GROUPS


def main():
    tensors = mx.load(sys.argv[1])
    for bits in BITS:
        for group in GROUPS:
            name = f"b{bits}-g{group}"
            scales, biases = (
                tensors[f"{name}.{part}"].view(mx.bfloat16).astype(mx.float32)
                for part in ("scales", "biases")
            )
            weight = tensors[f"{name}.weight"]
            decoded = mx.dequantize(
                weight, scales, biases, group_size=group, bits=bits, stream=mx.cpu
            )
            if not np.array_equal(np.array(decoded), np.array(tensors[f"{name}.decoded"])):
                sys.exit(f"{name}: MLX decodes to other values")
            print(f"{name}: equal")


if __name__ == "__main__":
    main()
