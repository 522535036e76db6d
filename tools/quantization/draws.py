"""Writes a checkpoint of the demo model's kind that computes the same function from other numbers:
hidden and inner elements in another order and with other signs. What quantization costs the demo
hangs on how a few weights happen to be rounded; over many seeds that averages out.

    draws.py SOURCE DESTINATION SEED
"""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np

MASK = 2**64 - 1


class Random:
    """xorshift64*, so that a seed means the same everywhere."""

    def __init__(self, seed):
        self.state = seed * 0x9E3779B97F4A7C15 & MASK | 1
        for _ in range(8):
            self.next()

    def next(self):
        x = self.state
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
        self.state = x
        return x * 0x2545F4914F6CDD1D & MASK

    def order(self, count):
        order = list(range(count))
        for i in range(count - 1, 0, -1):
            j = (self.next() >> 33) % (i + 1)
            order[i], order[j] = order[j], order[i]
        return np.array(order)

    def signs(self, count):
        """The bit to be flipped in bf16, or none."""
        return np.array([0x8000 * (self.next() >> 40 & 1) for _ in range(count)], np.uint16)


def main():
    source, destination, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    shutil.copytree(source, destination)
    path = destination / "model.safetensors"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    hidden_size = json.loads((source / "config.json").read_text())["hidden_size"]
    random = Random(seed)
    hidden = random.order(hidden_size), random.signs(hidden_size)
    inner = {}
    for name in sorted(header):
        info = header[name]
        assert info["dtype"] == "BF16", name
        begin, end = (start + at for at in info["data_offsets"])
        bits = np.frombuffer(bytes(data[begin:end]), np.uint16).reshape(info["shape"])
        same = slice(None), np.uint16(0)
        rows, cols = same, same
        mlp = re.fullmatch(r"(.*(?:\.experts\.\d+|shared_expert))\.(gate|up|down)_proj\.weight", name)
        if mlp:
            is_down = mlp[2] == "down"
            if mlp[1] not in inner:
                count = bits.shape[1 if is_down else 0]
                inner[mlp[1]] = random.order(count), random.signs(count)
            order, signs = inner[mlp[1]]
            # The gate goes through a curve, which keeps no sign.
            own = (order, signs if mlp[2] != "gate" else np.uint16(0))
            rows, cols = (hidden, own) if is_down else (own, hidden)
        elif name.endswith(("o_proj.weight", "out_proj.weight")):
            rows = hidden
        elif name.endswith("layernorm.weight") or name == "model.norm.weight":
            rows = hidden[0], np.uint16(0)
        elif bits.ndim == 2:
            cols = hidden
        bits = bits[rows[0]] ^ (rows[1].reshape(-1, *[1] * (bits.ndim - 1)) if rows[1].ndim else 0)
        if bits.ndim == 2:
            bits = bits[:, cols[0]] ^ cols[1]
        data[begin:end] = np.ascontiguousarray(bits, np.uint16).tobytes()
    path.write_bytes(data)


main()
