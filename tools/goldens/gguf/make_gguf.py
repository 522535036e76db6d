"""Makes the GGUF files that the parser and the block codecs are tested against.

    python make_gguf.py ../../../crates/moeflux-formats/tests/fixtures/gguf

`blocks.gguf` has every supported tensor type: `T.weight` as stored and `T.decoded`, the same in F32
by `gguf.quants.dequantize`; of the types that `gguf` can also write, `T.values` is what was
quantized. `metadata.gguf` has every value type. `parts-0000?-of-00003.gguf` is a model in parts.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

ROWS, COLS = 2, 512
PLAIN = ("F32", "F16", "BF16")
QUANTIZED = ("Q4_0", "Q8_0")
# Types that `gguf` writes and the codecs only read.
WRITTEN = ("Q4_1", "Q5_0", "Q5_1")
# Where the f16 scales of a block lie; its other bytes may be anything.
SCALES = {
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "MXFP4": (),
}


def weights(random):
    """Values with blocks of zeros, of one sign, of outliers, of ties and of tiny numbers."""
    values = random.standard_normal((ROWS, COLS)).astype(np.float32) * np.float32(0.05)
    values[0, 0:32] = 0
    values[0, 32:64] = np.abs(values[0, 32:64])
    values[0, 70] = np.float32(-3.0)
    values[0, 96:128] = np.arange(32, dtype=np.float32) - np.float32(15.5)
    values[1, 0:32] = np.where(np.arange(32) % 2 == 0, 1, -1).astype(np.float32)
    values[1, 32:64] *= np.float32(1e-6)
    values[1, 64:96] *= np.float32(1e-12)
    values[1, 96:128] *= np.float32(1e4)
    return values


def any_blocks(random, kind):
    """Random bytes, with scales that are ordinary numbers (and one block of subnormal ones)."""
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (ROWS * COLS // elements, size), dtype=np.uint8)
    for place in SCALES[kind.name]:
        scales = random.standard_normal(len(blocks)).astype(np.float16) * np.float16(0.01)
        scales[0] = np.float16(6e-8)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind.name == "MXFP4":
        # Any exponent but the one that stands for no number.
        blocks[:, 0] = np.linspace(0, 254, len(blocks)).astype(np.uint8)
    return blocks.reshape(ROWS, -1)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_blocks(path, random):
    writer = GGUFWriter(path, "test")
    values = weights(random)
    for name in PLAIN + QUANTIZED + tuple(SCALES) + WRITTEN:
        kind = GGMLQuantizationType[name]
        stored = any_blocks(random, kind) if name in SCALES else quantize(values, kind)
        if name in QUANTIZED:
            writer.add_tensor(f"{name}.values", values)
        raw = None if name in ("F32", "F16") else kind
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=raw)
        decoded = dequantize(stored, kind).astype(np.float32).reshape(ROWS, COLS)
        writer.add_tensor(f"{name}.decoded", decoded)
    # Two experts of three rows: GGUF states sizes innermost first.
    writer.add_tensor("stacked", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    write(writer)


def make_metadata(path):
    numbers = {
        "UINT8": [0, 255],
        "INT8": [-128, 127],
        "UINT16": [0, 65535],
        "INT16": [-32768, 32767],
        "UINT32": [0, 2**32 - 1],
        "INT32": [-(2**31), 2**31 - 1],
        "FLOAT32": [0.5, -1.5e30],
        "UINT64": [0, 2**64 - 1],
        "INT64": [-(2**63), 2**63 - 1],
        "FLOAT64": [0.1, -1e300],
        "BOOL": [False, True],
        "STRING": ["", "Grüße, 世界 🦊"],
    }
    writer = GGUFWriter(path, "test")
    writer.add_custom_alignment(64)
    for name, (first, second) in numbers.items():
        kind, key = GGUFValueType[name], name.lower()
        writer.add_key_value(key, second, kind)
        writer.add_key_value(f"{key}s", [first, second], GGUFValueType.ARRAY, sub_type=kind)
    # More than one read's worth, for the boundaries in between.
    writer.add_key_value(
        "long", list(range(5000)), GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT16
    )
    tokens = [f"token {index}" for index in range(300)]
    writer.add_key_value("tokens", tokens, GGUFValueType.ARRAY, sub_type=GGUFValueType.STRING)
    writer.add_tensor("one", np.ones(3, np.float32))
    writer.add_tensor("two", np.full((2, 2), 2, np.float16))
    write(writer)


def make_parts(path):
    writer = GGUFWriter(path, "test", split_max_tensors=2)
    for index in range(5):
        writer.add_tensor(f"tensor.{index}", np.full(4, index, np.float32))
    write(writer)


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    make_blocks(out / "blocks.gguf", np.random.default_rng(20261123))
    make_metadata(out / "metadata.gguf")
    make_parts(out / "parts.gguf")


if __name__ == "__main__":
    main()
